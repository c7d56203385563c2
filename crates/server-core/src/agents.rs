//! Agents: attestation, renewal, bans, evictions, join tokens.

mod admit;
mod joining;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use steeple_ca::{CaError, Credentials};
use steeple_pki::Certificate;
use steeple_pki::csr::{Csr, CsrError};
use steeple_plugin::{Challenger, NodeAttestor, PluginError, already_attested};
use steeple_spiffe::{IdError, Selector, SpiffeId, TrustDomain};
use steeple_store::model::{AttestedNode, MatchBehavior, NodeFilter, Page, SelectorFilter};
use steeple_store::{Store, StoreError};

pub use admit::{COMPOSITE, NotAdmitted, PART_ID, PART_ONCE};

use crate::access::{AgentCaller, Operator};
use crate::admission::Admission;
use crate::entries::{EntryRule, RawSelector, selectors};
use crate::ids::{self, IdRule, RawId};
use crate::index::AuthorizedIndex;
use crate::signing::SigningPool;
use crate::text::Quoted;
use crate::time::unix_seconds;
use crate::tokens::PREFIX;

/// The attestor that is part of the API itself (NL-04).
const JOIN_TOKEN: &str = "join_token";

/// The longest version string that an agent may post, in bytes.
const MAX_VERSION: usize = 255;

