//! steeple-server
