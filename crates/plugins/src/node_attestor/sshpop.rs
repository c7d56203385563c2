//! `sshpop`: a machine by the certificate of its SSH host key, and by possession of that key
//! (PS-10, PA-05, TG-31).

mod agent;
mod config;
mod payload;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError};

/// The plugin's name in configuration.
pub const NAME: &str = "sshpop";

/// Examines the agent's settings and the files that they name.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::agent(data).and_then(|config| agent::Credentials::read(&config)).map(|_| Vec::new())
}

/// The agent's half: a host key and its certificate.
///
/// # Errors
/// When the settings are wrong, or the files hold no certificate with its key.
pub fn agent(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    Ok(Arc::new(agent::Agent::new(config::agent(data)?)?))
}

/// Examines the server's settings and the file that they may name.
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
    let data =
        payload::certificate(bytes).is_ok_and(|it| steeple_pki::ssh::Blob::parse(&it).is_ok());
    let response = payload::Response::parse(bytes).is_ok();
    data || response
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}