/// Why a use case about agents failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum AgentError {
    #[error("malformed param")]
    Evidence(#[source] EvidenceRule),
    #[error("failed to attest: join token does not exist or has already been used")]
    UnknownJoinToken,
    #[error("join token expired")]
    ExpiredJoinToken,
    #[error("failed to attest: join token does not let more nodes join")]
    UsedUpJoinToken,
    #[error("failed to attest: join token may not be used from this address")]
    JoinTokenAddress,
    #[error("failed to create join token ID")]
    JoinTokenId(#[source] IdError),
    #[error("error getting node attestor")]
    NoAttestor(#[source] UnknownAttestor),
    #[error(transparent)]
    Attestor(PluginError),
    #[error("agent ID cannot collide with the server ID")]
    ServerId,
    #[error("agent ID {:?} is not the node attestor's to give", .0.as_str())]
    OthersId(SpiffeId),
    #[error("failed to attest: node does not satisfy the attestation policy")]
    NotAdmitted(Box<NotAdmitted>),
    #[error("failed to attest: node attestor {0} is accepted only as part of a composite")]
    OnlyAsPart(Quoted),
    #[error("failed to attest: the evidence of a part has already been used by another agent")]
    PartUsed(SpiffeId),
    #[error("failed to attest: agent is banned")]
    Banned(SpiffeId),
    #[error("agent must reattest instead of renew")]
    MustReattest,
    #[error("params cannot be nil")]
    NoRenewParams,
    #[error("missing CSR")]
    MissingCsr,
    #[error("failed to parse CSR")]
    Csr(#[source] CsrError),
    #[error("failed to sign X509 SVID")]
    Sign(#[source] CaError),
    #[error("invalid agent ID")]
    Id(#[source] IdRule),
    #[error("agent not found")]
    NotFound,
    #[error("agent version is too long (max {MAX_VERSION} characters)")]
    LongVersion,
    #[error("ttl is required, you must provide one")]
    NoTtl,
    #[error("join tokens that begin with \"{PREFIX}\" are made by the server")]
    ReservedToken,
    #[error("invalid join token")]
    BadToken(#[source] IdError),
    #[error("failed to parse selectors")]
    Selectors(#[source] EntryRule),
    #[error("failed to fetch agent")]
    Fetch(#[source] StoreError),
    #[error("failed to fetch join token")]
    FetchToken(#[source] StoreError),
    #[error("failed to create attested agent")]
    Record(#[source] StoreError),
    #[error("failed to update agent")]
    Update(#[source] StoreError),
    #[error("failed to remove agent")]
    Remove(#[source] StoreError),
    #[error("failed to ban agent")]
    Ban(#[source] StoreError),
    #[error("failed to list agents")]
    List(#[source] StoreError),
    #[error("failed to count agents")]
    Count(#[source] StoreError),
    #[error("failed to create token")]
    CreateToken(#[source] StoreError),
}

/// What is missing in an attestation request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum EvidenceRule {
    #[error("missing params")]
    Params,
    #[error("missing attestation data")]
    Data,
    #[error("missing X509-SVID parameters")]
    SvidParams,
    #[error("missing CSR")]
    Csr,
    #[error("missing attestation data type")]
    Kind,
    #[error("missing attestation data payload")]
    Payload,
    #[error("attestation data payload is too large")]
    LargePayload,
}

/// No attestor of that name is configured.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("could not find node attestor type {0}")]
pub struct UnknownAttestor(Quoted);

/// What an agent brings to be attested.
#[derive(Clone)]
pub struct Evidence {
    /// The name of the node attestor.
    pub kind: String,
    /// What the attestor looks at. Secret for some kinds: it has no `Debug`.
    pub payload: Vec<u8>,
    /// A PKCS#10 request, DER, for the agent's key.
    pub csr: Vec<u8>,
}

/// An agent's SVID.
#[derive(Clone, Debug)]
pub struct AgentSvid {
    /// Whose it is.
    pub id: SpiffeId,
    /// Leaf first, then intermediates; never empty.
    pub chain: Vec<Certificate>,
    /// The agent may attest again, and so does not renew.
    pub can_reattest: bool,
}

/// A wish for a join token.
#[derive(Clone)]
pub struct JoinTokenRequest {
    /// Lifetime in seconds; required.
    pub ttl: i32,
    /// The token; empty for a random one.
    pub token: String,
    /// An ID that the agent shall have besides its own.
    pub agent_id: Option<RawId>,
}

/// A filter as the wire carries it.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in NodeFilter")]
pub struct RawNodeFilter {
    pub attestation_type: String,
    pub selectors: Option<(Vec<RawSelector>, MatchBehavior)>,
    pub banned: Option<bool>,
    pub can_reattest: Option<bool>,
    pub expires_before: Option<i64>,
}

/// What the use cases about agents work with.
pub struct AgentsConfig {
    /// The datastore.
    pub store: Arc<dyn Store>,
    /// The index that must learn of new nodes.
    pub index: AuthorizedIndex,
    /// What signs.
    pub credentials: Credentials,
    /// Where signing happens.
    pub pool: SigningPool,
    /// The trust domain served.
    pub trust_domain: TrustDomain,
    /// Node attestors; `join_token` is built in and not among them.
    pub attestors: Vec<Arc<dyn NodeAttestor>>,
    /// Gives each agent the selector `spiffe_id:<its id>` (SC-29).
    pub id_as_selector: bool,
    /// Who is let in, and who was not.
    pub admission: Arc<Admission>,
}

/// The use cases about agents.
pub struct Agents {
    store: Arc<dyn Store>,
    index: AuthorizedIndex,
    credentials: Credentials,
    pool: SigningPool,
    trust_domain: TrustDomain,
    attestors: HashMap<String, Arc<dyn NodeAttestor>>,
    id_as_selector: bool,
    admission: Arc<Admission>,
    /// Held while composites are recorded whose later parts count once.
    parts: tokio::sync::Mutex<()>,
}

/// What the evidence proved.
struct Proven {
    id: SpiffeId,
    selectors: Vec<Selector>,
    can_reattest: bool,
}

impl Agents {
    /// Agents of one trust domain.
    #[must_use]
    pub fn new(config: AgentsConfig) -> Self {
        let attestors = config
            .attestors
            .into_iter()
            .map(|attestor| (attestor.name().to_owned(), attestor))
            .collect();
        Self {
            store: config.store,
            index: config.index,
            credentials: config.credentials,
            pool: config.pool,
            trust_domain: config.trust_domain,
            attestors,
            id_as_selector: config.id_as_selector,
            admission: config.admission,
            parts: tokio::sync::Mutex::new(()),
        }
    }

    /// Attests an agent and issues its SVID. Open to everyone: the evidence is the proof.
    ///
    /// # Errors
    /// [`AgentError`]; a join token is spent only by success, or when it could not have
    /// succeeded (expired, or its agent banned).
    pub async fn attest(
        &self,
        evidence: Evidence,
        challenger: &mut dyn Challenger,
        now: SystemTime,
    ) -> Result<AgentSvid, AgentError> {
        let (kind, address) = (evidence.kind.clone(), challenger.caller().ip);
        let attested = self.attest_by(evidence, challenger, now).await;
        if let Err(error) = &attested {
            self.note_refusal(&kind, &address, error, now);
        }
        attested
    }

    async fn attest_by(
        &self,
        evidence: Evidence,
        challenger: &mut dyn Challenger,
        now: SystemTime,
    ) -> Result<AgentSvid, AgentError> {
        if evidence.kind == JOIN_TOKEN {
            return self.attest_by_join_token(evidence, &challenger.caller().ip, now).await;
        }
        let attestor = self
            .attestors
            .get(&evidence.kind)
            .ok_or_else(|| AgentError::NoAttestor(UnknownAttestor(Quoted::new(&evidence.kind))))?;
        self.check_alone(&evidence.kind)?;
        let attributes =
            attestor.attest(&evidence.payload, challenger).await.map_err(AgentError::Attestor)?;
        let selectors = attestor.selectors(&attributes.selector_values);
        let proven =
            Proven { id: attributes.agent_id, selectors, can_reattest: attributes.can_reattest };
        self.check_agent_id(&proven.id, attestor.namespace())?;
        // Evidence that counts once is refused before the work, and again with the record: of two
        // agents that come at the same time, only the datastore can tell who was first.
        let once = !proven.can_reattest && attestor.once(&proven.id);
        let used = || AgentError::Attestor(already_attested(&evidence.kind, &proven.id));
        if self.check_not_banned(&proven.id).await?.is_some() && once {
            return Err(used());
        }
        let parts = attestor.parts();
        if once && parts.is_empty() && self.is_part(&proven.id).await? {
            return Err(used());
        }
        self.admit(&evidence.kind, &parts, &proven.id, &proven.selectors)?;
        let _one_at_a_time = match admit::counts_once(&proven.selectors) {
            true => Some(self.parts.lock().await),
            false => None,
        };
        self.check_parts(&proven.id, &proven.selectors).await?;
        let chain = self.sign(proven.id.clone(), evidence.csr, now).await?;
        let node = self.node(&proven, &evidence.kind, &chain);
        let recorded = match once {
            true => self.store.insert_attested_node(node).await,
            false => self.store.upsert_attested_node(node).await,
        };
        match recorded {
            Ok(_recorded) => {}
            Err(StoreError::Precondition(_)) => return Err(AgentError::Banned(proven.id)),
            Err(StoreError::AlreadyExists(_)) if once => return Err(used()),
            Err(error) => return Err(AgentError::Record(error)),
        }
        self.index.refresh().await;
        Ok(AgentSvid { id: proven.id, chain, can_reattest: proven.can_reattest })
    }

    /// Issues the next SVID of an agent that cannot attest again.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn renew(
        &self,
        agent: &AgentCaller,
        csr: Option<Vec<u8>>,
        now: SystemTime,
    ) -> Result<AgentSvid, AgentError> {
        let can_reattest = match agent.can_reattest() {
            Some(known) => known,
            None => {
                let node = self.store.fetch_node(agent.id()).await.map_err(AgentError::Fetch)?;
                node.ok_or(AgentError::NotFound)?.can_reattest
            }
        };
        if can_reattest {
            return Err(AgentError::MustReattest);
        }
        let csr = csr.ok_or(AgentError::NoRenewParams)?;
        if csr.is_empty() {
            return Err(AgentError::MissingCsr);
        }
        let chain = self.sign(agent.id().clone(), csr, now).await?;
        let (serial, ends) = (chain[0].serial_decimal(), unix_seconds(chain[0].not_after()));
        self.store.renew_node(agent.id(), &serial, ends).await.map_err(update_failed)?;
        Ok(AgentSvid { id: agent.id().clone(), chain, can_reattest: false })
    }

    /// Records what an agent tells of itself; an empty version says nothing.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn post_status(&self, agent: &AgentCaller, version: &str) -> Result<(), AgentError> {
        if version.is_empty() {
            return Ok(());
        }
        if version.len() > MAX_VERSION {
            return Err(AgentError::LongVersion);
        }
        self.store.set_agent_version(agent.id(), version).await.map_err(update_failed)
    }

    /// One agent with its selectors.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn get(
        &self,
        _operator: &Operator,
        id: Option<&RawId>,
    ) -> Result<AttestedNode, AgentError> {
        let id = ids::agent(&self.trust_domain, id).map_err(AgentError::Id)?;
        let node = self.store.fetch_node(&id).await.map_err(AgentError::Fetch)?;
        node.ok_or(AgentError::NotFound)
    }

    /// The agents that a filter lets through, and the token of the next page.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn list(
        &self,
        _operator: &Operator,
        filter: RawNodeFilter,
        page: Option<Page>,
    ) -> Result<(Vec<AttestedNode>, Option<String>), AgentError> {
        let filter = parse_filter(filter)?;
        self.store.list_nodes(&filter, page.as_ref()).await.map_err(AgentError::List)
    }

    /// How many agents a filter lets through.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn count(
        &self,
        _operator: &Operator,
        filter: RawNodeFilter,
    ) -> Result<u64, AgentError> {
        let filter = parse_filter(filter)?;
        self.store.count_nodes(&filter).await.map_err(AgentError::Count)
    }

    /// Takes away an agent's access for good; only eviction lets it attest again.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn ban(
        &self,
        _operator: &Operator,
        id: Option<&RawId>,
    ) -> Result<SpiffeId, AgentError> {
        let id = ids::agent(&self.trust_domain, id).map_err(AgentError::Id)?;
        match self.store.ban_node(&id).await {
            Ok(_banned) => {}
            Err(StoreError::NotFound(_)) => return Err(AgentError::NotFound),
            Err(error) => return Err(AgentError::Ban(error)),
        }
        self.index.refresh().await;
        Ok(id)
    }

    /// Evicts an agent: it is told to attest again at its next call.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn delete(
        &self,
        _operator: &Operator,
        id: Option<&RawId>,
    ) -> Result<SpiffeId, AgentError> {
        let id = ids::agent(&self.trust_domain, id).map_err(AgentError::Id)?;
        match self.store.delete_node(&id).await {
            Ok(_deleted) => {}
            Err(StoreError::NotFound(_)) => return Err(AgentError::NotFound),
            Err(error) => return Err(AgentError::Remove(error)),
        }
        self.index.refresh().await;
        Ok(id)
    }

    /// The agent as it is recorded, if it is.
    async fn check_not_banned(&self, id: &SpiffeId) -> Result<Option<AttestedNode>, AgentError> {
        let node = self.store.fetch_node(id).await.map_err(AgentError::Fetch)?;
        match node {
            Some(node) if node.is_banned() => Err(AgentError::Banned(node.spiffe_id)),
            node => Ok(node),
        }
    }

    /// An ID outside the attestor's namespace is let through with a warning, as deployments
    /// with such attestors exist (ER-02).
    fn check_agent_id(&self, id: &SpiffeId, kind: &str) -> Result<(), AgentError> {
        if id.is_server() {
            return Err(AgentError::ServerId);
        }
        let namespace = format!("/spire/agent/{kind}/");
        if !id.is_member_of(&self.trust_domain) || !id.path().starts_with(&namespace) {
            tracing::warn!(
                subsystem_name = "api",
                agent_id = %id,
                node_attestor_type = kind,
                "The node attestor produced an invalid agent ID; future releases will enforce \
                 that agent IDs are within the reserved agent namesepace for the node attestor"
            );
        }
        // Where SPIRE only warns, an agent must not get the ID of a workload, perhaps an admin's,
        // or of what another attestor vouches for.
        let owner = id.path().strip_prefix("/spire/agent/").and_then(|rest| rest.split_once('/'));
        let is_others = |name: &str| name == JOIN_TOKEN || self.attestors.contains_key(name);
        match owner {
            Some((name, _)) if name == kind || !is_others(name) => Ok(()),
            _ if !id.is_member_of(&self.trust_domain) => Ok(()),
            _ => Err(AgentError::OthersId(id.clone())),
        }
    }

    fn node(&self, proven: &Proven, kind: &str, chain: &[Certificate]) -> AttestedNode {
        let mut selectors = proven.selectors.clone();
        if self.id_as_selector {
            selectors.push(Selector::new("spiffe_id", proven.id.as_str()));
        }
        selectors.sort();
        selectors.dedup();
        AttestedNode {
            spiffe_id: proven.id.clone(),
            attestation_type: kind.to_owned(),
            serial_number: chain[0].serial_decimal(),
            expires_at: unix_seconds(chain[0].not_after()),
            new_serial_number: String::new(),
            new_expires_at: 0,
            can_reattest: proven.can_reattest,
            selectors,
            agent_version: String::new(),
        }
    }

    async fn sign(
        &self,
        id: SpiffeId,
        csr: Vec<u8>,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, AgentError> {
        let credentials = self.credentials.clone();
        self.pool
            .run(self.credentials.x509_effort(), async move {
                let csr = Csr::parse(&csr).map_err(AgentError::Csr)?;
                credentials
                    .sign_agent_x509_svid(&id, csr.public_key().clone(), now)
                    .await
                    .map_err(AgentError::Sign)
            })
            .await
    }
}

fn update_failed(error: StoreError) -> AgentError {
    match error {
        StoreError::NotFound(_) => AgentError::NotFound,
        other => AgentError::Update(other),
    }
}

fn parse_filter(raw: RawNodeFilter) -> Result<NodeFilter, AgentError> {
    let selectors = match raw.selectors {
        Some((some, behavior)) => Some(SelectorFilter {
            selectors: selectors(&some).map_err(AgentError::Selectors)?,
            behavior,
        }),
        None => None,
    };
    Ok(NodeFilter {
        attestation_type: Some(raw.attestation_type).filter(|kind| !kind.is_empty()),
        selectors,
        banned: raw.banned,
        can_reattest: raw.can_reattest,
        expires_before: raw.expires_before,
    })
}
