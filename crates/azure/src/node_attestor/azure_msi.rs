//! `azure_msi`: a machine proves what it is by a token of its managed identity. See the README.

mod agent;
mod config;
pub mod payload;
mod resolve;
mod server;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{
    Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError, settings::decode_leniently,
};

use crate::credential::process_environment;
use crate::web::Network;

/// The plugin's name in configuration.
pub const NAME: &str = "azure_msi";

/// The audience of a token that is for nobody else in particular: Azure's API.
const DEFAULT_RESOURCE_ID: &str = "https://management.azure.com/";

/// Examines the agent's settings.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    agent::Settings::read(data).map(|_| Vec::new())
}

/// Makes the agent's half.
///
/// # Errors
/// When its settings are wrong.
pub fn agent(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    Ok(Arc::new(agent::Agent::new(agent::Settings::read(data)?, Arc::new(Network))))
}

/// Examines the server's settings.
///
/// # Errors
/// When they are wrong.
pub fn check_server(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::Config::read(data, &process_environment).map(|_| Vec::new())
}

/// Makes the server's half.
///
/// # Errors
/// When its settings are wrong.
pub fn server(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn NodeAttestor>, PluginError> {
    let config = config::Config::read(data, &process_environment)?;
    Ok(Arc::new(server::Server::new(config, host, Arc::new(Network))))
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}

fn settings<T: serde::de::DeserializeOwned + Default>(
    data: Option<&Block>,
) -> Result<T, PluginError> {
    decode_leniently(Kind::NodeAttestor, NAME, data, "unable to decode configuration")
}

#[cfg(test)]
mod tests;
