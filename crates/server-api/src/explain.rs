//! `steeple.server.explain.v1.Explain`: who gets an entry, for operators.

use steeple_proto::steeple::server::explain::v1 as pb;
use steeple_server_core::admission::Refusal;
use steeple_server_core::explain::agent::{AgentExplainer, AgentFacts, AgentQuestion};
use steeple_server_core::explain::{
    AgentStanding, AgentState, ExplainError, Explainer, Explanation, Lifetime, Question,
};
use steeple_server_core::ids::RawId;
use steeple_server_core::index::{AliasMiss, Step, StepKind};
use steeple_server_core::time::{from_unix_seconds, rfc3339, unix_seconds};
use steeple_spiffe::Selector;
use tonic::{Code, Request, Response, Status};

use crate::call::{About, Call};
use crate::convert::{count, entry_message, raw_selectors};
use crate::status::{Answer, of_read};

/// The Explain service.
pub(crate) struct ExplainService {
    pub(crate) explainer: Explainer,
    pub(crate) agents: AgentExplainer,
}

impl Answer for ExplainError {
    fn code(&self) -> Code {
        match self {
            Self::NoQuestion | Self::SpiffeId(_) | Self::AgentId(_) | Self::Selectors(_) => {
                Code::InvalidArgument
            }
            Self::NotFound => Code::NotFound,
            Self::Store(error) => of_read(error),
            Self::Interrupted => Code::Internal,
        }
    }
}

#[tonic::async_trait]
impl pb::explain_server::Explain for ExplainService {
    async fn explain_entry(
        &self,
        request: Request<pb::ExplainEntryRequest>,
    ) -> Result<Response<pb::ExplainEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let question = Question {
            entry_id: request.entry_id,
            spiffe_id: raw(&request.spiffe_id),
            agent_id: raw(&request.agent_id),
            selectors: raw_selectors(request.selectors),
        };
        let entry_id = Some(question.entry_id.as_str()).filter(|id| !id.is_empty());
        let about = About { entry_id, ..About::default() };
        let explained = self.explainer.explain(call.operator()?, &question, call.now()).await;
        let (explained, truncated) = explained.map_err(|error| call.fail_about(&error, about))?;
        let explanations = explained.into_iter().map(|it| message(&call, it)).collect();
        Ok(Response::new(pb::ExplainEntryResponse { explanations, truncated }))
    }

    async fn explain_agent(
        &self,
        request: Request<pb::ExplainAgentRequest>,
    ) -> Result<Response<pb::ExplainAgentResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let question = AgentQuestion {
            spiffe_id: raw(&request.spiffe_id),
            address: request.address,
            attestor: request.attestor,
        };
        let explained = self.agents.explain(call.operator()?, &question, call.now()).await;
        let explained = explained.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::ExplainAgentResponse {
            verdict: explained.verdict,
            findings: explained.findings,
            agent: explained.agent.map(attested),
            refusals: explained.refusals.into_iter().map(refusal).collect(),
        }))
    }
}

/// An ID as text, cut where its parts meet; what is wrong with it the use case says.
fn raw(text: &str) -> Option<RawId> {
    if text.is_empty() {
        return None;
    }
    let rest = text.strip_prefix("spiffe://").unwrap_or_default();
    let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some(RawId { trust_domain: trust_domain.to_owned(), path: path.to_owned() })
}

fn message(call: &Call, it: Explanation) -> pb::Explanation {
    let similar = it.similar.iter().map(|(entry, why)| pb::Similar {
        entry_id: entry.entry_id.clone(),
        spiffe_id: entry.spiffe_id.to_string(),
        why: (*why).to_owned(),
    });
    let federates_with = it.federates_with.iter().map(|other| pb::Federation {
        trust_domain: other.trust_domain.to_string(),
        has_bundle: other.has_bundle,
        has_relationship: other.has_relationship,
    });
    pb::Explanation {
        entry: Some(entry_message(&it.entry, None)),
        chain: it.chain.iter().map(step).collect(),
        agents: it.agents.iter().map(|agent| standing(call, agent)).collect(),
        authorized_agents: count(it.authorized_agents as u64),
        near_misses: it.near_misses.iter().map(near_miss).collect(),
        x509_svid: Some(lifetime(&it.x509_svid)),
        jwt_svid: Some(lifetime(&it.jwt_svid)),
        federates_with: federates_with.collect(),
        similar: similar.collect(),
        missing_selectors: texts(&it.missing_selectors),
        verdict: it.verdict,
        findings: it.findings,
    }
}

