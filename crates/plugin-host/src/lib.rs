//! External plugins: child processes that speak go-plugin's protocol, behind the plugin traits.
//!
//! Not here: built-in plugins, which of them a configuration asks for (the programs), and the
//! other end of the protocol (`steeple-plugin-sdk`).
//!
//! The invariant to protect: a plugin is somebody else's program. Every call to one has a
//! deadline, every answer a size and a check, and its process never outlives this one.
//!
//! Start at [`catalog::load`], then [`Plugin::load`]; the traits are in `adapt`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adapt;
mod broker;
pub mod catalog;
mod config;
mod diagnose;
mod error;
mod handshake;
mod host_services;
mod image;
mod output;
mod plugin;
mod process;
mod spawn;
mod spec;
mod swap;

pub use config::{Source, hash};
pub use error::{HostError, LaunchError};
pub use plugin::{Host, Plugin, rpc_text};
pub use spawn::exec_if_asked;
pub use spec::{Side, Spec};
