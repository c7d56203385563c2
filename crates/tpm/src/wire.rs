//! TPM 2.0's encoding (part 1, §10 and part 2): big-endian numbers, and buffers behind a length
//! of two bytes. No C structure of the standard needs more.

/// What was to be read is not there, or too much is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the TPM structure is malformed")]
pub struct Malformed;

/// Reads a TPM structure from its front.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A byte.
    ///
    /// # Errors
    /// At the end.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A UINT16.
    ///
    /// # Errors
    /// At the end.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// A UINT32.
    ///
    /// # Errors
    /// At the end.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A UINT64.
    ///
    /// # Errors
    /// At the end.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A TPM2B: a length of two bytes, and that many bytes.
    ///
    /// # Errors
    /// When there are fewer, or more than `limit`.
    pub fn sized(&mut self, limit: usize) -> Result<&'a [u8], Malformed> {
        let len = usize::from(self.u16()?);
        if len > limit {
            return Err(Malformed);
        }
        self.take(len)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left, unread.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Ends reading.
    ///
    /// # Errors
    /// When something is left.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Writes a TPM structure.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A byte.
    #[must_use]
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// A UINT16.
    #[must_use]
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A UINT32.
    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A UINT64.
    #[must_use]
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A TPM2B: the length in two bytes, and the bytes. More than 65535 of them, which no TPM
    /// takes, make a structure that is none.
    #[must_use]
    pub fn sized(self, bytes: &[u8]) -> Self {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(len).bytes(bytes)
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = Writer::new().u8(1).u16(2).u32(3).u64(4).sized(b"five").bytes(b"6").finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u8(), reader.u16(), reader.u32()), (Ok(1), Ok(2), Ok(3)));
        assert_eq!((reader.u64(), reader.sized(4)), (Ok(4), Ok(&b"five"[..])));
        assert_eq!(reader.clone().finish(), Err(Malformed));
        assert_eq!(reader.take(1), Ok(&b"6"[..]));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_malformed() {
        let bytes = Writer::new().sized(b"five").finish();
        assert_eq!(Reader::new(&bytes).sized(3), Err(Malformed));
        assert_eq!(Reader::new(&bytes[..5]).sized(4), Err(Malformed));
        assert_eq!(Reader::new(&[0]).u16(), Err(Malformed));
    }
}
