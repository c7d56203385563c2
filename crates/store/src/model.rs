//! What the datastore holds, in the words of SPIFFE rather than of SQL.

use std::fmt;

use steeple_pki::Bundle;
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};

/// A registration entry as it stands in the datastore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The entry's id, unique in the database; a UUID unless the creator chose one.
    pub entry_id: String,
    /// The identity that the entry grants.
    pub spiffe_id: SpiffeId,
    /// The agent, server or entry below which it is granted.
    pub parent_id: SpiffeId,
    /// What a workload must show; sorted, without duplicates.
    pub selectors: Vec<Selector>,
    /// Lifetime of X509-SVIDs in seconds; 0 = the server's default.
    pub x509_svid_ttl: i32,
    /// Lifetime of JWT-SVIDs in seconds; 0 = the server's default.
    pub jwt_svid_ttl: i32,
    /// Foreign trust domains whose bundles the workload gets.
    pub federates_with: Vec<TrustDomain>,
    /// The holder may use the server's admin API.
    pub admin: bool,
    /// The holder may ask for an intermediate CA.
    pub downstream: bool,
    /// When the entry ends, in seconds since the epoch; 0 = never.
    pub expires_at: i64,
    /// DNS names for the X509-SVID, in the order given (the first becomes the common name).
    pub dns_names: Vec<String>,
    /// 0 at creation, one more with each update.
    pub revision_number: i64,
    /// The SVID goes to a store plugin and not to the Workload API.
    pub store_svid: bool,
    /// Tells a workload how the identity is meant to be used.
    pub hint: String,
    /// The agent mints the X509-SVID only when it is asked for.
    pub disable_x509_svid_prefetch: bool,
    /// JWT-SVIDs of this entry have a `jti` claim and are not cached.
    pub jwt_svid_include_jti: bool,
    /// When the entry was made, in seconds since the epoch (rounded, not cut).
    pub created_at: i64,
}

/// An entry to be made. `Default` is absent on purpose: an entry without ids means nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEntry {
    /// At most 255 characters of `A-Za-z0-9_.-`; `None` = a random UUID.
    pub entry_id: Option<String>,
    /// See [`Entry::spiffe_id`].
    pub spiffe_id: SpiffeId,
    /// See [`Entry::parent_id`].
    pub parent_id: SpiffeId,
    /// At least one; a repeated one is refused as SPIRE refuses it.
    pub selectors: Vec<Selector>,
    /// See [`Entry::x509_svid_ttl`].
    pub x509_svid_ttl: i32,
    /// See [`Entry::jwt_svid_ttl`].
    pub jwt_svid_ttl: i32,
    /// Each needs a bundle in the datastore.
    pub federates_with: Vec<TrustDomain>,
    /// See [`Entry::admin`].
    pub admin: bool,
    /// See [`Entry::downstream`].
    pub downstream: bool,
    /// See [`Entry::expires_at`].
    pub expires_at: i64,
    /// See [`Entry::dns_names`].
    pub dns_names: Vec<String>,
    /// See [`Entry::store_svid`].
    pub store_svid: bool,
    /// See [`Entry::hint`].
    pub hint: String,
    /// See [`Entry::disable_x509_svid_prefetch`].
    pub disable_x509_svid_prefetch: bool,
    /// See [`Entry::jwt_svid_include_jti`].
    pub jwt_svid_include_jti: bool,
}

impl NewEntry {
    /// The least that an entry needs; everything else is off, 0 or empty.
    #[must_use]
    pub fn new(spiffe_id: SpiffeId, parent_id: SpiffeId, selectors: Vec<Selector>) -> Self {
        Self {
            entry_id: None,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl: 0,
            jwt_svid_ttl: 0,
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            expires_at: 0,
            dns_names: Vec::new(),
            store_svid: false,
            hint: String::new(),
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        }
    }
}

