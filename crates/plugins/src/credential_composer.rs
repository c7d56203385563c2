//! Built-in credential composers.

pub mod uniqueid;
