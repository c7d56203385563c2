//! The encoding of SSH (RFC 4251 §5).

use super::SshError;

/// Reads fields one after the other.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], SshError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(SshError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, SshError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, SshError> {
        let bytes = self.take(4)?.first_chunk().ok_or(SshError::Short)?;
        Ok(u32::from_be_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, SshError> {
        let bytes = self.take(8)?.first_chunk().ok_or(SshError::Short)?;
        Ok(u64::from_be_bytes(*bytes))
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], SshError> {
        let length = usize::try_from(self.u32()?).map_err(|_| SshError::Short)?;
        self.take(length)
    }

    /// A non-negative number, without the sign. There is one way to write it, so that no
    /// certificate can be rewritten.
    pub(super) fn number(&mut self) -> Result<&'a [u8], SshError> {
        let malformed = || SshError::Key("malformed number".to_owned());
        match self.string()? {
            [first, ..] if first & 0x80 != 0 => Err(malformed()),
            [0] => Err(malformed()),
            [0, next, ..] if next & 0x80 == 0 => Err(malformed()),
            [0, digits @ ..] | digits => Ok(digits),
        }
    }
}

/// Appends a string.
pub(super) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    let length = u32::try_from(text.len()).expect("what is written here is short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text);
}

/// Appends a non-negative number.
pub(super) fn put_number(out: &mut Vec<u8>, digits: &[u8]) {
    let first = digits.iter().position(|digit| *digit != 0).unwrap_or(digits.len());
    let digits = &digits[first..];
    if digits.first().is_some_and(|first| first & 0x80 != 0) {
        put_string(out, &[&[0], digits].concat());
    } else {
        put_string(out, digits);
    }
}
