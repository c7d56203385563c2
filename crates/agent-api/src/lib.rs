//! What the agent serves: the Workload API to any local process, and the
//! admin APIs to the operator, each over its own Unix socket.
//!
//! [`workload`] is the Workload API: one header check, one attested stream
//! loop for every kind of stream, bytes that were encoded when they entered
//! the cache. [`sds`] gives the same identities to Envoys. [`caller`] is the
//! turnstile before every attested API. [`health`] and reflection stand beside
//! it. [`admin`] has Debug and Logger. [`endpoint`] puts them on their sockets.
//!
//! Not here: who gets what (`steeple-agent-core`), and anything about the
//! server. To protect: no caller gets an answer before its process was
//! attested and found alive afterwards.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod broker;
pub mod caller;
pub mod delegated;
pub mod endpoint;
pub mod explain;
pub mod health;
mod measured;
pub mod rate_limit;
mod reflection;
pub mod sds;
mod share;
mod streaming;
pub mod workload;
