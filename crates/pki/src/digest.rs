//! SHA-2 (FIPS 180-4), for what is fingerprinted, and for keys elsewhere that sign digests; SHA-1
//! for names that others gave long ago.

use aws_lc_rs::digest::{
    Algorithm, Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest,
};

use crate::SignatureAlgorithm;

/// SHA-512 of `bytes`.
#[must_use]
pub fn sha512(bytes: &[u8]) -> [u8; 64] {
    let mut made = [0; 64];
    made.copy_from_slice(digest(&SHA512, bytes).as_ref());
    made
}

/// SHA-1 of `bytes`: for fingerprints that SPIRE puts into agents' names and selectors. What it
/// names must have been verified by other means.
#[must_use]
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut made = [0; 20];
    made.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    made
}

/// A number that differs from name to name, the same everywhere and always: for what a fleet should
/// not do all at once.
#[must_use]
pub fn seed(name: &str) -> u64 {
    let made = digest(&SHA256, name.as_bytes());
    made.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// The digest of `message` that a signature of `algorithm` is over; none where the algorithm
/// signs the message itself.
#[must_use]
pub fn under(algorithm: SignatureAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
    kind(algorithm).map(|kind| digest(kind, message).as_ref().to_vec())
}

/// The digest `bytes`, of whatever algorithm, in the length of `algorithm`'s: ECDSA takes as many
/// leading bits as the order of its curve has, as a number.
pub(crate) fn as_number_for(algorithm: SignatureAlgorithm, bytes: &[u8]) -> Option<Digest> {
    let length = kind(algorithm)?.output_len();
    let mut number = vec![0; length.saturating_sub(bytes.len())];
    number.extend_from_slice(&bytes[..bytes.len().min(length)]);
    import(algorithm, &number)
}

/// `bytes` as a digest for a signature of `algorithm`, if they are as long as one.
pub(crate) fn import(algorithm: SignatureAlgorithm, bytes: &[u8]) -> Option<Digest> {
    kind(algorithm).and_then(|kind| Digest::import_less_safe(bytes, kind).ok())
}

fn kind(algorithm: SignatureAlgorithm) -> Option<&'static Algorithm> {
    use SignatureAlgorithm as Alg;
    match algorithm {
        Alg::EcdsaSha256 | Alg::RsaPkcs1Sha256 | Alg::RsaPssSha256 => Some(&SHA256),
        Alg::EcdsaSha384 | Alg::RsaPkcs1Sha384 | Alg::RsaPssSha384 => Some(&SHA384),
        Alg::EcdsaSha512 | Alg::RsaPkcs1Sha512 | Alg::RsaPssSha512 => Some(&SHA512),
        Alg::Ed25519 => None,
    }
}

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
        assert_eq!(sha512(b"abc")[..4], [0xdd, 0xaf, 0x35, 0xa1]);
    }

    #[test]
    fn a_signature_is_over_the_digest_that_its_name_says() {
        let length = |algorithm| under(algorithm, b"abc").map(|digest| digest.len());
        assert_eq!(length(SignatureAlgorithm::EcdsaSha256), Some(32));
        assert_eq!(length(SignatureAlgorithm::RsaPssSha384), Some(48));
        assert_eq!(length(SignatureAlgorithm::RsaPkcs1Sha512), Some(64));
        assert_eq!(length(SignatureAlgorithm::Ed25519), None);
    }

    #[test]
    fn a_digest_is_signed_as_its_message_is() {
        use SignatureAlgorithm as Alg;
        for (kind, algorithm) in [
            (crate::KeyType::EcP256, Alg::EcdsaSha256),
            (crate::KeyType::EcP384, Alg::EcdsaSha384),
            (crate::KeyType::Rsa2048, Alg::RsaPkcs1Sha256),
            (crate::KeyType::Rsa2048, Alg::RsaPssSha512),
        ] {
            let key = crate::PrivateKey::generate(kind).unwrap();
            let digest = under(algorithm, b"message").unwrap();
            let signature = key.sign_digest(algorithm, &digest).unwrap();
            key.public_key().verify(algorithm, b"message", &signature).unwrap();
            assert!(key.sign_digest(algorithm, &digest[1..]).is_err());
        }
    }
}
