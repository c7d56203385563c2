//! Strict DER, as much of it as certificates, CSRs and keys need: definite minimal lengths and
//! one-byte tags only. The reader never allocates and never looks past what it was given.

use thiserror::Error;

/// End of contents; twice, it ends an element of indefinite length.
pub(crate) const EOC: u8 = 0x00;
pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const NUMERIC_STRING: u8 = 0x12;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const T61_STRING: u8 = 0x14;
pub(crate) const IA5_STRING: u8 = 0x16;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const BMP_STRING: u8 = 0x1e;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The tag of the context-specific, primitive element `[n]`.
pub(crate) const fn context(n: u8) -> u8 {
    0x80 | n
}

/// The tag of the context-specific, constructed element `[n]`.
pub(crate) const fn context_constructed(n: u8) -> u8 {
    0xa0 | n
}

/// What is wrong with an encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DerError {
    /// The input ends inside an element.
    #[error("truncated DER")]
    Truncated,
    /// A length that is indefinite, not minimal, or larger than 32 bits can say.
    #[error("malformed DER length")]
    Length,
    /// A tag number above 30, which nothing here uses.
    #[error("unsupported DER tag")]
    Tag,
    /// Another element than the one that belongs here; holds the tag found.
    #[error("unexpected DER element with tag 0x{0:02x}")]
    Unexpected(u8),
    /// Something follows where the encoding should end.
    #[error("trailing data")]
    Trailing,
    /// The content of an element breaks the rules of its type.
    #[error("malformed DER {0}")]
    Value(&'static str),
}

/// One element.
#[derive(Clone, Copy)]
pub(crate) struct Tlv<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
    /// Tag, length and value.
    pub(crate) raw: &'a [u8],
}

/// Reads elements one after the other.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// A reader of the content of the single SEQUENCE that `input` is.
    pub(crate) fn sequence_of(input: &'a [u8]) -> Result<Self, DerError> {
        let mut outer = Self::new(input);
        let inner = outer.sequence()?;
        outer.finish()?;
        Ok(inner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn finish(&self) -> Result<(), DerError> {
        if self.is_empty() { Ok(()) } else { Err(DerError::Trailing) }
    }

    pub(crate) fn peek_tag(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub(crate) fn any(&mut self) -> Result<Tlv<'a>, DerError> {
        let &[tag, first, ref tail @ ..] = self.rest else { return Err(DerError::Truncated) };
        if tag & 0x1f == 0x1f {
            return Err(DerError::Tag);
        }
        let (length, more) = length(first, tail)?;
        let header = 2 + more;
        let end = header.checked_add(length).ok_or(DerError::Length)?;
        let raw = self.rest.get(..end).ok_or(DerError::Truncated)?;
        self.rest = &self.rest[end..];
        Ok(Tlv { tag, value: &raw[header..], raw })
    }

    pub(crate) fn element(&mut self, tag: u8) -> Result<Tlv<'a>, DerError> {
        match self.peek_tag() {
            Some(found) if found == tag => self.any(),
            Some(found) => Err(DerError::Unexpected(found)),
            None => Err(DerError::Truncated),
        }
    }

    pub(crate) fn value(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        Ok(self.element(tag)?.value)
    }

    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, DerError> {
        if self.peek_tag() == Some(tag) { self.value(tag).map(Some) } else { Ok(None) }
    }

    pub(crate) fn sequence(&mut self) -> Result<Reader<'a>, DerError> {
        Ok(Self::new(self.value(SEQUENCE)?))
    }

    /// The magnitude of a non-negative INTEGER, without the sign byte; zero is empty.
    pub(crate) fn unsigned(&mut self) -> Result<&'a [u8], DerError> {
        match self.value(INTEGER)? {
            [] => Err(DerError::Value("INTEGER")),
            [0] => Ok(&[]),
            [0, next, ..] if next & 0x80 == 0 => Err(DerError::Value("INTEGER")),
            [0, rest @ ..] => Ok(rest),
            [first, ..] if first & 0x80 != 0 => Err(DerError::Value("INTEGER")),
            bytes => Ok(bytes),
        }
    }

    /// The bytes of a BIT STRING that consists of whole bytes.
    pub(crate) fn bit_string_bytes(&mut self) -> Result<&'a [u8], DerError> {
        match self.value(BIT_STRING)? {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(DerError::Value("BIT STRING")),
        }
    }

    /// A BOOLEAN that is absent when false.
    pub(crate) fn default_false(&mut self) -> Result<bool, DerError> {
        match self.optional(BOOLEAN)? {
            None => Ok(false),
            Some([0xff]) => Ok(true),
            // DER forbids an encoded default, but real certificates have it and Go reads it.
            Some([0x00]) => Ok(false),
            Some(_) => Err(DerError::Value("BOOLEAN")),
        }
    }
}

/// The definite length that begins with the byte `first`, and how many bytes of `tail` it takes.
pub(crate) fn length(first: u8, tail: &[u8]) -> Result<(usize, usize), DerError> {
    match first {
        0..=0x7f => Ok((usize::from(first), 0)),
        0x81..=0x84 => {
            let count = usize::from(first & 0x7f);
            let bytes = tail.get(..count).ok_or(DerError::Truncated)?;
            let length = bytes.iter().fold(0_usize, |sum, b| sum << 8 | usize::from(*b));
            // Minimal: no leading zero byte, and the long form only where the short cannot.
            if bytes[0] == 0 || length < 0x80 {
                return Err(DerError::Length);
            }
            Ok((length, count))
        }
        _ => Err(DerError::Length),
    }
}

/// Appends one element.
pub(crate) fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    put_header(out, tag, value.len());
    out.extend_from_slice(value);
}

/// Appends one element whose content `fill` writes.
pub(crate) fn put_nested(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    // Room for the two-byte header of a short element; longer ones move their content.
    let start = out.len();
    out.extend_from_slice(&[tag, 0]);
    fill(out);
    let length = out.len() - start - 2;
    if let Ok(short @ 0..=0x7f) = u8::try_from(length) {
        out[start + 1] = short;
    } else {
        let mut header = Vec::with_capacity(6);
        put_header(&mut header, tag, length);
        out.splice(start..start + 2, header);
    }
}

/// Appends a non-negative INTEGER given as big-endian bytes.
pub(crate) fn put_unsigned(out: &mut Vec<u8>, magnitude: &[u8]) {
    let first = magnitude.iter().position(|b| *b != 0).unwrap_or(magnitude.len());
    let digits = &magnitude[first..];
    let pad = digits.first().is_none_or(|b| b & 0x80 != 0);
    put_header(out, INTEGER, digits.len() + usize::from(pad));
    if pad {
        out.push(0);
    }
    out.extend_from_slice(digits);
}

/// Appends a BIT STRING of whole bytes.
pub(crate) fn put_bit_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_header(out, BIT_STRING, bytes.len() + 1);
    out.push(0);
    out.extend_from_slice(bytes);
}

fn put_header(out: &mut Vec<u8>, tag: u8, length: usize) {
    out.push(tag);
    if let Ok(short @ 0..=0x7f) = u8::try_from(length) {
        out.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let skip = (length.leading_zeros() / 8) as usize;
        out.push(0x80 | u8::try_from(bytes.len() - skip).expect("a length has at most 8 bytes"));
        out.extend_from_slice(&bytes[skip..]);
    }
}

#[cfg(test)]
mod tests;
