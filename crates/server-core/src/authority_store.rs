//! The datastore as the CA manager sees it.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use steeple_ca::{AuthorityStore, AuthorityStoreError, StoredJournal};
use steeple_pki::Bundle;
use steeple_plugin::Code;
use steeple_spiffe::TrustDomain;
use steeple_store::model::CaJournal;
use steeple_store::{Store, StoreError};

use crate::time::unix_seconds;

/// The part of the datastore that concerns one trust domain's authorities.
pub struct DatastoreAuthorities {
    store: Arc<dyn Store>,
    trust_domain: TrustDomain,
}

impl DatastoreAuthorities {
    /// The authorities of `trust_domain` in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, trust_domain: TrustDomain) -> Self {
        Self { store, trust_domain }
    }
}

#[async_trait]
impl AuthorityStore for DatastoreAuthorities {
    async fn bundle(&self) -> Result<Option<Bundle>, AuthorityStoreError> {
        self.store.fetch_bundle(&self.trust_domain).await.map_err(|error| told(&error))
    }

    async fn append_bundle(&self, authorities: Bundle) -> Result<Bundle, AuthorityStoreError> {
        self.store.append_bundle(&authorities).await.map_err(|error| told(&error))
    }

    async fn prune_bundle(&self, expired_before: SystemTime) -> Result<bool, AuthorityStoreError> {
        self.store
            .prune_bundle(&self.trust_domain, expired_before)
            .await
            .map_err(|error| told(&error))
    }

    async fn taint_x509(&self, authority_id: &str) -> Result<(), AuthorityStoreError> {
        self.store
            .taint_x509_authority(&self.trust_domain, authority_id)
            .await
            .map_err(|error| told(&error))
    }

    async fn revoke_x509(&self, authority_id: &str) -> Result<(), AuthorityStoreError> {
        self.store
            .revoke_x509_authority(&self.trust_domain, authority_id)
            .await
            .map_err(|error| told(&error))
    }

    async fn taint_jwt(&self, key_id: &str) -> Result<(), AuthorityStoreError> {
        self.store
            .taint_jwt_authority(&self.trust_domain, key_id)
            .await
            .map(drop)
            .map_err(|error| told(&error))
    }

    async fn revoke_jwt(&self, key_id: &str) -> Result<(), AuthorityStoreError> {
        self.store
            .revoke_jwt_authority(&self.trust_domain, key_id)
            .await
            .map(drop)
            .map_err(|error| told(&error))
    }

    async fn ca_journal(
        &self,
        active_x509_authority_id: &str,
    ) -> Result<Option<StoredJournal>, AuthorityStoreError> {
        let found = self
            .store
            .fetch_ca_journal(active_x509_authority_id)
            .await
            .map_err(|error| told(&error))?;
        Ok(found.map(|journal| StoredJournal {
            id: journal.id,
            data: journal.data,
            active_x509_authority_id: journal.active_x509_authority_id,
        }))
    }

    async fn save_ca_journal(&self, journal: StoredJournal) -> Result<u64, AuthorityStoreError> {
        let journal = CaJournal {
            id: journal.id,
            data: journal.data,
            active_x509_authority_id: journal.active_x509_authority_id,
            // SPIRE has the column and leaves it empty.
            active_jwt_authority_id: String::new(),
        };
        Ok(self.store.set_ca_journal(journal).await.map_err(|error| told(&error))?.id)
    }

    async fn prune_ca_journals(
        &self,
        expired_before: SystemTime,
    ) -> Result<(), AuthorityStoreError> {
        let expired_before = unix_seconds(expired_before);
        self.store.prune_ca_journals(expired_before).await.map(drop).map_err(|error| told(&error))
    }
}

fn told(error: &StoreError) -> AuthorityStoreError {
    let code = match error {
        StoreError::NotFound(_) => Code::NotFound,
        StoreError::AlreadyExists(_) => Code::AlreadyExists,
        StoreError::Invalid(_) => Code::InvalidArgument,
        StoreError::Precondition(_) => Code::FailedPrecondition,
        StoreError::Unavailable(_) => Code::Unavailable,
        _ => Code::Internal,
    };
    AuthorityStoreError { code, message: error.to_string() }
}