/// A change to an entry: what is `None` stays as it is. (SPIRE's update mask, parsed.)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in Entry")]
pub struct EntryUpdate {
    pub spiffe_id: Option<SpiffeId>,
    pub parent_id: Option<SpiffeId>,
    pub selectors: Option<Vec<Selector>>,
    pub x509_svid_ttl: Option<i32>,
    pub jwt_svid_ttl: Option<i32>,
    pub federates_with: Option<Vec<TrustDomain>>,
    pub admin: Option<bool>,
    pub downstream: Option<bool>,
    pub expires_at: Option<i64>,
    pub dns_names: Option<Vec<String>>,
    pub store_svid: Option<bool>,
    pub hint: Option<String>,
    pub disable_x509_svid_prefetch: Option<bool>,
    pub jwt_svid_include_jti: Option<bool>,
}

/// How a set in a row must relate to the set in a filter (SPIRE's numbers 0 to 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MatchBehavior {
    /// The same set.
    Exact,
    /// The row has nothing that the filter has not, and at least one that it has.
    Subset,
    /// The row has all that the filter has.
    Superset,
    /// The row has at least one that the filter has.
    Any,
}

/// Rows chosen by their selectors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SelectorFilter {
    /// Never empty; an empty set is refused.
    pub selectors: Vec<Selector>,
    /// How the row's selectors relate to these.
    pub behavior: MatchBehavior,
}

/// Entries chosen by the trust domains that they federate with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FederatesWithFilter {
    /// An empty set filters nothing.
    pub trust_domains: Vec<TrustDomain>,
    /// How the entry's trust domains relate to these.
    pub behavior: MatchBehavior,
}

/// Which entries to list or count; everything that is set must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EntryFilter {
    /// Entries with this parent.
    pub parent_id: Option<SpiffeId>,
    /// Entries that grant this identity.
    pub spiffe_id: Option<SpiffeId>,
    /// Entries chosen by selectors.
    pub selectors: Option<SelectorFilter>,
    /// Entries chosen by federated trust domains.
    pub federates_with: Option<FederatesWithFilter>,
    /// Entries with this hint; an empty one filters nothing.
    pub hint: Option<String>,
    /// Only `Some(true)` narrows, as in SPIRE (TD-23).
    pub downstream: Option<bool>,
}

/// One page of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// What the page before answered; `None` or empty = from the start.
    pub token: Option<String>,
    /// Rows per page; 0 is refused (no pagination is `Option::<Page>::None`).
    pub size: usize,
}

/// An agent as it stands in the datastore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttestedNode {
    /// The agent's id.
    pub spiffe_id: SpiffeId,
    /// The node attestor that attested it.
    pub attestation_type: String,
    /// Serial number (decimal) of the agent's SVID; empty = banned.
    pub serial_number: String,
    /// When that SVID ends, in seconds since the epoch.
    pub expires_at: i64,
    /// Serial number of an SVID that was issued but not yet used; else empty.
    pub new_serial_number: String,
    /// When the new SVID ends; 0 = there is none.
    pub new_expires_at: i64,
    /// The agent may attest again instead of renewing.
    pub can_reattest: bool,
    /// What the attestor found out; sorted, without duplicates.
    pub selectors: Vec<Selector>,
    /// The version that the agent told in PostStatus.
    pub agent_version: String,
}

impl AttestedNode {
    /// A banned agent keeps its row and loses its serial numbers (NL-13).
    #[must_use]
    pub fn is_banned(&self) -> bool {
        self.serial_number.is_empty()
    }
}

/// A change to an agent: what is `None` stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in AttestedNode")]
pub struct NodeUpdate {
    pub serial_number: Option<String>,
    pub expires_at: Option<i64>,
    pub new_serial_number: Option<String>,
    pub new_expires_at: Option<i64>,
    pub can_reattest: Option<bool>,
    pub agent_version: Option<String>,
}

/// Which agents to list or count; everything that is set must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeFilter {
    /// Agents attested by this attestor; an empty one filters nothing.
    pub attestation_type: Option<String>,
    /// Agents chosen by selectors.
    pub selectors: Option<SelectorFilter>,
    /// Only banned, or only not banned agents.
    pub banned: Option<bool>,
    /// Only agents that may, or may not, attest again.
    pub can_reattest: Option<bool>,
    /// Agents whose SVID ends before this, in seconds since the epoch.
    pub expires_before: Option<i64>,
}

