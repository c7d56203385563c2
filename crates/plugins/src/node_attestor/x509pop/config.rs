//! The settings of both halves.

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_pki::Certificate;
use steeple_plugin::settings::decode_leniently;
use steeple_plugin::{Code, Kind, PluginError};
use steeple_template::AgentPathTemplate;

use super::{NAME, error};
use crate::node_attestor::files;

const REFUSAL: &str = "unable to decode configuration";
const DEFAULT_PATH: &str = "/{{ .PluginName }}/{{ .Fingerprint }}";
const DEFAULT_PATH_OF_SVID: &str = "/{{ .PluginName }}/{{ .SVIDPathTrimmed }}";
const DEFAULT_PREFIX: &str = "/spire-exchange/";
const DEFAULT_MAX_INTERMEDIATES: usize = 4;
const DEFAULT_MAX_RSA_BITS: usize = 8192;

/// The agent's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AgentConfig {
    pub(super) private_key_path: String,
    pub(super) certificate_path: String,
    pub(super) intermediates_path: String,
    pub(super) spiffe_endpoint_socket: String,
}

pub(super) fn agent(data: Option<&Block>) -> Result<AgentConfig, PluginError> {
    let config: AgentConfig = decode_leniently(Kind::NodeAttestor, NAME, data, REFUSAL)?;
    if config.spiffe_endpoint_socket.is_empty() {
        if config.private_key_path.is_empty() {
            return Err(invalid("private_key_path is required"));
        }
        if config.certificate_path.is_empty() {
            return Err(invalid("certificate_path is required"));
        }
    }
    Ok(config)
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawServerConfig {
    mode: String,
    spiffe_prefix: Option<String>,
    ca_bundle_path: String,
    ca_bundle_paths: Vec<String>,
    agent_path_template: String,
    max_intermediates: Option<i64>,
    max_rsa_key_size: Option<i64>,
    verify_client_ip: bool,
}

/// The server's.
pub(super) struct ServerConfig {
    pub(super) mode: Mode,
    pub(super) path: AgentPathTemplate,
    pub(super) max_intermediates: usize,
    pub(super) max_rsa_bits: usize,
    pub(super) verify_client_ip: bool,
}

/// Whose certificates are taken.
pub(super) enum Mode {
    /// Those under these roots.
    ExternalPki(Vec<Certificate>),
    /// X.509-SVIDs of our own trust domain whose path begins with this.
    Spiffe { prefix: String },
}

pub(super) fn server(data: Option<&Block>) -> Result<ServerConfig, PluginError> {
    let raw: RawServerConfig = decode_leniently(Kind::NodeAttestor, NAME, data, REFUSAL)?;
    let (mode, default_path) = match raw.mode.as_str() {
        "" | "external_pki" => (Mode::ExternalPki(roots(&raw)?), DEFAULT_PATH),
        "spiffe" => {
            if !raw.ca_bundle_path.is_empty() || !raw.ca_bundle_paths.is_empty() {
                let text = "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode";
                return Err(invalid(text));
            }
            let mut prefix = raw.spiffe_prefix.unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
            if !prefix.ends_with('/') {
                prefix.push('/');
            }
            (Mode::Spiffe { prefix }, DEFAULT_PATH_OF_SVID)
        }
        _ => return Err(invalid("mode can only be either spiffe or external_pki")),
    };
    let path = match raw.agent_path_template.as_str() {
        "" => default_path,
        own => own,
    };
    let path = AgentPathTemplate::parse(path)
        .map_err(|_| invalid(format!("failed to parse agent svid template: {path:?}")))?;
    Ok(ServerConfig {
        mode,
        path,
        max_intermediates: positive(
            raw.max_intermediates,
            DEFAULT_MAX_INTERMEDIATES,
            "max_intermediates must be greater than 0",
        )?,
        max_rsa_bits: positive(
            raw.max_rsa_key_size,
            DEFAULT_MAX_RSA_BITS,
            "max_rsa_key_size must be greater than 0",
        )?,
        verify_client_ip: raw.verify_client_ip,
    })
}

fn roots(raw: &RawServerConfig) -> Result<Vec<Certificate>, PluginError> {
    let both = "only one of ca_bundle_path or ca_bundle_paths can be configured, not both";
    let paths = match (raw.ca_bundle_path.as_str(), raw.ca_bundle_paths.as_slice()) {
        ("", []) => {
            let text = "one of ca_bundle_path or ca_bundle_paths must be configured";
            return Err(invalid(text));
        }
        ("", paths) => paths,
        (_, []) => std::slice::from_ref(&raw.ca_bundle_path),
        _ => return Err(invalid(both)),
    };
    let mut roots = Vec::new();
    for path in paths {
        let read = files::certificates(path)
            .map_err(|reason| invalid(format!("unable to load trust bundle {path:?}: {reason}")))?;
        roots.extend(read);
    }
    Ok(roots)
}

fn positive(value: Option<i64>, default: usize, refusal: &str) -> Result<usize, PluginError> {
    match value {
        None => Ok(default),
        Some(value) => {
            usize::try_from(value).ok().filter(|it| *it > 0).ok_or_else(|| invalid(refusal))
        }
    }
}

fn invalid(message: impl AsRef<str>) -> PluginError {
    error(Code::InvalidArgument, message)
}
