//! Metrics and spans: what is counted and measured, and the sinks it goes to.
//!
//! Process-global, like `tracing` (ADR 8): [`incr`], [`gauge`], [`sample`],
//! [`measure`] and the [`call()`] guard may be called anywhere and cost next to
//! nothing until [`install`] has put sinks behind them. A key is the parts of a
//! name; each sink joins and spells them in its own way, as go-metrics does for
//! SPIRE.
//!
//! Not here: what is emitted where (each crate does that), listeners and TLS
//! (the programs). To protect: no call ever waits for a sink, nothing a peer
//! chooses becomes a label, and the number of series is bounded.
//! Start at [`registry`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod call;
mod config;
pub mod inmem;
pub mod m3;
mod names;
pub mod otlp;
pub mod process;
pub mod prometheus;
pub mod registry;
pub mod rpc;
pub mod statsd;
pub mod trace;
mod udp;

use std::time::Instant;

pub use call::{Call, call};
pub use config::Config;
pub use names::sanitize;
pub use registry::{Installed, Kind, Recorder, SeriesName, Sink, install, is_enabled};
pub use udp::{Sending, Target};

/// A label's name and value.
pub type Label<'a> = (&'a str, &'a str);

/// Adds to a counter.
pub fn incr(key: &[&str], value: f64, labels: &[Label<'_>]) {
    registry::record(Kind::Counter, key, value, labels);
}

/// Sets a gauge.
pub fn gauge(key: &[&str], value: f64, labels: &[Label<'_>]) {
    registry::record(Kind::Gauge, key, value, labels);
}

/// Adds a value to a distribution.
pub fn sample(key: &[&str], value: f64, labels: &[Label<'_>]) {
    registry::record(Kind::Sample, key, value, labels);
}

/// Adds the time since `start` to a distribution, in milliseconds.
pub fn measure(key: &[&str], start: Instant, labels: &[Label<'_>]) {
    if is_enabled() {
        registry::record(Kind::Timer, key, start.elapsed().as_secs_f64() * 1e3, labels);
    }
}

/// Held by tests that use what is global.
#[cfg(test)]
pub(crate) static GLOBAL: std::sync::Mutex<()> = std::sync::Mutex::new(());
