//! For authors of plugins: serves one over go-plugin's protocol.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod wire;
