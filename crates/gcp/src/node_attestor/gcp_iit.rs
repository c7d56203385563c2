//! `gcp_iit`: an agent on a Compute Engine instance, by the identity token that the metadata
//! server gives whoever asks on that instance (PS-17, PA-12, TG-37).

mod agent;
mod config;
mod keys;
mod server;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError};
use steeple_spiffe::{SpiffeId, TrustDomain};

use crate::compute::{API, Api, SCOPE};
use crate::credentials::{Source, Tokens};
use crate::web::Web;

/// The plugin's name in configuration.
pub const NAME: &str = "gcp_iit";

/// Whom tokens are for.
const AUDIENCE: &str = "spire-gcp-node-attestor";

/// Examines the agent's settings.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::agent(data).map(|_| Vec::new())
}

/// The agent's half: the token that the metadata server gives.
///
/// # Errors
/// When the settings are wrong.
pub fn agent(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    Ok(Arc::new(agent::Agent::new(config::agent(data)?, Web::default())))
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
    let (config, template) = config::server(data)?;
    let web = Web::default();
    let source = Source::find(&config.service_account_file, |name| std::env::var(name).ok());
    let tokens = Tokens::new(source, SCOPE, web.clone(), Arc::clone(&host.clock));
    let compute = Api { base: API.to_owned(), tokens, web: web.clone() };
    let keys = keys::Keys::new(keys::URL, web);
    Ok(Arc::new(server::Server::new(config, template, host, keys, Box::new(compute))))
}

/// Whether bytes could be a token of some key; for fuzzing.
#[doc(hidden)]
pub fn parse_payload(bytes: &[u8]) -> bool {
    token::shape(bytes).is_ok()
}

/// The agent's ID by claims that somebody signed; for fuzzing.
#[doc(hidden)]
pub fn parse_claims(bytes: &[u8], trust_domain: &TrustDomain) -> Option<SpiffeId> {
    let identity = token::claims(serde_json::from_slice(bytes).ok()?).ok()?;
    config::default_template().ok()?.render(trust_domain, &identity.template_data()).ok()
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}
