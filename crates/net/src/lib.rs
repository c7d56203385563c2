//! Plumbing below the APIs: sockets, TLS by SPIFFE ID, gRPC servers and channels, and one GET.
//!
//! Not here: services, who may call them, and what a peer's certificate is worth to a server; that
//! is decided in handlers, from what the connection tells about itself.
//!
//! Invariant: a peer's cost is bounded before anything about it is known: time and number of
//! handshakes, header bytes, streams, message size.
//!
//! Start at [`serve::serve`] for servers, and at [`channel`] for clients.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod authority;
pub mod channel;
mod deadline;
pub mod https;
pub mod outcome;
pub mod proxy;
pub mod serve;
pub mod status;
#[cfg(test)]
mod test_wire;
pub mod tls;
pub mod unix;
