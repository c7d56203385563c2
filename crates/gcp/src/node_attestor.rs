//! Node attestors.

pub mod gcp_iit;
