//! What a plugin is: one trait per kind, the error that all of them answer with, and what the
//! host tells a plugin about the world.
//!
//! Not here: any plugin (`steeple-plugins`), how one out of process is reached, and any I/O.
//!
//! The invariant to protect: core and adapters hold plugins only as `Arc<dyn …>` of these traits,
//! so that a built-in, an external plugin and a fake cannot be told apart; each must pass the
//! suite of its kind in [`contract`] (feature `contract`).
//!
//! Start reading at [`KeyManager`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod host;
mod key_manager;
mod node_attestor;
mod workload_attestor;

pub use error::{Code, PluginError};
pub use host::{HostContext, Kind};
pub use key_manager::KeyManager;
pub use node_attestor::{AgentAttributes, Challenger, NodeAttestor, NodeEvidence};
pub use workload_attestor::WorkloadAttestor;
