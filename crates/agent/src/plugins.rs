//! The plugins that the configuration asks for.

use std::path::PathBuf;
use std::sync::Arc;

use steeple_config::AgentConfig;
use steeple_plugin::{
    HostContext, HostServices, KeyManager, NodeEvidence, PluginError, SvidStore, WorkloadAttestor,
};
use steeple_plugin_host::Side;
use steeple_plugin_host::catalog::{self, Loaded, Running};
use steeple_plugins::catalog::Made;
use steeple_plugins::node_attestor::join_token::JoinToken;
use steeple_runtime::{Watcher, signal};
use tokio::sync::Mutex;
use tracing::{debug, info};

use crate::error::AgentError;

/// One key manager, one node attestor, at least one workload attestor.
pub(crate) struct Plugins {
    pub(crate) key_manager: Arc<dyn KeyManager>,
    pub(crate) key_manager_name: String,
    pub(crate) node_evidence: Arc<dyn NodeEvidence>,
    pub(crate) workload_attestors: Vec<Arc<dyn WorkloadAttestor>>,
    /// Where the SVIDs of entries go that are stored.
    pub(crate) svid_stores: Vec<Arc<dyn SvidStore>>,
}

impl Plugins {
    /// Loads them; the first that cannot be loaded is the failure.
    pub(crate) async fn load(config: &AgentConfig) -> Result<(Self, RunningPlugins), AgentError> {
        let host = HostContext::new(config.trust_domain.clone())
            .with_proc_root(std::env::var_os("HOST_PROC").map(PathBuf::from));
        let services = HostServices::new();
        let loaded = catalog::load(Side::Agent, &config.plugins, &host, &services).await;
        let (loaded, running) = loaded.map_err(|error| AgentError::Plugins(error.to_string()))?;
        let running = RunningPlugins(Arc::new(Mutex::new(running)));
        match Self::sort(loaded, config) {
            Ok(plugins) => Ok((plugins, running)),
            Err(error) => {
                running.close().await;
                Err(AgentError::Plugins(error.to_string()))
            }
        }
    }

    fn sort(loaded: Vec<Loaded>, config: &AgentConfig) -> Result<Self, PluginError> {
        let mut key_manager = None;
        let mut node_evidence = Vec::new();
        let mut composite = None;
        let mut workload_attestors = Vec::new();
        let mut svid_stores = Vec::new();
        for plugin in loaded {
            match plugin.made {
                Made::KeyManager(it) => key_manager = Some((plugin.name, it)),
                Made::NodeEvidence(it) => node_evidence.push(it),
                Made::Composite(it) => composite = Some(it),
                Made::WorkloadAttestor(it) => workload_attestors.push(it),
                Made::SvidStore(it) => svid_stores.push(it),
                // The server's kinds are none of the agent's types.
                _ => {}
            }
        }
        let (key_manager_name, key_manager) =
            key_manager.expect("the catalog loads exactly one key manager");
        let key_manager = steeple_ops::keys::of_agent(key_manager);
        // Looked at even where a join token takes its place: what is wrong with it is wrong.
        let configured = match composite {
            Some(composite) => Some(composite.bind_agent(&node_evidence)?),
            None => node_evidence.pop(),
        };
        let node_evidence =
            join_token(config).or(configured).expect("the catalog loads exactly one node attestor");
        Ok(Self { key_manager, key_manager_name, node_evidence, workload_attestors, svid_stores })
    }
}

/// A join token is the evidence, whatever node attestor is configured.
fn join_token(config: &AgentConfig) -> Option<Arc<dyn NodeEvidence>> {
    let token = config.join_token.clone()?;
    Some(Arc::new(JoinToken::new(token).remembered_in(&config.data_dir)))
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
            info!(subsystem_name = "reconfigurer", "Reconfigure signal received");
            tokio::select! {
                () = drain.signalled() => return,
                () = async { self.0.lock().await.reconfigure().await } => {}
            }
        }
    }

    /// Ends the plugins that are programs.
    pub(crate) async fn close(&self) {
        debug!(subsystem_name = "catalog", "Closing catalog");
        self.0.lock().await.close().await;
        info!(subsystem_name = "catalog", "Catalog closed");
    }
}
