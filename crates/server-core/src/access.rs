//! Who may do what: callers, rules, and the permits that prove a rule was met.
//!
//! Use cases take a permit as an argument ([`Operator`], [`AgentCaller`],
//! [`DownstreamCaller`]). Only [`Gatekeeper::authorize`] makes one, so a path to
//! a use case that forgets to authorise does not compile.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use steeple_spiffe::SpiffeId;
use steeple_store::model::AttestedNode;
use steeple_store::{Store, StoreError};

use crate::index::AuthorizedIndex;
use crate::time::unix_seconds;

/// Who is calling, as the transport proved it.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Over the server's own Unix socket.
    Local,
    /// Over TLS.
    Remote {
        /// Where from.
        address: SocketAddr,
        /// The verified SVID, when the client showed one.
        svid: Option<PeerSvid>,
    },
}

/// An X.509-SVID whose chain was verified against the bundle of its domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerSvid {
    /// The SPIFFE ID in it.
    pub id: SpiffeId,
    /// Its serial number, decimal, as the datastore keeps it.
    pub serial_number: String,
    /// When it ends.
    pub not_after: SystemTime,
}

/// Which callers a method is open to; they are tried in the order of cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    /// Everyone, known or not.
    pub any: bool,
    /// The server's own socket.
    pub local: bool,
    /// `admin_ids` and holders of an admin entry.
    pub admin: bool,
    /// Holders of a downstream entry.
    pub downstream: bool,
    /// Agents in good standing.
    pub agent: bool,
}

/// Proof that a rule was met, and by whom.
#[derive(Clone, Debug)]
pub enum Permit {
    /// The method is open to everyone.
    Anyone,
    /// The caller administers the server.
    Operator(Operator),
    /// The caller is an agent in good standing.
    Agent(AgentCaller),
    /// The caller is a downstream server.
    Downstream(DownstreamCaller),
    /// An operator's own policy let the caller in.
    Policy(PolicyPermit),
}

/// What an operator's own policy opens: whatever the method does. What it was let in as stays
/// known, for the log.
#[derive(Clone, Debug)]
pub struct PolicyPermit {
    met: Box<Permit>,
    operator: Operator,
    agent: Option<AgentCaller>,
}

/// A local caller or an admin.
#[derive(Clone, Debug)]
pub struct Operator {
    via: &'static str,
    local: bool,
}

/// An agent that is attested, not banned, and uses its active SVID.
#[derive(Clone, Debug)]
pub struct AgentCaller {
    id: SpiffeId,
    can_reattest: Option<bool>,
}

/// The holder of a downstream entry.
#[derive(Clone, Debug)]
pub struct DownstreamCaller {
    id: SpiffeId,
}

/// Proof of the right to read what agents and operators may read.
#[derive(Clone, Debug)]
pub struct Reader(());

/// What an agent should do about a refusal; sent as a status detail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AgentFault {
    /// Its SVID has ended.
    Expired,
    /// No such node: evicted, pruned, or never attested.
    NotAttested,
    /// It used an SVID other than the newest.
    NotActive,
    /// It has to attest again instead of renewing.
    MustReattest,
    /// An operator banned it.
    Banned,
}

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No rule of the method fits the caller.
    #[error("no rule allows the caller")]
    NoRule,
    /// The caller's agent is not in good standing.
    #[error("agent {agent:?} is refused: {fault:?}")]
    Agent {
        /// Whose SVID it is.
        agent: SpiffeId,
        /// What is wrong.
        fault: AgentFault,
        /// The serial number that is active, for [`AgentFault::NotActive`].
        active_serial: String,
        /// The serial number that was used.
        used_serial: String,
    },
    /// The datastore did not answer.
    #[error("unable to look up agent information")]
    Lookup(#[source] StoreError),
    /// A renewed SVID could not be made the active one.
    #[error("unable to activate the new agent SVID")]
    Activate(#[source] StoreError),
}

/// Decides on calls.
pub struct Gatekeeper {
    store: Arc<dyn Store>,
    index: AuthorizedIndex,
    admin_ids: HashSet<SpiffeId>,
    trust: Trust,
    /// Whether the datastore did not answer the last time that it was asked.
    away: AtomicBool,
}

/// How far what is in memory is trusted about an agent's standing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trust {
    /// The datastore is not asked while memory is at most this old, or known to say the same.
    pub max_staleness: Duration,
    /// Memory counts while the datastore cannot be reached and memory is at most this old.
    ///
    /// Who cannot reach the datastore cannot ban an agent either, so what memory says is mostly
    /// still true; a ban through another server that does reach it is what this bounds.
    pub outage_grace: Duration,
}

