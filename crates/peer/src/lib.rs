//! steeple-peer
