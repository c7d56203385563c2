//! steeple-store
