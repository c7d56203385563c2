//! Reports to an OpenTelemetry collector.

use std::sync::Arc;
use std::time::Duration;

use steeple_config::{OtlpConfig, OtlpProtocol};
use steeple_net::https::post::{PostError, Poster, Wire};
use steeple_runtime::{Clock, Tasks, VERSION, Watcher};
use steeple_telemetry::Sink;
use steeple_telemetry::otlp::{Otlp, Resource};
use steeple_telemetry::trace::{self, Span};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::Program;
use crate::telemetry::{TelemetryError, hostname};

/// How long a collector may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Spans of one message at most, and how long the first of them waits.
const BATCH: usize = 512;
const SPANS_WAIT: Duration = Duration::from_secs(5);

/// Makes the sink and starts to report.
pub(crate) fn start(
    config: &OtlpConfig,
    program: &Program,
    tasks: &Tasks,
    drain: &Watcher,
) -> Result<Arc<dyn Sink>, TelemetryError> {
    let wire = match config.protocol {
        OtlpProtocol::Http => Wire::Http,
        OtlpProtocol::Grpc => Wire::Grpc,
    };
    let headers = config.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let poster = Poster::new(&config.endpoint, headers, wire, DEADLINE)
        .map_err(|error| TelemetryError::Otlp(error.to_string()))?;
    let attributes = [
        ("service.name", Some(program.service())),
        ("service.version", Some(VERSION.to_owned())),
        ("host.name", hostname()),
        ("spiffe.trust_domain", Some(program.trust_domain.to_string())),
    ];
    let attributes = attributes.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let resource = Resource { attributes: attributes.collect() };
    let sink = Otlp::new(resource, program.clock.now());
    let exporter =
        Exporter { sink: Arc::clone(&sink), poster, wire, clock: Arc::clone(&program.clock) };
    if config.traces {
        let (recording, spans) = trace::install(config.sample_ratio);
        let exporter = exporter.clone();
        let drain = drain.clone();
        tasks.spawn("otlp_traces", async move {
            exporter.send_spans(spans, drain).await;
            drop(recording);
        });
    }
    tasks.spawn("otlp_metrics", exporter.send_metrics(config.interval, drain.clone()));
    Ok(sink)
}

#[derive(Clone)]
struct Exporter {
    sink: Arc<Otlp>,
    poster: Poster,
    wire: Wire,
    clock: Arc<dyn Clock>,
}

impl Exporter {
    /// Once per interval, and once more in the end.
    async fn send_metrics(self, interval: Duration, mut drain: Watcher) {
        let path = match self.wire {
            Wire::Http => "/v1/metrics",
            Wire::Grpc => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        };
        let mut failing = false;
        let mut last = false;
        while !last {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = drain.signalled() => last = true,
            }
            let sent = self.poster.post(path, self.sink.metrics(self.clock.now())).await;
            tell("metrics", sent, &mut failing);
        }
    }

    async fn send_spans(self, mut spans: mpsc::Receiver<Span>, mut drain: Watcher) {
        let path = match self.wire {
            Wire::Http => "/v1/traces",
            Wire::Grpc => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        };
        let mut failing = false;
        let mut last = false;
        while !last {
            let mut batch = Vec::new();
            let mut due = None;
            while batch.len() < BATCH {
                let wait = async {
                    match due {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    received = spans.recv_many(&mut batch, BATCH) => if received == 0 {
                        last = true;
                        break;
                    },
                    () = wait => break,
                    () = drain.signalled() => {
                        last = true;
                        break;
                    }
                }
                due.get_or_insert_with(|| Instant::now() + SPANS_WAIT);
            }
            if !batch.is_empty() {
                let sent = self.poster.post(path, self.sink.traces(&batch)).await;
                tell("traces", sent, &mut failing);
            }
        }
    }
}

/// One warning when it begins to fail, one line when it works again.
fn tell(what: &str, sent: Result<(), PostError>, failing: &mut bool) {
    match sent {
        Ok(()) if *failing => {
            *failing = false;
            tracing::info!(subsystem_name = "telemetry", what, "OTLP collector works again");
        }
        Err(error) if !*failing => {
            *failing = true;
            tracing::warn!(
                subsystem_name = "telemetry",
                what,
                %error,
                "Cannot send to the OTLP collector; dropping until this works again"
            );
        }
        Ok(()) | Err(_) => {}
    }
}
