//! From the configuration to sinks, tasks and a listener.

use std::sync::Arc;

use steeple_config::TelemetryConfig;
use steeple_runtime::{Tasks, VERSION, Watcher, signal};
use steeple_telemetry::inmem::InMem;
use steeple_telemetry::m3::M3;
use steeple_telemetry::prometheus::Prometheus;
use steeple_telemetry::statsd::{DogStatsd, Statsd, datadog_tags};
use steeple_telemetry::{Config, Installed, Sink, process};

use crate::{Program, otlp, prometheus};

const SUBSYSTEM: &str = "telemetry";

/// Why telemetry cannot be started; the texts are SPIRE's.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter's `tls` block contradicts itself or names bad files.
    #[error("failed to create TLS config for Prometheus: {0}")]
    Tls(String),
    /// M3 needs a tag that was not given.
    #[error("env common tag is required")]
    M3Env,
    /// The collector's settings cannot be used.
    #[error("failed to configure OTLP: {0}")]
    Otlp(String),
}

/// Metrics go where they were configured to go for as long as this lives.
pub struct Telemetry(#[expect(dead_code, reason = "held for its drop")] Installed);

/// Installs the sinks and starts their tasks, before anything is counted.
///
/// # Errors
/// What cannot work however long one waits; a collector that is away is no
/// error.
pub async fn start(
    config: &TelemetryConfig,
    program: &Program,
    tasks: &Tasks,
    drain: &Watcher,
) -> Result<Telemetry, TelemetryError> {
    let mut sinks: Vec<Arc<dyn Sink>> = Vec::new();
    if let Some(exporter) = &config.prometheus {
        let sink = Prometheus::new();
        prometheus::start(exporter, &sink, program, tasks, drain).await?;
        sinks.push(sink);
    }
    for address in &config.dog_statsd {
        let (sink, task) = DogStatsd::new(address, datadog_tags(|name| std::env::var(name).ok()));
        tasks.spawn("dogstatsd", task(drain.clone()));
        sinks.push(Arc::new(sink));
    }
    for address in &config.statsd {
        let (sink, task) = Statsd::new(address);
        tasks.spawn("statsd", task(drain.clone()));
        sinks.push(Arc::new(sink));
    }
    for m3 in &config.m3 {
        if m3.env.is_empty() {
            return Err(TelemetryError::M3Env);
        }
        let clock = Arc::clone(&program.clock);
        let (sink, task) = M3::new(&program.service(), &m3.address, &m3.env, clock);
        tasks.spawn("m3", task(drain.clone()));
        sinks.push(Arc::new(sink));
    }
    if config.in_mem {
        let sink = Arc::new(InMem::new(Arc::clone(&program.clock)));
        tasks.spawn("inmem_dump", dump_on_signal(Arc::clone(&sink), drain.clone()));
        sinks.push(sink);
    }
    if let Some(collector) = &config.otlp {
        sinks.push(otlp::start(collector, program, tasks, drain)?);
    }
    let enabled = !sinks.is_empty();
    let installed = steeple_telemetry::install(common(config, program), sinks);
    if enabled {
        let trust_domain = program.trust_domain.to_string();
        tasks.spawn("uptime", process::watch(VERSION.to_owned(), trust_domain, drain.clone()));
    }
    Ok(Telemetry(installed))
}

fn common(config: &TelemetryConfig, program: &Program) -> Config {
    let host = || hostname().filter(|name| !name.is_empty());
    Config {
        prefix: config.metric_prefix.clone().unwrap_or_else(|| program.service()),
        trust_domain: config.trust_domain_label.then(|| program.trust_domain.to_string()),
        host: config.hostname_label.then(host).flatten(),
        allowed_prefixes: config.allowed_prefixes.clone(),
        blocked_prefixes: config.blocked_prefixes.clone(),
        allowed_labels: config.allowed_labels.clone(),
        blocked_labels: config.blocked_labels.clone(),
    }
}

pub(crate) fn hostname() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// Writes what is in memory to the log, a line each, at every SIGUSR1.
async fn dump_on_signal(sink: Arc<InMem>, mut drain: Watcher) {
    let mut signals = match signal::on_usr1() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!(subsystem_name = SUBSYSTEM, %error, "Metrics cannot be dumped by signal");
            return;
        }
    };
    loop {
        tokio::select! {
            () = drain.signalled() => return,
            () = signals.recv() => {
                for line in sink.dump() {
                    tracing::info!(subsystem_name = SUBSYSTEM, "{line}");
                }
            }
        }
    }
}
