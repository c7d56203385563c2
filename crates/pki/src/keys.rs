//! Public and private keys, and what can sign with one.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::der::DerError;

mod numbers;
mod possession;
mod private;
mod public;

pub use numbers::RsaNumbers;
pub(crate) use possession::{ecdsa_der, ecdsa_numbers, other_s};
pub use private::{Effort, PrivateKey, Signer};
pub use public::PublicKey;

/// The longest SubjectPublicKeyInfo that is looked at, in bytes: an RSA key of 8192 bits has 1062.
pub const MAX_SPKI_LEN: usize = 1200;

/// The kinds of key that SPIRE makes for itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyType {
    /// ECDSA on P-256.
    EcP256,
    /// ECDSA on P-384.
    EcP384,
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
}

impl KeyType {
    /// The name that configuration uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a [`KeyType`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("key type is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]")]
pub struct UnknownKeyType;

impl FromStr for KeyType {
    type Err = UnknownKeyType;

    fn from_str(name: &str) -> Result<Self, UnknownKeyType> {
        match name {
            "ec-p256" => Ok(Self::EcP256),
            "ec-p384" => Ok(Self::EcP384),
            "rsa-2048" => Ok(Self::Rsa2048),
            "rsa-4096" => Ok(Self::Rsa4096),
            _ => Err(UnknownKeyType),
        }
    }
}

/// The kinds of public key that can be met in certificates, requests and bundles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521: read and used, never made here.
    P521,
    /// RSA; the field is the size of the modulus in bits, 2048 to 8192.
    Rsa(u16),
    /// Ed25519: read and used, never made here.
    Ed25519,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => f.write_str("EC P-256"),
            Self::P384 => f.write_str("EC P-384"),
            Self::P521 => f.write_str("EC P-521"),
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// A signature scheme: an algorithm and the digest under it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// ECDSA over SHA-256.
    EcdsaSha256,
    /// ECDSA over SHA-384.
    EcdsaSha384,
    /// ECDSA over SHA-512.
    EcdsaSha512,
    /// RSASSA-PKCS1-v1_5 over SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 over SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 over SHA-512.
    RsaPkcs1Sha512,
    /// RSASSA-PSS over SHA-256, salt as long as the digest.
    RsaPssSha256,
    /// RSASSA-PSS over SHA-384, salt as long as the digest.
    RsaPssSha384,
    /// RSASSA-PSS over SHA-512, salt as long as the digest.
    RsaPssSha512,
    /// Ed25519 (RFC 8032).
    Ed25519,
}

/// Why something is not a key that can be used.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The encoding is longer than any supported key.
    #[error("key is too large: {len} bytes, at most {max} are supported")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The encoding is broken.
    #[error("malformed key: {0}")]
    Der(#[from] DerError),
    /// An algorithm, curve or parameter that is not supported.
    #[error("unsupported key algorithm")]
    UnsupportedAlgorithm,
    /// An RSA modulus outside 2048..=8192 bits; holds its size.
    #[error("unsupported RSA key size: {0} bits (2048 to 8192 are supported)")]
    RsaSize(usize),
    /// An RSA public exponent that is even, 1, or larger than 2^31-1.
    #[error("unsupported RSA public exponent")]
    RsaExponent,
    /// The numbers do not make a key, such as a point beside its curve.
    #[error("invalid key")]
    Invalid,
    /// The text is not PEM, or not the PEM of a private key; holds the reason.
    #[error("malformed PEM private key: {0}")]
    Pem(String),
    /// The random number generator or memory failed.
    #[error("key generation failed")]
    Generation,
}

/// The signature does not belong to this message and key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("signature verification failed")]
pub struct BadSignature;

/// Why a message was not signed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key cannot make this kind of signature.
    #[error("a key of kind {kind} cannot make {algorithm:?} signatures")]
    Unsupported {
        /// The key's kind.
        kind: KeyKind,
        /// What was asked for.
        algorithm: SignatureAlgorithm,
    },
    /// The key or its holder (a plugin, an HSM) failed; holds the reason.
    #[error("{0}")]
    Failed(String),
}

#[cfg(test)]
mod tests;
