//! The plugins that the configuration asks for, and what the server offers them.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use steeple_config::{AttestationPolicy, AttestationRule, ServerConfig};
use steeple_ops::keys;
use steeple_plugin::{
    AgentLookup, BundlePublisher, Code, CredentialComposer, HostContext, HostServices,
    IdentitySource, KeyManager, NodeAttestor, Notifier, PluginError, UpstreamAuthority,
    X509Identity,
};
use steeple_plugin_host::Side;
use steeple_plugin_host::catalog::{self, Loaded, Running};
use steeple_plugins::catalog::Made;
use steeple_runtime::{Watcher, signal};
use steeple_server_core::ServerSvid;
use steeple_server_core::admission::{AdmissionPolicy, AdmissionRule, SelectorPattern};
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_store::Store;
use tokio::sync::{Mutex, watch};

use crate::error::ServerError;

/// The plugins that were loaded, each kind in the order of configuration.
pub(crate) struct LoadedPlugins {
    /// Keeps the keys of the CA and of the server.
    pub(crate) key_manager: Arc<dyn KeyManager>,
    /// All but `join_token`, which is part of the API.
    pub(crate) node_attestors: Vec<Arc<dyn NodeAttestor>>,
    /// Attestors whose evidence counts only as a part of a composite's.
    pub(crate) only_as_part: BTreeSet<String>,
    /// Signs the CA; without one it signs itself.
    pub(crate) upstream_authority: Option<Arc<dyn UpstreamAuthority>>,
    /// Have a say in what goes into credentials.
    pub(crate) composers: Vec<Arc<dyn CredentialComposer>>,
    /// Are told of the bundle.
    pub(crate) notifiers: Vec<Arc<dyn Notifier>>,
    /// Publish the bundle.
    pub(crate) publishers: Vec<Arc<dyn BundlePublisher>>,
    /// What plugins may ask back.
    pub(crate) services: HostServices,
    /// The ones that are programs, and the ones that can be configured anew.
    pub(crate) running: RunningPlugins,
}

impl LoadedPlugins {
    /// Loads what the configuration asks for; the first that cannot be loaded is the failure.
    pub(crate) async fn load(config: &ServerConfig) -> Result<Self, ServerError> {
        let services = HostServices::new();
        let host = HostContext::new(config.trust_domain.clone()).with_services(services.clone());
        let loaded = catalog::load(Side::Server, &config.plugins, &host, &services).await;
        let (loaded, running) = loaded.map_err(|error| ServerError::Plugins(error.to_string()))?;
        let running = RunningPlugins(Arc::new(Mutex::new(running)));
        let composite = loaded.iter().find_map(|plugin| match &plugin.made {
            Made::Composite(settings) => Some(settings.clone()),
            _ => None,
        });
        let mut plugins = Self::sort(loaded, services, running);
        if let Some(settings) = composite {
            let bound = settings.bind_server(&plugins.node_attestors, &host);
            match bound {
                Ok(it) => plugins.node_attestors.push(it),
                Err(error) => {
                    plugins.running.close().await;
                    return Err(ServerError::Plugins(error.to_string()));
                }
            }
            plugins.only_as_part = settings.only_as_part().cloned().collect();
        }
        Ok(plugins)
    }

    fn sort(loaded: Vec<Loaded>, services: HostServices, running: RunningPlugins) -> Self {
        let mut key_manager = None;
        let mut upstream_authority = None;
        let mut node_attestors = Vec::new();
        let mut composers = Vec::new();
        let mut notifiers = Vec::new();
        let mut publishers = Vec::new();
        for plugin in loaded {
            match plugin.made {
                Made::KeyManager(it) => key_manager = Some(it),
                Made::UpstreamAuthority(it) => upstream_authority = Some(it),
                Made::NodeAttestor(it) => node_attestors.push(it),
                Made::CredentialComposer(it) => composers.push(it),
                Made::Notifier(it) => notifiers.push(it),
                Made::BundlePublisher(it) => publishers.push(it),
                // The agent's kinds are none of the server's types, and `join_token` needs none.
                _ => {}
            }
        }
        Self {
            key_manager: keys::of_server(
                key_manager.expect("the catalog loads exactly one key manager"),
            ),
            node_attestors,
            only_as_part: BTreeSet::new(),
            upstream_authority,
            composers,
            notifiers,
            publishers,
            services,
            running,
        }
    }
}

/// The attestation policy, as the use cases take it.
pub(crate) fn admission_policy(config: &AttestationPolicy) -> AdmissionPolicy {
    let patterns = |texts: &[String]| texts.iter().map(SelectorPattern::new).collect();
    let rule = |rule: &AttestationRule| AdmissionRule {
        name: rule.name.clone(),
        attestors: rule.attestors.clone(),
        all: patterns(&rule.all),
        any: patterns(&rule.any),
        none: patterns(&rule.none),
    };
    AdmissionPolicy {
        rules: config.rules.iter().map(rule).collect(),
        refuses_others: config.refuses_others,
    }
}

/// The plugins that are programs, and the ones that can be configured anew.
#[derive(Clone)]
pub(crate) struct RunningPlugins(Arc<Mutex<Running>>);

impl RunningPlugins {
    /// Configures plugins anew whose file has changed, whenever the signal comes.
    pub(crate) async fn reconfigure(self, mut signals: signal::Received, mut drain: Watcher) {
        loop {
            tokio::select! {
                () = drain.signalled() => return,
                () = signals.recv() => {}
            }
            tracing::info!(subsystem_name = "reconfigurer", "Reconfigure signal received");
            tokio::select! {
                () = drain.signalled() => return,
                () = async { self.0.lock().await.reconfigure().await } => {}
            }
        }
    }

    /// Ends the plugins that are programs.
    pub(crate) async fn close(&self) {
        tracing::debug!(subsystem_name = "catalog", "Closing catalog");
        self.0.lock().await.close().await;
        tracing::info!(subsystem_name = "catalog", "Catalog closed");
    }
}

/// What the plugins have to remark about their settings, by plugin; nothing is touched.
pub(crate) async fn validate(
    config: &ServerConfig,
) -> Result<Vec<(String, Vec<String>)>, catalog::CatalogError> {
    let host = HostContext::new(config.trust_domain.clone());
    catalog::validate(Side::Server, &config.plugins, &host).await
}

/// Tells plugins who has attested.
pub(crate) struct AttestedAgents(pub(crate) Arc<dyn Store>);

#[async_trait]
impl AgentLookup for AttestedAgents {
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
        // What is no SPIFFE ID has not attested.
        let Ok(id) = SpiffeId::parse(id) else { return Ok(false) };
        let node = self.0.fetch_node(&id).await.map_err(|error| internal(&error))?;
        Ok(node.is_some())
    }
}

/// Gives plugins the server's own identity.
pub(crate) struct ServerIdentity {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) svid: watch::Receiver<ServerSvid>,
    pub(crate) store: Arc<dyn Store>,
}

#[async_trait]
impl IdentitySource for ServerIdentity {
    async fn x509_identity(&self) -> Result<X509Identity, PluginError> {
        let bundle = self.store.fetch_bundle(&self.trust_domain).await;
        let bundle = bundle.map_err(|error| internal(&error))?.ok_or_else(|| PluginError {
            code: Code::NotFound,
            message: "the trust domain has no bundle".to_owned(),
        })?;
        let svid = self.svid.borrow().clone();
        Ok(X509Identity { chain: svid.chain, key: svid.key, bundle })
    }
}

fn internal(error: &dyn std::error::Error) -> PluginError {
    PluginError { code: Code::Internal, message: error.to_string() }
}
