//! Built-in key managers. Both are one implementation, with or without a file behind it.

pub mod disk;
pub mod memory;

mod go_json;
mod keys_file;
mod local;
