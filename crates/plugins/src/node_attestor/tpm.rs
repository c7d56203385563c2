//! `tpm`: a machine is known by its TPM's endorsement key. Ours; SPIRE has no such plugin.
//!
//! The chain of proof: the operator trusts an endorsement key (a manufacturer's certificate, or a
//! list of keys); only its TPM opens the secret that the server wrapped for it and an attestation
//! key; and that attestation key, which signs nothing but what the TPM says, signs the server's
//! nonce bound to the very key that the agent's SVID will have: always in a quote of PCRs, and in
//! a certification too when that key itself is in the TPM.

mod agent;
mod config;
mod payload;
mod pcrs;
mod server;
#[cfg(test)]
mod tests;
mod trust;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError};

/// The plugin's name in configuration.
pub const NAME: &str = "tpm";

/// Examines the agent's settings.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::agent(data).map(|_| Vec::new())
}

/// The agent's half.
///
/// # Errors
/// When the settings are wrong, or no TPM is configured and none found.
pub fn agent(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    Ok(Arc::new(agent::Agent::new(config::agent(data)?)?))
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
/// When the settings are wrong, or what they name cannot be read.
pub fn server(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn NodeAttestor>, PluginError> {
    Ok(Arc::new(server::Server::new(config::server(data)?, host)?))
}

/// What the parsers make of a stranger's bytes; for fuzzing.
#[doc(hidden)]
pub fn parse_evidence(bytes: &[u8]) -> bool {
    let response = payload::Response::parse(bytes).is_ok();
    payload::Evidence::parse(bytes).is_ok_and(|evidence| server::read(&evidence).is_ok())
        || response
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}

fn invalid(message: impl AsRef<str>) -> PluginError {
    error(Code::InvalidArgument, message)
}
