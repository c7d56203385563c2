//! Built-in key managers. `memory` and `disk` are one implementation, with or without a file
//! behind it; `pkcs11` keeps keys in a hardware security module, `tpm` in the machine's TPM.

pub mod disk;
pub mod memory;
pub mod pkcs11;
pub mod tpm;

mod go_json;
mod keys_file;
mod local;
