//! `x509pop`: a machine by a certificate of the PKI that it has already, and by possession of the
//! certificate's key (PS-09, PA-04, TG-28 to TG-30).

mod agent;
mod config;
mod payload;
mod san;
mod server;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod work;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError};

/// The plugin's name in configuration.
pub const NAME: &str = "x509pop";

/// Examines the agent's settings; the files that they name are not looked at.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::agent(data).map(|_| Vec::new())
}

/// The agent's half: a certificate and its key, in files or from a Workload API.
///
/// # Errors
/// When the settings are wrong, or the files hold no certificate with its key.
pub fn agent(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    Ok(Arc::new(agent::Agent::new(config::agent(data)?)?))
}

/// Examines the server's settings and the files that they name.
///
/// # Errors
/// When they are wrong.
pub fn check_server(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::server(data).map(|_| Vec::new())
}

/// The server's half.
///
/// # Errors
/// When the settings are wrong.
pub fn server(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn NodeAttestor>, PluginError> {
    Ok(Arc::new(server::Server::new(config::server(data)?, host)))
}

/// What the parsers of an agent's two messages make of a stranger's bytes; for fuzzing.
#[doc(hidden)]
pub fn parse_messages(bytes: &[u8]) -> bool {
    let payload = payload::certificates(bytes, 4).is_ok();
    let response = payload::Response::parse(bytes).is_ok();
    payload || response
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}
