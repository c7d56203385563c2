//! steeple-spiffe
