//! How an agent stands, and who was refused and why.

use std::sync::Arc;
use std::time::SystemTime;

use steeple_spiffe::TrustDomain;
use steeple_store::Store;
use steeple_store::model::AttestedNode;

use super::{AgentState, ExplainError, state_of};
use crate::access::Operator;
use crate::admission::{Admission, Refusal, RefusalFilter, Violation};
use crate::agents::COMPOSITE;
use crate::ids::{self, RawId};
use crate::index::AuthorizedIndex;
use crate::time::{from_unix_seconds, rfc3339, unix_seconds};

/// How many refusals one answer has.
const MAX_REFUSALS: usize = 50;

/// What an operator asks; nothing at all asks for the last refusals.
#[derive(Clone, Debug, Default)]
pub struct AgentQuestion {
    /// The agent.
    pub spiffe_id: Option<RawId>,
    /// The address that asked to be attested.
    pub address: String,
    /// The attestor that it named.
    pub attestor: String,
}

/// The answer.
#[derive(Debug)]
pub struct AgentExplanation {
    /// In one sentence.
    pub verdict: String,
    /// What else an operator should know, the most important first.
    pub findings: Vec<String>,
    /// The agent that was asked about, when there is one.
    pub agent: Option<AgentFacts>,
    /// The attestations that were refused, the last first.
    pub refusals: Vec<Refusal>,
}

/// An agent.
#[derive(Debug)]
pub struct AgentFacts {
    /// As it is recorded.
    pub node: AttestedNode,
    /// How it stands.
    pub state: AgentState,
    /// How many entries it is authorised for.
    pub entries: usize,
    /// The attestors that vouched for it together; none when it was one.
    pub parts: Vec<String>,
    /// The rule of the policy that it would not satisfy now.
    pub violation: Option<Violation>,
}

/// The use case.
#[derive(Clone)]
pub struct AgentExplainer {
    store: Arc<dyn Store>,
    index: AuthorizedIndex,
    admission: Arc<Admission>,
    trust_domain: TrustDomain,
}

impl AgentExplainer {
    /// Explains agents of one trust domain.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        index: AuthorizedIndex,
        admission: Arc<Admission>,
        trust_domain: TrustDomain,
    ) -> Self {
        Self { store, index, admission, trust_domain }
    }

    /// Explains an agent, or the last refusals.
    ///
    /// # Errors
    /// [`ExplainError`].
    pub async fn explain(
        &self,
        _operator: &Operator,
        question: &AgentQuestion,
        now: SystemTime,
    ) -> Result<AgentExplanation, ExplainError> {
        let id = match &question.spiffe_id {
            None => None,
            raw => {
                let id = ids::member(&self.trust_domain, raw.as_ref());
                Some(id.map_err(ExplainError::AgentId)?)
            }
        };
        let filter = RefusalFilter {
            agent_id: id.as_ref().map(ToString::to_string).unwrap_or_default(),
            address: question.address.clone(),
            attestor: question.attestor.clone(),
        };
        let refusals = self.admission.refusals.find(&filter, MAX_REFUSALS);
        let agent = match &id {
            None => None,
            Some(id) => {
                let node = self.store.fetch_node(id).await.map_err(ExplainError::Store)?;
                node.map(|node| self.facts(node, now))
            }
        };
        let mut explanation =
            AgentExplanation { verdict: String::new(), findings: Vec::new(), agent, refusals };
        explanation.verdict = verdict(&explanation, id.as_ref().map(|id| id.as_str()));
        explanation.findings = findings(&explanation);
        Ok(explanation)
    }

    fn facts(&self, node: AttestedNode, now: SystemTime) -> AgentFacts {
        let parts: Vec<String> = node
            .selectors
            .iter()
            .filter(|selector| &*selector.kind == COMPOSITE)
            .filter_map(|selector| selector.value.strip_prefix("attestor:"))
            .map(str::to_owned)
            .collect();
        let mut attestors = vec![node.attestation_type.as_str()];
        attestors.extend(parts.iter().map(String::as_str));
        let judged = self.admission.policy.judge(&attestors, &node.spiffe_id, &node.selectors);
        let state = state_of(Some(&node), now);
        let seconds = unix_seconds(now);
        let entries = self.index.snapshot().authorized(&node.spiffe_id, seconds).len();
        AgentFacts { state, entries, parts, violation: judged.err(), node }
    }
}

fn time(seconds: i64) -> String {
    from_unix_seconds(seconds).map(rfc3339).unwrap_or_default()
}

fn verdict(it: &AgentExplanation, asked: Option<&str>) -> String {
    let last = it.refusals.first();
    match (&it.agent, asked, last) {
        (Some(agent), ..) => {
            let (id, node) = (&agent.node.spiffe_id, &agent.node);
            match agent.state {
                AgentState::Banned => format!("{id} is banned."),
                AgentState::Expired => {
                    let ended = time(node.expires_at.max(node.new_expires_at));
                    format!("{id} is attested, but its SVID ended at {ended}.")
                }
                _ => format!("{id} is attested by {} and in good standing.", node.attestation_type),
            }
        }
        (None, Some(id), Some(last)) => {
            format!("{id} is not attested; it was refused: {}.", last.reason)
        }
        (None, Some(id), None) => {
            format!("{id} is not attested, and no refusal of it is remembered.")
        }
        (None, None, Some(last)) => {
            format!("The last refusal that fits was at {}.", rfc3339(last.at))
        }
        (None, None, None) => "No refusal that fits is remembered.".to_owned(),
    }
}

