//! Proof of what a node is: a half that gives evidence (agent) and one that judges it (server).

use async_trait::async_trait;
use steeple_pki::{PublicKey, Signer};
use steeple_spiffe::{Selector, SpiffeId};

use crate::PluginError;

/// The server's half.
#[async_trait]
pub trait NodeAttestor: Send + Sync {
    /// The plugin's name in configuration, which agents name as their attestation type.
    fn name(&self) -> &str;

    /// Judges the evidence in `payload`, asking back through `challenger` where it must.
    ///
    /// # Errors
    /// When the evidence does not hold, or asking back failed.
    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError>;

    /// Whether `can_reattest: false` for this agent means that it must not have attested before:
    /// then the server records it only if it is not there, in one transaction. Else it overwrites
    /// the record, as SPIRE does for an external plugin that never asked who has attested.
    fn once(&self, _agent: &SpiffeId) -> bool {
        true
    }

    /// The selectors that values of [`AgentAttributes`] are: of the plugin's name, but where it
    /// speaks for others.
    fn selectors(&self, values: &[String]) -> Vec<Selector> {
        values.iter().map(|value| Selector::new(self.name(), value)).collect()
    }

    /// In whose name the IDs are that it gives: its own, but where it speaks for others.
    fn namespace(&self) -> &str {
        self.name()
    }

    /// The attestors whose evidence it wants together; none, but for a composite.
    fn parts(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The agent, as the judge sees it.
#[async_trait]
pub trait Challenger: Send {
    /// Sends a challenge and waits for the response.
    ///
    /// # Errors
    /// When the agent is gone or does not answer.
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError>;

    /// How the agent called.
    fn caller(&self) -> Caller {
        Caller::default()
    }

    /// The key that the agent wants its SVID for, possession of which it proved; unknown where
    /// nobody said. For attestors whose evidence speaks of that very key.
    fn requested_key(&self) -> Option<PublicKey> {
        None
    }
}

/// How an agent called; what is unknown is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The host that it meant to call, in its own words: for diagnosis, never for a decision.
    pub host: String,
    /// The address that it called from, as the server saw it.
    pub ip: String,
}

/// What the evidence proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentAttributes {
    /// The SPIFFE ID that the agent gets.
    pub agent_id: SpiffeId,
    /// Values of selectors, whose type is the plugin's name.
    pub selector_values: Vec<String>,
    /// Whether the same evidence may be brought again later.
    pub can_reattest: bool,
}

/// The agent's half.
#[async_trait]
pub trait NodeEvidence: Send + Sync {
    /// The plugin's name in configuration.
    fn name(&self) -> &str;

    /// The evidence to begin with; never empty.
    ///
    /// # Errors
    /// When there is none.
    async fn payload(&self) -> Result<Vec<u8>, PluginError>;

    /// As [`NodeEvidence::payload`], for attestors whose evidence speaks of the key that the
    /// agent's SVID will have.
    ///
    /// # Errors
    /// When there is none.
    async fn payload_for(&self, _key: &dyn Signer) -> Result<Vec<u8>, PluginError> {
        self.payload().await
    }

    /// The response to a challenge of the server's half, in the attestation that the last
    /// [`NodeEvidence::payload`] began.
    ///
    /// # Errors
    /// When the challenge was not expected or cannot be met.
    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError>;

    /// The attestation that the last [`NodeEvidence::payload`] began is over, well or not.
    async fn end(&self) {}
}
