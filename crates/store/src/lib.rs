//! The datastore: SPIRE's database, schema 25, behind one trait.
//!
//! Not here: rules about who may change what (`steeple-server-core`), and the in-memory index
//! that answers agents; this crate only feeds it. Core never sees a row or a protobuf message.
//!
//! Invariant: whatever touches an entry or an agent writes its event in the same transaction,
//! and a reader of the change feed sees every event once or is told to start afresh
//! (`docs/adr/0002-datastore-and-change-feed.md`).
//!
//! Start at [`Store`]; its one implementation begins in `sql.rs`, what differs between SQL
//! dialects is in `sql/dialect.rs`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod batch;
mod config;
#[cfg(feature = "contract")]
pub mod contract;
mod error;
pub mod feed;
mod measured;
pub mod model;
mod sql;
mod store;

use std::sync::Arc;

pub use crate::batch::{EntryBatch, EntryNumbers, EntryView};
pub use crate::config::{AwsIam, DatabaseType, Now, StoreConfig, TlsFiles};
pub use crate::error::{JoinTokenError, StoreError};
pub use crate::feed::{
    Changes, EntryChange, Mark, NodeChange, OwnChange, OwnCommits, ResnapshotReason, Revision,
    Since, Snapshot, SnapshotPage,
};
pub use crate::model::{
    AttestedNode, BundleEndpointProfile, BundleMask, CaJournal, DeleteMode, Entry, EntryFilter,
    EntryUpdate, FederatesWithFilter, FederationRelationship, FederationUpdate, JoinToken,
    MatchBehavior, NewEntry, NodeFilter, NodeUpdate, Page, ReusableToken, SelectorFilter,
    TokenBearer,
};
pub use crate::store::Store;

/// Opens the database, and makes its schema if it is empty.
///
/// # Errors
/// `Invalid` for a connection string that makes no sense, `Precondition` for a schema that this
/// version cannot work with, `Unavailable` if the database cannot be opened.
pub async fn open(config: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    Ok(measured::measured(Box::pin(sql::SqlStore::open(config)).await?.shared()))
}
