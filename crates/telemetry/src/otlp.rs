//! The OpenTelemetry sink: metrics and spans as OTLP messages. Who sends them
//! is elsewhere.

mod proto;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;

use crate::registry::{Kind, Recorder, SeriesName, Sink};
use crate::trace::Span;
use proto::{attribute, metric, number_data_point};

/// Upper bounds of a distribution's buckets; of durations, in milliseconds.
const BOUNDS: [f64; 16] =
    [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1e3, 2.5e3, 5e3, 1e4, 3e4];

/// What the messages are about.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// Attributes such as `service.name`.
    pub attributes: Vec<(&'static str, String)>,
}

/// The sink.
pub struct Otlp {
    resource: Resource,
    start: SystemTime,
    series: Mutex<BTreeMap<Name, Arc<Value>>>,
}

/// A name and its attributes.
type Name = (String, Vec<(String, String)>);

enum Value {
    Sum(AtomicU64),
    Gauge(AtomicU64),
    Histogram { timer: bool, state: Mutex<Histogram> },
}

#[derive(Clone, Default)]
struct Histogram {
    count: u64,
    sum: f64,
    buckets: [u64; BOUNDS.len() + 1],
}

impl Otlp {
    /// Without any series; sums count from `start`.
    pub fn new(resource: Resource, start: SystemTime) -> Arc<Self> {
        Arc::new(Self { resource, start, series: Mutex::default() })
    }

    /// An `ExportMetricsServiceRequest` with everything there is.
    pub fn metrics(&self, now: SystemTime) -> Vec<u8> {
        let mut metrics: BTreeMap<String, proto::Metric> = BTreeMap::new();
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for ((name, labels), value) in series.iter() {
            let metric = metrics.entry(name.clone()).or_insert_with(|| value.metric(name));
            let attributes = labels.iter().map(|(name, value)| attribute(name, value)).collect();
            value.add_point(metric, attributes, nanos(self.start), nanos(now));
        }
        proto::ExportMetricsServiceRequest {
            resource_metrics: vec![proto::ResourceMetrics {
                resource: Some(self.resource.message()),
                scope_metrics: vec![proto::ScopeMetrics {
                    scope: Some(scope()),
                    metrics: metrics.into_values().collect(),
                }],
            }],
        }
        .encode_to_vec()
    }

    /// An `ExportTraceServiceRequest` with these spans.
    pub fn traces(&self, spans: &[Span]) -> Vec<u8> {
        proto::ExportTraceServiceRequest {
            resource_spans: vec![proto::ResourceSpans {
                resource: Some(self.resource.message()),
                scope_spans: vec![proto::ScopeSpans {
                    scope: Some(scope()),
                    spans: spans.iter().map(span).collect(),
                }],
            }],
        }
        .encode_to_vec()
    }
}

impl Sink for Otlp {
    fn series(&self, name: &SeriesName) -> Box<dyn Recorder> {
        let value = match name.kind {
            Kind::Counter => Value::Sum(AtomicU64::default()),
            Kind::Gauge => Value::Gauge(AtomicU64::default()),
            Kind::Sample | Kind::Timer => {
                Value::Histogram { timer: name.kind == Kind::Timer, state: Mutex::default() }
            }
        };
        let mut labels = name.labels.clone();
        labels.sort();
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let value = series.entry((name.key.join("."), labels)).or_insert_with(|| Arc::new(value));
        Box::new(Series(Arc::clone(value)))
    }
}

struct Series(Arc<Value>);

impl Recorder for Series {
    fn record(&self, value: f64) {
        match &*self.0 {
            Value::Sum(sum) => {
                let more = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
                // Never refused: the closure always has an answer.
                let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            }
            Value::Gauge(last) => last.store(value.to_bits(), Ordering::Relaxed),
            Value::Histogram { state, .. } => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.count += 1;
                state.sum += value;
                state.buckets[BOUNDS.partition_point(|bound| *bound < value)] += 1;
            }
        }
    }
}

impl Value {
    fn metric(&self, name: &str) -> proto::Metric {
        let (data, unit) = match self {
            Self::Sum(_) => (
                metric::Data::Sum(proto::Sum {
                    data_points: Vec::new(),
                    aggregation_temporality: proto::CUMULATIVE,
                    is_monotonic: true,
                }),
                "1",
            ),
            Self::Gauge(_) => (metric::Data::Gauge(proto::Gauge { data_points: Vec::new() }), "1"),
            Self::Histogram { timer, .. } => (
                metric::Data::Histogram(proto::Histogram {
                    data_points: Vec::new(),
                    aggregation_temporality: proto::CUMULATIVE,
                }),
                if *timer { "ms" } else { "1" },
            ),
        };
        proto::Metric { name: name.to_owned(), unit: unit.to_owned(), data: Some(data) }
    }

