//! The agent's keys.

use serde::Deserialize;
use steeple_hcl::{Block, Located};

use super::{HealthChecks, Telemetry};

/// The whole file.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct File {
    pub(crate) agent: Located<Agent>,
    pub(crate) plugins: Located<Block>,
    pub(crate) telemetry: Located<Telemetry>,
    pub(crate) health_checks: Located<HealthChecks>,
}

/// `agent`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Agent {
    pub(crate) data_dir: Located<String>,
    pub(crate) admin_socket_path: Located<String>,
    pub(crate) insecure_bootstrap: Located<bool>,
    pub(crate) rebootstrap_mode: Located<String>,
    pub(crate) rebootstrap_delay: Located<String>,
    pub(crate) join_token: Located<String>,
    pub(crate) join_token_file: Located<String>,
    pub(crate) log_file: Located<String>,
    pub(crate) log_format: Located<String>,
    pub(crate) log_level: Located<String>,
    pub(crate) log_selectors: Located<Vec<String>>,
    pub(crate) log_source_location: Located<bool>,
    pub(crate) sds: Located<Sds>,
    pub(crate) server_address: Located<String>,
    pub(crate) server_addresses: Located<Vec<String>>,
    pub(crate) server_port: Located<i64>,
    pub(crate) socket_path: Located<String>,
    pub(crate) disable_workload_api: Located<bool>,
    pub(crate) disable_sds_api: Located<bool>,
    pub(crate) workload_x509_svid_key_type: Located<String>,
    pub(crate) trust_bundle_format: Located<String>,
    pub(crate) trust_bundle_path: Located<String>,
    pub(crate) trust_bundle_spiffe_workload_api: Located<String>,
    pub(crate) trust_bundle_unix_socket: Located<String>,
    pub(crate) trust_bundle_url: Located<String>,
    pub(crate) trust_domain: Located<String>,
    pub(crate) allow_unauthenticated_verifiers: Located<bool>,
    pub(crate) allowed_foreign_jwt_claims: Located<Vec<String>>,
    pub(crate) availability_target: Located<String>,
    pub(crate) x509_svid_cache_max_size: Located<i64>,
    pub(crate) jwt_svid_cache_max_size: Located<i64>,
    pub(crate) authorized_delegates: Located<Vec<String>>,
    pub(crate) profiling_enabled: Located<bool>,
    pub(crate) profiling_port: Located<i64>,
    pub(crate) profiling_freq: Located<i64>,
    pub(crate) profiling_names: Located<Vec<String>>,
    pub(crate) experimental: Located<Experimental>,
}

/// `agent.sds`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sds {
    pub(crate) default_svid_name: Located<String>,
    pub(crate) default_bundle_name: Located<String>,
    pub(crate) default_all_bundles_name: Located<String>,
    pub(crate) disable_spiffe_cert_validation: Located<bool>,
}

/// `agent.experimental`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Experimental {
    pub(crate) sync_interval: Located<String>,
    pub(crate) jwt_svid_cache_hit_timeout: Located<String>,
    pub(crate) named_pipe_name: Located<String>,
    pub(crate) admin_named_pipe_name: Located<String>,
    pub(crate) use_sync_authorized_entries: Located<bool>,
    pub(crate) require_pq_kem: Located<bool>,
    pub(crate) disable_push: Located<bool>,
    pub(crate) disable_handover: Located<bool>,
    pub(crate) ratelimit: Located<RateLimit>,
    pub(crate) broker: Located<Broker>,
    pub(crate) feature_flags: Located<Vec<String>>,
    pub(crate) workload_http_api: Located<bool>,
    pub(crate) offline_cache: Located<OfflineCache>,
}

/// `agent.experimental.offline_cache` (ours)
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct OfflineCache {
    pub(crate) enabled: Located<bool>,
    pub(crate) jwt_svids: Located<bool>,
    pub(crate) max_age: Located<String>,
}

/// `agent.experimental.ratelimit`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RateLimit {
    pub(crate) fetch_x509_svid: Located<i64>,
    pub(crate) fetch_jwt_svid: Located<i64>,
    pub(crate) fetch_x509_bundles: Located<i64>,
    pub(crate) fetch_jwt_bundles: Located<i64>,
    pub(crate) stream_secrets: Located<i64>,
    pub(crate) fetch_secrets: Located<i64>,
}

/// `agent.experimental.broker`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Broker {
    pub(crate) socket_path: Located<String>,
    pub(crate) bind_address: Located<String>,
    pub(crate) brokers: Located<Vec<BrokerEntry>>,
}

/// An element of `agent.experimental.broker.brokers`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct BrokerEntry {
    pub(crate) id: Located<String>,
    pub(crate) allowed_reference_types: Located<Vec<AllowedReferenceType>>,
}

/// An element of `allowed_reference_types`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AllowedReferenceType {
    pub(crate) type_url: Located<String>,
    pub(crate) allow_over_tcp: Located<bool>,
}
