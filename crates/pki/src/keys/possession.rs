//! Signatures that prove possession of a key where a protocol other than X.509 or JOSE lays down
//! how.

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::signature::{self as sig, UnparsedPublicKey};
use num_bigint::BigUint;

use super::private::Pair;
use super::{BadSignature, KeyKind, PrivateKey, PublicKey, SignError, SignatureAlgorithm};
use crate::der::{self, Reader};

/// The longest of the two numbers of an ECDSA signature that is looked at: those of P-521 have 66.
const MAX_NUMBER: usize = 132;

impl PrivateKey {
    /// Signs SHA-256 of `message` by ECDSA, whatever the curve: the two numbers, without leading
    /// zeros.
    ///
    /// # Errors
    /// When this is no EC key.
    pub fn sign_ecdsa_over_sha256(&self, message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SignError> {
        let kind = self.public_key().kind();
        let algorithm = SignatureAlgorithm::EcdsaSha256;
        let Pair::Ec(pair) = &self.pair else {
            return Err(SignError::Unsupported { kind, algorithm });
        };
        let failed = || SignError::Failed("signing failed".into());
        let hash = digest::digest(&SHA256, message);
        let of_curve = SignatureAlgorithm::default_for(kind);
        let digest = crate::digest::as_number_for(of_curve, hash.as_ref()).ok_or_else(failed)?;
        let signature = pair.sign_digest(&digest).map_err(|_| failed())?;
        ecdsa_numbers(signature.as_ref()).ok_or_else(failed)
    }
}

impl PublicKey {
    /// Checks what [`PrivateKey::sign_ecdsa_over_sha256`] makes; leading zeros do not matter.
    ///
    /// # Errors
    /// When the signature is another's, or this is no EC key.
    pub fn verify_ecdsa_over_sha256(
        &self,
        message: &[u8],
        r: &[u8],
        s: &[u8],
    ) -> Result<(), BadSignature> {
        if r.len() > MAX_NUMBER || s.len() > MAX_NUMBER {
            return Err(BadSignature);
        }
        self.verify(SignatureAlgorithm::EcdsaSha256, message, &ecdsa_der(r, s))
    }

    /// Checks an RSASSA-PSS signature over SHA-256 whose salt is of any length, as Go's default
    /// is the longest that fits (RFC 8017 §9.1.2).
    ///
    /// # Errors
    /// When the signature is another's, or this is no RSA key.
    pub fn verify_rsa_pss_any_salt(
        &self,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        let (modulus, exponent) = self.rsa_numbers().ok_or(BadSignature)?;
        if signature.len() != modulus.len() {
            return Err(BadSignature);
        }
        let n = BigUint::from_bytes_be(modulus);
        let signed = BigUint::from_bytes_be(signature);
        if signed >= n {
            return Err(BadSignature);
        }
        // Nothing is secret here, so that the time that it takes may be known.
        let encoded = signed.modpow(&BigUint::from_bytes_be(exponent), &n).to_bytes_be();
        let bits = n.bits() - 1;
        let length = usize::try_from(bits.div_ceil(8)).map_err(|_| BadSignature)?;
        let pad = length.checked_sub(encoded.len()).ok_or(BadSignature)?;
        let mut padded = vec![0; length];
        padded[pad..].copy_from_slice(&encoded);
        let unused = u32::try_from(8 * length as u64 - bits).map_err(|_| BadSignature)?;
        pss_encodes(&padded, unused, message)
    }

