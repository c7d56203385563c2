//! The trait over the modules beside this one: begin, do, finish. Nothing else happens here.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use async_trait::async_trait;
use steeple_pki::{Bundle, JwtAuthority};
use steeple_spiffe::{SpiffeId, TrustDomain};
use tokio::sync::{mpsc, watch};

use super::admit::{self, Admission, Admitted, By, Refused, Renewal};
use super::group::is_final;
use super::mark::WalIndex;
use super::tx::Tx;
use super::{
    Attempts, IfMade, SqlStore, bulk, bundles, ca_journals, entries, entry_rows, federation, feed,
    join_tokens, node_rows, nodes, reusable_tokens,
};
use crate::error::{JoinTokenError, StoreError};
use crate::feed::{Mark, OwnCommits, Revision, Since, SnapshotPage};
use crate::model::{
    AttestedNode, BundleMask, CaJournal, DeleteMode, Entry, EntryFilter, EntryUpdate,
    FederationRelationship, FederationUpdate, JoinAttempt, JoinToken, NewEntry, NodeFilter,
    NodeUpdate, Page, ReusableToken, TokenBearer,
};
use crate::store::Store;

/// Reads in one transaction.
macro_rules! read {
    ($store:ident, $tx:ident => $work:expr) => {
        $store
            .within(async {
                let $tx = $store.read().await?;
                let done = $work.await;
                $store.finish($tx, done).await.0
            })
            .await
    };
}

/// Does all of the work in one transaction, and all of it again where that helps; with `again`,
/// also if somebody made the same row first.
macro_rules! change {
    ($store:ident, again, $tx:ident => $work:expr) => {
        change!(@ $store, IfMade::LookAgain, $tx => $work)
    };
    ($store:ident, $tx:ident => $work:expr) => {
        change!(@ $store, IfMade::Refuse, $tx => $work)
    };
    (@ $store:ident, $if_made:expr, $tx:ident => $work:expr) => {
        $store
            .within(async {
                let mut attempts = Attempts::new($if_made);
                loop {
                    let $tx = $store.write().await?;
                    let done = $work.await;
                    let (done, retry) = $store.finish($tx, done).await;
                    if done.is_ok() || !attempts.go_on(retry).await {
                        break done;
                    }
                }
            })
            .await
    };
}

/// As `change`, in a transaction that others may share where that helps. What the work needs is
/// named, since it may be done after its caller has gone; it sees references.
macro_rules! share {
    ($store:ident, $if_made:expr, [$($name:ident),*], $tx:ident => $work:expr) => {
        if $store.groups() {
            $(let $name = $name.to_owned();)*
            $store
                .together(move |$tx| {
                    $(let $name = $name.to_owned();)*
                    Box::pin(async move {
                        $(let $name = &$name;)*
                        $work.await
                    })
                })
                .await
        } else {
            change!(@ $store, $if_made, owned => {
                $(let $name = &$name;)*
                let $tx = &owned;
                $work
            })
        }
    };
}

/// So many entries are changed in one transaction: other writers wait meanwhile.
const ENTRIES_PER_CHANGE: usize = 200;

#[async_trait]
impl Store for SqlStore {
    async fn fetch_entry(&self, entry_id: &str) -> Result<Option<Entry>, StoreError> {
        read!(self, tx => fetch_entry(&tx, entry_id))
    }

