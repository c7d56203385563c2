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

mod checked_keys;
#[cfg(feature = "contract")]
pub mod contract;
mod credential_composer;
mod error;
pub mod go_json;
mod host;
mod host_services;
mod key_manager;
mod node_attestor;
mod notifier;
pub mod settings;
mod svid_store;
mod upstream_authority;
mod workload_attestor;

pub use checked_keys::CheckedKeys;
pub use credential_composer::{
    CredentialComposer, ExtraExtension, Name, X509CaAttributes, X509SvidAttributes,
};
pub use error::{Code, PluginError};
pub use host::{HostContext, Kind};
pub use host_services::{
    AgentLookup, HostServices, IdentitySource, X509Identity, already_attested,
};
pub use key_manager::KeyManager;
pub use node_attestor::{AgentAttributes, Caller, Challenger, NodeAttestor, NodeEvidence};
pub use notifier::{BundlePublisher, Notifier};
pub use svid_store::{StoredX509Svid, SvidStore};
pub use upstream_authority::{
    LocalBundle, MintedX509Ca, PublishedJwtKeys, Updates, UpstreamAuthority, no_updates,
};
pub use workload_attestor::{WorkloadAttestor, WorkloadReference};