impl Gatekeeper {
    /// `admin_ids` hold admin rights by configuration, whatever their trust
    /// domain. An agent whose serial number the index knows is let in without
    /// asking the datastore as far as `trust` says.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        index: AuthorizedIndex,
        admin_ids: impl IntoIterator<Item = SpiffeId>,
        trust: Trust,
    ) -> Self {
        let admin_ids = admin_ids.into_iter().collect();
        Self { store, index, admin_ids, trust, away: AtomicBool::new(false) }
    }

    /// Whether an ID of another trust domain may connect at all.
    #[must_use]
    pub fn is_admin_id(&self, id: &SpiffeId) -> bool {
        self.admin_ids.contains(id)
    }

    /// Finds the first rule that fits the caller.
    ///
    /// # Errors
    /// [`AccessError`], with the agent's fault where the rule is "agent".
    pub async fn authorize(
        &self,
        rule: Rule,
        caller: &Caller,
        now: SystemTime,
    ) -> Result<Permit, AccessError> {
        if rule.any {
            return Ok(Permit::Anyone);
        }
        let svid = match caller {
            Caller::Local if rule.local => return Ok(operator("transport", true)),
            Caller::Local => return Err(AccessError::NoRule),
            Caller::Remote { svid, .. } => svid.as_ref().ok_or(AccessError::NoRule)?,
        };
        if rule.admin && self.admin_ids.contains(&svid.id) {
            return Ok(operator("config", false));
        }
        if rule.admin || rule.downstream {
            let granted = self.index.snapshot().privileges(&svid.id, unix_seconds(now));
            if rule.admin && granted.admin {
                return Ok(operator("entries", false));
            }
            if rule.downstream && granted.downstream {
                return Ok(Permit::Downstream(DownstreamCaller { id: svid.id.clone() }));
            }
        }
        if rule.agent {
            let can_reattest = self.check_agent(svid, now).await?;
            return Ok(Permit::Agent(AgentCaller { id: svid.id.clone(), can_reattest }));
        }
        Err(AccessError::NoRule)
    }

    /// As [`Self::authorize`], with a rule that an operator's own policy gave for this one call. It
    /// may open a method to callers that the method was not made for, so that the permit proves
    /// all that can be proven of the caller.
    ///
    /// # Errors
    /// As [`Self::authorize`].
    pub async fn authorize_by_policy(
        &self,
        rule: Rule,
        caller: &Caller,
        now: SystemTime,
    ) -> Result<Permit, AccessError> {
        let met = self.authorize(rule, caller, now).await?;
        let operator =
            Operator { via: met.authorized_via(), local: matches!(caller, Caller::Local) };
        let agent = match caller {
            Caller::Remote { svid: Some(svid), .. } => {
                Some(AgentCaller { id: svid.id.clone(), can_reattest: None })
            }
            _ => None,
        };
        Ok(Permit::Policy(PolicyPermit { met: Box::new(met), operator, agent }))
    }

    /// Answers whether the agent may attest again, if that is what the datastore says now.
    async fn check_agent(
        &self,
        svid: &PeerSvid,
        now: SystemTime,
    ) -> Result<Option<bool>, AccessError> {
        if now > svid.not_after {
            return Err(refusal(svid, AgentFault::Expired, ""));
        }
        let current = self.index.is_current(self.store.as_ref());
        // Memory that says what the datastore would say is of no age.
        if (current || self.index.staleness(now) < self.trust.max_staleness)
            && let Some(can_reattest) = self.known(svid, Standing::is_active)
        {
            return Ok(current.then_some(can_reattest));
        }
        // Boxed, so that those who are known do not pay for the room of it.
        Box::pin(self.ask_for_agent(svid, now)).await
    }

    /// As [`Self::check_agent`], by the datastore.
    async fn ask_for_agent(
        &self,
        svid: &PeerSvid,
        now: SystemTime,
    ) -> Result<Option<bool>, AccessError> {
        let node = match self.store.fetch_node(&svid.id).await {
            Ok(node) => node,
            Err(error @ StoreError::Unavailable(_)) => {
                return self.bridge(svid, now, error).map(|()| None);
            }
            Err(error) => return Err(AccessError::Lookup(error)),
        };
        self.away.store(false, Ordering::Relaxed);
        let node = node.ok_or_else(|| refusal(svid, AgentFault::NotAttested, ""))?;
        match standing(&node, &svid.serial_number) {
            Standing::Active => Ok(Some(node.can_reattest)),
            Standing::Renewed => {
                let promoted = self.store.promote_node_serial(&svid.id, &svid.serial_number).await;
                Ok(Some(promoted.map_err(AccessError::Activate)?.can_reattest))
            }
            Standing::Banned => Err(refusal(svid, AgentFault::Banned, "")),
            Standing::Stale => Err(refusal(svid, AgentFault::NotActive, &node.serial_number)),
        }
    }

    /// The datastore is away: memory decides for a while, and otherwise nobody.
    fn bridge(
        &self,
        svid: &PeerSvid,
        now: SystemTime,
        error: StoreError,
    ) -> Result<(), AccessError> {
        let in_time = self.index.staleness(now) < self.trust.outage_grace
            || self.index.is_current(self.store.as_ref());
        let good = |standing: &Standing| matches!(standing, Standing::Active | Standing::Renewed);
        if !in_time || self.known(svid, good).is_none() {
            return Err(AccessError::Lookup(error));
        }
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                subsystem_name = "endpoints",
                %error,
                grace = self.trust.outage_grace.as_secs(),
                "The datastore cannot be reached; agents are let in by what is in memory"
            );
        }
        Ok(())
    }

    /// Whether an agent that is accepted by what memory has of it may attest again.
    fn known(&self, svid: &PeerSvid, accept: impl Fn(&Standing) -> bool) -> Option<bool> {
        let snapshot = self.index.snapshot();
        let node = snapshot.node(&svid.id)?;
        accept(&standing(node, &svid.serial_number)).then_some(node.can_reattest)
    }
}

