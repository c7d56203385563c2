//! `telemetry`, and the `profiling_*` keys of either program.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use steeple_hcl::Located;

use crate::{
    checks::{Checker, on, quote, set},
    raw,
};

/// Where metrics and traces go, and how they are named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TelemetryConfig {
    /// A listener for Prometheus.
    pub prometheus: Option<PrometheusConfig>,
    /// Addresses of DogStatsD servers.
    pub dog_statsd: Vec<String>,
    /// Addresses of StatsD servers.
    pub statsd: Vec<String>,
    /// M3 collectors.
    pub m3: Vec<M3Config>,
    /// Whether the last hour is kept in memory.
    pub in_mem: bool,
    /// An OpenTelemetry collector; ours, SPIRE has no such key.
    pub otlp: Option<OtlpConfig>,
    /// The first part of every name; the program's when unset.
    pub metric_prefix: Option<String>,
    /// Whether every metric has the label `trust_domain`.
    pub trust_domain_label: bool,
    /// Whether every metric has the label `host`.
    pub hostname_label: bool,
    /// Names to keep, by their beginning with dots.
    pub allowed_prefixes: Vec<String>,
    /// Names to drop, by their beginning with dots.
    pub blocked_prefixes: Vec<String>,
    /// The only labels to keep, when there is a list.
    pub allowed_labels: Option<Vec<String>>,
    /// Labels to drop.
    pub blocked_labels: Vec<String>,
}

/// `telemetry.Prometheus`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrometheusConfig {
    /// Host to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// HTTPS instead of HTTP.
    pub tls: Option<PrometheusTlsConfig>,
}

/// `telemetry.Prometheus.tls`; what contradicts is found when it is used, as
/// in SPIRE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrometheusTlsConfig {
    /// The certificate's file.
    pub cert_file: Option<PathBuf>,
    /// The key's file.
    pub key_file: Option<PathBuf>,
    /// Authorities of clients' certificates.
    pub client_ca_file: Option<PathBuf>,
    /// Whether to serve with the program's own SVID.
    pub use_spire_svid: bool,
    /// SPIFFE IDs that clients must have one of.
    pub authorized_spiffe_ids: Vec<String>,
}

/// An element of `telemetry.M3`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct M3Config {
    /// `host:port` of the collector.
    pub address: String,
    /// The tag `env`.
    pub env: String,
}

/// `telemetry.Otlp`.
#[derive(Clone, PartialEq)]
pub struct OtlpConfig {
    /// The collector's base URL.
    pub endpoint: String,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// Headers of every request; they may hold secrets.
    pub headers: BTreeMap<String, String>,
    /// Between two reports of metrics.
    pub interval: Duration,
    /// Whether spans are sent as well.
    pub traces: bool,
    /// The share of traces that begin here which is sent, from 0 to 1.
    pub sample_ratio: f64,
}

impl std::fmt::Debug for OtlpConfig {
    /// Without the headers' values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OtlpConfig")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("headers", &self.headers.keys())
            .field("interval", &self.interval)
            .field("traces", &self.traces)
            .field("sample_ratio", &self.sample_ratio)
            .finish()
    }
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// `http/protobuf`
    #[default]
    Http,
    /// `grpc`
    Grpc,
}

/// `profiling_*`, with profiling enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfilingConfig {
    /// The port on localhost, if any.
    pub port: Option<u16>,
    /// Between two dumps, if any.
    pub frequency: Option<Duration>,
    /// What to dump.
    pub names: Vec<String>,
}

const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn build(checker: &mut Checker, raw: raw::Telemetry) -> TelemetryConfig {
    let addresses = |list: Located<Vec<raw::Statsd>>| {
        let list = list.value.unwrap_or_default().into_iter();
        list.map(|it| it.address.value.unwrap_or_default()).collect()
    };
    let m3 = raw.m3.value.unwrap_or_default().into_iter().map(|it| M3Config {
        address: it.address.value.unwrap_or_default(),
        env: it.env.value.unwrap_or_default(),
    });
    TelemetryConfig {
        prometheus: raw.prometheus.value.map(|raw| prometheus(checker, raw)),
        dog_statsd: addresses(raw.dog_statsd),
        statsd: addresses(raw.statsd),
        m3: m3.collect(),
        in_mem: raw.in_mem.is_present(),
        otlp: otlp(checker, raw.otlp),
        metric_prefix: set(&raw.metric_prefix).map(str::to_owned),
        trust_domain_label: on(&raw.enable_trust_domain_label),
        hostname_label: raw.enable_hostname_label.value.unwrap_or(true),
        allowed_prefixes: raw.allowed_prefixes.value.unwrap_or_default(),
        blocked_prefixes: raw.blocked_prefixes.value.unwrap_or_default(),
        allowed_labels: raw.allowed_labels.value,
        blocked_labels: raw.blocked_labels.value.unwrap_or_default(),
    }
}