    /// Checks an RSASSA-PKCS1-v1_5 signature over SHA-1: only for challenges that the verifier
    /// made up, where a collision is of no use.
    ///
    /// # Errors
    /// When the signature is another's, or this is no RSA key.
    pub fn verify_rsa_over_sha1(
        &self,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        if !matches!(self.kind(), KeyKind::Rsa(_)) {
            return Err(BadSignature);
        }
        UnparsedPublicKey::new(&sig::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, self.bits())
            .verify(message, signature)
            .map_err(|_| BadSignature)
    }
}

/// EMSA-PSS-VERIFY with SHA-256; the salt is what remains. The first `unused` bits of `encoded`
/// belong to nobody.
fn pss_encodes(encoded: &[u8], unused: u32, message: &[u8]) -> Result<(), BadSignature> {
    const LEN: usize = 32;
    let [masked @ .., 0xbc] = encoded else { return Err(BadSignature) };
    let split = masked.len().checked_sub(LEN).ok_or(BadSignature)?;
    let (masked, hash) = masked.split_at(split);
    let top = 0xff_u8.checked_shr(unused).unwrap_or(0);
    if masked.first().is_none_or(|first| first & !top != 0) {
        return Err(BadSignature);
    }
    let mut block = masked.to_vec();
    for (counter, chunk) in (0_u32..).zip(block.chunks_mut(LEN)) {
        let mask = hash_of(&[hash, &counter.to_be_bytes()]);
        chunk.iter_mut().zip(mask.as_ref()).for_each(|(byte, mask)| *byte ^= mask);
    }
    block[0] &= top;
    let start = block.iter().position(|byte| *byte != 0).ok_or(BadSignature)?;
    let [1, salt @ ..] = &block[start..] else { return Err(BadSignature) };
    let message = hash_of(&[message]);
    let made = hash_of(&[&[0; 8], message.as_ref(), salt]);
    if made.as_ref() == hash { Ok(()) } else { Err(BadSignature) }
}

fn hash_of(parts: &[&[u8]]) -> digest::Digest {
    let mut context = digest::Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish()
}

/// The two numbers of an ECDSA signature in ASN.1 form, without leading zeros.
pub(crate) fn ecdsa_numbers(signature: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut numbers = Reader::sequence_of(signature).ok()?;
    let (r, s) = (numbers.unsigned().ok()?.to_vec(), numbers.unsigned().ok()?.to_vec());
    numbers.finish().ok().map(|()| (r, s))
}

/// The other signature of the same message that everyone can make of an ECDSA signature: its
/// second number is the order of the curve less `s`. None for a kind of key that has no curve.
pub(crate) fn other_s(kind: KeyKind, s: &[u8]) -> Option<Vec<u8>> {
    let order = BigUint::parse_bytes(
        match kind {
            KeyKind::P256 => b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
            KeyKind::P384 => {
                b"ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf\
                  581a0db248b0a77aecec196accc52973"
            }
            KeyKind::P521 => {
                b"1fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
                  a51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409"
            }
            _ => return None,
        },
        16,
    )?;
    let s = BigUint::from_bytes_be(s);
    (s < order).then(|| (order - s).to_bytes_be())
}

/// The ASN.1 form of the two numbers.
pub(crate) fn ecdsa_der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let mut signature = Vec::with_capacity(r.len() + s.len() + 12);
    der::put_nested(&mut signature, der::SEQUENCE, |out| {
        der::put_unsigned(out, r);
        der::put_unsigned(out, s);
    });
    signature
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyType;

    /// As `openssl ecparam -name secp521r1 -genkey` writes it.
    const P521: &str = "-----BEGIN EC PARAMETERS-----
BgUrgQQAIw==
-----END EC PARAMETERS-----
-----BEGIN EC PRIVATE KEY-----
MIHcAgEBBEIBkl0XObS/wHug0et6XR7R6MdRg42uwitY9QeVrmYMRy1EH90ftY4b
2/pXMxQa4/F9ZPkDI/y4XatGLg7nZiMZRSegBwYFK4EEACOhgYkDgYYABADecDCx
HTaSWvLOicu5gHiAaUr/e6uoYaJNXdz66iU5N51BAXlEo6uq9qxqouwYnkqSfORY
uPUZk0EPfxJx7iCDWwE9h7mTD7kvhKaH5Y5fLsnaVgTLqNiY3fbo4Q8jOaa8Y6B6
QZRCM6WubasyuJZNjvVD0eFoSJRQiihS/k0G2bwNaw==
-----END EC PRIVATE KEY-----
";

