//! Federation: other trust domains' bundles are followed, and our own is offered.
//!
//! Not here: how relationships are made and changed (`steeple-server-core`, `steeple-server-api`),
//! HTTP and TLS (`steeple-web`, `steeple-net`).
//!
//! Invariant: nothing is shared between the followers of two trust domains but the datastore, and
//! what is stored of a trust domain is what its own endpoint said, whole.
//!
//! Start at [`Manager`] for following, at [`endpoint`] for offering.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod endpoint;
mod fetch;
mod follower;
mod manager;
mod relationship;
mod schedule;
#[cfg(test)]
mod testing;
mod update;

pub use fetch::{Fetch, FetchBundleError, HttpsFetch};
pub use manager::{Manager, ManagerConfig, Refresher};
pub use relationship::{Keep, Relationship, Relationships, StoreKeep};
pub use steeple_store::model::BundleEndpointProfile;
pub use update::UpdateError;
