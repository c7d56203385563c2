//! `aws_iid`: an agent on an EC2 instance, by the identity document that AWS signs for it (PS-14,
//! PA-09, TG-34).

mod agent;
mod certificates;
mod clients;
mod config;
mod device;
mod membership;
mod payload;
mod selectors;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_net::https::Trust;
use steeple_plugin::{Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError};

use crate::environment::Environment;
use crate::session::World;

pub use payload::read as fuzz_payload;

/// The plugin's name in configuration.
pub const NAME: &str = "aws_iid";

/// Examines the agent's settings.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::agent(data).map(|_| Vec::new())
}

/// The agent's half: the document and its signatures, as the metadata service gives them.
///
/// # Errors
/// When the settings are wrong.
pub fn agent(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    let settings = config::agent(data)?;
    Ok(Arc::new(agent::Agent::new(settings.endpoint, Environment::process())))
}

/// Examines the server's settings.
///
/// # Errors
/// When they are wrong.
pub fn check_server(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::server(data, &Environment::process()).map(|_| Vec::new())
}

/// The server's half.
///
/// # Errors
/// When the settings are wrong.
pub fn server(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn NodeAttestor>, PluginError> {
    let environment = Environment::process();
    let settings = config::server(data, &environment)?;
    let trust = match environment.get("AWS_CA_BUNDLE") {
        Some(path) => Trust::Roots(config::ca_bundle(&path)?),
        None => Trust::System,
    };
    let world = World { environment, clock: Arc::clone(&host.clock), trust };
    Ok(Arc::new(server::Server::new(settings, world, host)))
}

fn error(code: Code, message: impl std::fmt::Display) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message.to_string())
}
