//! The certificate authority: when authorities rotate, and what they sign.
//!
//! Not here: the keys themselves (`KeyManager` plugins), how certificates are encoded
//! (`steeple-pki`), who may have what (`steeple-server-core`), SQL (behind [`AuthorityStore`]).
//!
//! Invariant: nothing is signed by an authority that is not in the journal and in the trust
//! bundle, or that has expired; at most one of a kind is active.
//!
//! Start at [`rotation`] for the rules, at [`CaManager`] for who follows them, and at
//! [`Credentials`] for what is issued.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod credentials;
mod error;
mod journal;
mod kind;
mod manager;
pub mod rotation;
mod store;
#[cfg(test)]
mod testing;
mod times;
mod upstream;

pub use config::CaConfig;
pub use credentials::{
    Credentials, JwtSvid, Lifetimes, WorkloadJwtParams, WorkloadWitParams, WorkloadX509Params,
};
pub use error::{
    AuthorityError, AuthorityStoreError, CaError, InvalidCredential, InvalidMint, RevokeRefused,
    RotationError, UpstreamRefused,
};
pub use kind::{JwtKey, WitKey, X509Ca};
pub use manager::{
    AuthorityKind, AuthorityState, AuthorityStates, CaManager, MAX_ROTATION_FAILURES,
};
pub use store::{AuthorityStore, StoredJournal};
