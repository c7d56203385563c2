//! steeple-config
