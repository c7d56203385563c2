//! The keys as they stand in the files, before any check.

pub(crate) mod agent;
pub(crate) mod server;

use std::collections::BTreeMap;

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
    pub(crate) otlp: Located<Otlp>,
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
    pub(crate) host: Located<String>,
    pub(crate) port: Located<i64>,
    pub(crate) tls: Located<PrometheusTls>,
}

/// `telemetry.Prometheus.tls`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct PrometheusTls {
    pub(crate) cert_file: Located<String>,
    pub(crate) key_file: Located<String>,
    pub(crate) client_ca_file: Located<String>,
    pub(crate) use_spire_svid: Located<bool>,
    pub(crate) authorized_spiffe_ids: Located<Vec<String>>,
}

/// An element of `telemetry.DogStatsd` or `telemetry.Statsd`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Statsd {
    pub(crate) address: Located<String>,
}

/// An element of `telemetry.M3`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct M3 {
    pub(crate) address: Located<String>,
    pub(crate) env: Located<String>,
}

/// `telemetry.InMem`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct InMem {}

/// `telemetry.Otlp`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Otlp {
    pub(crate) endpoint: Located<String>,
    pub(crate) protocol: Located<String>,
    pub(crate) headers: Located<BTreeMap<String, String>>,
    pub(crate) interval: Located<String>,
    pub(crate) traces: Located<bool>,
    pub(crate) sample_ratio: Located<f64>,
}

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
