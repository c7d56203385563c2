//! The settings of both halves.

use std::collections::HashSet;

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_pki::ssh::{Blob, SshError};
use steeple_plugin::settings::decode_leniently;
use steeple_plugin::{Code, Kind, PluginError};
use steeple_template::AgentPathTemplate;

use super::{NAME, error};
use crate::node_attestor::files;

const REFUSAL: &str = "failed to decode configuration";
const DEFAULT_PATH: &str = "/{{ .PluginName}}/{{ .Fingerprint }}";
const DEFAULT_KEY: &str = "/etc/ssh/ssh_host_rsa_key";
const DEFAULT_CERTIFICATE: &str = "/etc/ssh/ssh_host_rsa_key-cert.pub";
/// How much of a line that is no key an error repeats.
const MAX_ECHO: usize = 64;

/// The agent's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AgentConfig {
    pub(super) host_key_path: String,
    pub(super) host_cert_path: String,
}

pub(super) fn agent(data: Option<&Block>) -> Result<AgentConfig, PluginError> {
    let mut config: AgentConfig = decode_leniently(Kind::NodeAttestor, NAME, data, REFUSAL)?;
    let or_default = |path: &mut String, default: &str| {
        if path.is_empty() {
            default.clone_into(path);
        }
    };
    or_default(&mut config.host_key_path, DEFAULT_KEY);
    or_default(&mut config.host_cert_path, DEFAULT_CERTIFICATE);
    Ok(config)
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawServerConfig {
    cert_authorities: Option<Vec<String>>,
    cert_authorities_path: String,
    canonical_domain: String,
    agent_path_template: String,
}

/// The server's.
pub(super) struct ServerConfig {
    /// The fingerprints of their keys.
    pub(super) authorities: HashSet<[u8; 32]>,
    /// Empty where any will do.
    pub(super) canonical_domain: String,
    pub(super) path: AgentPathTemplate,
}

pub(super) fn server(data: Option<&Block>) -> Result<ServerConfig, PluginError> {
    let raw: RawServerConfig = decode_leniently(Kind::NodeAttestor, NAME, data, REFUSAL)?;
    if raw.cert_authorities.is_none() && raw.cert_authorities_path.is_empty() {
        let text = "missing required config value for \"cert_authorities\" or \
                    \"cert_authorities_path\"";
        return Err(invalid(text));
    }
    let mut lines = raw.cert_authorities.unwrap_or_default();
    if !raw.cert_authorities_path.is_empty() {
        let path = &raw.cert_authorities_path;
        let failed =
            |reason: String| invalid(format!("failed to get cert authorities from file: {reason}"));
        let text = files::read(path).map_err(failed)?;
        let before = lines.len();
        lines.extend(text.split('\n').filter(|line| !line.is_empty()).map(str::to_owned));
        if lines.len() == before {
            return Err(failed(format!("no data found in file: {path:?}")));
        }
    }
    let path = match raw.agent_path_template.as_str() {
        "" => DEFAULT_PATH,
        own => own,
    };
    let template = AgentPathTemplate::parse(path)
        .map_err(|_| invalid(format!("failed to parse agent svid template: {path:?}")))?;
    let authorities = authorities(&lines)
        .map_err(|reason| invalid(format!("failed to create cert checker: {reason}")))?;
    Ok(ServerConfig { authorities, canonical_domain: raw.canonical_domain, path: template })
}

fn authorities(lines: &[String]) -> Result<HashSet<[u8; 32]>, String> {
    if lines.is_empty() {
        return Err("must provide at least one cert authority".to_owned());
    }
    let authority = |line: &String| {
        let shown: String = line.chars().take(MAX_ECHO).collect();
        let refused = |reason: SshError| format!("failed to parse public key {shown:?}: {reason}");
        match Blob::parse_text(line).map_err(refused)? {
            Blob::Key(key) => Ok(key.fingerprint()),
            Blob::Certificate(_) => {
                Err(format!("failed to parse public key {shown:?}: ssh: it is a certificate"))
            }
        }
    };
    lines.iter().map(authority).collect()
}

fn invalid(message: impl AsRef<str>) -> PluginError {
    error(Code::InvalidArgument, message)
}
