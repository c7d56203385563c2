//! Built-in node attestors.

pub mod join_token;
