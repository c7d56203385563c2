//! steeple-testkit
