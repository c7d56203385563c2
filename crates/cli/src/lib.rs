//! steeple-cli