fn prometheus(checker: &mut Checker, raw: raw::Prometheus) -> PrometheusConfig {
    let host = set(&raw.host).unwrap_or("localhost").to_owned();
    let port = match raw.port.value {
        None => 0,
        Some(port) => u16::try_from(port).unwrap_or_else(|_| {
            let text = format!("invalid port {port} for the Prometheus exporter");
            checker.problem(raw.port.line(), "telemetry.Prometheus.port", text);
            0
        }),
    };
    let tls = raw.tls.value.map(|tls| PrometheusTlsConfig {
        cert_file: set(&tls.cert_file).map(PathBuf::from),
        key_file: set(&tls.key_file).map(PathBuf::from),
        client_ca_file: set(&tls.client_ca_file).map(PathBuf::from),
        use_spire_svid: on(&tls.use_spire_svid),
        authorized_spiffe_ids: tls.authorized_spiffe_ids.value.unwrap_or_default(),
    });
    PrometheusConfig { host, port, tls }
}

fn otlp(checker: &mut Checker, raw: Located<raw::Otlp>) -> Option<OtlpConfig> {
    let line = raw.line();
    let raw = raw.value?;
    let key = |name: &str| format!("telemetry.Otlp.{name}");
    let Some(endpoint) = set(&raw.endpoint) else {
        let text = "an OTLP endpoint must be configured, such as \"http://localhost:4318\"";
        checker.problem(line, &key("endpoint"), text);
        return None;
    };
    let well_formed = ["http://", "https://"].iter().any(|scheme| {
        endpoint.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.contains('@'))
    });
    if !well_formed {
        let text = format!("OTLP endpoint {} is no http:// or https:// URL", quote(endpoint));
        checker.problem(raw.endpoint.line(), &key("endpoint"), text);
    }
    let protocol = match set(&raw.protocol) {
        None | Some("http/protobuf") => OtlpProtocol::Http,
        Some("grpc") => OtlpProtocol::Grpc,
        Some(other) => {
            let other = quote(other);
            let text =
                format!("OTLP protocol {other} is unknown; use \"http/protobuf\" or \"grpc\"");
            checker.problem(raw.protocol.line(), &key("protocol"), text);
            OtlpProtocol::Http
        }
    };
    let interval = checker
        .duration(&key("interval"), &raw.interval, |text| {
            format!("could not parse OTLP interval {text}")
        })
        .unwrap_or(DEFAULT_INTERVAL)
        .max(LEAST_INTERVAL);
    let sample_ratio = raw.sample_ratio.value.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample_ratio) {
        let text = "OTLP sample_ratio must lie between 0 and 1";
        checker.problem(raw.sample_ratio.line(), &key("sample_ratio"), text);
    }
    Some(OtlpConfig {
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        protocol,
        headers: raw.headers.value.unwrap_or_default(),
        interval,
        traces: on(&raw.traces),
        sample_ratio,
    })
}

/// The keys of either program's block.
pub(crate) struct ProfilingKeys<'a> {
    pub(crate) enabled: &'a Located<bool>,
    pub(crate) port: &'a Located<i64>,
    pub(crate) freq: &'a Located<i64>,
    pub(crate) names: &'a Located<Vec<String>>,
}

pub(crate) fn profiling(
    checker: &mut Checker,
    program: &str,
    keys: &ProfilingKeys<'_>,
) -> Option<ProfilingConfig> {
    let port = keys.port.value.filter(|port| *port > 0).and_then(|port| {
        let valid = u16::try_from(port).ok();
        if valid.is_none() {
            let text = format!("invalid profiling_port {port}");
            checker.problem(keys.port.line(), &format!("{program}.profiling_port"), text);
        }
        valid
    });
    let frequency = keys.freq.value.and_then(|seconds| u64::try_from(seconds).ok());
    on(keys.enabled).then(|| ProfilingConfig {
        port,
        frequency: frequency.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        names: keys.names.value.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
