//! Counts and times what is asked of a datastore, under SPIRE's names.
//!
//! What SPIRE does in several calls and we in one transaction counts as each of
//! them.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use steeple_pki::{Bundle, JwtAuthority};
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_telemetry::{Call, call};
use tokio::sync::{mpsc, watch};

use crate::error::{JoinTokenError, StoreError};
use crate::feed::{Mark, OwnCommits, Revision, Since, SnapshotPage};
use crate::model::{
    AttestedNode, BundleMask, CaJournal, DeleteMode, Entry, EntryFilter, EntryUpdate,
    FederationRelationship, FederationUpdate, JoinAttempt, JoinToken, NewEntry, NodeFilter,
    NodeUpdate, Page, ReusableToken, TokenBearer,
};
use crate::store::Store;

/// The same datastore, measured.
pub(crate) fn measured(store: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(Measured(store))
}

struct Measured(Arc<dyn Store>);

macro_rules! measure {
    (
        { $($as_is:tt)* }
        $($([$($key:literal),*]),* => $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*
    ) => {
        #[async_trait]
        impl Store for Measured {
            $(async fn $name(&self $(, $arg: $type)*) -> $answer {
                let calls = [$(call(&[$($key),*])),*];
                let answer = self.0.$name($($arg),*).await;
                end(calls, answer.as_ref().map_or_else(Coded::code, |_| "OK"));
                answer
            })*

            $($as_is)*
        }
    };
}

measure! {
    {
        fn mark(&self) -> Option<Mark> {
            self.0.mark()
        }

        fn own_commits(&self, after: &Revision, mark: Mark) -> Option<OwnCommits> {
            self.0.own_commits(after, mark)
        }

        async fn create_entries(
            &self,
            entries: Vec<NewEntry>,
        ) -> Vec<Result<(Entry, bool), StoreError>> {
            let calls = each(entries.len(), &["datastore", "registration_entry", "create"]);
            let answers = self.0.create_entries(entries).await;
            end_each(calls, &answers);
            answers
        }

        async fn update_entries(
            &self,
            updates: &[(String, EntryUpdate)],
        ) -> Vec<Result<Entry, StoreError>> {
            let calls = each(updates.len(), &["datastore", "registration_entry", "update"]);
            let answers = self.0.update_entries(updates).await;
            end_each(calls, &answers);
            answers
        }

        async fn delete_entries(&self, entry_ids: &[String]) -> Vec<Result<Entry, StoreError>> {
            let calls = each(entry_ids.len(), &["datastore", "registration_entry", "delete"]);
            let answers = self.0.delete_entries(entry_ids).await;
            end_each(calls, &answers);
            answers
        }

        async fn fetch_join_attempt(
            &self,
            token: &str,
            agent: &SpiffeId,
        ) -> Result<Option<JoinAttempt>, StoreError> {
            let calls = [call(&["datastore", "join_token", "fetch"])];
            let answer = self.0.fetch_join_attempt(token, agent).await;
            end(calls, answer.as_ref().map_or_else(Coded::code, |_| "OK"));
            // Nobody asks for the agent of a token that is not there.
            if let Ok(Some(_)) = &answer {
                let selectors = &["datastore", "node", "selectors", "fetch"];
                end([call(&["datastore", "node", "fetch"]), call(selectors)], "OK");
            }
            answer
        }

        fn wakeups(&self) -> watch::Receiver<u64> {
            self.0.wakeups()
        }

        fn bundle_wakeups(&self) -> watch::Receiver<u64> {
            self.0.bundle_wakeups()
        }

        async fn health(&self) -> Result<(), StoreError> {
            self.0.health().await
        }

        fn was_created(&self) -> bool {
            self.0.was_created()
        }

        async fn close(&self) {
            self.0.close().await;
        }
    }
    ["datastore", "registration_entry", "create"] => create_entry(entry: NewEntry) -> Result<Entry, StoreError>;
    ["datastore", "registration_entry", "create"] => create_or_return_similar(entry: NewEntry) -> Result<(Entry, bool), StoreError>;
    ["datastore", "registration_entry", "fetch"] => fetch_entry(entry_id: &str) -> Result<Option<Entry>, StoreError>;
    ["datastore", "registration_entry", "fetch"] => fetch_entries(entry_ids: &[String]) -> Result<Vec<Entry>, StoreError>;
    ["datastore", "registration_entry", "list"] => list_entries(filter: &EntryFilter, page: Option<&Page>) -> Result<(Vec<Entry>, Option<String>), StoreError>;
    ["datastore", "registration_entry", "count"] => count_entries(filter: &EntryFilter) -> Result<u64, StoreError>;
    ["datastore", "registration_entry", "update"] => update_entry(entry_id: &str, update: EntryUpdate) -> Result<Entry, StoreError>;
    ["datastore", "registration_entry", "delete"] => delete_entry(entry_id: &str) -> Result<Entry, StoreError>;
    ["datastore", "registration_entry", "prune"] => prune_entries(now: SystemTime) -> Result<Vec<Entry>, StoreError>;
    ["datastore", "node", "fetch"], ["datastore", "node", "selectors", "fetch"] => fetch_node(id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError>;
    ["datastore", "node", "list"] => list_nodes(filter: &NodeFilter, page: Option<&Page>) -> Result<(Vec<AttestedNode>, Option<String>), StoreError>;
    ["datastore", "node", "count"] => count_nodes(filter: &NodeFilter) -> Result<u64, StoreError>;
    ["datastore", "node", "create"], ["datastore", "node", "selectors", "set"] => upsert_attested_node(node: AttestedNode) -> Result<AttestedNode, StoreError>;
    ["datastore", "node", "create"], ["datastore", "node", "selectors", "set"] => insert_attested_node(node: AttestedNode) -> Result<AttestedNode, StoreError>;
    ["datastore", "join_token", "fetch"], ["datastore", "join_token", "delete"], ["datastore", "node", "create"], ["datastore", "node", "selectors", "set"] => attest_with_join_token(node: AttestedNode, token: &str, now: SystemTime) -> Result<AttestedNode, JoinTokenError>;
    ["datastore", "node", "update"] => update_node(id: &SpiffeId, update: NodeUpdate) -> Result<AttestedNode, StoreError>;
    ["datastore", "node", "update"] => renew_node(id: &SpiffeId, serial_number: &str, expires_at: i64) -> Result<(), StoreError>;
    ["datastore", "node", "update"] => promote_node_serial(id: &SpiffeId, serial_number: &str) -> Result<AttestedNode, StoreError>;
    ["datastore", "node", "update"] => ban_node(id: &SpiffeId) -> Result<AttestedNode, StoreError>;
    ["datastore", "node", "delete"] => delete_node(id: &SpiffeId) -> Result<AttestedNode, StoreError>;
    ["datastore", "node", "prune"] => prune_nodes(expired_before: SystemTime, batch: usize, include_tofu: bool) -> Result<Vec<AttestedNode>, StoreError>;
    ["datastore", "node", "update"] => set_agent_version(id: &SpiffeId, version: &str) -> Result<(), StoreError>;
    ["datastore", "join_token", "create"] => create_join_token(token: JoinToken, alias: Option<NewEntry>) -> Result<(), StoreError>;
    ["datastore", "join_token", "fetch"] => fetch_join_token(token: &str) -> Result<Option<JoinToken>, StoreError>;
    ["datastore", "join_token", "delete"] => delete_join_token(token: &str) -> Result<(), StoreError>;
    ["datastore", "join_token", "prune"] => prune_join_tokens(expired_before: SystemTime) -> Result<u64, StoreError>;
    ["datastore", "reusable_token", "create"] => create_reusable_token(token: ReusableToken) -> Result<(), StoreError>;
    ["datastore", "reusable_token", "fetch"] => fetch_reusable_token(id: &str) -> Result<Option<ReusableToken>, StoreError>;
    ["datastore", "reusable_token", "list"] => list_reusable_tokens(page: Option<&Page>) -> Result<(Vec<ReusableToken>, Option<String>), StoreError>;
    ["datastore", "reusable_token", "delete"] => delete_reusable_token(id: &str) -> Result<(), StoreError>;
    ["datastore", "reusable_token", "use"], ["datastore", "node", "create"], ["datastore", "node", "selectors", "set"] => attest_with_reusable_token(node: AttestedNode, bearer: TokenBearer<'_>, now: SystemTime) -> Result<AttestedNode, JoinTokenError>;
    ["datastore", "bundle", "fetch"] => fetch_bundle(trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError>;
    ["datastore", "bundle", "list"] => list_bundles(page: Option<&Page>) -> Result<(Vec<Bundle>, Option<String>), StoreError>;
    ["datastore", "bundle", "count"] => count_bundles() -> Result<u64, StoreError>;
    ["datastore", "bundle", "create"] => create_bundle(bundle: &Bundle) -> Result<Bundle, StoreError>;
    ["datastore", "bundle", "set"] => set_bundle(bundle: &Bundle) -> Result<Bundle, StoreError>;
    ["datastore", "bundle", "append"] => append_bundle(bundle: &Bundle) -> Result<Bundle, StoreError>;
    ["datastore", "bundle", "update"] => update_bundle(bundle: &Bundle, mask: BundleMask) -> Result<Bundle, StoreError>;
    ["datastore", "bundle", "delete"] => delete_bundle(trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError>;
    ["datastore", "bundle", "prune"] => prune_bundle(trust_domain: &TrustDomain, expired_before: SystemTime) -> Result<bool, StoreError>;
    ["datastore", "bundle", "x509", "taint"] => taint_x509_authority(trust_domain: &TrustDomain, subject_key_id: &str) -> Result<(), StoreError>;
    ["datastore", "bundle", "x509", "revoke"] => revoke_x509_authority(trust_domain: &TrustDomain, subject_key_id: &str) -> Result<(), StoreError>;
    ["datastore", "bundle", "jwt", "taint"] => taint_jwt_authority(trust_domain: &TrustDomain, key_id: &str) -> Result<JwtAuthority, StoreError>;
    ["datastore", "bundle", "jwt", "revoke"] => revoke_jwt_authority(trust_domain: &TrustDomain, key_id: &str) -> Result<JwtAuthority, StoreError>;
    ["datastore", "ca_journal", "set"] => set_ca_journal(journal: CaJournal) -> Result<CaJournal, StoreError>;
    ["datastore", "ca_journal", "fetch"] => fetch_ca_journal(active_x509_authority_id: &str) -> Result<Option<CaJournal>, StoreError>;
    ["datastore", "ca_journal", "list"] => list_ca_journals() -> Result<Vec<CaJournal>, StoreError>;
    ["datastore", "ca_journal", "prune"] => prune_ca_journals(expired_before: i64) -> Result<u64, StoreError>;
    ["datastore", "federation_relationship", "create"] => create_federation_relationship(relationship: FederationRelationship) -> Result<FederationRelationship, StoreError>;
    ["datastore", "federation_relationship", "fetch"] => fetch_federation_relationship(trust_domain: &TrustDomain) -> Result<Option<FederationRelationship>, StoreError>;
    ["datastore", "federation_relationship", "list"] => list_federation_relationships(page: Option<&Page>) -> Result<(Vec<FederationRelationship>, Option<String>), StoreError>;
    ["datastore", "federation_relationship", "update"] => update_federation_relationship(trust_domain: &TrustDomain, update: FederationUpdate) -> Result<FederationRelationship, StoreError>;
    ["datastore", "federation_relationship", "delete"] => delete_federation_relationship(trust_domain: &TrustDomain) -> Result<(), StoreError>;
    ["datastore", "registration_entry", "list"], ["datastore", "node", "list"], ["datastore", "node", "selectors", "list"] => read_all(to: mpsc::Sender<SnapshotPage>) -> Result<Revision, StoreError>;
    ["datastore", "registration_entry_event", "list"], ["datastore", "node_event", "list"] => changes_since(after: &Revision) -> Result<Since, StoreError>;
    ["datastore", "registration_entry_event", "prune"], ["datastore", "node_event", "prune"] => prune_events(written_before: SystemTime) -> Result<u64, StoreError>;
}

fn end<const N: usize>(calls: [Call; N], code: &str) {
    for call in calls {
        call.status(code);
    }
}

/// What is done with many entries at once counts as done with each.
fn each(count: usize, what: &'static [&'static str]) -> Vec<Call> {
    (0..count).map(|_| call(what)).collect()
}

fn end_each<T>(calls: Vec<Call>, answers: &[Result<T, StoreError>]) {
    for (call, answer) in calls.into_iter().zip(answers) {
        call.status(answer.as_ref().map_or_else(Coded::code, |_| "OK"));
    }
}

/// An error that stands for a gRPC code.
trait Coded {
    /// The code's name.
    fn code(&self) -> &'static str;
}

impl Coded for StoreError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "NotFound",
            Self::AlreadyExists(_) => "AlreadyExists",
            Self::Invalid(_) => "InvalidArgument",
            Self::Precondition(_) => "FailedPrecondition",
            Self::Unavailable(_) => "Unavailable",
            Self::Internal(_) => "Internal",
        }
    }
}

impl Coded for JoinTokenError {
    fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            _ => "InvalidArgument",
        }
    }
}
