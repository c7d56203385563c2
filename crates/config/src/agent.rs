//! The agent's configuration.

mod bootstrap;
mod broker;
mod build;
mod outage;
#[cfg(test)]
mod tests;

pub use broker::{AllowedReferenceType, BrokerConfig, BrokerIdentity};
pub use build::agent_plugins;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use steeple_runtime::log::LogConfig;
use steeple_spiffe::{SpiffeId, TrustDomain};

use crate::{
    DEFAULT_AGENT_CONFIG_PATH, Env, HealthChecks, Notice, PluginConfig, Problems, ProfilingConfig,
    TelemetryConfig, source::Source,
};

/// What the agent runs by.
#[derive(Clone)]
pub struct AgentConfig {
    /// The file it was read from, as it was named.
    pub config_path: PathBuf,
    /// The agent's own trust domain.
    pub trust_domain: TrustDomain,
    /// The server's host: a name, all of whose addresses are tried, or an IP.
    pub server_address: String,
    /// The server's port.
    pub server_port: u16,
    /// Every server, that of `server_address` first: they are as good as one another.
    pub servers: Vec<(String, u16)>,
    /// Where the agent keeps its files; relative to the working directory.
    pub data_dir: PathBuf,
    /// The Workload API's socket, absolute; `None` when both its APIs are off.
    pub socket_path: Option<PathBuf>,
    /// The admin APIs' socket, absolute; `None` when off.
    pub admin_socket_path: Option<PathBuf>,
    /// Do not offer the Workload API on its socket.
    pub disable_workload_api: bool,
    /// Do not offer SDS on the Workload API's socket.
    pub disable_sds_api: bool,
    /// The names that SDS gives to what it hands out.
    pub sds: SdsConfig,
    /// Where and how to log.
    pub log: LogConfig,
    /// Prefixes of selectors that diagnostic logs may show.
    pub log_selectors: Vec<String>,
    /// How to trust the server the first time.
    pub bootstrap: Bootstrap,
    /// Whether to bootstrap again when the server's authority is unknown.
    pub rebootstrap_mode: RebootstrapMode,
    /// How long to wait before bootstrapping again.
    pub rebootstrap_delay: Duration,
    /// The join token, be it from the configuration, a flag or a file.
    pub join_token: Option<String>,
    /// Let callers without an entry fetch the X.509 bundle of the own domain.
    pub allow_unauthenticated_verifiers: bool,
    /// Further claims to return for JWT-SVIDs of other trust domains.
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// Who may use the delegated identity API.
    pub authorized_delegates: Vec<SpiffeId>,
    /// The SPIFFE Broker API, when it is on.
    pub broker: Option<BrokerConfig>,
    /// How long workloads should outlive an outage; moves rotation forward.
    pub availability_target: Option<Duration>,
    /// Type of workloads' keys.
    pub workload_x509_svid_key_type: WorkloadKeyType,
    /// X.509-SVIDs to keep; the default applies when zero.
    pub x509_svid_cache_max_size: usize,
    /// JWT-SVIDs to keep; the default applies when zero.
    pub jwt_svid_cache_max_size: usize,
    /// Keys that may change without notice.
    pub experimental: AgentExperimental,
    /// The HTTP health listener.
    pub health_checks: HealthChecks,
    /// Where metrics and traces go.
    pub telemetry: TelemetryConfig,
    /// Profiles, when they are enabled.
    pub profiling: Option<ProfilingConfig>,
    /// The plugins in the order written, disabled ones included.
    pub plugins: Vec<PluginConfig>,
}

impl fmt::Debug for AgentConfig {
    /// In short: a join token is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("config_path", &self.config_path)
            .field("trust_domain", &self.trust_domain)
            .field("server_address", &self.server_address)
            .field("server_port", &self.server_port)
            .finish_non_exhaustive()
    }
}

/// Under which names Envoy asks for what has no name of its own, and in which form it gets bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdsConfig {
    /// The first identity.
    pub default_svid_name: String,
    /// The own trust domain's bundle.
    pub default_bundle_name: String,
    /// The own trust domain's bundle and the federated ones.
    pub default_all_bundles_name: String,
    /// Plain lists of roots instead of a configuration of Envoy's SPIFFE validator.
    pub disable_spiffe_cert_validation: bool,
}

/// How the agent trusts the server the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// Not at all: whoever answers is believed.
    Insecure,
    /// By a bundle in a file.
    Path {
        /// The file.
        path: PathBuf,
        /// Its form.
        format: TrustBundleFormat,
    },
    /// By a bundle fetched from a URL.
    Url {
        /// The URL: `https`, or `http` over `unix_socket`.
        url: String,
        /// The socket to fetch over.
        unix_socket: Option<PathBuf>,
        /// The form of what is fetched.
        format: TrustBundleFormat,
    },
    /// By a bundle from another Workload API.
    WorkloadApi {
        /// Its address, as `unix:///path` or `tcp://ip:port`.
        address: String,
    },
}

/// The form of a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrustBundleFormat {
    /// Concatenated PEM certificates.
    #[default]
    Pem,
    /// A SPIFFE bundle document.
    Spiffe,
}

