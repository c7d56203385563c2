//! steeple-runtime
