//! Small HTTPS servers: certificates from files, from ACME, or an SVID.
#![cfg_attr(test, allow(clippy::unwrap_used))]
