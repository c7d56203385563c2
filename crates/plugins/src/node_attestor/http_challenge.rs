//! `http_challenge`: an agent that answers HTTP at its host's name is on that host (PS-11, PA-06,
//! TG-32).

mod address;
mod agent;
mod config;
mod fetch;
mod pattern;
mod payload;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError};

/// The plugin's name in configuration.
pub const NAME: &str = "http_challenge";

/// Examines the agent's settings.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::agent(data).map(|_| Vec::new())
}

/// The agent's half: a web server for the time of an attestation.
///
/// # Errors
/// When the settings are wrong.
pub fn agent(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    Ok(Arc::new(agent::Agent::new(config::agent(data)?)))
}

/// Examines the server's settings.
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

/// What the parser of attestation data makes of a stranger's bytes; for fuzzing.
#[doc(hidden)]
pub fn parse_payload(bytes: &[u8]) -> bool {
    payload::AttestationData::parse(bytes).is_ok_and(|data| data.check().is_ok())
}

/// Whether an operator's pattern means something; for fuzzing.
#[doc(hidden)]
pub fn parse_pattern(pattern: &str) -> bool {
    pattern::compile(pattern).is_ok()
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}
