//! The M3 sink: what was counted in each second, in the Thrift compact
//! protocol over UDP, as SPIRE's library (tally) sends it.

mod thrift;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steeple_runtime::{Clock, Watcher};
use tokio::net::UdpSocket;

use crate::registry::{Kind, Recorder, SeriesName, Sink};
use crate::udp::Sending;
use thrift::{Batch, Metric, MetricValue};

/// Between two reports.
const INTERVAL: Duration = Duration::from_secs(1);

/// The most bytes in a datagram.
const PACKET: usize = 32_768;

/// Upper bounds of durations, in milliseconds.
const DURATIONS: [(f64, &str); 20] = [
    (0.0, "0"),
    (10.0, "10ms"),
    (25.0, "25ms"),
    (50.0, "50ms"),
    (75.0, "75ms"),
    (100.0, "100ms"),
    (200.0, "200ms"),
    (300.0, "300ms"),
    (400.0, "400ms"),
    (500.0, "500ms"),
    (600.0, "600ms"),
    (800.0, "800ms"),
    (1e3, "1s"),
    (2e3, "2s"),
    (5e3, "5s"),
    (10e3, "10s"),
    (15e3, "15s"),
    (20e3, "20s"),
    (25e3, "25s"),
    (30e3, "30s"),
];

/// Upper bounds of other values.
const VALUES: [(f64, &str); 6] = [
    (0.0, "0.000000"),
    (1.0, "1.000000"),
    (10.0, "10.000000"),
    (100.0, "100.000000"),
    (1e3, "1000.000000"),
    (1e4, "10000.000000"),
];

/// The sink.
pub struct M3(Arc<Shared>);

#[derive(Default)]
struct Shared {
    series: Mutex<BTreeMap<Name, Arc<Value>>>,
}

/// A name, its tags, and how it is counted.
type Name = (String, Vec<(String, String)>, Sort);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Counter,
    Gauge,
    Durations,
    Values,
}

enum Value {
    Counter(AtomicI64),
    Gauge { updated: AtomicBool, bits: AtomicU64 },
    Histogram { bounds: &'static [(f64, &'static str)], counts: Vec<AtomicI64> },
}

impl M3 {
    /// The sink, and the task that reports for it: to `address`, under the
    /// tags `service` and `env`.
    pub fn new(
        service: &str,
        address: &str,
        env: &str,
        clock: Arc<dyn Clock>,
    ) -> (Self, impl FnOnce(Watcher) -> Sending + Send + use<>) {
        let shared = Arc::new(Shared::default());
        let tags = vec![("service".to_owned(), service.to_owned()), ("env".into(), env.into())];
        let (reporting, address) = (Arc::clone(&shared), address.to_owned());
        let task = move |drain: Watcher| -> Sending {
            Box::pin(report(reporting, address, tags, clock, drain))
        };
        (Self(shared), task)
    }
}

impl Sink for M3 {
    fn wants_kind(&self) -> bool {
        true
    }

    fn series(&self, name: &SeriesName) -> Box<dyn Recorder> {
        let counts = |n: usize| (0..=n).map(|_| AtomicI64::new(0)).collect();
        let (sort, value) = match name.kind {
            Kind::Counter => (Sort::Counter, Value::Counter(AtomicI64::new(0))),
            Kind::Gauge => {
                let (updated, bits) = (AtomicBool::new(false), AtomicU64::new(0));
                (Sort::Gauge, Value::Gauge { updated, bits })
            }
            Kind::Timer => {
                let counts = counts(DURATIONS.len());
                (Sort::Durations, Value::Histogram { bounds: &DURATIONS, counts })
            }
            Kind::Sample => {
                let counts = counts(VALUES.len());
                (Sort::Values, Value::Histogram { bounds: &VALUES, counts })
            }
        };
        // The prefix and the kind are not part of the name.
        let key = name.key.get(2..).unwrap_or_default().join("_");
        let mut labels = name.labels.clone();
        labels.sort();
        let mut series = self.0.series.lock().unwrap_or_else(PoisonError::into_inner);
        let value = series.entry((key, labels, sort)).or_insert_with(|| Arc::new(value));
        Box::new(Series(Arc::clone(value)))
    }
}

