//! SHA-256 (FIPS 180-4), for what is fingerprinted rather than signed.

use aws_lc_rs::digest::{Context, SHA256};

/// A digest that is fed piece by piece.
pub struct Sha256(Context);

impl Sha256 {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> [u8; 32] {
        let mut digest = Self::new();
        digest.update(bytes);
        digest.finish()
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_or_whole_the_digest_is_that_of_the_standard() {
        let mut digest = Sha256::new();
        digest.update(b"a");
        digest.update(b"bc");
        let digest = digest.finish();
        assert_eq!(digest, Sha256::of(b"abc"));
        // FIPS 180-4, the example of one block.
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
