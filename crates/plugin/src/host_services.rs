//! What the host offers plugins: the server's identity, and who has attested.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use steeple_pki::{Bundle, Certificate, PrivateKey};
use steeple_spiffe::SpiffeId;

use crate::{Code, Kind, PluginError};

/// The server's identity, as a plugin gets it.
pub struct X509Identity {
    /// The leaf first.
    pub chain: Vec<Certificate>,
    /// The leaf's key.
    pub key: Arc<PrivateKey>,
    /// The bundle of the trust domain.
    pub bundle: Bundle,
}

/// Knows the server's identity.
#[async_trait]
pub trait IdentitySource: Send + Sync {
    /// The identity now.
    ///
    /// # Errors
    /// When it cannot be had.
    async fn x509_identity(&self) -> Result<X509Identity, PluginError>;
}

/// Knows who has attested.
#[async_trait]
pub trait AgentLookup: Send + Sync {
    /// Whether the agent with this SPIFFE ID has attested.
    ///
    /// # Errors
    /// When it cannot be found out.
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError>;
}

/// What the host offers. Plugins are loaded before the parts that it rests on stand; a plugin
/// that asks too early is told so. In an agent, nothing is ever offered.
#[derive(Clone, Default)]
pub struct HostServices {
    identity: Arc<OnceLock<Arc<dyn IdentitySource>>>,
    agents: Arc<OnceLock<Arc<dyn AgentLookup>>>,
}

impl HostServices {
    /// What rests on nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, plugins can ask who has attested. Only the first call counts.
    pub fn provide_agents(&self, agents: Arc<dyn AgentLookup>) {
        let _ = self.agents.set(agents);
    }

    /// From now on, plugins can have the server's identity. Only the first call counts.
    pub fn provide_identity(&self, identity: Arc<dyn IdentitySource>) {
        let _ = self.identity.set(identity);
    }

    /// The server's identity now.
    ///
    /// # Errors
    /// When it is not offered yet, or cannot be had.
    pub async fn x509_identity(&self) -> Result<X509Identity, PluginError> {
        let source = self.identity.get().ok_or_else(|| too_early("IdentityProvider"))?;
        source.x509_identity().await
    }

    /// Whether the agent with this SPIFFE ID has attested.
    ///
    /// # Errors
    /// When it is not offered yet, or cannot be found out.
    pub async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
        let agents = self.agents.get().ok_or_else(|| too_early("AgentStore"))?;
        agents.is_attested(id).await
    }

    /// For node attestors whose evidence counts once: refuses an agent that has attested. Two that
    /// come at the same time pass both; the server lets one of them in (see [`once`]).
    ///
    /// # Errors
    /// `PermissionDenied`, as SPIRE words it, or as [`HostServices::is_attested`].
    ///
    /// [`once`]: crate::NodeAttestor::once
    pub async fn refuse_attested(&self, plugin: &str, id: &SpiffeId) -> Result<(), PluginError> {
        let attested = self.is_attested(id.as_str()).await.map_err(|error| {
            let text = format!("unable to get agent info: {}", error.message);
            PluginError::new(Kind::NodeAttestor, plugin, error.code, text)
        })?;
        if attested { Err(already_attested(plugin, id)) } else { Ok(()) }
    }
}

/// What an agent is told whose evidence counts once and has counted; the log says it, too.
pub fn already_attested(plugin: &str, id: &SpiffeId) -> PluginError {
    tracing::error!(
        subsystem_name = "catalog",
        plugin_name = plugin,
        plugin_type = Kind::NodeAttestor.name(),
        spiffe_id = %id,
        "Attestation data has already been used to attest an agent"
    );
    let text = "attestation data has already been used to attest an agent";
    PluginError::new(Kind::NodeAttestor, plugin, Code::PermissionDenied, text)
}

fn too_early(service: &str) -> PluginError {
    let message = format!("{service} host service has not been initialized");
    PluginError { code: Code::FailedPrecondition, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_plugin_that_asks_too_early_is_told_so() {
        let services = HostServices::new();
        let error = services.x509_identity().await.err().unwrap();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert_eq!(error.message, "IdentityProvider host service has not been initialized");
        let error = services.is_attested("spiffe://example.org/a").await.err().unwrap();
        assert_eq!(error.message, "AgentStore host service has not been initialized");
    }

    struct Knows(&'static str);

    #[async_trait]
    impl AgentLookup for Knows {
        async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
            match id.ends_with("/broken") {
                true => Err(PluginError { code: Code::Internal, message: "ohno".to_owned() }),
                false => Ok(id == self.0),
            }
        }
    }

    #[tokio::test]
    async fn evidence_that_counts_once_is_refused_in_upstreams_words() {
        let services = HostServices::new();
        services.provide_agents(Arc::new(Knows("spiffe://example.org/spire/agent/x/old")));
        let refusal = async |name: &str| {
            let id = SpiffeId::parse(&format!("spiffe://example.org/spire/agent/x/{name}"));
            services.refuse_attested("x", &id.unwrap()).await.err()
        };
        assert_eq!(refusal("new").await, None);
        let refused = refusal("old").await.unwrap();
        assert_eq!(refused.code, Code::PermissionDenied);
        let text = "attestation data has already been used to attest an agent";
        assert_eq!(refused.message, format!("nodeattestor(x): {text}"));
        let broken = refusal("broken").await.unwrap();
        assert_eq!(broken.code, Code::Internal);
        assert_eq!(broken.message, "nodeattestor(x): unable to get agent info: ohno");
    }
}