    fn add_point(
        &self,
        metric: &mut proto::Metric,
        attributes: Vec<proto::KeyValue>,
        start_time_unix_nano: u64,
        time_unix_nano: u64,
    ) {
        let number = |bits: &AtomicU64, attributes| proto::NumberDataPoint {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            value: Some(number_data_point::Value::AsDouble(f64::from_bits(
                bits.load(Ordering::Relaxed),
            ))),
        };
        match (self, &mut metric.data) {
            (Self::Sum(bits), Some(metric::Data::Sum(sum))) => {
                sum.data_points.push(number(bits, attributes));
            }
            (Self::Gauge(bits), Some(metric::Data::Gauge(gauge))) => {
                gauge.data_points.push(number(bits, attributes));
            }
            (Self::Histogram { state, .. }, Some(metric::Data::Histogram(histogram))) => {
                let state = state.lock().unwrap_or_else(PoisonError::into_inner).clone();
                histogram.data_points.push(proto::HistogramDataPoint {
                    attributes,
                    start_time_unix_nano,
                    time_unix_nano,
                    count: state.count,
                    sum: Some(state.sum),
                    bucket_counts: state.buckets.to_vec(),
                    explicit_bounds: BOUNDS.to_vec(),
                });
            }
            // One name with two kinds: the first one stays.
            _ => {}
        }
    }
}

impl Resource {
    fn message(&self) -> proto::Resource {
        let attributes = self.attributes.iter().map(|(name, value)| attribute(name, value));
        proto::Resource { attributes: attributes.collect() }
    }
}

fn scope() -> proto::Scope {
    proto::Scope { name: "steeple".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

fn span(span: &Span) -> proto::Span {
    let labels = span.labels.iter().map(|(name, value)| attribute(name, value));
    let status = [attribute("rpc.grpc.status", &span.status)];
    let failed = span.status != "OK";
    proto::Span {
        trace_id: span.context.trace_id.to_vec(),
        span_id: span.context.span_id.to_vec(),
        parent_span_id: span.parent.map_or_else(Vec::new, |id| id.to_vec()),
        name: span.name.clone(),
        kind: if span.serves { proto::SERVER } else { proto::INTERNAL },
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: labels.chain(status).collect(),
        status: failed.then(|| proto::Status { message: span.status.clone(), code: proto::ERROR }),
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(kind: Kind, key: &str, status: &str) -> SeriesName {
        let labels = vec![("status".into(), status.into())];
        SeriesName { kind, key: vec!["p".into(), key.into()], labels }
    }

    #[test]
    fn metrics_are_cumulative_and_grouped_by_name() {
        let sink =
            Otlp::new(Resource { attributes: vec![("service.name", "s".into())] }, UNIX_EPOCH);
        for status in ["OK", "NotFound"] {
            let counter = sink.series(&name(Kind::Counter, "calls", status));
            counter.record(1.0);
            counter.record(2.0);
        }
        let timer = sink.series(&name(Kind::Timer, "time", "OK"));
        timer.record(1.0);
        timer.record(40_000.0);
        let bytes = sink.metrics(UNIX_EPOCH + std::time::Duration::from_nanos(7));
        let sent = proto::ExportMetricsServiceRequest::decode(bytes.as_slice()).unwrap();
        let resource = sent.resource_metrics[0].resource.as_ref().unwrap();
        assert_eq!(resource.attributes, [attribute("service.name", "s")]);
        let metrics = &sent.resource_metrics[0].scope_metrics[0].metrics;
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["p.calls", "p.time"]);
        let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!("a sum") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == proto::CUMULATIVE);
        assert_eq!(sum.data_points.len(), 2);
        assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsDouble(3.0)));
        let Some(metric::Data::Histogram(histogram)) = &metrics[1].data else { panic!("one") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum, point.time_unix_nano), (2, Some(40_001.0), 7));
        assert_eq!((point.bucket_counts[0], point.bucket_counts[BOUNDS.len()]), (1, 1));
        assert_eq!(metrics[1].unit, "ms");
    }
}
