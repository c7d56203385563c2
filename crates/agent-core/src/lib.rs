//! The agent's decisions, apart from its sockets and files.
//!
//! State machines that take the time and what happened as arguments: whether a
//! stored identity may be used ([`node`]), what to ask the server for next
//! ([`sync`]), when an SVID is due ([`lifetime`]), who gets which identity
//! ([`cache`]), which tokens may be served again ([`jwt`]). The only awaits are
//! on workload attestors ([`attest`]) and on the token source.
//!
//! Not here: gRPC, TLS, files, clocks; `steeple-agent` performs what is decided
//! here, `steeple-agent-api` shows it to workloads.
//!
//! To protect: a cached value is never edited in place. What streams see is an
//! immutable [`cache::Update`] behind an `Arc`. Start reading at [`cache`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod attest;
pub mod bundle;
pub mod cache;
pub mod entry;
pub mod explain;
pub mod jump;
pub mod jwt;
pub mod lifetime;
pub mod node;
pub mod push;
pub mod sealed;
pub mod selectors;
pub mod storage;
pub mod svid_store;
pub mod sync;
pub mod taint;
#[cfg(test)]
mod testing;
pub mod wire;
pub mod wit;
