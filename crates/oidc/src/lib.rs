//! The OIDC discovery provider.
#![cfg_attr(test, allow(clippy::unwrap_used))]