/// A join token. It is a secret: it has no `Display`, and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The secret.
    pub token: String,
    /// When it ends, in seconds since the epoch.
    pub expires_at: i64,
}

/// What is known of somebody who shows a join token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinAttempt {
    /// The token.
    pub token: JoinToken,
    /// The agent that the token would make is there already, and banned.
    pub is_banned: bool,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// A join token of ours, with which several nodes may join, and come back. Of its secret there is
/// a digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReusableToken {
    /// The public part.
    pub id: String,
    /// SHA-256 of the secret part; of 256 random bits, so that it tells nobody the secret.
    pub digest: [u8; 32],
    /// The operator's words.
    pub description: String,
    /// When it was made, in seconds since the epoch; the store's to say.
    pub created_at: i64,
    /// When it ends for everybody, in seconds since the epoch.
    pub expires_at: i64,
    /// When it ends for nodes that have not joined yet, in seconds since the epoch.
    pub joins_until: i64,
    /// How many nodes may join.
    pub max_uses: u32,
    /// How many have; the store's to say.
    pub uses: u32,
    /// The addresses that they may come from; none is all.
    pub cidrs: Vec<String>,
    /// What their agents have besides what else they have.
    pub selectors: Vec<Selector>,
}

/// Who presents a [`ReusableToken`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenBearer<'a> {
    /// [`ReusableToken::id`].
    pub token_id: &'a str,
    /// [`ReusableToken::digest`].
    pub digest: &'a [u8; 32],
    /// What the node is known by when it comes back; a node that is not known by anything does
    /// not come back.
    pub node: Option<&'a str>,
}

/// What becomes of entries that federate with a bundle when the bundle is deleted (TD-25).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteMode {
    /// The bundle stays while an entry federates with it.
    Restrict,
    /// The entries go with it.
    Delete,
    /// The entries stay and no longer federate with it.
    Dissociate,
}

/// Which parts of a bundle an update overwrites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each field is the one of the same name in Bundle")]
pub struct BundleMask {
    pub x509_authorities: bool,
    pub jwt_authorities: bool,
    pub wit_authorities: bool,
    pub refresh_hint: bool,
    pub sequence_number: bool,
}

impl BundleMask {
    /// Everything is overwritten.
    pub const ALL: Self = Self {
        x509_authorities: true,
        jwt_authorities: true,
        wit_authorities: true,
        refresh_hint: true,
        sequence_number: true,
    };
}

/// The CA journal of one server (TF-04): opaque here but for pruning.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CaJournal {
    /// The row; 0 = not saved yet.
    pub id: u64,
    /// `journal.Entries`, encoded.
    pub data: Vec<u8>,
    /// Subject key id (hex) of the active X.509 authority.
    pub active_x509_authority_id: String,
    /// Key id of the active JWT authority. SPIRE has the column but leaves it empty.
    pub active_jwt_authority_id: String,
}

/// How a foreign trust domain's bundle endpoint is authenticated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BundleEndpointProfile {
    /// Web PKI.
    HttpsWeb,
    /// The SPIFFE ID that the endpoint's SVID must have.
    HttpsSpiffe(SpiffeId),
}

/// A foreign trust domain whose bundle the server fetches.
#[derive(Clone, PartialEq, Debug)]
pub struct FederationRelationship {
    /// The foreign trust domain.
    pub trust_domain: TrustDomain,
    /// Where its bundle endpoint is.
    pub bundle_endpoint_url: String,
    /// How the endpoint is authenticated.
    pub bundle_endpoint_profile: BundleEndpointProfile,
    /// Its bundle, when there is one. On create and update `Some` overwrites the stored bundle.
    pub bundle: Option<Bundle>,
}

/// A change to a federation relationship: what is `None` stays as it is.
#[derive(Clone, PartialEq, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in the relationship")]
pub struct FederationUpdate {
    pub bundle_endpoint_url: Option<String>,
    pub bundle_endpoint_profile: Option<BundleEndpointProfile>,
    pub bundle: Option<Bundle>,
}
