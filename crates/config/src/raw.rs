//! The keys as they stand in the files, before any check.

pub(crate) mod agent;
pub(crate) mod server;

use serde::Deserialize;
use steeple_hcl::{Block, Located};

/// `telemetry`
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Telemetry {
    pub(crate) prometheus: Located<Prometheus>,
    #[serde(rename = "DogStatsd")]
    pub(crate) dog_statsd: Located<Vec<Statsd>>,
    pub(crate) statsd: Located<Vec<Statsd>>,
    pub(crate) m3: Located<Vec<M3>>,
    pub(crate) in_mem: Located<InMem>,
    pub(crate) metric_prefix: Located<String>,
    pub(crate) enable_trust_domain_label: Located<bool>,
    pub(crate) enable_hostname_label: Located<bool>,
    pub(crate) allowed_prefixes: Located<Vec<String>>,
    pub(crate) blocked_prefixes: Located<Vec<String>>,
    pub(crate) allowed_labels: Located<Vec<String>>,
    pub(crate) blocked_labels: Located<Vec<String>>,
}

/// `telemetry.Prometheus`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Prometheus {
    host: Located<String>,
    port: Located<i64>,
    tls: Located<PrometheusTls>,
}

/// `telemetry.Prometheus.tls`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct PrometheusTls {
    cert_file: Located<String>,
    key_file: Located<String>,
    client_ca_file: Located<String>,
    use_spire_svid: Located<bool>,
    authorized_spiffe_ids: Located<Vec<String>>,
}

/// An element of `telemetry.DogStatsd` or `telemetry.Statsd`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Statsd {
    address: Located<String>,
}

/// An element of `telemetry.M3`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct M3 {
    address: Located<String>,
    env: Located<String>,
}

/// `telemetry.InMem`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct InMem {}

/// `health_checks`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct HealthChecks {
    pub(crate) listener_enabled: Located<bool>,
    pub(crate) bind_address: Located<String>,
    pub(crate) bind_port: Located<String>,
    pub(crate) ready_path: Located<String>,
    pub(crate) live_path: Located<String>,
}

/// What stands within `Type "name" { … }`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Plugin {
    pub(crate) plugin_cmd: Located<String>,
    pub(crate) plugin_args: Located<Vec<String>>,
    pub(crate) plugin_checksum: Located<String>,
    pub(crate) plugin_data: Located<Block>,
    pub(crate) plugin_data_file: Located<String>,
    pub(crate) enabled: Located<bool>,
}
