//! `tpm_devid`: a node whose TPM holds the key of a device identity (LDevID) certificate (PS-13,
//! PA-08, TG-37).

mod agent;
mod config;
mod conversation;
mod payload;
mod residency;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError};

/// The plugin's name in configuration.
pub const NAME: &str = "tpm_devid";

/// Examines the agent's settings; the files that they name are not looked at.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::agent_keys(data).map(|_| Vec::new())
}

/// The agent's half: the TPM, and the device identity's files.
///
/// # Errors
/// When the settings are wrong, a file cannot be read, or no TPM is found where none is named.
pub fn agent(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    Ok(Arc::new(agent::Agent::new(config::agent(data)?)))
}

/// Examines the server's settings, and the certificates that they name, as SPIRE does.
///
/// # Errors
/// When they are wrong.
pub fn check_server(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::server(data).map(|_| Vec::new())
}

/// The server's half.
///
/// # Errors
/// When the settings are wrong, or the certificates that they name cannot be used.
pub fn server(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn NodeAttestor>, PluginError> {
    Ok(Arc::new(server::Server::new(config::server(data)?, host)))
}

/// What the parsers make of a stranger's bytes; for fuzzing.
#[doc(hidden)]
pub fn parse_payload(bytes: &[u8]) -> bool {
    let request = payload::Request::parse(bytes).is_ok();
    let challenge = payload::Challenge::parse(bytes).is_ok();
    request || challenge || payload::Response::parse(bytes).is_ok()
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}
