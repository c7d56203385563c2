//! The Prometheus sink: series in memory, written out on demand in the text
//! exposition format 0.0.4, with names and types as go-metrics has them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::registry::{Kind, Recorder, SeriesName, Sink};

/// The content type of [`Prometheus::render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Quantiles are of what came within this time.
const MAX_AGE: Duration = Duration::from_secs(10);

/// Values that a distribution keeps at most for its quantiles; beyond it, the
/// newest.
const MAX_VALUES: usize = 1024;

const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// The sink.
#[derive(Default)]
pub struct Prometheus {
    families: Mutex<BTreeMap<String, Family>>,
}

struct Family {
    kind: &'static str,
    /// By the labels' text, which sorts them.
    series: BTreeMap<String, Arc<Value>>,
}

enum Value {
    Counter(AtomicU64),
    Gauge(AtomicU64),
    Summary(Mutex<Summary>),
}

#[derive(Default)]
struct Summary {
    count: u64,
    sum: f64,
    recent: VecDeque<(Instant, f64)>,
}

impl Prometheus {
    /// Without any series.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// All series, sorted by name and labels; `now` is for the quantiles.
    pub fn render(&self, now: Instant) -> String {
        let mut out = String::new();
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, family) in families.iter() {
            let _ = write!(out, "# HELP {name} {name}\n# TYPE {name} {}\n", family.kind);
            for (labels, value) in &family.series {
                value.write(&mut out, name, labels, now);
            }
        }
        out
    }
}

impl Sink for Prometheus {
    fn series(&self, name: &SeriesName) -> Box<dyn Recorder> {
        let (family, value) = match name.kind {
            Kind::Counter => ("counter", Value::Counter(AtomicU64::default())),
            Kind::Gauge => ("gauge", Value::Gauge(AtomicU64::default())),
            Kind::Sample | Kind::Timer => ("summary", Value::Summary(Mutex::default())),
        };
        let key = flatten(&name.key);
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let family =
            families.entry(key).or_insert_with(|| Family { kind: family, series: BTreeMap::new() });
        let value = family.series.entry(labels(name)).or_insert_with(|| Arc::new(value));
        Box::new(Series(Arc::clone(value)))
    }
}

struct Series(Arc<Value>);

impl Recorder for Series {
    fn record(&self, value: f64) {
        match &*self.0 {
            // A counter does not go back.
            Value::Counter(sum) if value >= 0.0 => add(sum, value),
            Value::Counter(_) => {}
            Value::Gauge(last) => last.store(value.to_bits(), Ordering::Relaxed),
            Value::Summary(summary) => {
                let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                summary.add(value, Instant::now());
            }
        }
    }
}

fn add(sum: &AtomicU64, value: f64) {
    let more = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
    // Never refused: the closure always has an answer.
    let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
}

impl Summary {
    fn add(&mut self, value: f64, now: Instant) {
        self.count += 1;
        self.sum += value;
        self.forget(now);
        if self.recent.len() == MAX_VALUES {
            self.recent.pop_front();
        }
        self.recent.push_back((now, value));
    }

    fn forget(&mut self, now: Instant) {
        while self
            .recent
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) > MAX_AGE)
        {
            self.recent.pop_front();
        }
    }

    /// The quantiles of the recent values; not a number without any.
    fn quantiles(&mut self, now: Instant) -> [f64; 3] {
        self.forget(now);
        let mut values: Vec<f64> = self.recent.iter().map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        QUANTILES.map(|q| match values.len() {
            0 => f64::NAN,
            len => values[((q * len as f64).ceil() as usize).clamp(1, len) - 1],
        })
    }
}

impl Value {
    fn write(&self, out: &mut String, name: &str, labels: &str, now: Instant) {
        let braced = |more: &str| match (labels, more) {
            ("", "") => String::new(),
            (labels, "") => format!("{{{labels}}}"),
            ("", more) => format!("{{{more}}}"),
            (labels, more) => format!("{{{labels},{more}}}"),
        };
        match self {
            Self::Counter(value) | Self::Gauge(value) => {
                let value = float(f64::from_bits(value.load(Ordering::Relaxed)));
                let _ = writeln!(out, "{name}{} {value}", braced(""));
            }
            Self::Summary(summary) => {
                let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                for (q, value) in QUANTILES.into_iter().zip(summary.quantiles(now)) {
                    let labels = braced(&format!("quantile=\"{q}\""));
                    let _ = writeln!(out, "{name}{labels} {}", float(value));
                }
                let (sum, count) = (float(summary.sum), summary.count);
                let labels = braced("");
                let _ = writeln!(out, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
            }
        }
    }
}

fn flatten(key: &[String]) -> String {
    key.join("_").replace([' ', '.', '=', '-', '/'], "_")
}

/// `a="b",c="d"`, sorted; of several labels with one name, the last.
fn labels(name: &SeriesName) -> String {
    let labels: BTreeMap<&str, &str> =
        name.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut out = String::new();
    for (name, value) in labels {
        if !out.is_empty() {
            out.push(',');
        }
        let _ = write!(out, "{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

/// Go's shortest `%g`, which is how Prometheus' own clients write numbers.
pub(crate) fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

#[cfg(test)]
mod tests;
