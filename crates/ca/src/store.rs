//! What the CA manager needs of the datastore: the trust domain's own bundle and the journal.

use std::time::SystemTime;

use async_trait::async_trait;
use steeple_pki::Bundle;

use crate::error::AuthorityStoreError;

/// The part of the datastore that the CA manager uses. Every method has taken effect durably
/// when it returns `Ok`; after an `Err` it may or may not have.
#[async_trait]
pub trait AuthorityStore: Send + Sync {
    /// The bundle of this server's trust domain, if there is one yet.
    async fn bundle(&self) -> Result<Option<Bundle>, AuthorityStoreError>;

    /// Merges these authorities into the bundle of this server's trust domain, making it when
    /// there is none, and returns the result. What it holds already changes nothing (CA-18).
    async fn append_bundle(&self, authorities: Bundle) -> Result<Bundle, AuthorityStoreError>;

    /// Removes authorities that expired before `expired_before`; `true` when there were any. An
    /// error when none would be left (CA-05).
    async fn prune_bundle(&self, expired_before: SystemTime) -> Result<bool, AuthorityStoreError>;

    /// Marks the X.509 authority with this hex SKI as tainted.
    async fn taint_x509(&self, authority_id: &str) -> Result<(), AuthorityStoreError>;

    /// Removes the tainted X.509 authority with this hex SKI.
    async fn revoke_x509(&self, authority_id: &str) -> Result<(), AuthorityStoreError>;

    /// Marks the JWT authority with this key id as tainted.
    async fn taint_jwt(&self, key_id: &str) -> Result<(), AuthorityStoreError>;

    /// Removes the tainted JWT authority with this key id.
    async fn revoke_jwt(&self, key_id: &str) -> Result<(), AuthorityStoreError>;

    /// The journal whose `active_x509_authority_id` is this one (CA-08).
    async fn ca_journal(
        &self,
        active_x509_authority_id: &str,
    ) -> Result<Option<StoredJournal>, AuthorityStoreError>;

    /// Writes a journal: a new row when its id is 0. Returns the id of the row.
    async fn save_ca_journal(&self, journal: StoredJournal) -> Result<u64, AuthorityStoreError>;

    /// Removes every journal all of whose entries expired before `expired_before` (CA-06).
    async fn prune_ca_journals(
        &self,
        expired_before: SystemTime,
    ) -> Result<(), AuthorityStoreError>;
}

/// A row of the table `ca_journals`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct StoredJournal {
    /// The row; 0 when it is still to be made.
    pub id: u64,
    /// The serialised `Entries` message.
    pub data: Vec<u8>,
    /// Hex SKI of the X.509 authority by which a server finds its own row.
    pub active_x509_authority_id: String,
}
