//! rustls signs synchronously; our keys may live in another process.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use rustls::sign::{Signer as RustlsSigner, SigningKey};
use rustls::{SignatureAlgorithm as Family, SignatureScheme};
use steeple_pki::{KeyKind, SignatureAlgorithm, Signer};
use tokio::runtime::{Handle, RuntimeFlavor};

const EC_P256: &[Scheme] =
    &[(SignatureScheme::ECDSA_NISTP256_SHA256, SignatureAlgorithm::EcdsaSha256)];
const EC_P384: &[Scheme] =
    &[(SignatureScheme::ECDSA_NISTP384_SHA384, SignatureAlgorithm::EcdsaSha384)];
/// In the order of preference; the last three for TLS 1.2 only.
const RSA: &[Scheme] = &[
    (SignatureScheme::RSA_PSS_SHA256, SignatureAlgorithm::RsaPssSha256),
    (SignatureScheme::RSA_PSS_SHA384, SignatureAlgorithm::RsaPssSha384),
    (SignatureScheme::RSA_PSS_SHA512, SignatureAlgorithm::RsaPssSha512),
    (SignatureScheme::RSA_PKCS1_SHA256, SignatureAlgorithm::RsaPkcs1Sha256),
    (SignatureScheme::RSA_PKCS1_SHA384, SignatureAlgorithm::RsaPkcs1Sha384),
    (SignatureScheme::RSA_PKCS1_SHA512, SignatureAlgorithm::RsaPkcs1Sha512),
];

type Scheme = (SignatureScheme, SignatureAlgorithm);

/// `key` as rustls wants it.
pub(super) fn signing_key(key: Arc<dyn Signer>) -> Arc<dyn SigningKey> {
    Arc::new(Key(key))
}

#[derive(Clone)]
struct Key(Arc<dyn Signer>);

impl Key {
    fn schemes(&self) -> &'static [Scheme] {
        match self.0.public_key().kind() {
            KeyKind::P256 => EC_P256,
            KeyKind::P384 => EC_P384,
            KeyKind::Rsa(_) => RSA,
            _ => &[],
        }
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn RustlsSigner>> {
        let chosen = self.schemes().iter().find(|(scheme, _)| offered.contains(scheme))?;
        Some(Box::new(Chosen { key: self.clone(), scheme: *chosen }))
    }

    fn algorithm(&self) -> Family {
        match self.0.public_key().kind() {
            KeyKind::Rsa(_) => Family::RSA,
            _ => Family::ECDSA,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Chosen {
    key: Key,
    scheme: Scheme,
}

impl RustlsSigner for Chosen {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut signing = self.key.0.sign(self.scheme.1, message);
        // Keys in this process answer at once.
        let signed = match (&mut signing).now_or_never() {
            Some(signed) => signed,
            None => match Handle::try_current() {
                Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
                    tokio::task::block_in_place(|| runtime.block_on(signing))
                }
                _ => {
                    let text = "a key outside of this process needs a multi-threaded runtime";
                    return Err(rustls::Error::General(text.into()));
                }
            },
        };
        signed.map_err(|error| rustls::Error::General(format!("failed to sign: {error}")))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme.0
    }
}
