//! A user's own authorisation policy, in rego.
#![cfg_attr(test, allow(clippy::unwrap_used))]
