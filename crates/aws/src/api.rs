//! The operations that are called, each one's request and what is read of its answer.

pub(crate) mod autoscaling;
pub(crate) mod ec2;
pub(crate) mod eks;
pub(crate) mod iam;
pub(crate) mod organizations;
pub(crate) mod sts;

/// How many pages of a list are read.
pub(crate) const MAX_PAGES: usize = 2000;
