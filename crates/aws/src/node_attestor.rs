//! Node attestors.

pub mod aws_iid;
