//! What a plugin may ask of its host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steeple_net::channel::{self, Channel};
use steeple_plugin::{Code, PluginError};
use steeple_proto::spire::hostservice::common::metrics::v1 as metrics;
use steeple_proto::spire::hostservice::server::agentstore::v1 as agents;
use steeple_proto::spire::hostservice::server::identityprovider::v1 as identity;
use tokio::sync::watch;
use tonic::Status;

/// How long the host may take to say where its services are.
const PATIENCE: Duration = Duration::from_secs(10);

/// The host's services. The host says where they are after the plugin is started; until then,
/// calls wait for that.
#[derive(Clone)]
pub struct HostClient(Arc<watch::Sender<Option<PathBuf>>>);

impl HostClient {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    pub(crate) fn set(&self, path: PathBuf) {
        self.0.send_replace(Some(path));
    }

    async fn channel(&self) -> Result<Channel, PluginError> {
        let mut path = self.0.subscribe();
        let known = tokio::time::timeout(PATIENCE, path.wait_for(Option::is_some)).await;
        match known {
            Ok(Ok(path)) => path.as_deref().map(channel::unix).ok_or_else(no_host),
            _ => Err(no_host()),
        }
    }

    /// The server's own identity and the bundle of its trust domain, as DER: chain, key (PKCS#8)
    /// and authorities.
    ///
    /// # Errors
    /// The host's; agents have no such service.
    pub async fn x509_identity(&self) -> Result<identity::FetchX509IdentityResponse, PluginError> {
        let mut client =
            identity::identity_provider_client::IdentityProviderClient::new(self.channel().await?);
        let answer = client.fetch_x509_identity(identity::FetchX509IdentityRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| failed(&status))
    }

    /// Whether the agent with this SPIFFE ID has attested before.
    ///
    /// # Errors
    /// The host's; agents have no such service.
    pub async fn is_attested(&self, agent_id: &str) -> Result<bool, PluginError> {
        let mut client = agents::agent_store_client::AgentStoreClient::new(self.channel().await?);
        let request = agents::GetAgentInfoRequest { agent_id: agent_id.to_owned() };
        match client.get_agent_info(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(false),
            Err(status) => Err(failed(&status)),
        }
    }

    /// Adds to a counter among the host's metrics.
    ///
    /// # Errors
    /// The host's.
    pub async fn count(
        &self,
        key: &[&str],
        value: f32,
        labels: &[(&str, &str)],
    ) -> Result<(), PluginError> {
        let mut client = metrics::metrics_client::MetricsClient::new(self.channel().await?);
        let request = metrics::IncrCounterRequest {
            key: key.iter().map(|part| (*part).to_owned()).collect(),
            val: value,
            labels: labels
                .iter()
                .map(|(name, value)| metrics::Label {
                    name: (*name).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
        };
        client.incr_counter(request).await.map(|_| ()).map_err(|status| failed(&status))
    }
}

fn no_host() -> PluginError {
    PluginError {
        code: Code::Unavailable,
        message: "the host has not said where its services are".to_owned(),
    }
}

fn failed(status: &Status) -> PluginError {
    PluginError {
        code: Code::from_number(status.code().into()),
        message: status.message().to_owned(),
    }
}
