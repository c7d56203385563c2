//! Small HTTP servers: over TCP, TLS or a Unix socket, for documents that are made in memory.
//!
//! Certificates come from files, from an ACME authority, or are the process's own SVID; clients
//! may have to show one too. Not here: what is served, and configuration.
//!
//! Invariant: a client's cost is bounded before a handler sees its request: handshakes, time to
//! send a request's head, its size, connections, and time to take the answer.
//!
//! Start at [`serve()`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod acme;
mod body;
mod clients;
mod date;
mod files;
mod guard;
mod listen;
pub mod reply;
mod serve;
mod tls;

pub use body::{Body, BodyError};
pub use clients::ClientAuth;
pub use date::{http_date, parse_http_date};
pub use files::{CertFileError, CertFiles};
pub use listen::{ListenError, Listener};
pub use serve::{Client, Limits, Request, Response, request_host, serve};
pub use tls::{CertSource, Tls, TlsError, TlsOptions};
