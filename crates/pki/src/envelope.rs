//! What is needed to send a secret to whoever holds a key, where a protocol lays down how, as TPMs
//! do: hashes, HMAC, RSA-OAEP, one half of an ECDH, AES in CFB mode.
//!
//! Nothing here authenticates by itself; the protocol on top must.

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::cipher::{
    self, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::{constant_time, digest, hmac};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::keys::{KeyKind, PublicKey};

/// A hash function of SHA-2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sha2 {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// The secret was not wrapped: the key cannot, or is too short for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("nothing can be encrypted to this key")]
pub struct CannotWrap;

/// One half of a key agreement.
pub struct Agreed {
    /// The x coordinate of the ephemeral public key, as long as the field.
    pub x: Vec<u8>,
    /// Its y coordinate.
    pub y: Vec<u8>,
    /// The x coordinate of the shared point.
    pub shared: Zeroizing<Vec<u8>>,
}

impl Sha2 {
    /// The length of its digests, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no digest is empty")]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `parts`, one after the other.
    #[must_use]
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = digest::Context::new(match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        });
        parts.iter().for_each(|part| context.update(part));
        context.finish().as_ref().to_vec()
    }

    /// The HMAC of `parts`, one after the other.
    #[must_use]
    pub fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
        parts.iter().for_each(|part| context.update(part));
        context.sign().as_ref().to_vec()
    }
}

/// Encrypts `secret` by RSAES-OAEP (RFC 8017 §7.1), with the same hash in OAEP and MGF1.
///
/// # Errors
/// When the key is no RSA key, or too short for the secret.
pub fn rsa_oaep(
    key: &PublicKey,
    hash: Sha2,
    label: &[u8],
    secret: &[u8],
) -> Result<Vec<u8>, CannotWrap> {
    if !matches!(key.kind(), KeyKind::Rsa(_)) {
        return Err(CannotWrap);
    }
    let key = PublicEncryptingKey::from_der(key.spki_der()).map_err(|_| CannotWrap)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| CannotWrap)?;
    let algorithm = match hash {
        Sha2::Sha256 => &rsa::OAEP_SHA256_MGF1SHA256,
        Sha2::Sha384 => &rsa::OAEP_SHA384_MGF1SHA384,
        Sha2::Sha512 => &rsa::OAEP_SHA512_MGF1SHA512,
    };
    let mut out = vec![0; key.ciphertext_size()];
    let len = key.encrypt(algorithm, secret, &mut out, Some(label)).map_err(|_| CannotWrap)?.len();
    out.truncate(len);
    Ok(out)
}

/// Agrees on a secret with the holder of an EC key, by a key made for this once.
///
/// # Errors
/// When the key is no EC key.
pub fn ecdh(key: &PublicKey) -> Result<Agreed, CannotWrap> {
    let algorithm = match key.kind() {
        KeyKind::P256 => &agreement::ECDH_P256,
        KeyKind::P384 => &agreement::ECDH_P384,
        KeyKind::P521 => &agreement::ECDH_P521,
        _ => return Err(CannotWrap),
    };
    let own =
        EphemeralPrivateKey::generate(algorithm, &SystemRandom::new()).map_err(|_| CannotWrap)?;
    let public = own.compute_public_key().map_err(|_| CannotWrap)?;
    let (x, y) = halves(public.as_ref()).ok_or(CannotWrap)?;
    let (x, y) = (x.to_vec(), y.to_vec());
    let peer = UnparsedPublicKey::new(algorithm, key.bits());
    let shared = agreement::agree_ephemeral(own, peer, CannotWrap, |shared| {
        Ok(Zeroizing::new(shared.to_vec()))
    })?;
    Ok(Agreed { x, y, shared })
}

/// The coordinates of an EC key, each as long as the field.
#[must_use]
pub fn ec_point(key: &PublicKey) -> Option<(&[u8], &[u8])> {
    match key.kind() {
        KeyKind::P256 | KeyKind::P384 | KeyKind::P521 => halves(key.bits()),
        _ => None,
    }
}

/// The modulus and exponent of an RSA key, big-endian without leading zeros.
#[must_use]
pub fn rsa_numbers(key: &PublicKey) -> Option<(&[u8], &[u8])> {
    key.rsa_numbers()
}

