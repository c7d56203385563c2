//! The two forms of an ECDSA signature: ASN.1 (X.509) and two numbers side by side (JOSE).

use crate::der::{self, Reader};

/// Turns the ASN.1 form into two numbers of `len` bytes each.
pub(crate) fn raw_from_der(signature: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut numbers = Reader::sequence_of(signature).ok()?;
    let mut raw = vec![0; 2 * len];
    for half in raw.chunks_exact_mut(len) {
        let number = numbers.unsigned().ok()?;
        half.get_mut(len.checked_sub(number.len())?..)?.copy_from_slice(number);
    }
    numbers.finish().ok()?;
    Some(raw)
}

/// Turns two numbers of `len` bytes each into the ASN.1 form.
pub(super) fn der_from_raw(raw: &[u8], len: usize) -> Option<Vec<u8>> {
    if raw.len() != 2 * len {
        return None;
    }
    let mut signature = Vec::with_capacity(raw.len() + 12);
    der::put_nested(&mut signature, der::SEQUENCE, |out| {
        raw.chunks_exact(len).for_each(|half| der::put_unsigned(out, half));
    });
    Some(signature)
}
