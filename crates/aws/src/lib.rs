//! Amazon Web Services: its plugins, a folder each, and what they share: credentials, signed
//! requests, the metadata service.
//!
//! Not here: AWS's SDK. The few operations that are needed are one signed HTTP request each, by
//! `steeple_net`, with everything that an answer can be bounded.
//!
//! Start at [`node_attestor`], or at `session` for how an API is called.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod credentials;
mod environment;
mod error;
mod imds;
mod ini;
pub mod node_attestor;
mod session;
#[cfg(test)]
mod testing;
mod xml;
