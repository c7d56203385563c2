//! steeple-hcl
