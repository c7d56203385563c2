//! Who gets an entry's identity, and who does not and why.
//!
//! Reads the index as agents are answered from it, so that what is explained is
//! what happens; the datastore is asked only for what the index does not have.

pub mod agent;
mod words;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_ca::{Credentials, Lifetimes};
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::model::{AttestedNode, Entry, EntryFilter, Page};
use steeple_store::{Store, StoreError};

use crate::access::Operator;
use crate::entries::{self, EntryRule, RawSelector};
use crate::ids::{self, IdRule, RawId};
use crate::index::{AliasMiss, AuthorizedIndex, Holder, Snapshot, Step, StepKind};
use crate::time::unix_seconds;

/// Why nothing is explained.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum ExplainError {
    #[error("an entry ID or a SPIFFE ID is needed")]
    NoQuestion,
    #[error("invalid SPIFFE ID")]
    SpiffeId(#[source] IdRule),
    #[error("invalid agent ID")]
    AgentId(#[source] IdRule),
    #[error("invalid selectors")]
    Selectors(#[source] EntryRule),
    #[error("entry not found")]
    NotFound,
    #[error("failed to read the datastore")]
    Store(#[source] StoreError),
    #[error("explaining was interrupted")]
    Interrupted,
}

/// What an operator asks.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// One entry; it goes before the SPIFFE ID.
    pub entry_id: String,
    /// All entries of an identity.
    pub spiffe_id: Option<RawId>,
    /// Of this agent only.
    pub agent_id: Option<RawId>,
    /// Whether a workload with these would get it; empty = not asked.
    pub selectors: Vec<RawSelector>,
}

/// One entry, explained.
#[derive(Debug)]
pub struct Explanation {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The answer in one sentence.
    pub verdict: String,
    /// What else an operator should know, the most important first.
    pub findings: Vec<String>,
    /// What stands above it.
    pub chain: Vec<Step>,
    /// Agents that are authorised for it, or the one that was asked about.
    pub agents: Vec<AgentStanding>,
    /// How many are authorised in all.
    pub authorized_agents: usize,
    /// Agents that lack little.
    pub near_misses: Vec<AliasMiss>,
    /// How long an X509-SVID would live if it were issued now.
    pub x509_svid: Lifetime,
    /// How long a JWT-SVID would.
    pub jwt_svid: Lifetime,
    /// The trust domains whose bundles it brings.
    pub federates_with: Vec<Federated>,
    /// Other entries for the same workloads or of the same identity, and why they are named.
    pub similar: Vec<(Arc<Entry>, &'static str)>,
    /// What the entry wants that the selectors asked about lack.
    pub missing_selectors: Vec<Selector>,
}

/// An agent, and whether it has the entry.
#[derive(Clone, Debug)]
pub struct AgentStanding {
    /// Who.
    pub id: SpiffeId,
    /// As it stands in the datastore; none when it is not attested.
    pub node: Option<Arc<AttestedNode>>,
    /// The ID below which it has the entry; none when it has not.
    pub via: Option<SpiffeId>,
    /// Why not.
    pub reason: String,
}

/// How an agent stands at some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AgentState {
    /// It may call.
    Active,
    /// Its SVID has ended.
    Expired,
    /// An operator has banned it.
    Banned,
    /// No agent has this ID.
    Unknown,
}

impl AgentStanding {
    /// How it stands.
    #[must_use]
    pub fn state(&self, now: SystemTime) -> AgentState {
        state_of(self.node.as_deref(), now)
    }
}

fn state_of(node: Option<&AttestedNode>, now: SystemTime) -> AgentState {
    match node {
        None => AgentState::Unknown,
        Some(node) if node.is_banned() => AgentState::Banned,
        Some(node) if node.expires_at.max(node.new_expires_at) <= unix_seconds(now) => {
            AgentState::Expired
        }
        Some(_) => AgentState::Active,
    }
}

/// How long an SVID would live, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lifetime {
    /// The life.
    pub ttl: Duration,
    /// Why so long.
    pub reason: String,
}

/// A trust domain that an entry federates with.
#[derive(Clone, Debug)]
pub struct Federated {
    /// Which.
    pub trust_domain: TrustDomain,
    /// Its bundle is in the datastore.
    pub has_bundle: bool,
    /// Something keeps it up to date.
    pub has_relationship: bool,
}

/// The use case.
#[derive(Clone)]
pub struct Explainer {
    store: Arc<dyn Store>,
    index: AuthorizedIndex,
    credentials: Credentials,
    trust_domain: TrustDomain,
    jwt_enabled: bool,
}

impl Explainer {
    /// Explains entries of one trust domain.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        index: AuthorizedIndex,
        credentials: Credentials,
        trust_domain: TrustDomain,
        jwt_enabled: bool,
    ) -> Self {
        Self { store, index, credentials, trust_domain, jwt_enabled }
    }

    /// Explains the entries that are asked about, and tells whether there are more.
    ///
    /// # Errors
    /// [`ExplainError`].
    pub async fn explain(
        &self,
        _operator: &Operator,
        question: &Question,
        now: SystemTime,
    ) -> Result<(Vec<Explanation>, bool), ExplainError> {
        let agent = match &question.agent_id {
            None => None,
            raw => {
                Some(ids::member(&self.trust_domain, raw.as_ref()).map_err(ExplainError::AgentId)?)
            }
        };
        let mut shown = entries::selectors(&question.selectors).map_err(ExplainError::Selectors)?;
        shown.sort_unstable();
        let (entries, truncated) = self.asked(question).await?;
        let mut explanations = Vec::with_capacity(entries.len());
        for entry in entries {
            explanations.push(self.one(Arc::new(entry), agent.clone(), &shown, now).await?);
        }
        Ok((explanations, truncated))
    }

    async fn asked(&self, question: &Question) -> Result<(Vec<Entry>, bool), ExplainError> {
        if !question.entry_id.is_empty() {
            let found = self.store.fetch_entry(&question.entry_id).await;
            let entry = found.map_err(ExplainError::Store)?.ok_or(ExplainError::NotFound)?;
            return Ok((vec![entry], false));
        }
        if question.spiffe_id.is_none() {
            return Err(ExplainError::NoQuestion);
        }
        let id = ids::member(&self.trust_domain, question.spiffe_id.as_ref());
        let spiffe_id = Some(id.map_err(ExplainError::SpiffeId)?);
        let filter = EntryFilter { spiffe_id, ..EntryFilter::default() };
        let page = Page { token: None, size: MAX_ENTRIES + 1 };
        let listed = self.store.list_entries(&filter, Some(&page)).await;
        let (mut entries, _) = listed.map_err(ExplainError::Store)?;
        if entries.is_empty() {
            return Err(ExplainError::NotFound);
        }
        let truncated = entries.len() > MAX_ENTRIES;
        entries.truncate(MAX_ENTRIES);
        Ok((entries, truncated))
    }

    async fn one(
        &self,
        entry: Arc<Entry>,
        agent: Option<SpiffeId>,
        shown: &[Selector],
        now: SystemTime,
    ) -> Result<Explanation, ExplainError> {
        let mut federates_with = Vec::with_capacity(entry.federates_with.len());
        for trust_domain in &entry.federates_with {
            let bundle = self.store.fetch_bundle(trust_domain).await;
            let relation = self.store.fetch_federation_relationship(trust_domain).await;
            federates_with.push(Federated {
                trust_domain: trust_domain.clone(),
                has_bundle: bundle.map_err(ExplainError::Store)?.is_some(),
                has_relationship: relation.map_err(ExplainError::Store)?.is_some(),
            });
        }
        let (lifetimes, jwt_enabled) = (self.credentials.lifetimes(), self.jwt_enabled);
        let (snapshot, shown) = (self.index.snapshot(), shown.to_vec());
        // Looks at every entry and every agent, of which there may be very many.
        let looking = tokio::task::spawn_blocking(move || {
            let mut explanation = look(&snapshot, entry, agent.as_ref(), &shown, now);
            explanation.federates_with = federates_with;
            (explanation.x509_svid, explanation.jwt_svid) =
                lives(&explanation.entry, &lifetimes, jwt_enabled, now);
            words::say(&mut explanation, &snapshot, agent.as_ref(), &shown, now);
            explanation
        });
        looking.await.map_err(|_| ExplainError::Interrupted)
    }
}