    /// A signature with a salt of `salt` bytes, made by the key's own arithmetic.
    fn encode(bits: u64, salt: &[u8], message: &[u8]) -> Vec<u8> {
        let length = usize::try_from(bits.div_ceil(8)).unwrap();
        let hash = hash_of(&[&[0; 8], hash_of(&[message]).as_ref(), salt]);
        let mut block = vec![0; length - 33];
        let start = block.len() - salt.len();
        block[start - 1] = 1;
        block[start..].copy_from_slice(salt);
        for (counter, chunk) in (0_u32..).zip(block.chunks_mut(32)) {
            let mask = hash_of(&[hash.as_ref(), &counter.to_be_bytes()]);
            chunk.iter_mut().zip(mask.as_ref()).for_each(|(byte, mask)| *byte ^= mask);
        }
        block[0] &= 0xff >> (8 * length as u64 - bits);
        [&block[..], hash.as_ref(), &[0xbc]].concat()
    }

    #[test]
    fn every_salt_that_fits_is_found_and_nothing_else_passes() {
        for bits in [2047_u64, 2048, 2055, 3071] {
            let unused = u32::try_from(8 * bits.div_ceil(8) - bits).unwrap();
            let longest = usize::try_from(bits.div_ceil(8)).unwrap() - 34;
            for salt in [0, 1, 20, 32, longest] {
                let good = encode(bits, &vec![7; salt], b"message");
                pss_encodes(&good, unused, b"message").unwrap();
                assert!(pss_encodes(&good, unused, b"other").is_err());
                for at in [0, good.len() / 2, good.len() - 20, good.len() - 1] {
                    let mut bad = good.clone();
                    bad[at] ^= 1;
                    assert!(pss_encodes(&bad, unused, b"message").is_err(), "{bits} {salt} {at}");
                }
            }
        }
        for short in [&[][..], &[0xbc], &[0xbc; 33], &[0xbc; 34]] {
            assert!(pss_encodes(short, 1, b"message").is_err());
        }
    }

    #[test]
    fn pss_of_the_library_is_taken_and_of_another_key_is_not() {
        let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        let other = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        let signature = key.sign(SignatureAlgorithm::RsaPssSha256, b"message").unwrap();
        key.public_key().verify_rsa_pss_any_salt(b"message", &signature).unwrap();
        for (verifier, message, signature) in [
            (&other, &b"message"[..], &signature[..]),
            (&key, b"other", &signature),
            (&key, b"message", &signature[1..]),
            (&key, b"message", &[0xff; 256]),
            (&key, b"message", &[0; 256]),
        ] {
            assert!(verifier.public_key().verify_rsa_pss_any_salt(message, signature).is_err());
        }
        let ec = PrivateKey::generate(KeyType::EcP256).unwrap();
        assert!(ec.public_key().verify_rsa_pss_any_salt(b"message", &signature).is_err());
    }

    #[test]
    fn every_curve_signs_over_sha256() {
        let p521 = PrivateKey::find_in_pem(P521).unwrap();
        assert!(PrivateKey::from_pem(P521).is_err(), "its first block is no key");
        assert_eq!(p521.public_key().kind(), KeyKind::P521);
        let again = PrivateKey::from_pem(&p521.to_pkcs8_pem()).unwrap();
        assert!(again.public_key() == p521.public_key());
        let own = p521.sign(SignatureAlgorithm::EcdsaSha512, b"message").unwrap();
        p521.public_key().verify(SignatureAlgorithm::EcdsaSha512, b"message", &own).unwrap();
        let p256 = PrivateKey::generate(KeyType::EcP256).unwrap();
        let p384 = PrivateKey::generate(KeyType::EcP384).unwrap();
        for key in [p256, p384, p521] {
            let (r, s) = key.sign_ecdsa_over_sha256(b"message").unwrap();
            let public = key.public_key();
            public.verify_ecdsa_over_sha256(b"message", &r, &s).unwrap();
            let padded = [&[0, 0][..], &r].concat();
            public.verify_ecdsa_over_sha256(b"message", &padded, &s).unwrap();
            assert!(public.verify_ecdsa_over_sha256(b"other", &r, &s).is_err());
            assert!(public.verify_ecdsa_over_sha256(b"message", &s, &r).is_err());
            assert!(public.verify_ecdsa_over_sha256(b"message", &[], &[]).is_err());
            assert!(public.verify_ecdsa_over_sha256(b"message", &[1; 133], &s).is_err());
        }
        let rsa = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        assert!(rsa.sign_ecdsa_over_sha256(b"message").is_err());
        assert!(rsa.public_key().verify_ecdsa_over_sha256(b"message", &[1], &[1]).is_err());
    }
}
