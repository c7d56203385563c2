//! Process scaffolding that every other part stands on: logs, draining, tasks, the clock,
//! back-off, atomic files, signals, Go-style durations and the version string.
//!
//! Not here: anything that knows SPIFFE, a protocol or a configuration key.
//!
//! The invariants to protect: [`Tasks`] is the only place that calls `tokio::spawn`,
//! so that no work outlives a drain unseen; a line of log is written whole or not at all;
//! [`fsx::write_atomic`] leaves either the old file or the new one, whenever the process dies.
//!
//! Start reading at [`log`] (what SPIRE's users see) and [`drain`] (how the process ends).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backoff;
pub mod clock;
pub mod drain;
pub mod duration;
pub mod fsx;
pub mod gotext;
pub mod ip_range;
pub mod log;
pub mod per_key;
pub mod rlimit;
pub mod secret;
pub mod signal;
pub mod systemd;
pub mod throttle;
pub mod umask;
pub mod version;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SystemClock};
pub use drain::{Drain, Tasks, Watcher};
pub use per_key::PerKey;
pub use secret::Secret;
pub use throttle::Throttle;
pub use version::VERSION;
