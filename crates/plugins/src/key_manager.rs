//! Built-in key managers. `memory` and `disk` are one implementation, with or without a file
//! behind it; `pkcs11` keeps keys in a hardware security module.

pub mod disk;
pub mod memory;
pub mod pkcs11;

mod go_json;
mod keys_file;
mod local;
