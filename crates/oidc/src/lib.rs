//! The OIDC discovery provider: a trust domain's JWT keys as OpenID Connect relying parties
//! look for them (OpenID Connect Discovery 1.0), in the bytes of SPIRE's provider.
//!
//! Not here: sockets and TLS (`steeple-web`).
//!
//! Invariant: what is served is made when the keys change, not when somebody asks; a request
//! costs a look-up, and says nothing back that was not configured.
//!
//! Start at [`main`] and `provider`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod app;
mod config;
mod content;
mod domains;
mod go;
mod health;
mod keys;
mod mux;
mod program;
mod provider;
mod source;

pub use program::main;
