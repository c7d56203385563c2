use std::time::SystemTime;

use async_trait::async_trait;
use steeple_pki::{Bundle, JwtAuthority};
use steeple_spiffe::{SpiffeId, TrustDomain};
use tokio::sync::{mpsc, watch};

use crate::batch::EntryView;
use crate::error::{JoinTokenError, StoreError};
use crate::feed::{Mark, OwnCommits, Revision, Since, Snapshot, SnapshotPage};
use crate::model::{
    AttestedNode, BundleMask, CaJournal, DeleteMode, Entry, EntryFilter, EntryUpdate,
    FederationRelationship, FederationUpdate, JoinAttempt, JoinToken, NewEntry, NodeFilter,
    NodeUpdate, Page, ReusableToken, TokenBearer,
};

/// The datastore. Used as `Arc<dyn Store>`.
///
/// Each method is one transaction: all of it happens, with the events that tell other servers
/// of it, or nothing. A method that returned `Ok` has its work on disk. Dropping the future
/// before that leaves it open whether the work happened, but never half of it.
///
/// Lists come in the order of creation. A list with a [`Page`] answers a token as long as the
/// page has a row in it, so the last page may lead to an empty one (TG-17).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // ---- Entries ----

    /// Makes an entry.
    ///
    /// # Errors
    /// `AlreadyExists` if a similar one exists (same id, parent and selectors) or the entry id is
    /// taken, `Invalid` if the entry breaks a rule (ER-06, ER-09, ER-10, ER-13), `Internal` with
    /// SPIRE's text if a federated trust domain has no bundle (ER-14).
    async fn create_entry(&self, entry: NewEntry) -> Result<Entry, StoreError>;

    /// Makes an entry, or answers the similar one that exists; `true` = it existed (ER-18).
    ///
    /// # Errors
    /// As [`Store::create_entry`], but for the similar entry.
    async fn create_or_return_similar(&self, entry: NewEntry) -> Result<(Entry, bool), StoreError>;

    /// Makes entries, or answers the similar ones that exist: each as
    /// [`Store::create_or_return_similar`] would, one after the other, in as few transactions as
    /// can be. One that is refused keeps no other from being made.
    async fn create_entries(
        &self,
        entries: Vec<NewEntry>,
    ) -> Vec<Result<(Entry, bool), StoreError>>;

    /// The entry with this id.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn fetch_entry(&self, entry_id: &str) -> Result<Option<Entry>, StoreError>;

    /// The entries with these ids that exist, in no particular order.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn fetch_entries(&self, entry_ids: &[String]) -> Result<Vec<Entry>, StoreError>;

    /// The entries that a filter lets through, and the token of the next page.
    ///
    /// # Errors
    /// `Invalid` for a malformed token, a page of 0 rows or an empty selector set.
    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: Option<&Page>,
    ) -> Result<(Vec<Entry>, Option<String>), StoreError>;

    /// How many entries a filter lets through.
    ///
    /// # Errors
    /// `Invalid` for an empty selector set.
    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError>;

    /// Changes an entry and counts its revision number up.
    ///
    /// # Errors
    /// `NotFound`, or as [`Store::create_entry`] (a similar entry is no error here, as in SPIRE).
    async fn update_entry(&self, entry_id: &str, update: EntryUpdate) -> Result<Entry, StoreError>;

    /// Changes the entries with these ids: each as [`Store::update_entry`] would, one after the
    /// other, in as few transactions as can be.
    async fn update_entries(
        &self,
        updates: &[(String, EntryUpdate)],
    ) -> Vec<Result<Entry, StoreError>>;

    /// Deletes an entry and answers what it was.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete_entry(&self, entry_id: &str) -> Result<Entry, StoreError>;

    /// Deletes the entries with these ids: each as [`Store::delete_entry`] would, one after the
    /// other, in as few transactions as can be.
    async fn delete_entries(&self, entry_ids: &[String]) -> Vec<Result<Entry, StoreError>>;

    /// Deletes the entries that ended before `now` and answers what they were (NL-16).
    ///
    /// # Errors
    /// Only when the database fails.
    async fn prune_entries(&self, now: SystemTime) -> Result<Vec<Entry>, StoreError>;

    // ---- Agents ----

    /// The agent with this id, with its selectors.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn fetch_node(&self, id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError>;

    /// The agents that a filter lets through, with their selectors, and the next page's token.
    ///
    /// # Errors
    /// As [`Store::list_entries`].
    async fn list_nodes(
        &self,
        filter: &NodeFilter,
        page: Option<&Page>,
    ) -> Result<(Vec<AttestedNode>, Option<String>), StoreError>;

    /// How many agents a filter lets through.
    ///
    /// # Errors
    /// `Invalid` for an empty selector set.
    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError>;

    /// Records an attestation: makes the agent's row, or overwrites serial number, expiry,
    /// `can_reattest` and selectors of the one that exists and clears what RenewAgent left
    /// (NL-09, NL-12). The agent's version stays.
    ///
    /// # Errors
    /// `Precondition` "agent is banned" if the row is banned at that moment (NL-07).
    async fn upsert_attested_node(&self, node: AttestedNode) -> Result<AttestedNode, StoreError>;

    /// Records a first attestation: makes the agent's row, if there is none. Of any number of
    /// simultaneous attempts, by whichever servers, one succeeds.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one; `Precondition` "agent is banned" if that is banned.
    async fn insert_attested_node(&self, node: AttestedNode) -> Result<AttestedNode, StoreError>;

    /// As [`Store::upsert_attested_node`], paid for with a join token: the token is deleted in
    /// the same transaction, so of any number of simultaneous attempts one succeeds (NL-04).
    ///
    /// # Errors
    /// See [`JoinTokenError`].
    async fn attest_with_join_token(
        &self,
        node: AttestedNode,
        token: &str,
        now: SystemTime,
    ) -> Result<AttestedNode, JoinTokenError>;

    /// Changes an agent's row.
    ///
    /// # Errors
    /// `NotFound`.
    async fn update_node(
        &self,
        id: &SpiffeId,
        update: NodeUpdate,
    ) -> Result<AttestedNode, StoreError>;

    /// Keeps the serial number and the end (seconds since the epoch) of an agent's next SVID, until
    /// it is used (NL-11).
    ///
    /// # Errors
    /// `NotFound`.
    async fn renew_node(
        &self,
        id: &SpiffeId,
        serial_number: &str,
        expires_at: i64,
    ) -> Result<(), StoreError>;

    /// Makes the new serial number the current one, if `serial_number` still is the new one
    /// (NL-11). An agent whose current serial number it already is, is left as it is.
    ///
    /// # Errors
    /// `NotFound`; `Precondition` if `serial_number` is neither.
    async fn promote_node_serial(
        &self,
        id: &SpiffeId,
        serial_number: &str,
    ) -> Result<AttestedNode, StoreError>;

    /// Blanks an agent's serial numbers and keeps its row (NL-13).
    ///
    /// # Errors
    /// `NotFound`.
    async fn ban_node(&self, id: &SpiffeId) -> Result<AttestedNode, StoreError>;

    /// Deletes an agent with its selectors and, for one attested by join token, its alias entry
    /// (NL-06, NL-14).
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete_node(&self, id: &SpiffeId) -> Result<AttestedNode, StoreError>;

    /// Deletes at most `batch` agents (0 = 1000) whose SVID ended before `expired_before`: not
    /// the banned ones, and those that cannot attest again only if `include_tofu` (NL-15).
    ///
    /// # Errors
    /// Only when the database fails.
    async fn prune_nodes(
        &self,
        expired_before: SystemTime,
        batch: usize,
        include_tofu: bool,
    ) -> Result<Vec<AttestedNode>, StoreError>;

    /// Records the version that an agent told (NL-17).
    ///
    /// # Errors
    /// `NotFound`.
    async fn set_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError>;

    // ---- Join tokens ----

    /// Keeps a join token and, if given, its alias entry, in one transaction (NL-05).
    ///
    /// # Errors
    /// `AlreadyExists` if the token or the alias exists, else as [`Store::create_entry`].
    async fn create_join_token(
        &self,
        token: JoinToken,
        alias: Option<NewEntry>,
    ) -> Result<(), StoreError>;

    /// The join token, if it exists; expired or not.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn fetch_join_token(&self, token: &str) -> Result<Option<JoinToken>, StoreError>;

    /// The join token, if it exists, with what stands in the way of the agent that it would make:
    /// what has to be known before that is signed for, in one query.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn fetch_join_attempt(
        &self,
        token: &str,
        agent: &SpiffeId,
    ) -> Result<Option<JoinAttempt>, StoreError>;

    /// Deletes a join token.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete_join_token(&self, token: &str) -> Result<(), StoreError>;

    /// Deletes the join tokens that ended before a time and answers how many there were.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn prune_join_tokens(&self, expired_before: SystemTime) -> Result<u64, StoreError>;

    // ---- Join tokens that may be used more than once (ours; SPIRE does not see them) ----

    /// Keeps a token. The first one makes the tables.
    ///
    /// # Errors
    /// `AlreadyExists` if the id is taken, `Invalid` for one that nobody could use.
    async fn create_reusable_token(&self, token: ReusableToken) -> Result<(), StoreError>;

    /// The token with this id, expired or not.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn fetch_reusable_token(&self, id: &str) -> Result<Option<ReusableToken>, StoreError>;

    /// The tokens, expired or not, and the token of the next page.
    ///
    /// # Errors
    /// As [`Store::list_entries`].
    async fn list_reusable_tokens(
        &self,
        page: Option<&Page>,
    ) -> Result<(Vec<ReusableToken>, Option<String>), StoreError>;

    /// Deletes a token, and what is known of the nodes that joined with it. Their agents stay.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete_reusable_token(&self, id: &str) -> Result<(), StoreError>;

    /// As [`Store::upsert_attested_node`], by a token: a node that has not joined with it is
    /// counted in the same transaction, so that never more join than may.
    ///
    /// # Errors
    /// See [`JoinTokenError`]; a refused node is not counted.
    async fn attest_with_reusable_token(
        &self,
        node: AttestedNode,
        bearer: TokenBearer<'_>,
        now: SystemTime,
    ) -> Result<AttestedNode, JoinTokenError>;

    // ---- Bundles ----

    /// The bundle of a trust domain.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn fetch_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError>;

    /// All bundles, and the token of the next page.
    ///
    /// # Errors
    /// `Invalid` for a malformed token or a page of 0 rows.
    async fn list_bundles(
        &self,
        page: Option<&Page>,
    ) -> Result<(Vec<Bundle>, Option<String>), StoreError>;

    /// How many bundles there are.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn count_bundles(&self) -> Result<u64, StoreError>;

    /// Keeps a bundle for a trust domain that has none.
    ///
    /// # Errors
    /// `AlreadyExists`.
    async fn create_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError>;

    /// Keeps a bundle in the place of the one there is, if any.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn set_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError>;

    /// Adds authorities to a bundle (made if there is none); counts its sequence number up if
    /// there was something to add (CA-18), and leaves the rest of it alone.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn append_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError>;

    /// Overwrites parts of a bundle.
    ///
    /// # Errors
    /// `NotFound`.
    async fn update_bundle(&self, bundle: &Bundle, mask: BundleMask) -> Result<Bundle, StoreError>;

    /// Deletes a bundle.
    ///
    /// # Errors
    /// `NotFound`; `Precondition` in the mode `Restrict` while entries federate with it (TD-25).
    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(), StoreError>;

    /// Removes authorities that ended before a time; `true` = something was removed (CA-05).
    ///
    /// # Errors
    /// `Internal` if nothing would be left of a kind; then nothing is removed.
    async fn prune_bundle(
        &self,
        trust_domain: &TrustDomain,
        expired_before: SystemTime,
    ) -> Result<bool, StoreError>;

    /// Marks the X.509 authority with this subject key id (lower-case hex) as tainted.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` if it is tainted already.
    async fn taint_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        subject_key_id: &str,
    ) -> Result<(), StoreError>;

    /// Removes the tainted X.509 authority with this subject key id (lower-case hex).
    ///
    /// # Errors
    /// `NotFound`; `Invalid` if it is not tainted.
    async fn revoke_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        subject_key_id: &str,
    ) -> Result<(), StoreError>;

    /// Marks the JWT authority with this key id as tainted.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` if it is tainted already.
    async fn taint_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<JwtAuthority, StoreError>;

    /// Removes the tainted JWT authority with this key id.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` if it is not tainted.
    async fn revoke_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<JwtAuthority, StoreError>;

    // ---- CA journals ----

    /// Saves a journal; one with id 0 gets a row of its own. Answers it with its id.
    ///
    /// # Errors
    /// `NotFound` if the row is gone.
    async fn set_ca_journal(&self, journal: CaJournal) -> Result<CaJournal, StoreError>;

    /// The journal whose active X.509 authority this is (CA-08).
    ///
    /// # Errors
    /// `Invalid` for an empty id.
    async fn fetch_ca_journal(
        &self,
        active_x509_authority_id: &str,
    ) -> Result<Option<CaJournal>, StoreError>;

    /// All journals.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn list_ca_journals(&self) -> Result<Vec<CaJournal>, StoreError>;

    /// Deletes the journals in which everything ended at `expired_before` (seconds since the
    /// epoch) or earlier; answers how many (CA-06).
    ///
    /// # Errors
    /// `Internal` if a journal cannot be read; then none is deleted.
    async fn prune_ca_journals(&self, expired_before: i64) -> Result<u64, StoreError>;

    // ---- Federation relationships ----

    /// Keeps a federation relationship, and its bundle if it brings one.
    ///
    /// # Errors
    /// `AlreadyExists`.
    async fn create_federation_relationship(
        &self,
        relationship: FederationRelationship,
    ) -> Result<FederationRelationship, StoreError>;

    /// The federation relationship with a trust domain, with its bundle.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn fetch_federation_relationship(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<FederationRelationship>, StoreError>;

    /// All federation relationships, and the token of the next page.
    ///
    /// # Errors
    /// `Invalid` for a malformed token or a page of 0 rows.
    async fn list_federation_relationships(
        &self,
        page: Option<&Page>,
    ) -> Result<(Vec<FederationRelationship>, Option<String>), StoreError>;

    /// Changes a federation relationship.
    ///
    /// # Errors
    /// `NotFound`.
    async fn update_federation_relationship(
        &self,
        trust_domain: &TrustDomain,
        update: FederationUpdate,
    ) -> Result<FederationRelationship, StoreError>;

    /// Deletes a federation relationship; the bundle stays.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete_federation_relationship(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<(), StoreError>;

    // ---- Change feed ----

    /// All entries and agents in one consistent read, with the revision they are true at.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (to, mut read) = mpsc::channel(1);
        let (mut entries, mut nodes) = (Vec::new(), Vec::new());
        let collect = async {
            while let Some(page) = read.recv().await {
                match page {
                    SnapshotPage::Entries(some) => {
                        entries.extend(some.iter().map(EntryView::to_entry));
                    }
                    SnapshotPage::Nodes(some) => nodes.extend(some),
                }
            }
        };
        let (revision, ()) = tokio::join!(self.read_all(to), collect);
        Ok(Snapshot { revision: revision?, entries, nodes })
    }

    /// As [`Store::snapshot`], handed on in pages while it is read, so that it need not be in
    /// memory as a whole. What was handed on before an error means nothing.
    ///
    /// # Errors
    /// When the database fails, or nobody takes the pages.
    async fn read_all(&self, to: mpsc::Sender<SnapshotPage>) -> Result<Revision, StoreError>;

    /// What was touched after a revision, by whichever server, in one consistent read. Never
    /// skips a change: if it cannot know, it says so (see `docs/adr/0002`).
    ///
    /// # Errors
    /// Only when the database fails; the revision stays good.
    async fn changes_since(&self, after: &Revision) -> Result<Since, StoreError>;

    /// Where the database is now. Whoever took an equal mark before it read something knows that
    /// it would read the same now, whichever process writes to the database. None where only a
    /// query can tell. It takes a few microseconds, and does not wait.
    fn mark(&self) -> Option<Mark> {
        None
    }

    /// What [`Store::changes_since`] would answer of a revision that was true at a mark, if this
    /// process knows that by what it has committed itself, with the mark at which that is true.
    /// None if there was no commit, not all of it is known, or others have committed between.
    /// What was committed after the last of them may be missing. It takes no query.
    fn own_commits(&self, _after: &Revision, _mark: Mark) -> Option<OwnCommits> {
        None
    }

    /// Counts up after each commit of this process that touched an entry or an agent. Other
    /// servers' commits are found by asking [`Store::changes_since`] at least once a second.
    fn wakeups(&self) -> watch::Receiver<u64>;

    /// Counts up after each commit that wrote a bundle: of this process, and on PostgreSQL of
    /// other servers of ours. Whether it says something new is for the reader to find out.
    fn bundle_wakeups(&self) -> watch::Receiver<u64>;

    /// Deletes the events written before a time (SC-35, CH-08); answers how many.
    ///
    /// # Errors
    /// Only when the database fails.
    async fn prune_events(&self, written_before: SystemTime) -> Result<u64, StoreError>;

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// `Unavailable` if there is none.
    async fn health(&self) -> Result<(), StoreError>;

    /// `true` if opening the database made its schema, which next to existing CA keys means
    /// that the database was lost or the configuration points to another one.
    fn was_created(&self) -> bool;

    /// Ends all connections after the work in progress; later calls answer `Unavailable`.
    async fn close(&self);
}
