//! The plugins that the configuration asks for.

use std::sync::Arc;

use steeple_config::{PluginConfig, PluginData, ServerConfig};
use steeple_hcl::Block;
use steeple_plugin::{HostContext, KeyManager, Kind, PluginError};
use steeple_plugins::catalog::{self, Side};

use crate::error::ServerError;

/// Makes the one key manager; other kinds are checked. The first that cannot be made is the
/// failure. (The join token attestor is part of the API and needs no making.)
pub(crate) fn key_manager(config: &ServerConfig) -> Result<Arc<dyn KeyManager>, ServerError> {
    let host = HostContext::new(config.trust_domain.clone());
    let mut key_managers = Vec::new();
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
        if kind == Kind::KeyManager {
            let made = catalog::key_manager(Side::Server, &plugin.name, data.as_ref(), &host);
            key_managers.push(loaded(plugin, made)?);
        } else {
            let checked = catalog::validate(Side::Server, kind, &plugin.name, data.as_ref());
            loaded(plugin, checked)?;
        }
    }
    match (key_managers.pop(), key_managers.len()) {
        (Some(only), 0) => Ok(only),
        (found, more) => {
            let count = more + usize::from(found.is_some());
            Err(ServerError::Plugins(format!(
                "plugin type \"KeyManager\" constraint not satisfied: expected exactly 1 but got \
                 {count}"
            )))
        }
    }
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
