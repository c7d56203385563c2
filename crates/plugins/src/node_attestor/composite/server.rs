//! The server's half: every part must hold, in its order, and what they say becomes one agent.

use std::sync::Arc;

use async_trait::async_trait;
use steeple_pki::PublicKey;
use steeple_plugin::{AgentAttributes, Caller, Challenger, Code, NodeAttestor, PluginError};
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};

use super::payload::{Challenge, Payload};
use super::{NAME, error};

/// The most challenges in one conversation.
const MAX_STEPS: u32 = 32;

pub(super) struct Composite {
    parts: Vec<Arc<dyn NodeAttestor>>,
    trust_domain: TrustDomain,
}

impl Composite {
    pub(super) fn new(parts: Vec<Arc<dyn NodeAttestor>>, trust_domain: TrustDomain) -> Self {
        Self { parts, trust_domain }
    }

    /// The evidence of each part, if it is there for these parts in this order and for no others.
    fn evidence(&self, payload: &[u8]) -> Result<Vec<Vec<u8>>, PluginError> {
        let refused = |text: &str| error(Code::InvalidArgument, text);
        let payload =
            Payload::decode(payload).ok_or_else(|| refused("failed to unmarshal payload"))?;
        let names: Vec<&str> = payload.parts.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(missing) = self.parts.iter().find(|part| !names.contains(&part.name())) {
            let text = format!("evidence of node attestor {:?} is missing", missing.name());
            return Err(refused(&text));
        }
        if !names.iter().copied().eq(self.parts.iter().map(|part| part.name())) {
            let order: Vec<&str> = self.parts.iter().map(|part| part.name()).collect();
            let text = format!("evidence must be of {} in this order", order.join(" and "));
            return Err(refused(&text));
        }
        if let Some((name, _)) = payload.parts.iter().find(|(_, evidence)| evidence.is_empty()) {
            return Err(refused(&format!("evidence of node attestor {name:?} is empty")));
        }
        Ok(payload.parts.into_iter().map(|(_, evidence)| evidence).collect())
    }
}

#[async_trait]
impl NodeAttestor for Composite {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        let evidence = self.evidence(payload)?;
        let mut steps = 0;
        let mut agent: Option<SpiffeId> = None;
        let mut values = Vec::new();
        let mut can_reattest = true;
        for (part, evidence) in self.parts.iter().zip(evidence) {
            let mut dialogue = Dialogue { outer: challenger, part: part.name(), steps: &mut steps };
            let proven = part.attest(&evidence, &mut dialogue).await?;
            if !proven.agent_id.is_member_of(&self.trust_domain) {
                let text = format!("node attestor {:?} gave a foreign ID", part.name());
                return Err(error(Code::Internal, &text));
            }
            values.push(format!("{NAME}:attestor:{}", part.name()));
            let selectors = part.selectors(&proven.selector_values);
            values.extend(selectors.iter().map(ToString::to_string));
            if agent.is_some() {
                values.push(format!("{NAME}:agent_id:{}", proven.agent_id));
                if !proven.can_reattest && part.once(&proven.agent_id) {
                    values.push(format!("{NAME}:once:{}", part.name()));
                }
            }
            can_reattest &= proven.can_reattest;
            agent.get_or_insert(proven.agent_id);
        }
        let agent_id = agent.ok_or_else(|| error(Code::Internal, "there are no parts"))?;
        Ok(AgentAttributes { agent_id, selector_values: values, can_reattest })
    }

    fn once(&self, agent: &SpiffeId) -> bool {
        self.parts.iter().any(|part| part.once(agent))
    }

    fn selectors(&self, values: &[String]) -> Vec<Selector> {
        let selector = |value: &String| {
            let (kind, value) = value.split_once(':').unwrap_or((NAME, value));
            Selector::new(kind, value)
        };
        values.iter().map(selector).collect()
    }

    fn namespace(&self) -> &str {
        self.parts.first().map_or(NAME, |part| part.name())
    }

    fn parts(&self) -> Vec<String> {
        self.parts.iter().map(|part| part.name().to_owned()).collect()
    }
}

/// One part's conversation, within the whole one.
struct Dialogue<'a> {
    outer: &'a mut dyn Challenger,
    part: &'a str,
    steps: &'a mut u32,
}

#[async_trait]
impl Challenger for Dialogue<'_> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        *self.steps += 1;
        if *self.steps > MAX_STEPS {
            return Err(error(Code::Internal, "there are too many challenges"));
        }
        let asked = Challenge {
            attestor: self.part.to_owned(),
            step: *self.steps,
            data: challenge.to_vec(),
        };
        let answer = self.outer.challenge(&asked.encode()).await?;
        let answer = Challenge::decode(&answer).ok_or_else(|| {
            error(Code::InvalidArgument, "failed to unmarshal challenge response")
        })?;
        if (&answer.attestor, answer.step) != (&asked.attestor, asked.step) {
            let text = "the response is to another challenge than was asked";
            return Err(error(Code::InvalidArgument, text));
        }
        Ok(answer.data)
    }

    fn caller(&self) -> Caller {
        self.outer.caller()
    }

    fn requested_key(&self) -> Option<PublicKey> {
        self.outer.requested_key()
    }
}
