//! steeple-ca
