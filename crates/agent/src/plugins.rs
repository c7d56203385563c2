//! The plugins that the configuration asks for.

use std::path::PathBuf;
use std::sync::Arc;

use steeple_config::{AgentConfig, PluginConfig, PluginData};
use steeple_hcl::Block;
use steeple_plugin::{HostContext, KeyManager, Kind, NodeEvidence, PluginError, WorkloadAttestor};
use steeple_plugins::catalog::{self, Side};
use steeple_plugins::node_attestor::join_token::JoinToken;
use tracing::{error, info};

use crate::error::{AgentError, as_rpc};

/// One key manager, one node attestor, at least one workload attestor.
pub(crate) struct Plugins {
    pub(crate) key_manager: Arc<dyn KeyManager>,
    pub(crate) key_manager_name: String,
    pub(crate) node_evidence: Arc<dyn NodeEvidence>,
    pub(crate) workload_attestors: Vec<Arc<dyn WorkloadAttestor>>,
}

impl Plugins {
    /// Makes them; the first that cannot be made is the failure.
    pub(crate) fn load(config: &AgentConfig) -> Result<Self, AgentError> {
        let host = HostContext::new(config.trust_domain.clone())
            .with_proc_root(std::env::var_os("HOST_PROC").map(PathBuf::from));
        let mut key_managers = Vec::new();
        let mut node_attestors = Vec::new();
        let mut workload_attestors = Vec::new();
        for plugin in &config.plugins {
            if !plugin.enabled {
                info!(
                    subsystem_name = "catalog",
                    plugin_name = plugin.name,
                    plugin_type = plugin.kind,
                    "Not loading plugin; disabled"
                );
                continue;
            }
            let kind = plugin.kind.parse::<Kind>().map_err(|_| unsupported(plugin))?;
            let data = settings(plugin)?;
            match kind {
                Kind::KeyManager => {
                    let made =
                        catalog::key_manager(Side::Agent, &plugin.name, data.as_ref(), &host);
                    key_managers.push((plugin.name.clone(), loaded(plugin, made)?));
                }
                Kind::NodeAttestor => {
                    let made = catalog::node_evidence(&plugin.name, data.as_ref(), &host);
                    node_attestors.push(loaded(plugin, made)?);
                }
                Kind::WorkloadAttestor => {
                    let made = catalog::workload_attestor(&plugin.name, data.as_ref(), &host);
                    workload_attestors.push(loaded(plugin, made)?);
                }
                _ => return Err(unsupported(plugin)),
            }
        }
        let (key_manager_name, key_manager) = exactly_one(key_managers, Kind::KeyManager)?;
        let node_evidence = exactly_one(node_attestors, Kind::NodeAttestor)?;
        if workload_attestors.is_empty() {
            return Err(constraint(Kind::WorkloadAttestor, "expected at least 1 but got 0"));
        }
        let node_evidence = join_token(config).unwrap_or(node_evidence);
        Ok(Self { key_manager, key_manager_name, node_evidence, workload_attestors })
    }
}

/// A join token is the evidence, whatever node attestor is configured.
fn join_token(config: &AgentConfig) -> Option<Arc<dyn NodeEvidence>> {
    let token = config.join_token.clone()?;
    Some(Arc::new(JoinToken::new(token)))
}

fn settings(plugin: &PluginConfig) -> Result<Option<Block>, AgentError> {
    match &plugin.data {
        PluginData::None => Ok(None),
        PluginData::Inline(block) => Ok(Some(block.clone())),
        PluginData::File(path) => {
            let text = plugin.data.text().map_err(|source| AgentError::File {
                what: "failed to load plugin data from",
                path: path.clone(),
                source,
            })?;
            let parsed = steeple_hcl::parse(text.as_bytes()).map_err(|error| {
                AgentError::Plugins(format!("failed to load plugin data: {error}"))
            })?;
            Ok(Some(parsed))
        }
    }
}

fn loaded<T>(plugin: &PluginConfig, made: Result<T, PluginError>) -> Result<T, AgentError> {
    let (name, kind) = (plugin.name.as_str(), plugin.kind.as_str());
    match made {
        Ok(made) => {
            if !TAKES_NO_SETTINGS.contains(&name) {
                info!(
                    subsystem_name = "catalog",
                    plugin_name = name,
                    plugin_type = kind,
                    external = false,
                    reconfigurable = false,
                    "Configured plugin"
                );
            }
            info!(
                subsystem_name = "catalog",
                plugin_name = name,
                plugin_type = kind,
                external = false,
                "Plugin loaded"
            );
            Ok(made)
        }
        Err(error) => {
            let error = as_rpc(&error);
            error!(
                subsystem_name = "catalog",
                plugin_name = name,
                plugin_type = kind,
                external = false,
                error,
                "Failed to configure plugin"
            );
            Err(AgentError::Plugins(format!("failed to configure plugin {name:?}: {error}")))
        }
    }
}

fn exactly_one<T>(mut plugins: Vec<T>, kind: Kind) -> Result<T, AgentError> {
    match (plugins.pop(), plugins.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(constraint(kind, "expected exactly 1 but got 0")),
        (Some(_), more) => {
            Err(constraint(kind, &format!("expected exactly 1 but got {}", more + 1)))
        }
    }
}

fn constraint(kind: Kind, reason: &str) -> AgentError {
    AgentError::Plugins(format!("plugin type {:?} constraint not satisfied: {reason}", kind.name()))
}

fn unsupported(plugin: &PluginConfig) -> AgentError {
    AgentError::Plugins(format!("unsupported plugin type {:?}", plugin.kind))
}

/// Of these there is nothing to configure.
const TAKES_NO_SETTINGS: [&str; 2] = ["join_token", "memory"];
