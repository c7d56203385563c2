//! TPM 2.0: commands to a TPM, and the judgement of what a TPM says.
//!
//! Talking: [`Access`] gives async callers a conversation ([`Tpm`]) at a time, whose methods are
//! the commands; [`Device`] below carries bytes. A conversation flushes what it loaded when it
//! ends, and no call outlasts its deadline. Judging: [`verify`], which needs no TPM. Not here: the
//! protocols of the node attestors `tpm_devid` and `tpm`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod commands;
mod device;
mod devid;
#[cfg(any(test, feature = "emulator"))]
pub mod emulator;
mod hmac;
mod key;
mod keys;
mod response;
mod session;
pub mod spec;
pub mod template;
pub mod verify;
pub mod wire;

pub use access::Access;
pub use commands::{Attested, Loaded, PcrSelection, Wrapped};
pub use device::{AutodetectError, Device, DeviceError, autodetect};
pub use key::{Key, Place};
pub use keys::{EkKind, Parent, find};
pub use response::ResponseCode;
pub use session::{Auth, Handle, Tpm, TpmError};
