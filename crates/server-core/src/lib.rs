//! The server's use cases: entries, agents, SVIDs, bundles, and the index that
//! knows which agent may have which entry.
//!
//! Not here: gRPC, protobuf, TLS, sockets, files. Adapters convert and call
//! ([`steeple-server-api`]); the datastore, the CA and the attestors come in as
//! traits.
//!
//! Invariant: a use case that needs rights takes the proof of them as an
//! argument, and only [`access::Gatekeeper`] makes such proofs.
//!
//! Start at [`agents`] for J1 (attestation), at [`index`] for J3 (an entry's
//! way to the agents).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod admission;
pub mod agents;
pub mod authorities;
mod authority_store;
pub mod bundles;
pub mod dns_name;
pub mod entries;
pub mod explain;
pub mod federation;
pub mod housekeeping;
pub mod ids;
pub mod index;
pub mod notify;
pub mod peers;
pub mod push;
mod server_svid;
mod signing;
pub mod startup;
pub mod svids;
pub mod text;
pub mod time;
pub mod tokens;

pub use authority_store::DatastoreAuthorities;
pub use server_svid::{ServerSvid, ServerSvidError, ServerSvidRotator};
pub use signing::SigningPool;
