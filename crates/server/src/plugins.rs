//! The plugins that the configuration asks for.

use std::sync::Arc;

use steeple_config::{PluginConfig, PluginData, ServerConfig};
use steeple_hcl::Block;
use steeple_plugin::{
    BundlePublisher, CredentialComposer, HostContext, KeyManager, Kind, NodeAttestor, Notifier,
    PluginError, UpstreamAuthority,
};
use steeple_plugins::catalog::{self, Made, Side};

use crate::error::ServerError;

/// The plugins that were loaded, each kind in the order of configuration.
pub(crate) struct LoadedPlugins {
    /// Keeps the keys of the CA and of the server.
    pub(crate) key_manager: Arc<dyn KeyManager>,
    /// All but `join_token`, which is part of the API.
    pub(crate) node_attestors: Vec<Arc<dyn NodeAttestor>>,
    /// Signs the CA; without one it signs itself.
    pub(crate) upstream_authority: Option<Arc<dyn UpstreamAuthority>>,
    /// Have a say in what goes into credentials.
    pub(crate) composers: Vec<Arc<dyn CredentialComposer>>,
    /// Are told of the bundle.
    pub(crate) notifiers: Vec<Arc<dyn Notifier>>,
    /// Publish the bundle.
    pub(crate) publishers: Vec<Arc<dyn BundlePublisher>>,
}

impl LoadedPlugins {
    /// Loads what the configuration asks for; the first that cannot be loaded is the failure.
    pub(crate) async fn load(config: &ServerConfig) -> Result<Self, ServerError> {
        let host = HostContext::new(config.trust_domain.clone());
        let mut made = Vec::new();
        for plugin in &config.plugins {
            if !plugin.enabled {
                tracing::info!(
                    subsystem_name = "catalog",
                    plugin_name = plugin.name,
                    plugin_type = plugin.kind,
                    "Not loading plugin; disabled"
                );
                continue;
            }
            let kind = plugin.kind.parse::<Kind>().map_err(|error| failed(plugin, &error))?;
            let data = settings(plugin)?;
            let plugin_made = catalog::make(Side::Server, kind, &plugin.name, data.as_ref(), &host);
            made.push(loaded(plugin, plugin_made)?);
        }
        Self::sort(made)
    }

    fn sort(made: Vec<Made>) -> Result<Self, ServerError> {
        let mut key_managers = Vec::new();
        let mut upstream = Vec::new();
        let mut node_attestors = Vec::new();
        let mut composers = Vec::new();
        let mut notifiers = Vec::new();
        let mut publishers = Vec::new();
        for made in made {
            match made {
                Made::KeyManager(it) => key_managers.push(it),
                Made::UpstreamAuthority(it) => upstream.push(it),
                Made::NodeAttestor(it) => node_attestors.push(it),
                Made::CredentialComposer(it) => composers.push(it),
                Made::Notifier(it) => notifiers.push(it),
                Made::BundlePublisher(it) => publishers.push(it),
                // The agent's kinds are none of the server's types, and `join_token` needs none.
                _ => {}
            }
        }
        let count = key_managers.len();
        let key_manager = match (key_managers.pop(), count) {
            (Some(only), 1) => only,
            _ => return Err(constraint(Kind::KeyManager, "exactly 1", count)),
        };
        if upstream.len() > 1 {
            return Err(constraint(Kind::UpstreamAuthority, "at most 1", upstream.len()));
        }
        let upstream_authority = upstream.pop();
        Ok(Self {
            key_manager,
            node_attestors,
            upstream_authority,
            composers,
            notifiers,
            publishers,
        })
    }
}

fn constraint(kind: Kind, expected: &str, count: usize) -> ServerError {
    ServerError::Plugins(format!(
        "plugin type \"{kind}\" constraint not satisfied: expected {expected} but got {count}"
    ))
}

/// What the plugins have to remark about their settings, by plugin; nothing is touched.
pub(crate) fn validate(config: &ServerConfig) -> Vec<(String, Vec<String>)> {
    let mut remarks = Vec::new();
    for plugin in config.plugins.iter().filter(|plugin| plugin.enabled) {
        let found = match check(plugin) {
            Ok(found) => found,
            Err(error) => vec![error.to_string()],
        };
        if !found.is_empty() {
            remarks.push((format!("{} {:?}", plugin.kind, plugin.name), found));
        }
    }
    remarks
}

fn check(plugin: &PluginConfig) -> Result<Vec<String>, ServerError> {
    let kind = plugin.kind.parse::<Kind>().map_err(|error| failed(plugin, &error))?;
    let data = settings(plugin)?;
    catalog::validate(Side::Server, kind, &plugin.name, data.as_ref())
        .map_err(|error| ServerError::Plugins(error.to_string()))
}

fn settings(plugin: &PluginConfig) -> Result<Option<Block>, ServerError> {
    match &plugin.data {
        PluginData::None => Ok(None),
        PluginData::Inline(block) => Ok(Some(block.clone())),
        PluginData::File(path) => {
            let text = plugin.data.text().map_err(|error| {
                let path = path.display();
                ServerError::Plugins(format!("failed to load plugin data from {path}: {error}"))
            })?;
            let block = steeple_hcl::parse(text.as_bytes()).map_err(|error| {
                ServerError::Plugins(format!("failed to load plugin data: {error}"))
            })?;
            Ok(Some(block))
        }
    }
}

fn loaded<T>(plugin: &PluginConfig, made: Result<T, PluginError>) -> Result<T, ServerError> {
    let made = made.map_err(|error| {
        tracing::error!(
            subsystem_name = "catalog",
            plugin_name = plugin.name,
            plugin_type = plugin.kind,
            external = false,
            %error,
            "Failed to configure plugin"
        );
        failed(plugin, &error)
    })?;
    tracing::info!(
        subsystem_name = "catalog",
        plugin_name = plugin.name,
        plugin_type = plugin.kind,
        external = false,
        "Plugin loaded"
    );
    Ok(made)
}

fn failed(plugin: &PluginConfig, error: &dyn std::error::Error) -> ServerError {
    ServerError::Plugins(format!("failed to configure plugin {:?}: {error}", plugin.name))
}