fn look(
    snapshot: &Snapshot,
    entry: Arc<Entry>,
    agent: Option<&SpiffeId>,
    shown: &[Selector],
    now: SystemTime,
) -> Explanation {
    let seconds = unix_seconds(now);
    let ancestry = snapshot.ancestry(&entry, seconds);
    let holders = snapshot.holders(&ancestry, seconds);
    let mut aliases: Vec<Arc<Entry>> = ancestry.aliases().cloned().collect();
    if ancestry.steps.iter().any(|step| matches!(step.kind, StepKind::Server)) {
        aliases.push(Arc::clone(&entry));
    }
    let has = |id: &SpiffeId| holders.iter().any(|holder| holder.node.spiffe_id == *id);
    let mut near_misses: Vec<AliasMiss> = aliases
        .iter()
        .flat_map(|alias| snapshot.alias_misses(alias, agent, MAX_MISSES))
        .filter(|miss| !has(&miss.agent))
        .collect();
    near_misses.sort_by_key(|miss| miss.missing.len());
    near_misses.truncate(MAX_MISSES);
    let authorized_agents = holders.len();
    let standing = |holder: Holder| AgentStanding {
        id: holder.node.spiffe_id.clone(),
        node: Some(holder.node),
        via: Some(holder.via),
        reason: String::new(),
    };
    let agents = match agent {
        None => holders.into_iter().take(MAX_AGENTS).map(standing).collect(),
        Some(agent) => vec![AgentStanding {
            id: agent.clone(),
            node: snapshot.node(agent).cloned(),
            via: snapshot.leads_to(&ancestry, agent, seconds),
            reason: String::new(),
        }],
    };
    let similar = snapshot.alike(&entry, MAX_SIMILAR);
    let missing_selectors = if shown.is_empty() {
        Vec::new()
    } else {
        let lacks = |wanted: &&Selector| shown.binary_search(wanted).is_err();
        entry.selectors.iter().filter(lacks).cloned().collect()
    };
    let unset = || Lifetime { ttl: Duration::ZERO, reason: String::new() };
    Explanation {
        similar: similar
            .into_iter()
            .map(|it| {
                let why = words::alike(&entry, &it);
                (it, why)
            })
            .collect(),
        entry,
        verdict: String::new(),
        findings: Vec::new(),
        chain: ancestry.steps,
        agents,
        authorized_agents,
        near_misses,
        x509_svid: unset(),
        jwt_svid: unset(),
        federates_with: Vec::new(),
        missing_selectors,
    }
}

