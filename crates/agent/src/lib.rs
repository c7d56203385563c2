//! `spire-agent`: the wiring, and the drivers that perform what the cores
//! decide.
//!
//! [`app`] starts each part after what it needs: plugins, attestation, the
//! first sync, then the loops ([`manager`]) and the sockets. [`server`] is the
//! client of the SPIRE server, [`data`] the file in `data_dir`, [`trust`] the
//! bundle for the first contact.
//!
//! Not here: decisions (`steeple-agent-core`) and what workloads see
//! (`steeple-agent-api`). To protect: a new identity is on disk before it is
//! used, and one that the server revoked is off the disk before the agent
//! stops.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod app;
mod attestation;
mod broker;
mod convert;
mod credentials;
mod data;
mod endpoints;
mod error;
mod handover;
mod health;
mod manager;
mod offline;
mod plugins;
mod program;
mod server;
mod start;
mod svid_store;
mod telemetry;
mod trust;

pub use app::{Agent, run};
pub use error::AgentError;
pub use program::main;
