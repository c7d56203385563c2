//! Built-in workload attestors.

pub mod unix;
