//! steeple-net
