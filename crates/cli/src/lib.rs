//! Every verb of `spire-server` and `spire-agent`: flags, calls, and what is
//! printed.
//!
//! The flags follow Go's `flag` package (single dash, `-x=v` or `-x v`) and the
//! texts are those that scripts parse today. Not here: what `run` and
//! `validate` do, which the two programs hand in as a [`Program`].
//!
//! Invariant: data goes to standard output, words about trouble to standard
//! error; any failure exits with 1.
//!
//! Start at [`server::main`] or [`agent::main`], then `dispatch`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
mod chain;
mod client;
mod completion;
mod dispatch;
mod env;
mod flags;
mod gofmt;
mod health;
mod json;
mod output;
pub mod server;

pub use dispatch::Program;
pub use env::Env;
pub use flags::{FlagError, FlagSet};
