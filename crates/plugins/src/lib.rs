//! The built-in plugins, a folder each, and the table of them.
//!
//! Not here: what a plugin is (`steeple-plugin`), plugins out of process, and the server's half of
//! `join_token`, which redeems its tokens in the datastore and so belongs to the server's core.
//!
//! The invariant to protect: nothing outside a plugin's folder names its internals; a plugin is
//! reached through [`catalog`], and taking it away means its folder and its line there.
//!
//! Start reading at [`catalog::builtins`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod catalog;
pub mod credential_composer;
pub mod key_manager;
mod kube;
pub mod node_attestor;
pub mod svid_store;
pub mod upstream_authority;
pub mod workload_attestor;
