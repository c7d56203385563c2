//! External plugins: child processes that speak go-plugin's protocol.
#![cfg_attr(test, allow(clippy::unwrap_used))]
