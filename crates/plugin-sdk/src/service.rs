//! What a plugin consists of: the service of its kind, and what it wants beside it.

use std::sync::Arc;

use async_trait::async_trait;
use steeple_net::serve::Router;
use steeple_plugin::{
    BundlePublisher, CredentialComposer, Kind, NodeAttestor, NodeEvidence, Notifier, PluginError,
    SvidStore, UpstreamAuthority, WorkloadAttestor,
};
use steeple_proto::spire::plugin::agent as agent_api;
use steeple_proto::spire::plugin::server as server_api;
use steeple_proto::spire::service::common::config::v1 as config;
use tonic::{Request, Response, Status};

use crate::adapt::key_manager::{self, DigestKeyManager};
use crate::adapt::{self, Adapted};
use crate::host::HostClient;
use crate::wire;

/// Takes the plugin's own configuration.
#[async_trait]
pub trait Configure: Send + Sync {
    /// Takes `hcl` as its configuration from now on; called at start, and again when the
    /// configuration changes.
    ///
    /// # Errors
    /// When it is of no use; the plugin goes on with what it had.
    async fn configure(&self, trust_domain: &str, hcl: &str) -> Result<(), PluginError>;

    /// Looks at a configuration without taking it; answers what there is to remark.
    ///
    /// # Errors
    /// When it is of no use.
    async fn validate(&self, trust_domain: &str, hcl: &str) -> Result<Vec<String>, PluginError> {
        let _ = (trust_domain, hcl);
        Ok(Vec::new())
    }
}

/// A plugin, ready to be served.
pub struct Service {
    pub(crate) kind: Kind,
    pub(crate) names: Vec<String>,
    pub(crate) router: Router,
    pub(crate) host: HostClient,
}

impl Service {
    /// A key manager of the server. Hosts hand over digests, never messages.
    #[must_use]
    pub fn server_key_manager(keys: Arc<dyn DigestKeyManager>) -> Self {
        let service = server_api::keymanager::v1::key_manager_server::KeyManagerServer::new(
            key_manager::Server(keys),
        );
        Self::of(Kind::KeyManager, "server", |router| router.add_service(service))
    }

    /// A key manager of the agent.
    #[must_use]
    pub fn agent_key_manager(keys: Arc<dyn DigestKeyManager>) -> Self {
        let service = agent_api::keymanager::v1::key_manager_server::KeyManagerServer::new(
            key_manager::Agent(keys),
        );
        Self::of(Kind::KeyManager, "agent", |router| router.add_service(service))
    }

    /// The server's half of a node attestor.
    #[must_use]
    pub fn node_attestor(judge: Arc<dyn NodeAttestor>) -> Self {
        let service = server_api::nodeattestor::v1::node_attestor_server::NodeAttestorServer::new(
            adapt::node_attestor::Judge(judge),
        );
        Self::of(Kind::NodeAttestor, "server", |router| router.add_service(service))
    }

    /// The agent's half of a node attestor.
    #[must_use]
    pub fn node_evidence(evidence: Arc<dyn NodeEvidence>) -> Self {
        let service = agent_api::nodeattestor::v1::node_attestor_server::NodeAttestorServer::new(
            adapt::node_attestor::Evidence(evidence),
        );
        Self::of(Kind::NodeAttestor, "agent", |router| router.add_service(service))
    }

    /// An upstream authority.
    #[must_use]
    pub fn upstream_authority(upstream: Arc<dyn UpstreamAuthority>) -> Self {
        let service =
            server_api::upstreamauthority::v1::upstream_authority_server::UpstreamAuthorityServer
            ::new(adapt::upstream_authority::Upstream(upstream));
        Self::of(Kind::UpstreamAuthority, "server", |router| router.add_service(service))
    }

    /// A credential composer.
    #[must_use]
    pub fn credential_composer(composer: Arc<dyn CredentialComposer>) -> Self {
        let service =
            server_api::credentialcomposer::v1::credential_composer_server
            ::CredentialComposerServer::new(Adapted(composer));
        Self::of(Kind::CredentialComposer, "server", |router| router.add_service(service))
    }

    /// A notifier.
    #[must_use]
    pub fn notifier(notifier: Arc<dyn Notifier>) -> Self {
        let service =
            server_api::notifier::v1::notifier_server::NotifierServer::new(Adapted(notifier));
        Self::of(Kind::Notifier, "server", |router| router.add_service(service))
    }

    /// A bundle publisher.
    #[must_use]
    pub fn bundle_publisher(publisher: Arc<dyn BundlePublisher>) -> Self {
        let service =
            server_api::bundlepublisher::v1::bundle_publisher_server::BundlePublisherServer::new(
                Adapted(publisher),
            );
        Self::of(Kind::BundlePublisher, "server", |router| router.add_service(service))
    }

    /// A workload attestor.
    #[must_use]
    pub fn workload_attestor(attestor: Arc<dyn WorkloadAttestor>) -> Self {
        let service =
            agent_api::workloadattestor::v1::workload_attestor_server::WorkloadAttestorServer::new(
                Adapted(attestor),
            );
        Self::of(Kind::WorkloadAttestor, "agent", |router| router.add_service(service))
    }

    /// An SVID store.
    #[must_use]
    pub fn svid_store(store: Arc<dyn SvidStore>) -> Self {
        let service =
            agent_api::svidstore::v1::svid_store_server::SvidStoreServer::new(Adapted(store));
        Self::of(Kind::SvidStore, "agent", |router| router.add_service(service))
    }

    /// The same with a configuration. A plugin without refuses to be configured.
    #[must_use]
    pub fn with_config(mut self, configure: Arc<dyn Configure>) -> Self {
        let service = config::config_server::ConfigServer::new(Configured(configure));
        self.router = self.router.add_service(service);
        self.names.push("spire.service.common.config.v1.Config".to_owned());
        self
    }

    /// What the plugin may ask of its host, once it is served.
    #[must_use]
    pub fn host(&self) -> HostClient {
        self.host.clone()
    }

    fn of(kind: Kind, side: &str, add: impl FnOnce(Router) -> Router) -> Self {
        let name = format!("spire.plugin.{side}.{}.v1.{}", kind.prefix(), kind.name());
        Self { kind, names: vec![name], router: add(Router::new()), host: HostClient::new() }
    }
}

struct Configured(Arc<dyn Configure>);

#[tonic::async_trait]
impl config::config_server::Config for Configured {
    async fn configure(
        &self,
        request: Request<config::ConfigureRequest>,
    ) -> Result<Response<config::ConfigureResponse>, Status> {
        let request = request.into_inner();
        let core = request.core_configuration.unwrap_or_default();
        let done = self.0.configure(&core.trust_domain, &request.hcl_configuration).await;
        done.map_err(|error| wire::status(&error))?;
        Ok(Response::new(config::ConfigureResponse {}))
    }

    async fn validate(
        &self,
        request: Request<config::ValidateRequest>,
    ) -> Result<Response<config::ValidateResponse>, Status> {
        let request = request.into_inner();
        let core = request.core_configuration.unwrap_or_default();
        let notes = self.0.validate(&core.trust_domain, &request.hcl_configuration).await;
        let notes = notes.map_err(|error| wire::status(&error))?;
        Ok(Response::new(config::ValidateResponse { valid: notes.is_empty(), notes }))
    }
}
