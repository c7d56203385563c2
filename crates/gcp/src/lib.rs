//! Google Cloud: its plugins, a folder each, and what they share: credentials for its APIs, and
//! as much of the Compute Engine API as is asked.
//!
//! Not here: HTTP itself (`steeple_net::https`), and how tokens are verified (`steeple_pki::jwt`).
//!
//! Invariant: every answer of Google, of a metadata server, or of whoever pretends to be one, is
//! read up to a limit and waited for up to a deadline; redirects are not followed.
//!
//! Start reading at [`node_attestor::gcp_iit`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod compute;
mod credentials;
pub mod node_attestor;
mod once;
#[cfg(test)]
mod stand;
mod web;
