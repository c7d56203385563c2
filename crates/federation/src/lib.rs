//! Federation: the bundle endpoint, and following other trust domains' bundles.
#![cfg_attr(test, allow(clippy::unwrap_used))]
