//! For authors of plugins: serves one over go-plugin's protocol, to our server and agent and to
//! SPIRE's alike.
//!
//! A plugin is a program whose `main` hands an implementation of a plugin trait to [`serve`]:
//!
//! ```no_run
//! use std::sync::Arc;
//! use steeple_plugin_sdk::{Service, serve};
//! # struct Mine;
//! # #[async_trait::async_trait]
//! # impl steeple_plugin::WorkloadAttestor for Mine {
//! #     fn name(&self) -> &str { "mine" }
//! #     async fn attest(&self, _: i32)
//! #         -> Result<Vec<steeple_spiffe::Selector>, steeple_plugin::PluginError> { Ok(vec![]) }
//! # }
//! fn main() -> std::process::ExitCode {
//!     serve(Service::workload_attestor(Arc::new(Mine)))
//! }
//! ```
//!
//! Not here: the other end of the protocol (`steeple-plugin-host`).
//!
//! To protect: nothing but the handshake is ever written to standard output, and what is logged
//! goes to standard error as hclog's JSON, which hosts read.
//!
//! Start at [`Service`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adapt;
mod go_plugin;
mod host;
mod log;
mod serve;
mod service;
pub mod wire;

pub use adapt::key_manager::DigestKeyManager;
pub use host::HostClient;
pub use serve::serve;
pub use service::{Configure, Service};
