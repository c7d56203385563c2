//! The trait over the modules beside this one: begin, do, finish. Nothing else happens here.

use std::time::SystemTime;

use async_trait::async_trait;
use steeple_pki::{Bundle, JwtAuthority};
use steeple_spiffe::{SpiffeId, TrustDomain};
use tokio::sync::watch;

use super::tx::Tx;
use super::{
    SqlStore, bundles, ca_journals, entries, entry_rows, federation, feed, join_tokens, node_rows,
    nodes,
};
use crate::error::{JoinTokenError, StoreError};
use crate::feed::{Revision, Since, Snapshot};
use crate::model::{
    AttestedNode, BundleMask, CaJournal, DeleteMode, Entry, EntryFilter, EntryUpdate,
    FederationRelationship, FederationUpdate, JoinToken, NewEntry, NodeFilter, NodeUpdate, Page,
};
use crate::store::Store;

#[async_trait]
impl Store for SqlStore {
    async fn fetch_entry(&self, entry_id: &str) -> Result<Option<Entry>, StoreError> {
        let tx = self.read().await?;
        let done = fetch_entry(&tx, entry_id).await;
        self.finish(tx, done).await
    }

    async fn fetch_entries(&self, entry_ids: &[String]) -> Result<Vec<Entry>, StoreError> {
        let tx = self.read().await?;
        let done = entries::fetch_many(&tx, entry_ids).await;
        self.finish(tx, done).await
    }

    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: Option<&Page>,
    ) -> Result<(Vec<Entry>, Option<String>), StoreError> {
        let tx = self.read().await?;
        let done = entries::list(&tx, filter, page).await;
        self.finish(tx, done).await
    }

    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        let tx = self.read().await?;
        let done = entries::count(&tx, filter).await;
        self.finish(tx, done).await
    }

    async fn fetch_node(&self, id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError> {
        let tx = self.read().await?;
        let done = fetch_node(&tx, id).await;
        self.finish(tx, done).await
    }

    async fn list_nodes(
        &self,
        filter: &NodeFilter,
        page: Option<&Page>,
    ) -> Result<(Vec<AttestedNode>, Option<String>), StoreError> {
        let tx = self.read().await?;
        let done = nodes::list(&tx, filter, page).await;
        self.finish(tx, done).await
    }

    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        let tx = self.read().await?;
        let done = nodes::count(&tx, filter).await;
        self.finish(tx, done).await
    }

    async fn fetch_join_token(&self, token: &str) -> Result<Option<JoinToken>, StoreError> {
        let tx = self.read().await?;
        let done = join_tokens::fetch(&tx, token).await;
        self.finish(tx, done).await
    }

    async fn fetch_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        let tx = self.read().await?;
        let done = bundles::fetch(&tx, trust_domain).await;
        self.finish(tx, done).await
    }

    async fn list_bundles(
        &self,
        page: Option<&Page>,
    ) -> Result<(Vec<Bundle>, Option<String>), StoreError> {
        let tx = self.read().await?;
        let done = bundles::list(&tx, page).await;
        self.finish(tx, done).await
    }

    async fn count_bundles(&self) -> Result<u64, StoreError> {
        let tx = self.read().await?;
        let done = bundles::count(&tx).await;
        self.finish(tx, done).await
    }

    async fn fetch_ca_journal(
        &self,
        active_x509_authority_id: &str,
    ) -> Result<Option<CaJournal>, StoreError> {
        let tx = self.read().await?;
        let done = ca_journals::fetch(&tx, active_x509_authority_id).await;
        self.finish(tx, done).await
    }

    async fn list_ca_journals(&self) -> Result<Vec<CaJournal>, StoreError> {
        let tx = self.read().await?;
        let done = ca_journals::list(&tx).await;
        self.finish(tx, done).await
    }

    async fn fetch_federation_relationship(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<FederationRelationship>, StoreError> {
        let tx = self.read().await?;
        let done = federation::fetch(&tx, trust_domain).await;
        self.finish(tx, done).await
    }

    async fn list_federation_relationships(
        &self,
        page: Option<&Page>,
    ) -> Result<(Vec<FederationRelationship>, Option<String>), StoreError> {
        let tx = self.read().await?;
        let done = federation::list(&tx, page).await;
        self.finish(tx, done).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let tx = self.read().await?;
        let done = feed::snapshot(&tx).await;
        self.finish(tx, done).await
    }

    async fn changes_since(&self, after: &Revision) -> Result<Since, StoreError> {
        let tx = self.read().await?;
        let done = feed::changes_since(&tx, after).await;
        self.finish(tx, done).await
    }

    async fn create_entry(&self, entry: NewEntry) -> Result<Entry, StoreError> {
        let tx = self.write().await?;
        let done = entries::create(&tx, entry).await;
        self.finish(tx, done).await
    }

    async fn create_or_return_similar(&self, entry: NewEntry) -> Result<(Entry, bool), StoreError> {
        let tx = self.write().await?;
        let done = entries::create_or_return_similar(&tx, entry).await;
        self.finish(tx, done).await
    }

    async fn update_entry(&self, entry_id: &str, update: EntryUpdate) -> Result<Entry, StoreError> {
        let tx = self.write().await?;
        let done = entries::update(&tx, entry_id, update).await;
        self.finish(tx, done).await
    }

    async fn delete_entry(&self, entry_id: &str) -> Result<Entry, StoreError> {
        let tx = self.write().await?;
        let done = entries::delete(&tx, entry_id).await;
        self.finish(tx, done).await
    }

    async fn prune_entries(&self, now: SystemTime) -> Result<Vec<Entry>, StoreError> {
        let tx = self.write().await?;
        let done = entries::prune(&tx, now).await;
        self.finish(tx, done).await
    }

    async fn upsert_attested_node(&self, node: AttestedNode) -> Result<AttestedNode, StoreError> {
        let tx = self.write().await?;
        let done = upsert_node(&tx, node).await;
        self.finish(tx, done).await
    }

    async fn update_node(
        &self,
        id: &SpiffeId,
        update: NodeUpdate,
    ) -> Result<AttestedNode, StoreError> {
        let tx = self.write().await?;
        let done = nodes::update(&tx, id, update).await;
        self.finish(tx, done).await
    }

    async fn promote_node_serial(
        &self,
        id: &SpiffeId,
        serial_number: &str,
    ) -> Result<AttestedNode, StoreError> {
        let tx = self.write().await?;
        let done = nodes::promote_serial(&tx, id, serial_number).await;
        self.finish(tx, done).await
    }

    async fn delete_node(&self, id: &SpiffeId) -> Result<AttestedNode, StoreError> {
        let tx = self.write().await?;
        let done = nodes::delete(&tx, id).await;
        self.finish(tx, done).await
    }

    async fn prune_nodes(
        &self,
        expired_before: SystemTime,
        batch: usize,
        include_tofu: bool,
    ) -> Result<Vec<AttestedNode>, StoreError> {
        let tx = self.write().await?;
        let done = nodes::prune(&tx, expired_before, batch, include_tofu).await;
        self.finish(tx, done).await
    }

    async fn create_join_token(
        &self,
        token: JoinToken,
        alias: Option<NewEntry>,
    ) -> Result<(), StoreError> {
        let tx = self.write().await?;
        let done = join_tokens::create(&tx, token, alias).await;
        self.finish(tx, done).await
    }

    async fn delete_join_token(&self, token: &str) -> Result<(), StoreError> {
        let tx = self.write().await?;
        let done = join_tokens::delete(&tx, token).await;
        self.finish(tx, done).await
    }

    async fn prune_join_tokens(&self, expired_before: SystemTime) -> Result<u64, StoreError> {
        let tx = self.write().await?;
        let done = join_tokens::prune(&tx, expired_before).await;
        self.finish(tx, done).await
    }

    async fn create_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError> {
        let tx = self.write().await?;
        let done = bundles::create(&tx, bundle).await;
        self.finish(tx, done).await
    }

    async fn set_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError> {
        let tx = self.write().await?;
        let done = bundles::set(&tx, bundle).await;
        self.finish(tx, done).await
    }

    async fn append_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError> {
        let tx = self.write().await?;
        let done = bundles::append(&tx, bundle).await;
        self.finish(tx, done).await
    }

    async fn update_bundle(&self, bundle: &Bundle, mask: BundleMask) -> Result<Bundle, StoreError> {
        let tx = self.write().await?;
        let done = bundles::update(&tx, bundle, mask).await;
        self.finish(tx, done).await
    }

    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(), StoreError> {
        let tx = self.write().await?;
        let done = bundles::delete(&tx, trust_domain, mode).await;
        self.finish(tx, done).await
    }

    async fn prune_bundle(
        &self,
        trust_domain: &TrustDomain,
        expired_before: SystemTime,
    ) -> Result<bool, StoreError> {
        let tx = self.write().await?;
        let done = bundles::prune(&tx, trust_domain, expired_before).await;
        self.finish(tx, done).await
    }

    async fn taint_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        subject_key_id: &str,
    ) -> Result<(), StoreError> {
        let tx = self.write().await?;
        let done = bundles::taint_x509(&tx, trust_domain, subject_key_id).await;
        self.finish(tx, done).await
    }

    async fn revoke_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        subject_key_id: &str,
    ) -> Result<(), StoreError> {
        let tx = self.write().await?;
        let done = bundles::revoke_x509(&tx, trust_domain, subject_key_id).await;
        self.finish(tx, done).await
    }

    async fn taint_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<JwtAuthority, StoreError> {
        let tx = self.write().await?;
        let done = bundles::taint_jwt(&tx, trust_domain, key_id).await;
        self.finish(tx, done).await
    }

    async fn revoke_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<JwtAuthority, StoreError> {
        let tx = self.write().await?;
        let done = bundles::revoke_jwt(&tx, trust_domain, key_id).await;
        self.finish(tx, done).await
    }

    async fn set_ca_journal(&self, journal: CaJournal) -> Result<CaJournal, StoreError> {
        let tx = self.write().await?;
        let done = ca_journals::set(&tx, journal).await;
        self.finish(tx, done).await
    }

    async fn prune_ca_journals(&self, expired_before: i64) -> Result<u64, StoreError> {
        let tx = self.write().await?;
        let done = ca_journals::prune(&tx, expired_before).await;
        self.finish(tx, done).await
    }

    async fn create_federation_relationship(
        &self,
        relationship: FederationRelationship,
    ) -> Result<FederationRelationship, StoreError> {
        let tx = self.write().await?;
        let done = federation::create(&tx, relationship).await;
        self.finish(tx, done).await
    }

    async fn update_federation_relationship(
        &self,
        trust_domain: &TrustDomain,
        update: FederationUpdate,
    ) -> Result<FederationRelationship, StoreError> {
        let tx = self.write().await?;
        let done = federation::update(&tx, trust_domain, update).await;
        self.finish(tx, done).await
    }

    async fn delete_federation_relationship(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<(), StoreError> {
        let tx = self.write().await?;
        let done = federation::delete(&tx, trust_domain).await;
        self.finish(tx, done).await
    }

    async fn prune_events(&self, written_before: SystemTime) -> Result<u64, StoreError> {
        let tx = self.write().await?;
        let done = feed::prune(&tx, written_before).await;
        self.finish(tx, done).await
    }

    async fn attest_with_join_token(
        &self,
        node: AttestedNode,
        token: &str,
        now: SystemTime,
    ) -> Result<AttestedNode, JoinTokenError> {
        let tx = self.write().await?;
        let done = join_tokens::attest(&tx, node, token, now).await;
        // A refusal is committed too: the token is spent.
        self.finish(tx, done).await?
    }

    async fn ban_node(&self, id: &SpiffeId) -> Result<AttestedNode, StoreError> {
        let update = NodeUpdate {
            serial_number: Some(String::new()),
            new_serial_number: Some(String::new()),
            ..NodeUpdate::default()
        };
        self.update_node(id, update).await
    }

    async fn set_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError> {
        let update = NodeUpdate { agent_version: Some(version.into()), ..NodeUpdate::default() };
        self.update_node(id, update).await?;
        Ok(())
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.ping().await
    }

    fn was_created(&self) -> bool {
        self.created
    }

    async fn close(&self) {
        self.shut().await;
    }
}

async fn fetch_entry(tx: &Tx, entry_id: &str) -> Result<Option<Entry>, StoreError> {
    Ok(entry_rows::find_by_entry_id(tx, entry_id).await?.map(|stored| stored.entry))
}

async fn fetch_node(tx: &Tx, id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError> {
    Ok(node_rows::find_by_id(tx, id).await?.map(|stored| stored.node))
}

async fn upsert_node(tx: &Tx, node: AttestedNode) -> Result<AttestedNode, StoreError> {
    let upserted = nodes::upsert(tx, node).await?;
    upserted.ok_or_else(|| StoreError::Precondition("agent is banned".into()))
}
