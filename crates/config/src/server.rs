//! The server's configuration.

mod attestation_policy;
mod build;
mod guard;
mod overload;
#[cfg(test)]
mod tests;
mod ttl;

pub use attestation_policy::{AttestationPolicy, AttestationRule};
pub use build::server_plugins;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub use guard::{Cidr, LimitBy, PolicyFiles, RateLimit};
pub use overload::{Overload, OverloadClass};
use steeple_runtime::log::LogConfig;
use steeple_spiffe::{SpiffeId, TrustDomain};

use crate::{
    DEFAULT_SERVER_CONFIG_PATH, DataStoreConfig, Env, FederationConfig, HealthChecks, KeyType,
    Notice, PluginConfig, Problems, ProfilingConfig, TelemetryConfig, source::Source,
};

/// What the server runs by.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The file it was read from, as it was named.
    pub config_path: PathBuf,
    /// The trust domain served.
    pub trust_domain: TrustDomain,
    /// Where the server keeps its files; relative to the working directory.
    pub data_dir: PathBuf,
    /// Host of the TCP endpoint, without brackets: an IP address or a name.
    pub bind_address: String,
    /// Port of the TCP endpoint.
    pub bind_port: u16,
    /// The private API's socket, absolute.
    pub socket_path: PathBuf,
    /// Where and how to log.
    pub log: LogConfig,
    /// SPIFFE IDs that may call the admin APIs; of any trust domain.
    pub admin_ids: Vec<SpiffeId>,
    /// Which of the nodes whose evidence holds are let in.
    pub attestation_policy: AttestationPolicy,
    /// Lifetime of agents' SVIDs; that of workloads' when unset.
    pub agent_ttl: Option<Duration>,
    /// Lifetime of X.509-SVIDs whose entry names none.
    pub default_x509_svid_ttl: Duration,
    /// Lifetime of JWT-SVIDs whose entry names none.
    pub default_jwt_svid_ttl: Duration,
    /// Lifetime of the CA's own certificate and of the JWT signing keys.
    pub ca_ttl: Duration,
    /// Type of the X.509 CA's key.
    pub ca_key_type: KeyType,
    /// Type of the JWT signing key.
    pub jwt_key_type: KeyType,
    /// Subject of the CA's certificate.
    pub ca_subject: CaSubject,
    /// The `iss` claim of JWT-SVIDs.
    pub jwt_issuer: Option<String>,
    /// Whether JWT-SVIDs are off.
    pub disable_jwt_svids: bool,
    /// Whether to write an audit line per call.
    pub audit_log_enabled: bool,
    /// How old a cached agent record may be and still authorise.
    pub max_attested_node_info_staleness: Duration,
    /// Whether and how to prune expired agents.
    pub prune_attested_nodes: Option<PruneAttestedNodes>,
    /// How much each caller may ask for.
    pub rate_limit: RateLimit,
    /// Sources whose PROXY protocol header tells a client's address.
    pub proxy_protocol_trusted_cidrs: Vec<Cidr>,
    /// Keys that may change without notice.
    pub experimental: ServerExperimental,
    /// Where the own bundle is offered, and whose bundles are followed.
    pub federation: FederationConfig,
    /// The HTTP health listener.
    pub health_checks: HealthChecks,
    /// Where metrics and traces go.
    pub telemetry: TelemetryConfig,
    /// Profiles, when they are enabled.
    pub profiling: Option<ProfilingConfig>,
    /// The datastore.
    pub datastore: DataStoreConfig,
    /// All other plugins in the order written, disabled ones included.
    pub plugins: Vec<PluginConfig>,
}

/// The subject of the CA's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSubject {
    /// Country names.
    pub country: Vec<String>,
    /// Organization names.
    pub organization: Vec<String>,
    /// Common name; empty when there is none.
    pub common_name: String,
}

/// Pruning of agents whose attestation expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneAttestedNodes {
    /// How long an agent must have been expired.
    pub expired_for: Duration,
    /// Agents per pass; SPIRE's default applies when zero.
    pub batch_size: u32,
    /// Also those that cannot attest again.
    pub include_non_reattestable: bool,
}

/// `server.experimental`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerExperimental {
    /// Give each agent the selector `spiffe_id:<its id>` at attestation.
    pub agent_spiffe_id_as_selector: bool,
    /// An authorisation policy of the operator's own.
    pub policy: Option<PolicyFiles>,
    /// Whether to take part in no TLS handshake that does not withstand quantum computers.
    pub require_pq_kem: bool,
    /// Whether agents are told of no change, and poll; ours, SPIRE has no such key.
    pub disable_push: bool,
    /// Bounds on what the server does at once; ours, SPIRE has no such key.
    pub overload: Overload,
    /// Whether there are WIT-SVIDs (feature flag `wit-svid`).
    pub wit_svid: bool,
    /// Key type of WIT authorities; that of the CA when unset.
    pub wit_key_type: Option<KeyType>,
    /// The `iss` claim of WIT-SVIDs.
    pub wit_issuer: Option<String>,
    /// How often to look for changed entries.
    pub cache_reload_interval: Option<Duration>,
    /// Age at which event rows are deleted.
    pub prune_events_older_than: Option<Duration>,
    /// Between two full reads of the entries.
    pub full_cache_reload_interval: Option<Duration>,
    /// How long agents that were in good standing are served while the datastore is away; ours,
    /// SPIRE has no such key. Zero: not at all.
    pub datastore_outage_grace: Option<Duration>,
}

/// What the server's command line says; empty, zero or false leaves the file's
/// word standing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFlags {
    /// `-bindAddress`
    pub bind_address: String,
    /// `-serverPort`
    pub server_port: i64,
    /// `-dataDir`
    pub data_dir: String,
    /// `-logFile`
    pub log_file: String,
    /// `-logFormat`
    pub log_format: String,
    /// `-logLevel`
    pub log_level: String,
    /// `-logSourceLocation`
    pub log_source_location: bool,
    /// `-socketPath`
    pub socket_path: String,
    /// `-trustDomain`
    pub trust_domain: String,
}

/// Reads and checks the server's configuration: the file at `path` (or the
/// default one), with `flags` on top; `expand_env` puts variables in place of
/// `$NAME` and `${NAME}` first.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load_server(
    path: Option<&Path>,
    flags: &ServerFlags,
    expand_env: bool,
    env: Env<'_>,
) -> Result<(ServerConfig, Vec<Notice>), Problems> {
    let source = Source::read(path, DEFAULT_SERVER_CONFIG_PATH, expand_env, env)?;
    build::build(&source, flags)
}
