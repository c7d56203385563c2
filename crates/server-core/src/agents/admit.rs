//! Who is let in of those whose evidence holds; and a note of those who were not.

use std::time::SystemTime;

use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::model::{AttestedNode, MatchBehavior, NodeFilter, SelectorFilter};

use super::{AgentError, Agents};
use crate::admission::{Violation, refusals::Told};
use crate::text::Quoted;

/// The type of the selectors that tell of a composite's parts.
pub const COMPOSITE: &str = "composite";
/// What the value of a selector begins with that has the ID that a later part would have given.
pub const PART_ID: &str = "agent_id:";
/// As [`PART_ID`], of a part whose evidence counts once.
pub const PART_ONCE: &str = "once:";

/// A node whose evidence holds, and that the policy does not want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAdmitted {
    /// Who it would have been.
    pub agent: SpiffeId,
    /// What it proved.
    pub selectors: Vec<Selector>,
    /// The rule.
    pub violation: Violation,
}

impl Agents {
    /// Refuses an attestor whose evidence counts only together with another's.
    pub(super) fn check_alone(&self, kind: &str) -> Result<(), AgentError> {
        if self.admission.only_as_part.contains(kind) {
            return Err(AgentError::OnlyAsPart(Quoted::new(kind)));
        }
        Ok(())
    }

    /// Asks the policy; `parts` are a composite's.
    pub(super) fn admit(
        &self,
        kind: &str,
        parts: &[String],
        agent: &SpiffeId,
        selectors: &[Selector],
    ) -> Result<(), AgentError> {
        let attestors: Vec<&str> =
            std::iter::once(kind).chain(parts.iter().map(String::as_str)).collect();
        let judged = self.admission.policy.judge(&attestors, agent, selectors);
        judged.map_err(|violation| {
            let (agent, selectors) = (agent.clone(), selectors.to_vec());
            AgentError::NotAdmitted(Box::new(NotAdmitted { agent, selectors, violation }))
        })
    }

    /// Refuses later parts of a composite whose evidence counts once and made another agent: the
    /// first part, whose ID the agent gets, is looked after as it is without a composite.
    pub(super) async fn check_parts(
        &self,
        agent: &SpiffeId,
        selectors: &[Selector],
    ) -> Result<(), AgentError> {
        if !counts_once(selectors) {
            return Ok(());
        }
        for id in of_parts(selectors, PART_ID) {
            let nodes = self.having(id).await?;
            if nodes.iter().any(|node| node.spiffe_id != *agent) {
                return Err(AgentError::PartUsed(agent.clone()));
            }
        }
        Ok(())
    }

    /// Whether a later part of a composite's that counts once would have given this ID: the
    /// evidence then does not count by itself any more either.
    pub(super) async fn is_part(&self, id: &SpiffeId) -> Result<bool, AgentError> {
        if !self.attestors.contains_key(COMPOSITE) {
            return Ok(false);
        }
        let told = Selector::new(COMPOSITE, &format!("{PART_ID}{id}"));
        Ok(!self.having(&told).await?.is_empty())
    }

    /// The nodes that have a selector.
    async fn having(&self, selector: &Selector) -> Result<Vec<AttestedNode>, AgentError> {
        let selectors = vec![selector.clone()];
        let filter = NodeFilter {
            selectors: Some(SelectorFilter { selectors, behavior: MatchBehavior::Superset }),
            ..NodeFilter::default()
        };
        let (nodes, _) = self.store.list_nodes(&filter, None).await.map_err(AgentError::List)?;
        Ok(nodes)
    }

    /// Keeps in mind who was refused, for operators, and says in the log what a policy had
    /// against whom.
    pub(super) fn note_refusal(
        &self,
        kind: &str,
        address: &str,
        error: &AgentError,
        now: SystemTime,
    ) {
        let mut told = Told { address, attestor: kind, reason: chain(error), ..Told::default() };
        match error {
            AgentError::NotAdmitted(refused) => {
                told.agent = Some(&refused.agent);
                told.selectors = &refused.selectors;
                told.rule = refused.violation.rule();
                told.reason = refused.violation.to_string();
                // An ID that a join token is part of is not for the log while that is good.
                let agent_id = (kind != super::JOIN_TOKEN).then(|| refused.agent.to_string());
                tracing::warn!(
                    subsystem_name = "api",
                    agent_id,
                    node_attestor_type = kind,
                    address,
                    policy_rule = refused.violation.rule(),
                    reason = told.reason,
                    "Node does not satisfy the attestation policy"
                );
            }
            AgentError::Banned(id) | AgentError::PartUsed(id) | AgentError::OthersId(id) => {
                told.agent = Some(id);
            }
            _ => {}
        }
        self.admission.refusals.note(&told, now);
    }
}

/// Whether a composite has a later part whose evidence counts once.
pub(super) fn counts_once(selectors: &[Selector]) -> bool {
    of_parts(selectors, PART_ONCE).next().is_some()
}

fn of_parts<'a>(selectors: &'a [Selector], what: &'a str) -> impl Iterator<Item = &'a Selector> {
    selectors.iter().filter(move |it| &*it.kind == COMPOSITE && it.value.starts_with(what))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
