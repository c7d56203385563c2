//! steeple-pki
