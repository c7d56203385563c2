//! Configuration of both programs: SPIRE's HCL keys and flags in, typed and
//! checked values out.
//!
//! Not here: HCL itself (`steeple-hcl`), what a plugin's own keys mean
//! (`steeple-plugins`), and any effect; nothing is bound, dialled or created.
//!
//! Invariant: a value of [`ServerConfig`] or [`AgentConfig`] is complete and
//! consistent; every mistake in a file is in [`Problems`], and every key that is
//! accepted without effect has a [`Notice`].
//!
//! Start at [`load_server`] and [`load_agent`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod agent;
mod checks;
mod common;
mod datastore;
mod expand;
mod federation;
mod plugins;
mod problem;
mod raw;
mod server;
mod source;
mod telemetry;
pub mod url;

pub use agent::{
    AgentConfig, AgentExperimental, AgentFlags, AllowedReferenceType, Bootstrap, BrokerConfig,
    BrokerIdentity, OfflineCacheConfig, RebootstrapMode, SdsConfig, TrustBundleFormat,
    UnknownWorkloadKeyType, WorkloadKeyType, WorkloadRateLimits, agent_plugins, load_agent,
};
pub use common::{HealthChecks, KeyType, UnknownKeyType};
pub use datastore::{AwsDatabase, DataStoreConfig, DatabaseType};
pub use expand::expand_env;
pub use federation::{
    AcmeConfig, BundleEndpointConfig, EndpointProfileConfig, FederatesWithConfig,
    FederatesWithProfile, FederationConfig,
};
pub use plugins::{ExternalPlugin, PluginConfig, PluginData, PluginType};
pub use problem::{Notice, NoticeKind, Problem, ProblemKind, Problems, UnknownSection};
pub use server::{
    AttestationPolicy, AttestationRule, CaSubject, Cidr, LimitBy, Overload, OverloadClass,
    PolicyFiles, PruneAttestedNodes, RateLimit, ServerConfig, ServerExperimental, ServerFlags,
    load_server, server_plugins,
};
pub use telemetry::{
    M3Config, OtlpConfig, OtlpProtocol, ProfilingConfig, PrometheusConfig, PrometheusTlsConfig,
    TelemetryConfig,
};

/// The file that the server reads when none is named.
pub const DEFAULT_SERVER_CONFIG_PATH: &str = "conf/server/server.conf";

/// The file that the agent reads when none is named.
pub const DEFAULT_AGENT_CONFIG_PATH: &str = "conf/agent/agent.conf";

/// Looks up a variable of the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;