/// Encrypts `data` in place by AES-CFB; the key has 16, 24 or 32 bytes.
///
/// # Errors
/// When the key has another length.
pub fn aes_cfb_encrypt(key: &[u8], iv: [u8; 16], data: &mut [u8]) -> Result<(), CannotWrap> {
    let key = EncryptingKey::cfb128(aes(key)?).map_err(|_| CannotWrap)?;
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    key.less_safe_encrypt(data, context).map(|_| ()).map_err(|_| CannotWrap)
}

/// Decrypts `data` in place by AES-CFB.
///
/// # Errors
/// When the key has not 16, 24 or 32 bytes.
pub fn aes_cfb_decrypt(key: &[u8], iv: [u8; 16], data: &mut [u8]) -> Result<(), CannotWrap> {
    let key = DecryptingKey::cfb128(aes(key)?).map_err(|_| CannotWrap)?;
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    key.decrypt(data, context).map(|_| ()).map_err(|_| CannotWrap)
}

/// Unpredictable bytes.
///
/// # Panics
/// When the system has none, without which nothing here is safe.
pub fn random(out: &mut [u8]) {
    aws_lc_rs::rand::fill(out).expect("the random number generator works");
}

/// Whether two secrets are the same, in a time that depends on their lengths alone.
#[must_use]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

fn aes(key: &[u8]) -> Result<UnboundCipherKey, CannotWrap> {
    let algorithm = match key.len() {
        16 => &cipher::AES_128,
        24 => &cipher::AES_192,
        32 => &cipher::AES_256,
        _ => return Err(CannotWrap),
    };
    UnboundCipherKey::new(algorithm, key).map_err(|_| CannotWrap)
}

/// The coordinates of an uncompressed point.
fn halves(point: &[u8]) -> Option<(&[u8], &[u8])> {
    match point {
        [4, coordinates @ ..] => Some(coordinates.split_at(coordinates.len() / 2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeyType, PrivateKey};

    #[test]
    fn cfb_is_that_of_the_standard_and_undone() {
        // NIST SP 800-38A, F.3.13.
        let key = [
            0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf,
            0x4f, 0x3c,
        ];
        let iv: [u8; 16] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let plain = [0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96];
        let mut data = plain;
        aes_cfb_encrypt(&key, iv, &mut data).unwrap();
        assert_eq!(data, [0x3b, 0x3f, 0xd9, 0x2e, 0xb7, 0x2d, 0xad, 0x20]);
        aes_cfb_decrypt(&key, iv, &mut data).unwrap();
        assert_eq!(data, plain);
        assert!(aes_cfb_encrypt(&key[1..], iv, &mut data).is_err());
    }

    #[test]
    fn an_agreement_is_a_new_one_each_time_and_only_with_ec_keys() {
        for key_type in [KeyType::EcP256, KeyType::EcP384] {
            let key = PrivateKey::generate(key_type).unwrap();
            let (one, two) = (ecdh(key.public_key()).unwrap(), ecdh(key.public_key()).unwrap());
            assert_ne!(one.shared, two.shared);
            assert_eq!(one.x.len(), one.shared.len());
            assert!(rsa_oaep(key.public_key(), Sha2::Sha256, b"", b"x").is_err());
        }
        let rsa = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        assert!(ecdh(rsa.public_key()).is_err() && ec_point(rsa.public_key()).is_none());
        let one = rsa_oaep(rsa.public_key(), Sha2::Sha256, b"L\0", b"secret").unwrap();
        assert_eq!(one.len(), 256);
        assert_ne!(one, rsa_oaep(rsa.public_key(), Sha2::Sha256, b"L\0", b"secret").unwrap());
        assert!(rsa_oaep(rsa.public_key(), Sha2::Sha256, b"", &[0; 200]).is_err());
    }

    #[test]
    fn digests_and_macs_are_over_all_parts() {
        for hash in [Sha2::Sha256, Sha2::Sha384, Sha2::Sha512] {
            assert_eq!(hash.digest(&[b"a", b"bc"]), hash.digest(&[b"abc"]));
            assert_eq!(hash.digest(&[]).len(), hash.len());
            assert_eq!(hash.hmac(b"k", &[b"a", b"bc"]), hash.hmac(b"k", &[b"abc"]));
            assert_ne!(hash.hmac(b"k", &[b"a"]), hash.hmac(b"l", &[b"a"]));
        }
        assert!(same(b"a", b"a") && !same(b"a", b"b") && !same(b"a", b"ab"));
    }
}
