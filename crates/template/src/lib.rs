//! Go's `text/template`, with the functions of sprig that SPIRE allows, as far as the path
//! templates of agents go.
//!
//! Not here: what the templates are given (the node attestors).
//!
//! Invariants: a template's work and output are bounded, whatever it is given; and what it wrote
//! is parsed as a path, so that it is an agent's ID or an error, and never cleaned up.
//!
//! Start at [`AgentPathTemplate`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ast;
mod exec;
mod funcs;
mod heap;
mod lex;
mod literal;
mod parse;
mod path;
mod print;
mod value;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

pub use path::{AgentPathTemplate, TemplateError};
pub use value::{Record, Value};
