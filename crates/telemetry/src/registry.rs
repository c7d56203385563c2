//! The table of series, and the sinks behind it.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwapOption;

use crate::Label;
use crate::config::Config;
use crate::names::sanitize;

/// More series than this are dropped.
const MAX_SERIES: usize = 10_000;

/// Locks that the series are spread over.
const SHARDS: usize = 16;

/// What sort of metric a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Adds up.
    Counter,
    /// Has the last value.
    Gauge,
    /// Has a distribution.
    Sample,
    /// Has a distribution of milliseconds.
    Timer,
}

impl Kind {
    /// The part that goes into keys for sinks that want it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Sample => "sample",
            Self::Timer => "timer",
        }
    }
}

/// A series as a sink gets to see it: filtered, with the prefix in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesName {
    /// What sort of metric it is.
    pub kind: Kind,
    /// The parts of the name; where the sink wants it, the kind comes second.
    pub key: Vec<String>,
    /// Names and values, in the order that StatsD appends them.
    pub labels: Vec<(String, String)>,
}

/// Where metrics go.
pub trait Sink: Send + Sync {
    /// Whether filters and names have the kind after the prefix.
    fn wants_kind(&self) -> bool {
        false
    }

    /// Prepares a series, once.
    fn series(&self, name: &SeriesName) -> Box<dyn Recorder>;
}

/// A series in a sink.
pub trait Recorder: Send + Sync {
    /// Takes a value; never waits.
    fn record(&self, value: f64);
}

/// Puts `sinks` behind every call of this process, in place of those before,
/// until the guard is dropped.
#[must_use = "the sinks are taken away with the guard"]
pub fn install(config: Config, sinks: Vec<Arc<dyn Sink>>) -> Installed {
    let registry = Arc::new(Registry::new(config, sinks));
    if !registry.sinks.is_empty() {
        CURRENT.store(Some(Arc::clone(&registry)));
    }
    Installed(registry)
}

/// Takes the sinks away when it is dropped.
pub struct Installed(Arc<Registry>);

impl Drop for Installed {
    fn drop(&mut self) {
        let current = CURRENT.load();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &self.0)) {
            CURRENT.store(None);
        }
    }
}

/// Whether anything listens to metrics.
pub fn is_enabled() -> bool {
    CURRENT.load().is_some()
}

pub(crate) fn record(kind: Kind, key: &[&str], value: f64, labels: &[Label<'_>]) {
    if let Some(registry) = CURRENT.load().as_ref() {
        registry.record(Scope::Common, kind, key, value, labels);
    }
}

/// A gauge of the process itself, which has no label but the host's.
pub(crate) fn process_gauge(key: &[&str], value: f64) {
    if let Some(registry) = CURRENT.load().as_ref() {
        registry.record(Scope::Process, Kind::Gauge, key, value, &[]);
    }
}

static CURRENT: ArcSwapOption<Registry> = ArcSwapOption::const_empty();

/// Which labels of our own a series has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Common,
    Process,
}

struct Registry {
    config: Config,
    sinks: Vec<Arc<dyn Sink>>,
    hasher: RandomState,
    shards: [RwLock<Shard>; SHARDS],
    count: AtomicUsize,
    full: AtomicBool,
}

type Shard = HashMap<u64, Vec<Series>>;

struct Series {
    scope: Scope,
    kind: Kind,
    key: Box<[Box<str>]>,
    labels: Box<[(Box<str>, Box<str>)]>,
    recorders: Box<[Box<dyn Recorder>]>,
}

impl Registry {
    fn new(config: Config, sinks: Vec<Arc<dyn Sink>>) -> Self {
        Self {
            config,
            sinks,
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| RwLock::default()),
            count: AtomicUsize::new(0),
            full: AtomicBool::new(false),
        }
    }

    fn record(&self, scope: Scope, kind: Kind, key: &[&str], value: f64, labels: &[Label<'_>]) {
        let hash = self.hash(scope, kind, key, labels);
        let shard = &self.shards[hash as usize % SHARDS];
        let known = |shard: &Shard| {
            let mut series = shard.get(&hash).into_iter().flatten();
            let series = series.find(|it| it.is(scope, kind, key, labels));
            series.is_some_and(|series| {
                series.record(value);
                true
            })
        };
        if known(&shard.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if known(&shard) || !self.has_room() {
            return;
        }
        let series = self.make(scope, kind, key, labels);
        series.record(value);
        shard.entry(hash).or_default().push(series);
    }

    fn has_room(&self) -> bool {
        let room = self.count.fetch_add(1, Ordering::Relaxed) < MAX_SERIES;
        if !room {
            self.count.fetch_sub(1, Ordering::Relaxed);
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    subsystem_name = "telemetry",
                    limit = MAX_SERIES,
                    "Too many series; metrics with new names or labels are dropped"
                );
            }
        }
        room
    }

    fn hash(&self, scope: Scope, kind: Kind, key: &[&str], labels: &[Label<'_>]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u8(scope as u8);
        hasher.write_u8(kind as u8);
        for part in key {
            hasher.write(part.as_bytes());
            hasher.write_u8(0);
        }
        for (name, value) in labels {
            hasher.write_u8(1);
            hasher.write(name.as_bytes());
            hasher.write_u8(0);
            hasher.write(value.as_bytes());
        }
        hasher.finish()
    }

    fn make(&self, scope: Scope, kind: Kind, key: &[&str], labels: &[Label<'_>]) -> Series {
        let config = &self.config;
        let mut shown: Vec<(String, String)> =
            labels.iter().map(|(name, value)| (sanitize(name), sanitize(value))).collect();
        if let (Scope::Common, Some(domain)) = (scope, &config.trust_domain) {
            shown.push(("trust_domain".to_owned(), sanitize(domain)));
        }
        if let Some(host) = &config.host {
            shown.push(("host".to_owned(), host.clone()));
        }
        shown.retain(|(name, _)| config.keeps_label(name));
        let name = |with_kind: bool| {
            let kind = with_kind.then_some(kind.as_str());
            let parts = [config.prefix.as_str()].into_iter().chain(kind);
            parts.chain(key.iter().copied()).map(str::to_owned).collect::<Vec<_>>()
        };
        let recorders = self.sinks.iter().filter_map(|sink| {
            let key = name(sink.wants_kind());
            config
                .keeps(&key.join("."))
                .then(|| sink.series(&SeriesName { kind, key, labels: shown.clone() }))
        });
        Series {
            scope,
            kind,
            key: key.iter().map(|part| Box::from(*part)).collect(),
            labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            recorders: recorders.collect(),
        }
    }
}

impl Series {
    fn is(&self, scope: Scope, kind: Kind, key: &[&str], labels: &[Label<'_>]) -> bool {
        let same_label = |((name, value), (n, v)): (&(Box<str>, Box<str>), &Label<'_>)| {
            **name == **n && **value == **v
        };
        self.scope == scope
            && self.kind == kind
            && self.key.len() == key.len()
            && self.labels.len() == labels.len()
            && self.key.iter().zip(key).all(|(a, b)| **a == **b)
            && self.labels.iter().zip(labels).all(same_label)
    }

    fn record(&self, value: f64) {
        for recorder in &self.recorders {
            recorder.record(value);
        }
    }
}

#[cfg(test)]
mod tests;