/// Whether to bootstrap again when the server's authority is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebootstrapMode {
    /// Give up.
    #[default]
    Never,
    /// If the node attestor can attest again.
    Auto,
    /// Always.
    Always,
}

/// A type of key pair for workloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkloadKeyType {
    /// ECDSA over NIST P-256.
    #[default]
    EcP256,
    /// ECDSA over NIST P-384.
    EcP384,
    /// RSA of 2048 bits.
    Rsa2048,
}

impl WorkloadKeyType {
    /// The name in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
        }
    }
}

/// A text that names no key type for workloads.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("key type {0} is unknown; must be one of [rsa-2048, ec-p256, ec-p384]")]
pub struct UnknownWorkloadKeyType(String);

impl FromStr for WorkloadKeyType {
    type Err = UnknownWorkloadKeyType;

    fn from_str(text: &str) -> Result<Self, UnknownWorkloadKeyType> {
        match text.to_lowercase().as_str() {
            "rsa-2048" => Ok(Self::Rsa2048),
            "ec-p256" => Ok(Self::EcP256),
            "ec-p384" => Ok(Self::EcP384),
            _ => Err(UnknownWorkloadKeyType(crate::checks::quote(text))),
        }
    }
}

/// `agent.experimental`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentExperimental {
    /// Whether to take part in no TLS handshake that does not withstand quantum computers.
    pub require_pq_kem: bool,
    /// Whether the server is not asked to tell of changes; ours, SPIRE has no such key.
    pub disable_push: bool,
    /// Whether agents on one data directory do not give way to each other; ours.
    pub disable_handover: bool,
    /// How often to synchronise entries; the default applies when unset.
    pub sync_interval: Option<Duration>,
    /// How long to wait for a fresh JWT-SVID before serving a cached one.
    pub jwt_svid_cache_hit_timeout: Option<Duration>,
    /// Use the incremental synchronisation call.
    pub use_sync_authorized_entries: bool,
    /// What is kept on disk for a start while no server answers, if anything.
    pub offline_cache: Option<OfflineCacheConfig>,
    /// Calls per second of callers that look alike.
    pub rate_limits: WorkloadRateLimits,
    /// Serve WIT-SVIDs (feature flag `wit-svid`).
    pub wit_svid: bool,
    /// Answer HTTP/1.1 with JSON on the Workload API's socket too.
    pub workload_http_api: bool,
}

/// `agent.experimental.ratelimit`: calls, or openings of a stream, per second
/// for each set of selectors; zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkloadRateLimits {
    /// `FetchX509SVID`
    pub fetch_x509_svid: u32,
    /// `FetchJWTSVID`
    pub fetch_jwt_svid: u32,
    /// `FetchX509Bundles`
    pub fetch_x509_bundles: u32,
    /// `FetchJWTBundles`
    pub fetch_jwt_bundles: u32,
    /// SDS's `StreamSecrets`
    pub stream_secrets: u32,
    /// SDS's `FetchSecrets`
    pub fetch_secrets: u32,
}

/// `agent.experimental.offline_cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineCacheConfig {
    /// How long after the last word from a server it may still be served.
    pub max_age: Duration,
    /// Whether JWT-SVIDs are kept as well.
    pub jwt_svids: bool,
}

/// What the agent's command line says; empty, zero or false leaves the file's
/// word standing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AgentFlags {
    /// `-allowUnauthenticatedVerifiers`
    pub allow_unauthenticated_verifiers: bool,
    /// `-dataDir`
    pub data_dir: String,
    /// `-disableSDSAPI`
    pub disable_sds_api: bool,
    /// `-disableWorkloadAPI`
    pub disable_workload_api: bool,
    /// `-insecureBootstrap`
    pub insecure_bootstrap: bool,
    /// `-joinToken`
    pub join_token: String,
    /// `-joinTokenFile`
    pub join_token_file: String,
    /// `-logFile`
    pub log_file: String,
    /// `-logFormat`
    pub log_format: String,
    /// `-logLevel`
    pub log_level: String,
    /// `-logSourceLocation`
    pub log_source_location: bool,
    /// `-rebootstrapDelay`
    pub rebootstrap_delay: String,
    /// `-rebootstrapMode`
    pub rebootstrap_mode: String,
    /// `-serverAddress`
    pub server_address: String,
    /// `-serverPort`
    pub server_port: i64,
    /// `-socketPath`
    pub socket_path: String,
    /// `-trustBundle`
    pub trust_bundle: String,
    /// `-trustBundleFormat`
    pub trust_bundle_format: String,
    /// `-trustBundleUrl`
    pub trust_bundle_url: String,
    /// `-trustDomain`
    pub trust_domain: String,
}

/// Reads and checks the agent's configuration: the file at `path` (or the
/// default one), with `flags` on top; `expand_env` puts variables in place of
/// `$NAME` and `${NAME}` first.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load_agent(
    path: Option<&Path>,
    flags: &AgentFlags,
    expand_env: bool,
    env: Env<'_>,
) -> Result<(AgentConfig, Vec<Notice>), Problems> {
    let source = Source::read(path, DEFAULT_AGENT_CONFIG_PATH, expand_env, env)?;
    build::build(&source, flags)
}
