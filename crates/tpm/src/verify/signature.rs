//! TPMT_SIGNATURE (part 2, §11.3.4).

use steeple_pki::external::ecdsa_der;
use steeple_pki::{KeyKind, PublicKey, SignatureAlgorithm};

use super::wire::{Reader, hash_of};
use super::{Scheme, StructureError, VerifyError};
use steeple_pki::envelope::Sha2;

const RSASSA: u16 = 0x0014;
const RSAPSS: u16 = 0x0016;
const ECDSA: u16 = 0x0018;

/// A signature, as a TPM gives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature<'a> {
    scheme: Scheme,
    value: Value<'a>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Value<'a> {
    Rsa(&'a [u8]),
    Ecdsa { r: &'a [u8], s: &'a [u8] },
}

impl<'a> Signature<'a> {
    /// Reads one RSA or ECDSA signature and nothing else.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(encoded: &'a [u8]) -> Result<Self, StructureError> {
        let mut reader = Reader::new("TPMT_SIGNATURE", encoded)?;
        let algorithm = reader.u16()?;
        let signature = match algorithm {
            RSASSA | RSAPSS => {
                let scheme = Scheme { algorithm, hash: reader.u16()? };
                Self { scheme, value: Value::Rsa(reader.sized()?) }
            }
            ECDSA => {
                let scheme = Scheme { algorithm, hash: reader.u16()? };
                let (r, s) = (reader.sized()?, reader.sized()?);
                Self { scheme, value: Value::Ecdsa { r, s } }
            }
            other => return Err(StructureError::SignatureAlgorithm(other)),
        };
        reader.finish()?;
        Ok(signature)
    }

    /// How it was made, in its own words.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The signature in the form that certificates and TLS have: ECDSA in ASN.1.
    ///
    /// # Errors
    /// When the numbers cannot be those of this key.
    pub fn to_asn1(&self, key: KeyKind) -> Result<Vec<u8>, VerifyError> {
        match (&self.value, key) {
            (Value::Rsa(bytes), KeyKind::Rsa(_)) => Ok(bytes.to_vec()),
            (Value::Ecdsa { r, s }, KeyKind::P256) => raw(r, s, 32),
            (Value::Ecdsa { r, s }, KeyKind::P384) => raw(r, s, 48),
            (Value::Ecdsa { r, s }, KeyKind::P521) => raw(r, s, 66),
            _ => Err(VerifyError::Signature),
        }
    }

    /// Whether the holder of `key` signed `message` by the scheme that the key is bound to.
    ///
    /// # Errors
    /// When not.
    pub fn verify(
        &self,
        key: &PublicKey,
        bound_to: Scheme,
        message: &[u8],
    ) -> Result<(), VerifyError> {
        if self.scheme != bound_to {
            return Err(VerifyError::Scheme);
        }
        let algorithm = bound_to.signature_algorithm()?;
        let signature = self.to_asn1(key.kind())?;
        key.verify(algorithm, message, &signature).map_err(|_| VerifyError::Signature)
    }
}

impl Scheme {
    /// The algorithm of a signing scheme.
    ///
    /// # Errors
    /// When it is no signing scheme of RSA or ECDSA with SHA-2.
    pub fn signature_algorithm(self) -> Result<SignatureAlgorithm, VerifyError> {
        use SignatureAlgorithm as Alg;
        let hash = hash_of(self.hash).ok_or(VerifyError::Hash(self.hash))?;
        Ok(match (self.algorithm, hash) {
            (RSASSA, Sha2::Sha256) => Alg::RsaPkcs1Sha256,
            (RSASSA, Sha2::Sha384) => Alg::RsaPkcs1Sha384,
            (RSASSA, Sha2::Sha512) => Alg::RsaPkcs1Sha512,
            (RSAPSS, Sha2::Sha256) => Alg::RsaPssSha256,
            (RSAPSS, Sha2::Sha384) => Alg::RsaPssSha384,
            (RSAPSS, Sha2::Sha512) => Alg::RsaPssSha512,
            (ECDSA, Sha2::Sha256) => Alg::EcdsaSha256,
            (ECDSA, Sha2::Sha384) => Alg::EcdsaSha384,
            (ECDSA, Sha2::Sha512) => Alg::EcdsaSha512,
            (other, _) => return Err(StructureError::SignatureAlgorithm(other).into()),
        })
    }
}

fn raw(r: &[u8], s: &[u8], len: usize) -> Result<Vec<u8>, VerifyError> {
    let mut both = vec![0; 2 * len];
    let (first, second) = both.split_at_mut(len);
    for (into, number) in [(first, r), (second, s)] {
        let start = len.checked_sub(number.len()).ok_or(VerifyError::Signature)?;
        into[start..].copy_from_slice(number);
    }
    ecdsa_der(&both).ok_or(VerifyError::Signature)
}
