//! Reading one structure whose name errors tell, and nothing beside it.

use steeple_pki::envelope::Sha2;

use super::{MAX_STRUCTURE, StructureError};
use crate::wire::{Malformed, Reader as Bytes};

/// TPM_ALG_NULL.
pub(super) const NULL: u16 = 0x0010;

/// Reads one structure.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    what: &'static str,
    bytes: Bytes<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, input: &'a [u8]) -> Result<Self, StructureError> {
        if input.len() > MAX_STRUCTURE {
            return Err(StructureError::TooLarge(what));
        }
        Ok(Self { what, bytes: Bytes::new(input) })
    }

    fn complete<T>(&self, read: Result<T, Malformed>) -> Result<T, StructureError> {
        read.map_err(|Malformed| StructureError::Truncated(self.what))
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], StructureError> {
        let read = self.bytes.take(len);
        self.complete(read)
    }

    pub(super) fn u8(&mut self) -> Result<u8, StructureError> {
        let read = self.bytes.u8();
        self.complete(read)
    }

    pub(super) fn u16(&mut self) -> Result<u16, StructureError> {
        let read = self.bytes.u16();
        self.complete(read)
    }

    pub(super) fn u32(&mut self) -> Result<u32, StructureError> {
        let read = self.bytes.u32();
        self.complete(read)
    }

    pub(super) fn u64(&mut self) -> Result<u64, StructureError> {
        let read = self.bytes.u64();
        self.complete(read)
    }

    /// A TPM2B: bytes behind their length.
    pub(super) fn sized(&mut self) -> Result<&'a [u8], StructureError> {
        let read = self.bytes.sized(MAX_STRUCTURE);
        self.complete(read)
    }

    pub(super) fn finish(self) -> Result<(), StructureError> {
        self.bytes.finish().map_err(|Malformed| StructureError::Trailing(self.what))
    }

    pub(super) fn bad_algorithm(&self, algorithm: u16) -> StructureError {
        StructureError::Algorithm(self.what, algorithm)
    }

    pub(super) fn bad_value(&self) -> StructureError {
        StructureError::Value(self.what)
    }
}

/// The hash function of a TPM_ALG_ID, of those that nothing is wrong with.
#[must_use]
pub const fn hash_of(algorithm: u16) -> Option<Sha2> {
    match algorithm {
        0x000b => Some(Sha2::Sha256),
        0x000c => Some(Sha2::Sha384),
        0x000d => Some(Sha2::Sha512),
        _ => None,
    }
}