fn attested(it: AgentFacts) -> pb::AttestedAgent {
    let state = state_name(it.state);
    pb::AttestedAgent {
        spiffe_id: it.node.spiffe_id.to_string(),
        state: state.to_owned(),
        attestation_type: it.node.attestation_type,
        selectors: texts(&it.node.selectors),
        serial_number: it.node.serial_number,
        expires_at: it.node.expires_at,
        new_serial_number: it.node.new_serial_number,
        new_expires_at: it.node.new_expires_at,
        can_reattest: it.node.can_reattest,
        version: it.node.agent_version,
        entries: count(it.entries as u64),
        parts: it.parts,
        policy_violation: it.violation.map(|it| it.to_string()).unwrap_or_default(),
    }
}

fn refusal(it: Refusal) -> pb::Refusal {
    pb::Refusal {
        at: unix_seconds(it.at),
        since: unix_seconds(it.since),
        count: i64::try_from(it.count).unwrap_or(i64::MAX),
        address: it.address,
        attestor: it.attestor,
        agent_id: it.agent_id,
        reason: it.reason,
        rule: it.rule,
        selectors: it.selectors,
    }
}

const fn state_name(state: AgentState) -> &'static str {
    match state {
        AgentState::Active => "active",
        AgentState::Expired => "expired",
        AgentState::Banned => "banned",
        AgentState::Unknown => "unknown",
    }
}

fn step(step: &Step) -> pb::Step {
    let until = |seconds: i64| from_unix_seconds(seconds).map(rfc3339).unwrap_or_default();
    let (kind, entry_id, detail) = match &step.kind {
        StepKind::Agent(node) if node.is_banned() => ("agent", "", "banned".to_owned()),
        StepKind::Agent(node) => (
            "agent",
            "",
            format!("{}, SVID until {}", node.attestation_type, until(node.expires_at)),
        ),
        StepKind::Alias(alias) => {
            ("alias", alias.entry_id.as_str(), texts(&alias.selectors).join(", "))
        }
        StepKind::Entry(entry) => {
            ("entry", entry.entry_id.as_str(), texts(&entry.selectors).join(", "))
        }
        StepKind::Server => ("server", "", String::new()),
        StepKind::Nothing => ("none", "", "neither an agent nor an entry".to_owned()),
    };
    pb::Step {
        depth: count(step.depth as u64),
        spiffe_id: step.id.to_string(),
        kind: kind.to_owned(),
        entry_id: entry_id.to_owned(),
        detail,
    }
}

fn standing(call: &Call, agent: &AgentStanding) -> pb::Agent {
    let state = state_name(agent.state(call.now()));
    pb::Agent {
        spiffe_id: agent.id.to_string(),
        state: state.to_owned(),
        expires_at: agent.node.as_ref().map_or(0, |node| node.expires_at),
        attestation_type: agent
            .node
            .as_ref()
            .map_or_else(String::new, |it| it.attestation_type.clone()),
        authorized: agent.via.is_some() && state == "active",
        via: agent.via.as_ref().map_or_else(String::new, ToString::to_string),
        reason: agent.reason.clone(),
    }
}

fn near_miss(miss: &AliasMiss) -> pb::NearMiss {
    pb::NearMiss {
        agent_id: miss.agent.to_string(),
        alias_entry_id: miss.alias.entry_id.clone(),
        alias_spiffe_id: miss.alias.spiffe_id.to_string(),
        missing: texts(&miss.missing),
    }
}

fn lifetime(it: &Lifetime) -> pb::Lifetime {
    let seconds = i64::try_from(it.ttl.as_secs()).unwrap_or(i64::MAX);
    pb::Lifetime { seconds, reason: it.reason.clone() }
}

fn texts(selectors: &[Selector]) -> Vec<String> {
    selectors.iter().map(ToString::to_string).collect()
}