struct Series(Arc<Value>);

impl Recorder for Series {
    fn record(&self, value: f64) {
        match &*self.0 {
            Value::Counter(count) => {
                count.fetch_add(value as i64, Ordering::Relaxed);
            }
            Value::Gauge { updated, bits } => {
                bits.store(value.to_bits(), Ordering::Relaxed);
                updated.store(true, Ordering::Release);
            }
            Value::Histogram { bounds, counts } => {
                // tally sees whole milliseconds.
                let value = if bounds.len() == DURATIONS.len() { value.trunc() } else { value };
                let at = bounds.partition_point(|(bound, _)| *bound < value);
                counts[at].fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Shared {
    /// What changed since the last time.
    fn collect(&self) -> Vec<Metric> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut metrics = Vec::new();
        for ((name, labels, _), value) in series.iter() {
            let mut report = |value, more: Option<[(String, String); 2]>| {
                let tags = labels.iter().cloned().chain(more.into_iter().flatten()).collect();
                metrics.push(Metric { name: name.clone(), value, tags });
            };
            match &**value {
                Value::Counter(count) => match count.swap(0, Ordering::Relaxed) {
                    0 => {}
                    count => report(MetricValue::Count(count), None),
                },
                Value::Gauge { updated, bits } => {
                    if updated.swap(false, Ordering::Acquire) {
                        let value = f64::from_bits(bits.load(Ordering::Relaxed));
                        report(MetricValue::Gauge(value), None);
                    }
                }
                Value::Histogram { bounds, counts } => {
                    for (at, count) in counts.iter().enumerate() {
                        let count = count.swap(0, Ordering::Relaxed);
                        if count == 0 {
                            continue;
                        }
                        let bound = |at: Option<usize>, none: &'static str| {
                            at.and_then(|at| bounds.get(at)).map_or(none, |(_, name)| name)
                        };
                        let (from, to) =
                            (bound(at.checked_sub(1), "-infinity"), bound(Some(at), "infinity"));
                        let id = ("bucketid".to_owned(), format!("{at:04}"));
                        let bucket = ("bucket".to_owned(), format!("{from}-{to}"));
                        report(MetricValue::Count(count), Some([id, bucket]));
                    }
                }
            }
        }
        metrics
    }
}

async fn report(
    shared: Arc<Shared>,
    address: String,
    tags: Vec<(String, String)>,
    clock: Arc<dyn Clock>,
    mut drain: Watcher,
) {
    let mut batch = Batch::new(&tags, PACKET);
    let mut socket = None;
    let mut failed = false;
    let mut last = false;
    while !last {
        tokio::select! {
            () = drain.signalled() => last = true,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let packets = batch.encode(&shared.collect(), clock.now());
        let sent = send(&mut socket, &address, packets).await;
        match sent {
            Ok(()) => failed = false,
            Err(error) => {
                socket = None;
                if !failed {
                    failed = true;
                    tracing::warn!(
                        subsystem_name = "telemetry",
                        sink = "M3",
                        %error,
                        "Cannot send metrics; dropping them until this works again"
                    );
                }
            }
        }
    }
}

async fn send(
    socket: &mut Option<UdpSocket>,
    address: &str,
    packets: Vec<Vec<u8>>,
) -> std::io::Result<()> {
    if packets.is_empty() {
        return Ok(());
    }
    if socket.is_none() {
        let peer = tokio::net::lookup_host(address).await?.next();
        let peer = peer.ok_or_else(|| std::io::Error::other("the address names no host"))?;
        let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let fresh = UdpSocket::bind(any).await?;
        fresh.connect(peer).await?;
        *socket = Some(fresh);
    }
    if let Some(socket) = socket {
        for packet in packets {
            socket.send(&packet).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
