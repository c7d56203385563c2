//! `k8s_psat`: an agent in a pod, by the projected token of its service account, which the API
//! server of its cluster reviews (PS-12, PA-07, TG-33).

mod agent;
mod config;
mod payload;
mod review;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError};

use crate::kube::Environment;

/// The plugin's name in configuration.
pub const NAME: &str = "k8s_psat";

/// Examines the agent's settings.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::agent(data).map(|_| Vec::new())
}

/// The agent's half: the token in a file.
///
/// # Errors
/// When the settings are wrong.
pub fn agent(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    Ok(Arc::new(agent::Agent::new(config::agent(data)?)))
}

/// Examines the server's settings; tells what is allowed and yet hardly meant.
///
/// # Errors
/// When they are wrong.
pub fn check_server(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::server(data).map(|config| config.notes())
}

/// The server's half.
///
/// # Errors
/// When the settings are wrong.
pub fn server(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn NodeAttestor>, PluginError> {
    let config = config::server(data)?;
    for note in config.notes() {
        tracing::warn!(plugin_name = NAME, plugin_type = Kind::NodeAttestor.name(), "{note}");
    }
    let surroundings = Environment::of_process();
    Ok(Arc::new(server::Server::new(config, host.trust_domain.clone(), &surroundings)))
}

/// What the API's payload parser makes of a stranger's bytes; for fuzzing.
#[doc(hidden)]
pub fn parse_payload(bytes: &[u8]) -> bool {
    payload::Payload::parse(bytes).is_ok()
}

/// What the parser of an API server's review makes of its bytes; for fuzzing.
#[doc(hidden)]
pub fn parse_review(bytes: &[u8]) -> bool {
    serde_json::from_slice::<review::TokenReview>(bytes)
        .is_ok_and(|review| review.status.account().is_ok())
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}
