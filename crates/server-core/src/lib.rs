//! steeple-server-core