enum Standing {
    Active,
    Renewed,
    Banned,
    Stale,
}

impl Standing {
    fn is_active(&self) -> bool {
        matches!(self, Self::Active)
    }
}

fn standing(node: &AttestedNode, used_serial: &str) -> Standing {
    if node.serial_number.is_empty() {
        Standing::Banned
    } else if node.serial_number == used_serial {
        Standing::Active
    } else if node.new_serial_number == used_serial {
        Standing::Renewed
    } else {
        Standing::Stale
    }
}

fn refusal(svid: &PeerSvid, fault: AgentFault, active_serial: &str) -> AccessError {
    AccessError::Agent {
        agent: svid.id.clone(),
        fault,
        active_serial: active_serial.to_owned(),
        used_serial: svid.serial_number.clone(),
    }
}

fn operator(via: &'static str, local: bool) -> Permit {
    Permit::Operator(Operator { via, local })
}

impl Permit {
    /// As what the caller was let in, in the words of the log.
    #[must_use]
    pub fn authorized_as(&self) -> &'static str {
        match self {
            Self::Anyone => "nobody",
            Self::Operator(operator) if operator.local => "local",
            Self::Operator(_) => "admin",
            Self::Agent(_) => "agent",
            Self::Downstream(_) => "downstream",
            Self::Policy(policy) => policy.met.authorized_as(),
        }
    }

    /// The proof of administering the server, if this is one.
    #[must_use]
    pub fn operator(&self) -> Option<&Operator> {
        match self {
            Self::Operator(operator) | Self::Policy(PolicyPermit { operator, .. }) => {
                Some(operator)
            }
            _ => None,
        }
    }

    /// The proof of being an agent in good standing, if this is one.
    #[must_use]
    pub fn agent(&self) -> Option<&AgentCaller> {
        match self {
            Self::Agent(agent) => Some(agent),
            Self::Policy(policy) => policy.agent.as_ref(),
            _ => None,
        }
    }

    /// The proof of being a downstream server, if this is one.
    #[must_use]
    pub fn downstream(&self) -> Option<&DownstreamCaller> {
        match self {
            Self::Downstream(downstream) => Some(downstream),
            Self::Policy(policy) => policy.met.downstream(),
            _ => None,
        }
    }

    /// The right to read what both agents and operators may.
    #[must_use]
    pub fn reader(&self) -> Option<Reader> {
        let may_read = matches!(self, Self::Operator(_) | Self::Agent(_) | Self::Policy(_));
        may_read.then_some(Reader(()))
    }

    /// What proved it, in the words of the log.
    #[must_use]
    pub fn authorized_via(&self) -> &'static str {
        match self {
            Self::Anyone => "",
            Self::Operator(operator) => operator.via,
            Self::Agent(_) => "datastore",
            Self::Downstream(_) => "entries",
            Self::Policy(policy) => policy.met.authorized_via(),
        }
    }
}

impl AgentCaller {
    /// The agent's SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Whether it may attest again and so does not renew, as the datastore had it when the call was
    /// let in; `None` if that was not asked.
    #[must_use]
    pub fn can_reattest(&self) -> Option<bool> {
        self.can_reattest
    }
}

impl DownstreamCaller {
    /// The downstream server's SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }
}