    async fn fetch_entries(&self, entry_ids: &[String]) -> Result<Vec<Entry>, StoreError> {
        read!(self, tx => entries::fetch_many(&tx, entry_ids))
    }

    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: Option<&Page>,
    ) -> Result<(Vec<Entry>, Option<String>), StoreError> {
        read!(self, tx => entries::list(&tx, filter, page))
    }

    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        read!(self, tx => entries::count(&tx, filter))
    }

    async fn fetch_node(&self, id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError> {
        node_rows::look(self, id).await
    }

    async fn list_nodes(
        &self,
        filter: &NodeFilter,
        page: Option<&Page>,
    ) -> Result<(Vec<AttestedNode>, Option<String>), StoreError> {
        read!(self, tx => nodes::list(&tx, filter, page))
    }

    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        read!(self, tx => nodes::count(&tx, filter))
    }

    async fn fetch_join_token(&self, token: &str) -> Result<Option<JoinToken>, StoreError> {
        read!(self, tx => join_tokens::fetch(&tx, token))
    }

    async fn fetch_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        read!(self, tx => bundles::fetch(&tx, trust_domain))
    }

    async fn list_bundles(
        &self,
        page: Option<&Page>,
    ) -> Result<(Vec<Bundle>, Option<String>), StoreError> {
        read!(self, tx => bundles::list(&tx, page))
    }

    async fn count_bundles(&self) -> Result<u64, StoreError> {
        read!(self, tx => bundles::count(&tx))
    }

    async fn fetch_ca_journal(
        &self,
        active_x509_authority_id: &str,
    ) -> Result<Option<CaJournal>, StoreError> {
        read!(self, tx => ca_journals::fetch(&tx, active_x509_authority_id))
    }

    async fn list_ca_journals(&self) -> Result<Vec<CaJournal>, StoreError> {
        read!(self, tx => ca_journals::list(&tx))
    }

    async fn fetch_federation_relationship(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<FederationRelationship>, StoreError> {
        read!(self, tx => federation::fetch(&tx, trust_domain))
    }

    async fn list_federation_relationships(
        &self,
        page: Option<&Page>,
    ) -> Result<(Vec<FederationRelationship>, Option<String>), StoreError> {
        read!(self, tx => federation::list(&tx, page))
    }

    async fn read_all(&self, to: mpsc::Sender<SnapshotPage>) -> Result<Revision, StoreError> {
        bulk::read(self, &to).await
    }

    async fn changes_since(&self, after: &Revision) -> Result<Since, StoreError> {
        // What happened last is likely to happen next.
        if self.only_agents.load(Ordering::Relaxed) && self.looks() && self.replica.is_none() {
            if let Some(since) = feed::look(self, after).await? {
                return Ok(since);
            }
            self.only_agents.store(false, Ordering::Relaxed);
        }
        let mut since = self
            .within(async {
                let (tx, from) = self.read_stale().await?;
                let done = feed::changes_since(&tx, after, from).await;
                self.finish(tx, done).await.0
            })
            .await?;
        if let Since::Changes(changes) = &mut since {
            if !changes.is_empty() {
                self.only_agents.store(changes.entries.is_empty(), Ordering::Relaxed);
            }
            self.shorten(&mut changes.revision).await;
        }
        Ok(since)
    }

    async fn create_entry(&self, entry: NewEntry) -> Result<Entry, StoreError> {
        match self.create_or_return_similar(entry).await? {
            (entry, false) => Ok(entry),
            (_, true) => Err(StoreError::AlreadyExists("similar entry already exists".into())),
        }
    }

    async fn create_or_return_similar(&self, entry: NewEntry) -> Result<(Entry, bool), StoreError> {
        let made = self.create_entries(vec![entry]).await.pop();
        made.unwrap_or_else(|| Err(StoreError::sql("an entry was not made")))
    }

    async fn create_entries(
        &self,
        mut entries: Vec<NewEntry>,
    ) -> Vec<Result<(Entry, bool), StoreError>> {
        let mut made = Vec::with_capacity(entries.len());
        while !entries.is_empty() {
            let rest = entries.split_off(entries.len().min(ENTRIES_PER_CHANGE));
            let some = std::mem::replace(&mut entries, rest);
            made.extend(if self.groups() {
                self.create_together(some).await
            } else {
                self.create_alone(some).await
            });
        }
        made
    }

    async fn update_entries(
        &self,
        updates: &[(String, EntryUpdate)],
    ) -> Vec<Result<Entry, StoreError>> {
        let mut updated = Vec::with_capacity(updates.len());
        for updates in updates.chunks(ENTRIES_PER_CHANGE) {
            let done =
                share!(self, IfMade::Refuse, [updates], tx => entries::update_many(tx, updates));
            match done {
                Ok(some) => updated.extend(some),
                Err(error) if is_final(&error, updates.len()) => {
                    updated.extend(updates.iter().map(|_| Err(error.clone())));
                }
                Err(_) => {
                    for (entry_id, update) in updates {
                        updated.push(self.update_entry(entry_id, update.clone()).await);
                    }
                }
            }
        }
        updated
    }

    async fn delete_entries(&self, entry_ids: &[String]) -> Vec<Result<Entry, StoreError>> {
        let mut deleted = Vec::with_capacity(entry_ids.len());
        for ids in entry_ids.chunks(ENTRIES_PER_CHANGE) {
            let done = share!(self, IfMade::Refuse, [ids], tx => entries::delete_many(tx, ids));
            match done {
                Ok(some) => deleted.extend(some),
                Err(error) if is_final(&error, ids.len()) => {
                    deleted.extend(ids.iter().map(|_| Err(error.clone())));
                }
                Err(_) => {
                    for entry_id in ids {
                        deleted.push(self.delete_entry(entry_id).await);
                    }
                }
            }
        }
        deleted
    }

    async fn update_entry(&self, entry_id: &str, update: EntryUpdate) -> Result<Entry, StoreError> {
        share!(self, IfMade::Refuse, [entry_id, update], tx => entries::update(tx, entry_id, update.clone()))
    }

    async fn delete_entry(&self, entry_id: &str) -> Result<Entry, StoreError> {
        share!(self, IfMade::Refuse, [entry_id], tx => entries::delete(tx, entry_id))
    }

    async fn prune_entries(&self, now: SystemTime) -> Result<Vec<Entry>, StoreError> {
        change!(self, tx => entries::prune(&tx, now))
    }

    async fn upsert_attested_node(&self, node: AttestedNode) -> Result<AttestedNode, StoreError> {
        self.admit(node, By::Evidence).await?.map_err(refused)
    }

    async fn insert_attested_node(&self, node: AttestedNode) -> Result<AttestedNode, StoreError> {
        self.admit(node, By::FirstEvidence).await?.map_err(refused)
    }

    async fn update_node(
        &self,
        id: &SpiffeId,
        update: NodeUpdate,
    ) -> Result<AttestedNode, StoreError> {
        share!(self, IfMade::Refuse, [id, update], tx => nodes::update(tx, id, update.clone()))
    }

    async fn renew_node(
        &self,
        id: &SpiffeId,
        serial_number: &str,
        expires_at: i64,
    ) -> Result<(), StoreError> {
        let (agent, serial_number) = (id.clone(), serial_number.to_owned());
        let renewal = Renewal { agent, serial_number, expires_at };
        let renewed = match self.groups() {
            true => self.renew_together(renewal).await?,
            false => change!(self, tx => admit::renew_one(&tx, &renewal))?,
        };
        if renewed { Ok(()) } else { Err(StoreError::not_found()) }
    }

    async fn promote_node_serial(
        &self,
        id: &SpiffeId,
        serial_number: &str,
    ) -> Result<AttestedNode, StoreError> {
        share!(self, IfMade::Refuse, [id, serial_number], tx => nodes::promote_serial(tx, id, serial_number))
    }

    async fn delete_node(&self, id: &SpiffeId) -> Result<AttestedNode, StoreError> {
        change!(self, tx => nodes::delete(&tx, id))
    }

    async fn prune_nodes(
        &self,
        expired_before: SystemTime,
        batch: usize,
        include_tofu: bool,
    ) -> Result<Vec<AttestedNode>, StoreError> {
        change!(self, tx => nodes::prune(&tx, expired_before, batch, include_tofu))
    }

    async fn create_join_token(
        &self,
        token: JoinToken,
        alias: Option<NewEntry>,
    ) -> Result<(), StoreError> {
        share!(self, IfMade::Refuse, [token, alias], tx => join_tokens::create(tx, token.clone(), alias.clone()))
    }

    async fn fetch_join_attempt(
        &self,
        token: &str,
        agent: &SpiffeId,
    ) -> Result<Option<JoinAttempt>, StoreError> {
        join_tokens::look_with_agent(self, token, agent).await
    }

    async fn delete_join_token(&self, token: &str) -> Result<(), StoreError> {
        change!(self, tx => join_tokens::delete(&tx, token))
    }

    async fn prune_join_tokens(&self, expired_before: SystemTime) -> Result<u64, StoreError> {
        change!(self, tx => join_tokens::prune(&tx, expired_before))
    }

    async fn create_reusable_token(&self, token: ReusableToken) -> Result<(), StoreError> {
        // In a transaction of its own: MySQL ends one at each CREATE.
        change!(self, tx => reusable_tokens::make_tables(&tx))?;
        change!(self, tx => reusable_tokens::create(&tx, &token))
    }

    async fn fetch_reusable_token(&self, id: &str) -> Result<Option<ReusableToken>, StoreError> {
        read!(self, tx => reusable_tokens::fetch(&tx, id))
    }

    async fn list_reusable_tokens(
        &self,
        page: Option<&Page>,
    ) -> Result<(Vec<ReusableToken>, Option<String>), StoreError> {
        read!(self, tx => reusable_tokens::list_all(&tx, page))
    }

    async fn delete_reusable_token(&self, id: &str) -> Result<(), StoreError> {
        change!(self, tx => reusable_tokens::delete(&tx, id))
    }

    async fn attest_with_reusable_token(
        &self,
        node: AttestedNode,
        bearer: TokenBearer<'_>,
        now: SystemTime,
    ) -> Result<AttestedNode, JoinTokenError> {
        change!(self, again, tx => reusable_tokens::attest(&tx, node.clone(), bearer, now))?
    }

    async fn create_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError> {
        change!(self, tx => bundles::create(&tx, bundle))
    }

    async fn set_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError> {
        change!(self, again, tx => bundles::set(&tx, bundle))
    }

    async fn append_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError> {
        change!(self, again, tx => bundles::append(&tx, bundle))
    }

    async fn update_bundle(&self, bundle: &Bundle, mask: BundleMask) -> Result<Bundle, StoreError> {
        change!(self, tx => bundles::update(&tx, bundle, mask))
    }

    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(), StoreError> {
        change!(self, tx => bundles::delete(&tx, trust_domain, mode))
    }

    async fn prune_bundle(
        &self,
        trust_domain: &TrustDomain,
        expired_before: SystemTime,
    ) -> Result<bool, StoreError> {
        change!(self, tx => bundles::prune(&tx, trust_domain, expired_before))
    }

    async fn taint_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        subject_key_id: &str,
    ) -> Result<(), StoreError> {
        change!(self, tx => bundles::taint_x509(&tx, trust_domain, subject_key_id))
    }

    async fn revoke_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        subject_key_id: &str,
    ) -> Result<(), StoreError> {
        change!(self, tx => bundles::revoke_x509(&tx, trust_domain, subject_key_id))
    }

    async fn taint_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<JwtAuthority, StoreError> {
        change!(self, tx => bundles::taint_jwt(&tx, trust_domain, key_id))
    }

    async fn revoke_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<JwtAuthority, StoreError> {
        change!(self, tx => bundles::revoke_jwt(&tx, trust_domain, key_id))
    }

    async fn set_ca_journal(&self, journal: CaJournal) -> Result<CaJournal, StoreError> {
        change!(self, tx => ca_journals::set(&tx, journal.clone()))
    }

    async fn prune_ca_journals(&self, expired_before: i64) -> Result<u64, StoreError> {
        change!(self, tx => ca_journals::prune(&tx, expired_before))
    }

    async fn create_federation_relationship(
        &self,
        relationship: FederationRelationship,
    ) -> Result<FederationRelationship, StoreError> {
        change!(self, tx => federation::create(&tx, relationship.clone()))
    }

    async fn update_federation_relationship(
        &self,
        trust_domain: &TrustDomain,
        update: FederationUpdate,
    ) -> Result<FederationRelationship, StoreError> {
        change!(self, tx => federation::update(&tx, trust_domain, update.clone()))
    }

    async fn delete_federation_relationship(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<(), StoreError> {
        change!(self, tx => federation::delete(&tx, trust_domain))
    }

    async fn prune_events(&self, written_before: SystemTime) -> Result<u64, StoreError> {
        change!(self, tx => feed::prune(&tx, written_before))
    }

    async fn attest_with_join_token(
        &self,
        node: AttestedNode,
        token: &str,
        now: SystemTime,
    ) -> Result<AttestedNode, JoinTokenError> {
        let by = By::Token { token: token.to_owned(), now };
        self.admit(node, by).await?.map_err(|refused| match refused {
            Refused::UnknownToken => JoinTokenError::Unknown,
            Refused::ExpiredToken => JoinTokenError::Expired,
            Refused::Banned | Refused::Attested => JoinTokenError::Banned,
        })
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

    fn mark(&self) -> Option<Mark> {
        self.marks().and_then(WalIndex::mark)
    }

    fn own_commits(&self, after: &Revision, mark: Mark) -> Option<OwnCommits> {
        self.own.since(after, mark)
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    fn bundle_wakeups(&self) -> watch::Receiver<u64> {
        self.wake_bundles.subscribe()
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

impl SqlStore {
    /// Records an attestation. A refusal is committed, too: a token is spent.
    async fn admit(&self, node: AttestedNode, by: By) -> Result<Admitted, StoreError> {
        let admission = Admission { node, by };
        match self.groups() {
            true => self.admit_together(admission).await,
            false => change!(self, again, tx => admit::admit_one(&tx, admission.clone())),
        }
    }
}

/// Why evidence is refused; it has nothing to do with tokens.
fn refused(refused: Refused) -> StoreError {
    match refused {
        Refused::Attested => StoreError::AlreadyExists("agent has attested".into()),
        Refused::Banned | Refused::UnknownToken | Refused::ExpiredToken => {
            StoreError::Precondition("agent is banned".into())
        }
    }
}
