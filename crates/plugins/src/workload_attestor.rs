//! Built-in workload attestors.

mod container;
pub mod docker;
pub mod k8s;
mod patience;
pub mod slurm;
pub mod systemd;
pub mod unix;
