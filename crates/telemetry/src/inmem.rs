//! The InMem sink: the last hour in buckets of a second, written out on demand.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use steeple_runtime::Clock;

use crate::registry::{Kind, Recorder, SeriesName, Sink};

/// Buckets that are kept, of a second each.
const BUCKETS: usize = 3600;

/// The sink.
pub struct InMem(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    started: Instant,
    buckets: Mutex<VecDeque<Bucket>>,
}

/// A second, in seconds since the epoch, and what happened in it.
struct Bucket {
    second: u64,
    values: BTreeMap<(char, Arc<str>), Value>,
}

enum Value {
    Gauge(f64),
    Distribution(Distribution),
}

#[derive(Clone, Copy, Debug)]
struct Distribution {
    count: u64,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
    updated: SystemTime,
    /// Since the sink was made, in seconds.
    monotonic: f64,
}

impl InMem {
    /// Without anything in it.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared { clock, started: Instant::now(), buckets: Mutex::default() }))
    }

    /// A line per series and second in go-metrics' form, without the second
    /// that is still going on.
    pub fn dump(&self) -> Vec<String> {
        let now = second(self.0.clock.now());
        let buckets = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::new();
        for bucket in buckets.iter().filter(|bucket| bucket.second != now) {
            let time = go_time(UNIX_EPOCH + std::time::Duration::from_secs(bucket.second));
            for ((sort, name), value) in &bucket.values {
                let mut line = format!("[{time}][{sort}] '{name}': ");
                match value {
                    Value::Gauge(value) => {
                        let _ = write!(line, "{value:.3}");
                    }
                    Value::Distribution(distribution) => distribution.write(&mut line),
                }
                lines.push(line);
            }
        }
        lines
    }
}

impl Sink for InMem {
    fn series(&self, name: &SeriesName) -> Box<dyn Recorder> {
        let mut text = name.key.join(".").replace(' ', "_");
        for (_, value) in &name.labels {
            text.push('.');
            text.push_str(&value.replace([' ', ':'], "_"));
        }
        let sort = match name.kind {
            Kind::Counter => 'C',
            Kind::Gauge => 'G',
            Kind::Sample | Kind::Timer => 'S',
        };
        Box::new(Series { shared: Arc::clone(&self.0), sort, name: text.into() })
    }
}

struct Series {
    shared: Arc<Shared>,
    sort: char,
    name: Arc<str>,
}

impl Recorder for Series {
    fn record(&self, value: f64) {
        let now = self.shared.clock.now();
        let second = second(now);
        let mut buckets = self.shared.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.back().is_none_or(|bucket| bucket.second != second) {
            if buckets.len() == BUCKETS {
                buckets.pop_front();
            }
            buckets.push_back(Bucket { second, values: BTreeMap::new() });
        }
        let Some(bucket) = buckets.back_mut() else { return };
        let key = (self.sort, Arc::clone(&self.name));
        if self.sort == 'G' {
            bucket.values.insert(key, Value::Gauge(value));
            return;
        }
        let monotonic = self.shared.started.elapsed().as_secs_f64();
        match bucket.values.get_mut(&key) {
            Some(Value::Distribution(distribution)) => distribution.add(value, now, monotonic),
            _ => {
                let first = Distribution {
                    count: 1,
                    sum: value,
                    squares: value * value,
                    min: value,
                    max: value,
                    updated: now,
                    monotonic,
                };
                bucket.values.insert(key, Value::Distribution(first));
            }
        }
    }
}

impl Distribution {
    fn add(&mut self, value: f64, now: SystemTime, monotonic: f64) {
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        (self.updated, self.monotonic) = (now, monotonic);
    }

    fn deviation(&self) -> f64 {
        let count = self.count as f64;
        let divisor = count * (count - 1.0);
        if divisor == 0.0 {
            return 0.0;
        }
        ((count * self.squares - self.sum * self.sum) / divisor).max(0.0).sqrt()
    }

    fn write(&self, line: &mut String) {
        let Self { count, sum, min, max, .. } = self;
        let updated = format!("{} m=+{:.9}", go_time(self.updated), self.monotonic);
        let deviation = self.deviation();
        let _ = if deviation == 0.0 {
            write!(line, "Count: {count} Sum: {sum:.3} LastUpdated: {updated}")
        } else {
            let mean = sum / *count as f64;
            write!(
                line,
                "Count: {count} Min: {min:.3} Mean: {mean:.3} Max: {max:.3} \
                 Stddev: {deviation:.3} Sum: {sum:.3} LastUpdated: {updated}"
            )
        };
    }
}

fn second(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `2026-11-22 09:11:32.5 +0000 UTC`: how Go prints a time.
fn go_time(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    let mut out = format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    let nanos = format!("{:09}", time.nanosecond());
    let nanos = nanos.trim_end_matches('0');
    if !nanos.is_empty() {
        let _ = write!(out, ".{nanos}");
    }
    out.push_str(" +0000 UTC");
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_runtime::ManualClock;

    use super::*;

    fn name(kind: Kind) -> SeriesName {
        let labels = vec![("status".into(), "a b".into()), ("host".into(), "vm".into())];
        SeriesName { kind, key: vec!["spire_server".into(), "x".into()], labels }
    }

    #[test]
    fn the_dump_is_in_go_metrics_form_and_leaves_out_the_current_second() {
        let clock = ManualClock::default();
        let sink = InMem::new(Arc::new(clock.clone()));
        let counter = sink.series(&name(Kind::Counter));
        counter.record(1.0);
        sink.series(&name(Kind::Gauge)).record(2.0);
        let samples = sink.series(&name(Kind::Timer));
        samples.record(1.0);
        samples.record(3.0);
        assert!(sink.dump().is_empty(), "the second is not over");
        clock.advance(Duration::from_secs(1));
        let lines: Vec<String> = sink
            .dump()
            .iter()
            .map(|line| line.split(" m=+").next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(
            lines,
            [
                "[2026-01-01 00:00:00 +0000 UTC][C] 'spire_server.x.a_b.vm': Count: 1 Sum: 1.000 \
                 LastUpdated: 2026-01-01 00:00:00 +0000 UTC",
                "[2026-01-01 00:00:00 +0000 UTC][G] 'spire_server.x.a_b.vm': 2.000",
                "[2026-01-01 00:00:00 +0000 UTC][S] 'spire_server.x.a_b.vm': Count: 2 Min: 1.000 \
                 Mean: 2.000 Max: 3.000 Stddev: 1.414 Sum: 4.000 LastUpdated: \
                 2026-01-01 00:00:00 +0000 UTC",
            ]
        );
        counter.record(1.0);
        assert_eq!(sink.dump().len(), 3);
    }

    #[test]
    fn an_hour_is_kept() {
        let clock = ManualClock::default();
        let sink = InMem::new(Arc::new(clock.clone()));
        let gauge = sink.series(&name(Kind::Gauge));
        for _ in 0..BUCKETS + 10 {
            gauge.record(1.0);
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(sink.dump().len(), BUCKETS);
    }

    #[test]
    fn times_are_printed_as_go_prints_them() {
        let time = UNIX_EPOCH + Duration::new(1_795_338_692, 606_484_100);
        assert_eq!(go_time(time), "2026-11-22 09:11:32.6064841 +0000 UTC");
    }
}
