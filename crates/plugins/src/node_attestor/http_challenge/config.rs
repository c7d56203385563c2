//! The settings of both halves.

use regex::bytes::Regex;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::settings::decode_leniently;
use steeple_plugin::{Code, Kind, PluginError};
use steeple_runtime::ip_range::IpRange;

use super::payload::AttestationData;
use super::{NAME, error, pattern};

/// Ports from here on are free for everybody on a host.
const FIRST_FREE_PORT: i64 = 1024;

/// The agent's half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AgentConfig {
    pub(super) host_name: String,
    pub(super) agent_name: String,
    /// 0 is any.
    pub(super) port: u16,
    /// 0 is the one listened on.
    pub(super) advertised_port: u16,
}

/// The server's half.
#[derive(Clone, Debug)]
pub(super) struct ServerConfig {
    patterns: Vec<Regex>,
    required_port: Option<i64>,
    allow_non_root_ports: bool,
    pub(super) tofu: bool,
    /// Ours: no address of this machine, or of what only this machine reaches.
    pub(super) deny_local_addresses: bool,
    /// Ours: none is all.
    pub(super) allowed_ranges: Vec<IpRange>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Agent {
    hostname: String,
    agentname: String,
    port: i64,
    advertised_port: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Server {
    allowed_dns_patterns: Vec<String>,
    required_port: Option<i64>,
    allow_non_root_ports: Option<bool>,
    tofu: Option<bool>,
    deny_local_addresses: bool,
    allowed_address_ranges: Vec<String>,
}

/// Why a host is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAllowed {
    #[error("port {0} is not allowed to be used by this server")]
    OtherPort(i64),
    #[error("port {0} is not allowed to be >= 1024")]
    FreePort(i64),
    #[error("you can not use localhost as a hostname")]
    Localhost,
    #[error("the requested hostname is not allowed to connect")]
    Host,
}

pub(super) fn agent(data: Option<&Block>) -> Result<AgentConfig, PluginError> {
    let raw: Agent = decode(data)?;
    let host_name = match raw.hostname {
        name if name.is_empty() => own_name()?,
        name => name,
    };
    let agent_name = if raw.agentname.is_empty() { "default".to_owned() } else { raw.agentname };
    // What no server accepts is better said here than at every start.
    let port = |key: &str, port: i64| {
        u16::try_from(port).map_err(|_| invalid(format!("{key} is not a port: {port}")))
    };
    let config = AgentConfig {
        host_name,
        agent_name,
        port: port("port", raw.port)?,
        advertised_port: port("advertised_port", raw.advertised_port)?,
    };
    let data = AttestationData { agent_name: config.agent_name.clone(), ..Default::default() };
    if data.has_agent_name() {
        Ok(config)
    } else {
        Err(invalid(
            "agentname is not valid: servers accept a letter and then at most 31 letters, digits \
             and dashes",
        ))
    }
}

pub(super) fn server(data: Option<&Block>) -> Result<ServerConfig, PluginError> {
    let raw: Server = decode(data)?;
    let compiled = raw.allowed_dns_patterns.iter().map(|pattern| {
        pattern::compile(pattern).map_err(|error| {
            invalid(format!("cannot compile allowed_dns_pattern: {pattern:?}, {error}"))
        })
    });
    let patterns = compiled.collect::<Result<_, _>>()?;
    let ranges = raw.allowed_address_ranges.iter().map(|range| {
        range.parse::<IpRange>().map_err(|error| {
            invalid(format!("cannot read allowed_address_ranges: {range:?}, {error}"))
        })
    });
    let allowed_ranges = ranges.collect::<Result<_, _>>()?;
    let tofu = raw.tofu.unwrap_or(true);
    let anybodys_port = match (raw.required_port, raw.allow_non_root_ports) {
        (Some(port), _) => port >= FIRST_FREE_PORT,
        (None, allowed) => allowed.unwrap_or(true),
    };
    if !tofu && anybodys_port {
        return Err(invalid(
            "you can not turn off trust on first use (TOFU) when non-root ports are allowed",
        ));
    }
    Ok(ServerConfig {
        patterns,
        required_port: raw.required_port,
        allow_non_root_ports: raw.allow_non_root_ports.unwrap_or(true),
        tofu,
        deny_local_addresses: raw.deny_local_addresses,
        allowed_ranges,
    })
}

impl ServerConfig {
    pub(super) fn check_port(&self, port: i64) -> Result<(), NotAllowed> {
        if self.required_port.is_some_and(|required| required != port) {
            return Err(NotAllowed::OtherPort(port));
        }
        if !self.allow_non_root_ports && port >= FIRST_FREE_PORT {
            return Err(NotAllowed::FreePort(port));
        }
        Ok(())
    }

    pub(super) fn check_host(&self, host: &str) -> Result<(), NotAllowed> {
        // Resolvers take all of these for the one that upstream refuses.
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") {
            return Err(NotAllowed::Localhost);
        }
        let matches = |pattern: &Regex| pattern.is_match(host.as_bytes());
        if self.patterns.is_empty() || self.patterns.iter().any(matches) {
            return Ok(());
        }
        Err(NotAllowed::Host)
    }
}

fn own_name() -> Result<String, PluginError> {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.ok_or_else(|| invalid("unable to fetch hostname: it is no text"))
}

fn decode<T: serde::de::DeserializeOwned + Default>(
    data: Option<&Block>,
) -> Result<T, PluginError> {
    decode_leniently(Kind::NodeAttestor, NAME, data, "unable to decode configuration")
}

fn invalid(message: impl AsRef<str>) -> PluginError {
    error(Code::InvalidArgument, message)
}
