//! Metrics: what is counted and measured, and the sinks that it goes to.
#![cfg_attr(test, allow(clippy::unwrap_used))]
