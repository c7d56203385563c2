//! Federation: the bundle endpoint and the followers, as the configuration has them.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use steeple_config::{
    AcmeConfig, BundleEndpointConfig, EndpointProfileConfig, FederatesWithProfile,
    FederationConfig, ServerConfig,
};
use steeple_federation::endpoint::{Endpoint, OwnBundle};
use steeple_federation::{
    BundleEndpointProfile, HttpsFetch, Manager, ManagerConfig, Refresher, Relationship,
    Relationships, StoreKeep,
};
use steeple_net::tls::IdentitySlot;
use steeple_pki::Bundle;
use steeple_plugin::KeyManager;
use steeple_runtime::{Clock, Tasks, VERSION, Watcher, duration};
use steeple_server_core::bundles::Bundles;
use steeple_store::Store;
use steeple_web::acme::AcmeOptions;
use steeple_web::{CertFiles, CertSource, ClientAuth, Listener, Tls, TlsOptions};

use crate::error::ServerError;

/// The folder of the ACME cache within the data directory (SF-15).
const ACME_CACHE: &str = "bundle-acme";

/// Who follows other trust domains' bundles, still to be run, and what it is told through.
pub(crate) fn manager(
    config: &ServerConfig,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
) -> (Manager, Refresher) {
    Manager::new(ManagerConfig {
        trust_domain: config.trust_domain.clone(),
        configured: relationships(&config.federation),
        keep: Arc::new(StoreKeep(store)),
        fetch: Arc::new(HttpsFetch::new()),
        clock,
        tasks,
    })
}

fn relationships(config: &FederationConfig) -> Relationships {
    let relationships = config.federates_with.iter().map(|(of, peer)| {
        let profile = match &peer.profile {
            FederatesWithProfile::HttpsWeb => BundleEndpointProfile::HttpsWeb,
            FederatesWithProfile::HttpsSpiffe(id) => BundleEndpointProfile::HttpsSpiffe(id.clone()),
        };
        (of.clone(), Relationship { url: peer.bundle_endpoint_url.clone(), profile })
    });
    relationships.collect()
}

/// What the bundle endpoint stands on.
pub(crate) struct EndpointParts {
    pub(crate) bundles: Bundles,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) identity: IdentitySlot,
    pub(crate) key_manager: Arc<dyn KeyManager>,
}

/// A bundle endpoint that is bound, and not served yet.
pub(crate) struct BoundEndpoint {
    endpoint: Endpoint,
    listener: Listener,
    tls: Tls,
}

impl BoundEndpoint {
    /// Binds the endpoint that `config` asks for, if it does.
    pub(crate) async fn bind(
        config: &ServerConfig,
        parts: EndpointParts,
        tasks: &Tasks,
        drain: &Watcher,
    ) -> Result<Option<Self>, ServerError> {
        let Some(endpoint) = &config.federation.bundle_endpoint else { return Ok(None) };
        let source = certificate(config, endpoint, &parts);
        let require_pq_kem = config.experimental.require_pq_kem;
        // As in SPIRE, lines about certificate files name none.
        let subsystem = matches!(source, CertSource::Acme(_)).then_some("bundle_acme");
        let options = TlsOptions { source, clients: ClientAuth::None, require_pq_kem, subsystem };
        let tls = Tls::new(options, tasks, drain).await.map_err(ServerError::BundleEndpointTls)?;
        let configured = address(endpoint);
        let listener = Listener::tcp(&configured);
        let listener = listener.await.map_err(ServerError::BundleEndpoint)?;
        let bound = listener.local_addr();
        tracing::info!(
            subsystem_name = "endpoints",
            addr = bound.map_or_else(|| address(endpoint), |it| it.to_string()),
            refresh_hint = duration::format_go(endpoint.refresh_hint),
            "Serving bundle endpoint"
        );
        let own = Own { bundles: parts.bundles, clock: parts.clock };
        let endpoint = Endpoint::new(Arc::new(own), endpoint.refresh_hint);
        Ok(Some(Self { endpoint, listener, tls }))
    }

    /// Serves until drained.
    pub(crate) async fn serve(self, drain: Watcher) {
        self.endpoint.serve(self.listener, self.tls, drain).await;
    }
}

/// As Go writes it; without a host, all addresses.
fn address(endpoint: &BundleEndpointConfig) -> String {
    let port = endpoint.port;
    match endpoint.address {
        Some(address) => std::net::SocketAddr::new(address, port).to_string(),
        None => format!(":{port}"),
    }
}

fn certificate(
    config: &ServerConfig,
    endpoint: &BundleEndpointConfig,
    parts: &EndpointParts,
) -> CertSource {
    match &endpoint.profile {
        EndpointProfileConfig::HttpsSpiffe => CertSource::Slot(parts.identity.clone()),
        EndpointProfileConfig::ServingCertFile { cert, key, sync_interval } => {
            let sync_interval = Some(*sync_interval);
            CertSource::Files(CertFiles { cert: cert.clone(), key: key.clone(), sync_interval })
        }
        EndpointProfileConfig::Acme(options) => {
            CertSource::Acme(acme(options, &config.data_dir, Arc::clone(&parts.key_manager)))
        }
    }
}

fn acme(config: &AcmeConfig, data_dir: &Path, key_manager: Arc<dyn KeyManager>) -> AcmeOptions {
    AcmeOptions {
        directory_url: config.directory_url.clone().unwrap_or_default(),
        domains: vec![config.domain_name.clone()],
        email: config.email.clone(),
        tos_accepted: config.tos_accepted,
        cache_dir: Some(data_dir.join(ACME_CACHE)),
        key_manager: Some(key_manager),
        user_agent: format!("SPIRE-{VERSION}"),
        on_terms: None,
    }
}

/// Our own bundle, as the use cases know it.
struct Own {
    bundles: Bundles,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl OwnBundle for Own {
    async fn own(&self) -> Result<Arc<Bundle>, Box<dyn Error + Send + Sync>> {
        Ok(self.bundles.own(self.clock.now()).await?)
    }
}