fn findings(it: &AgentExplanation) -> Vec<String> {
    let mut found = Vec::new();
    let say = |found: &mut Vec<String>, text: &str| found.push(text.to_owned());
    if let Some(agent) = &it.agent {
        let once = "Its evidence counts once: attestation with it is refused while this record is \
                    there; `spire-server agent evict` removes the record.";
        match agent.state {
            AgentState::Banned => say(
                &mut found,
                "An operator banned it; only `spire-server agent evict` lets it attest again.",
            ),
            AgentState::Expired if agent.node.can_reattest => {
                say(&mut found, "It can attest again at any time; it did not.");
            }
            _ if !agent.node.can_reattest => say(&mut found, once),
            _ => {}
        }
        if let Some(violation) = &agent.violation {
            found.push(format!("It would not be admitted today: {violation}."));
        }
        if agent.state == AgentState::Active && agent.entries == 0 {
            say(&mut found, "No entry applies to it, so that no workload on it gets an identity.");
        }
        if agent.node.new_expires_at != 0 {
            say(&mut found, "It was given a newer SVID and has not used it yet.");
        }
    }
    if let Some(last) = it.refusals.first() {
        if !last.rule.is_empty() {
            found.push(format!(
                "The last refusal was the attestation policy's; its rule is {:?}.",
                last.rule
            ));
        }
        let told = |words: &str| last.reason.contains(words);
        if told("does not exist or has already been used") {
            say(&mut found, "A join token of SPIRE's kind is good for one use: make a new one.");
        } else if told("join token expired") {
            say(&mut found, "Make a new join token, with a longer -ttl if need be.");
        } else if told("already been used to attest") && it.agent.is_none() {
            say(
                &mut found,
                "Evidence that counts once came again: the agent that it made must be evicted \
                 before it counts anew.",
            );
        } else if told("only as part of a composite") {
            say(
                &mut found,
                "Configure NodeAttestor \"composite\" on the agent, or allow_alone here.",
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use steeple_spiffe::{Selector, SpiffeId};

    use super::*;

    fn facts(state: AgentState, can_reattest: bool) -> AgentFacts {
        let node = AttestedNode {
            spiffe_id: SpiffeId::parse("spiffe://td/spire/agent/k/n").unwrap(),
            attestation_type: "k".into(),
            serial_number: "1".into(),
            expires_at: 1000,
            new_serial_number: String::new(),
            new_expires_at: 0,
            can_reattest,
            selectors: vec![Selector::new("k", "a")],
            agent_version: String::new(),
        };
        AgentFacts { node, state, entries: 1, parts: Vec::new(), violation: None }
    }

    fn refusal(reason: &str, rule: &str) -> Refusal {
        let at = UNIX_EPOCH + Duration::from_secs(60);
        Refusal {
            at,
            since: at,
            count: 1,
            address: "10.0.0.1".into(),
            attestor: "k".into(),
            agent_id: String::new(),
            reason: reason.into(),
            rule: rule.into(),
            selectors: Vec::new(),
        }
    }

    fn told(agent: Option<AgentFacts>, refusals: Vec<Refusal>) -> (String, String) {
        let it = AgentExplanation { verdict: String::new(), findings: vec![], agent, refusals };
        (verdict(&it, Some("spiffe://td/spire/agent/k/n")), findings(&it).join("|"))
    }

    #[test]
    fn each_way_to_stand_has_its_words_and_its_remedy() {
        let (verdict, findings) = told(Some(facts(AgentState::Active, true)), vec![]);
        assert!(verdict.ends_with("is attested by k and in good standing."), "{verdict}");
        assert_eq!(findings, "");
        let (verdict, findings) = told(Some(facts(AgentState::Banned, true)), vec![]);
        assert!(verdict.ends_with("is banned."));
        assert!(findings.contains("agent evict"));
        let (verdict, findings) = told(Some(facts(AgentState::Expired, false)), vec![]);
        assert!(verdict.ends_with("its SVID ended at 1970-01-01T00:16:40Z."), "{verdict}");
        assert!(findings.contains("counts once"));
        let (verdict, findings) = told(None, vec![refusal("rule \"x\" wants a selector", "x")]);
        assert!(verdict.ends_with("it was refused: rule \"x\" wants a selector."), "{verdict}");
        assert!(findings.contains("its rule is \"x\""));
        let (verdict, findings) = told(None, vec![refusal("join token expired", "")]);
        assert!(verdict.contains("is not attested"));
        assert!(findings.contains("-ttl"));
        let (verdict, _) = told(None, vec![]);
        assert!(verdict.ends_with("no refusal of it is remembered."));
    }
}
