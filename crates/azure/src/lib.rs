//! Microsoft Azure: its plugins, a folder each, and what they share.
//!
//! Azure's services are asked over plain HTTP calls (`web`), which tests answer from records;
//! no SDK is involved. Only the public cloud's services are known, as in SPIRE.
//!
//! Invariants: every answer is bounded in size and time, no redirect is followed, and a token for
//! Azure's APIs goes to Azure's API host and nowhere else.
//!
//! Start at [`node_attestor`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod arm;
mod cached;
mod credential;
mod login;
mod metadata;
pub mod node_attestor;
mod resource;
mod uuid;
mod web;
