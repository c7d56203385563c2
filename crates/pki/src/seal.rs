//! Sealing what is kept on disk: AES-256-GCM under a key derived (HKDF-SHA256, RFC 5869) for each
//! file from one secret and a salt of its own.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use thiserror::Error;
use zeroize::Zeroizing;

/// What a sealed text has beside the text: salt, nonce and tag.
pub const OVERHEAD: usize = SALT_LEN + NONCE_LEN + TAG_LEN;
const SALT_LEN: usize = 32;
const TAG_LEN: usize = 16;
const INFO: &[u8] = b"steeple sealed file 1";

/// A secret to seal with; wiped when it goes.
pub struct SealingKey(Zeroizing<Vec<u8>>);

/// The text was not sealed with this secret and context, or not as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("it was altered, or sealed with another key or for another purpose")]
pub struct SealError;

impl SealingKey {
    /// Over a secret with 128 bits of entropy or more, in any encoding.
    #[must_use]
    pub fn new(secret: Zeroizing<Vec<u8>>) -> Self {
        Self(secret)
    }

    /// Seals `plain`; `context` is not in it, but has to be the same when it is opened.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD);
        sealed.resize(SALT_LEN + NONCE_LEN, 0);
        rand::fill(&mut sealed[..SALT_LEN]).map_err(|_| SealError)?;
        let key = self.derive(&sealed[..SALT_LEN])?;
        sealed.extend_from_slice(plain);
        let text = &mut sealed[SALT_LEN + NONCE_LEN..];
        let (nonce, tag) =
            key.seal_in_place_separate_tag(Aad::from(context), text).map_err(|_| SealError)?;
        sealed[SALT_LEN..SALT_LEN + NONCE_LEN].copy_from_slice(nonce.as_ref());
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// The plain text of what [`Self::seal`] made.
    ///
    /// # Errors
    /// When it is not that, in any bit.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (salt, rest) = sealed.split_at_checked(SALT_LEN).ok_or(SealError)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or(SealError)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
        let mut text = Zeroizing::new(text.to_vec());
        let length = self
            .derive(salt)?
            .open_in_place(nonce, Aad::from(context), &mut text)
            .map_err(|_| SealError)?
            .len();
        text.truncate(length);
        Ok(text)
    }

    fn derive(&self, salt: &[u8]) -> Result<RandomizedNonceKey, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        let extracted = Salt::new(HKDF_SHA256, salt).extract(&self.0);
        let expanded = extracted.expand(&[INFO], HKDF_SHA256).map_err(|_| SealError)?;
        expanded.fill(&mut key[..]).map_err(|_| SealError)?;
        RandomizedNonceKey::new(&AES_256_GCM, &key[..]).map_err(|_| SealError)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &[u8]) -> SealingKey {
        SealingKey::new(Zeroizing::new(secret.to_vec()))
    }

    #[test]
    fn what_was_sealed_is_opened_with_the_same_secret_and_context_only() {
        let sealed = key(b"one").seal(b"here", b"some text").unwrap();
        assert_eq!(sealed.len(), 9 + OVERHEAD);
        assert_eq!(**key(b"one").open(b"here", &sealed).unwrap(), *b"some text");
        assert!(key(b"two").open(b"here", &sealed).is_err());
        assert!(key(b"one").open(b"there", &sealed).is_err());
        assert_ne!(sealed, key(b"one").seal(b"here", b"some text").unwrap());
    }

    #[test]
    fn no_bit_of_it_may_change_and_no_byte_be_missing() {
        let sealed = key(b"one").seal(b"here", b"text").unwrap();
        for position in 0..sealed.len() {
            let mut edited = sealed.clone();
            edited[position] ^= 1;
            assert!(key(b"one").open(b"here", &edited).is_err(), "{position}");
            assert!(key(b"one").open(b"here", &sealed[..position]).is_err(), "{position}");
        }
        let longer = [&sealed[..], b"x"].concat();
        assert!(key(b"one").open(b"here", &longer).is_err());
    }
}
