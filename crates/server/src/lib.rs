//! `spire-server`: the wiring of its parts.
//!
//! [`app`] starts each part after what it needs: data directory, datastore,
//! key manager, CA, the server's own SVID, the index, and then the listeners.
//! `plugins` makes what the configuration asks for, `health` says
//! what is checked, `program` the command line's side.
//!
//! Not here: decisions (`steeple-server-core`, `steeple-ca`) and what callers
//! see (`steeple-server-api`). To protect: nothing is served before there is a
//! CA in the bundle, and everything that serves watches the drain.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod app;
mod error;
mod federation;
mod guard;
mod health;
mod listeners;
mod plugins;
mod program;
mod telemetry;

pub use app::{Server, run};
pub use error::ServerError;
pub use program::main;