fn lives(
    entry: &Entry,
    lifetimes: &Lifetimes,
    jwt_enabled: bool,
    now: SystemTime,
) -> (Lifetime, Lifetime) {
    let x509 = life(entry.x509_svid_ttl, lifetimes.x509_svid, lifetimes.x509_ca_ends, "CA", now);
    let jwt = if jwt_enabled {
        life(entry.jwt_svid_ttl, lifetimes.jwt_svid, lifetimes.jwt_key_ends, "JWT key", now)
    } else {
        Lifetime { ttl: Duration::ZERO, reason: "JWT-SVIDs are disabled on this server".into() }
    };
    (x509, jwt)
}

fn life(
    own: i32,
    default: Duration,
    ends: Option<SystemTime>,
    signer: &str,
    now: SystemTime,
) -> Lifetime {
    let own = u64::try_from(own).ok().filter(|own| *own > 0).map(Duration::from_secs);
    let (wish, reason) = match own {
        Some(own) => (own, "the entry's own TTL"),
        None => (default, "the server's default TTL: the entry has none"),
    };
    let Some(ends) = ends else {
        return Lifetime {
            ttl: Duration::ZERO,
            reason: format!("this server has no active {signer}"),
        };
    };
    let left = Duration::from_secs(ends.duration_since(now).unwrap_or_default().as_secs());
    if wish <= left {
        return Lifetime { ttl: wish, reason: reason.to_owned() };
    }
    let asked = steeple_runtime::duration::format_go(wish);
    let reason = format!("the active {signer} ends then; {reason} ({asked}) would be longer");
    Lifetime { ttl: left, reason }
}

const MAX_ENTRIES: usize = 20;
const MAX_AGENTS: usize = 100;
const MAX_MISSES: usize = 10;
const MAX_SIMILAR: usize = 10;

#[cfg(test)]
mod tests;
