use std::any::Any;

use async_trait::async_trait;
use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPrivateKeyBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self as sig, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding,
    RsaKeyPair,
};
use zeroize::Zeroizing;

use super::public::curve_oid;
use super::{KeyError, KeyKind, KeyType, PublicKey, SignError, SignatureAlgorithm};
use crate::der::{self, Reader};
use crate::{oid, pem};

/// The longest encoded private key that is looked at, in bytes: RSA with 8192 bits has 4.7 KiB.
const MAX_PRIVATE_KEY_LEN: usize = 8192;

/// A private key that lives in this process: EC P-256, P-384, P-521, RSA, or (only made of its
/// numbers, for SSH) Ed25519.
///
/// It cannot be printed; its memory is wiped when it is dropped.
pub struct PrivateKey {
    pub(super) pair: Pair,
    public_key: PublicKey,
}

pub(super) enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// What a signature takes, and of whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// Tens of microseconds of this thread; done when the future is polled once.
    Brief,
    /// Up to milliseconds of this thread; done when the future is polled once.
    Long,
    /// Whatever another process, or a device, takes for it. It may keep this thread waiting.
    Elsewhere,
}

/// Something that signs with one private key, wherever that key is kept.
#[async_trait]
pub trait Signer: Send + Sync {
    /// The public half of the key.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message`. ECDSA signatures are in ASN.1 form.
    ///
    /// # Errors
    /// When the key cannot make such a signature, or its holder fails.
    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError>;

    /// What a signature takes. Whoever wraps a signer and adds next to nothing passes this on.
    fn effort(&self) -> Effort {
        Effort::Elsewhere
    }

    /// What holds the key, for those who know that holder and can ask more of it, such as a
    /// certificate of where the key was made. Whoever wraps a signer passes this on.
    fn holder(&self) -> Option<&dyn Any> {
        None
    }
}

impl PrivateKey {
    /// Makes a new key. RSA takes long (hundreds of milliseconds): keep it off async threads.
    ///
    /// # Errors
    /// [`KeyError::Generation`] when the system fails to deliver.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        let pair = match key_type {
            KeyType::EcP256 => {
                EcdsaKeyPair::generate(&sig::ECDSA_P256_SHA256_ASN1_SIGNING).map(Pair::Ec)
            }
            KeyType::EcP384 => {
                EcdsaKeyPair::generate(&sig::ECDSA_P384_SHA384_ASN1_SIGNING).map(Pair::Ec)
            }
            KeyType::Rsa2048 => RsaKeyPair::generate(KeySize::Rsa2048).map(Pair::Rsa),
            KeyType::Rsa4096 => RsaKeyPair::generate(KeySize::Rsa4096).map(Pair::Rsa),
        };
        Self::from_pair(pair.map_err(|_| KeyError::Generation)?)
    }

    /// Reads a PKCS#8 PrivateKeyInfo (RFC 5208).
    ///
    /// # Errors
    /// When it is malformed, of an unsupported kind, or its numbers do not fit together.
    pub fn from_pkcs8_der(pkcs8: &[u8]) -> Result<Self, KeyError> {
        check_len(pkcs8)?;
        let mut fields = Reader::sequence_of(pkcs8)?;
        let _version = fields.unsigned()?;
        let mut algorithm = fields.sequence()?;
        match algorithm.value(der::OID)? {
            oid::EC_PUBLIC_KEY => {
                let algorithm = signing_algorithm(algorithm.value(der::OID)?)?;
                let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8);
                Self::from_pair(Pair::Ec(pair.map_err(|_| KeyError::Invalid)?))
            }
            oid::RSA_ENCRYPTION => {
                let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::Invalid)?;
                Self::from_pair(Pair::Rsa(pair))
            }
            _ => Err(KeyError::UnsupportedAlgorithm),
        }
    }

    /// Reads the first block of a PEM text: `PRIVATE KEY` (PKCS#8), `EC PRIVATE KEY` (RFC 5915)
    /// or `RSA PRIVATE KEY` (RFC 8017).
    ///
    /// # Errors
    /// As [`PrivateKey::from_pkcs8_der`], and when the text is not such PEM.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let first = pem::blocks(text).next().transpose();
        Self::from_block(first.map_err(|err| KeyError::Pem(err.to_string()))?)
    }

    /// As [`PrivateKey::from_pem`], of the first block whose type says that it is a private key;
    /// others, such as `EC PARAMETERS`, may stand before it.
    ///
    /// # Errors
    /// As [`PrivateKey::from_pem`].
    pub fn find_in_pem(text: &str) -> Result<Self, KeyError> {
        for block in pem::blocks(text) {
            let block = block.map_err(|err| KeyError::Pem(err.to_string()))?;
            if block.label == "PRIVATE KEY" || block.label.ends_with(" PRIVATE KEY") {
                return Self::from_block(Some(block));
            }
        }
        Self::from_block(None)
    }

    fn from_block(block: Option<pem::Block<'_>>) -> Result<Self, KeyError> {
        let block = block.ok_or_else(|| KeyError::Pem("no PEM blocks".into()))?;
        let contents = Zeroizing::new(block.contents);
        check_len(&contents)?;
        match block.label {
            "PRIVATE KEY" => Self::from_pkcs8_der(&contents),
            "EC PRIVATE KEY" => Self::from_sec1_der(&contents),
            "RSA PRIVATE KEY" => {
                let pair = RsaKeyPair::from_der(&contents).map_err(|_| KeyError::Invalid)?;
                Self::from_pair(Pair::Rsa(pair))
            }
            other => {
                let shown: String = other.chars().take(32).flat_map(char::escape_debug).collect();
                Err(KeyError::Pem(format!("unexpected block type {shown:?}")))
            }
        }
    }

    fn from_sec1_der(sec1: &[u8]) -> Result<Self, KeyError> {
        let mut fields = Reader::sequence_of(sec1)?;
        let _version = fields.unsigned()?;
        let _scalar = fields.value(der::OCTET_STRING)?;
        let curve =
            fields.optional(der::context_constructed(0))?.ok_or(KeyError::UnsupportedAlgorithm)?;
        let algorithm = signing_algorithm(Reader::new(curve).value(der::OID)?)?;
        let pair = EcdsaKeyPair::from_private_key_der(algorithm, sec1);
        Self::from_pair(Pair::Ec(pair.map_err(|_| KeyError::Invalid)?))
    }

    pub(super) fn from_pair(pair: Pair) -> Result<Self, KeyError> {
        let public_key = match &pair {
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let kind = match point.len() {
                    65 => KeyKind::P256,
                    97 => KeyKind::P384,
                    _ => KeyKind::P521,
                };
                PublicKey::from_ec_point(kind, point)?
            }
            Pair::Ed25519(pair) => PublicKey::from_ed25519(pair.public_key().as_ref())?,
            Pair::Rsa(pair) => PublicKey::from_rsa_der(pair.public_key().as_ref())?,
        };
        Ok(Self { pair, public_key })
    }

    /// The key as PKCS#8, laid out as Go's `x509.MarshalPKCS8PrivateKey` does: an EC key carries
    /// its public point and leaves the curve to the outer algorithm identifier.
    #[must_use]
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let der = pair.as_der().expect("an RSA key that was accepted can be encoded");
                Zeroizing::new(der.as_ref().to_vec())
            }
            Pair::Ec(pair) => {
                let scalar: EcPrivateKeyBin<'_> =
                    pair.private_key().as_be_bytes().expect("an EC key has a scalar");
                // Allocated once, so that no copy is left behind by a reallocation.
                let mut out = Zeroizing::new(Vec::with_capacity(512));
                encode_ec_pkcs8(&mut out, &self.public_key, scalar.as_ref());
                out
            }
            Pair::Ed25519(pair) => {
                let der = pair.to_pkcs8v1().expect("an Ed25519 key that was accepted is encoded");
                Zeroizing::new(der.as_ref().to_vec())
            }
        }
    }

    /// [`PrivateKey::to_pkcs8_der`] as a PEM block `PRIVATE KEY`.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode("PRIVATE KEY", &self.to_pkcs8_der()))
    }

    /// The key as the PEM block that Go's `x509.MarshalECPrivateKey` or `MarshalPKCS1PrivateKey`
    /// goes into: `EC PRIVATE KEY` (RFC 5915) or `RSA PRIVATE KEY` (RFC 8017).
    #[must_use]
    pub fn to_traditional_pem(&self) -> Zeroizing<String> {
        let pkcs8 = self.to_pkcs8_der();
        let inner = || {
            let mut fields = Reader::sequence_of(&pkcs8)?;
            let _version = fields.unsigned()?;
            let _algorithm = fields.sequence()?;
            fields.value(der::OCTET_STRING)
        };
        let inner = inner().expect("just encoded");
        let Some(curve) = curve_oid(self.public_key.kind()) else {
            if matches!(self.pair, Pair::Ed25519(_)) {
                // It has no such form.
                return self.to_pkcs8_pem();
            }
            return Zeroizing::new(pem::encode("RSA PRIVATE KEY", inner));
        };
        // Without the outer identifier, the curve stands between scalar and public point.
        let parts = || {
            let mut fields = Reader::sequence_of(inner)?;
            let _version = fields.unsigned()?;
            fields.value(der::OCTET_STRING)
        };
        let scalar = parts().expect("just encoded");
        let mut out = Zeroizing::new(Vec::with_capacity(512));
        der::put_nested(&mut out, der::SEQUENCE, |out| {
            der::put_unsigned(out, &[1]);
            der::put(out, der::OCTET_STRING, scalar);
            der::put_nested(out, der::context_constructed(0), |out| {
                der::put(out, der::OID, curve);
            });
            der::put_nested(out, der::context_constructed(1), |out| {
                der::put_bit_string(out, self.public_key.bits());
            });
        });
        Zeroizing::new(pem::encode("EC PRIVATE KEY", &out))
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Signs `message`. ECDSA signatures are in ASN.1 form; an EC key signs with the digest of
    /// its curve only.
    ///
    /// # Errors
    /// When the key cannot make such a signature.
    pub fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let kind = self.public_key.kind();
        let unsupported = SignError::Unsupported { kind, algorithm };
        let failed = |_| SignError::Failed("signing failed".into());
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(_) if algorithm != SignatureAlgorithm::default_for(kind) => Err(unsupported),
            Pair::Ec(pair) => {
                pair.sign(&random, message).map(|it| it.as_ref().to_vec()).map_err(failed)
            }
            Pair::Ed25519(pair) if algorithm == SignatureAlgorithm::Ed25519 => {
                pair.try_sign(message).map(|it| it.as_ref().to_vec()).map_err(failed)
            }
            Pair::Ed25519(_) => Err(unsupported),
            Pair::Rsa(pair) => {
                let encoding = rsa_encoding(algorithm).ok_or(unsupported)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }

    /// Signs a message whose digest is `digest`, for protocols that hand over nothing else; as
    /// [`PrivateKey::sign`] otherwise.
    ///
    /// # Errors
    /// When the key cannot make such a signature, or the digest is not of that algorithm.
    pub fn sign_digest(
        &self,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let kind = self.public_key.kind();
        let unsupported = SignError::Unsupported { kind, algorithm };
        let failed = |_| SignError::Failed("signing failed".into());
        let digest = crate::digest::import(algorithm, digest)
            .ok_or_else(|| SignError::Failed("the digest is of another algorithm".into()))?;
        match &self.pair {
            Pair::Ec(_) if algorithm != SignatureAlgorithm::default_for(kind) => Err(unsupported),
            Pair::Ec(pair) => {
                pair.sign_digest(&digest).map(|it| it.as_ref().to_vec()).map_err(failed)
            }
            Pair::Ed25519(_) => Err(unsupported),
            Pair::Rsa(pair) => {
                let encoding = rsa_encoding(algorithm).ok_or(unsupported)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(encoding, &digest, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

#[async_trait]
impl Signer for PrivateKey {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn effort(&self) -> Effort {
        match self.public_key.kind() {
            KeyKind::P256 | KeyKind::Ed25519 => Effort::Brief,
            _ => Effort::Long,
        }
    }

    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        PrivateKey::sign(self, algorithm, message)
    }
}

fn check_len(encoded: &[u8]) -> Result<(), KeyError> {
    if encoded.len() > MAX_PRIVATE_KEY_LEN {
        return Err(KeyError::TooLarge { len: encoded.len(), max: MAX_PRIVATE_KEY_LEN });
    }
    Ok(())
}

pub(super) fn signing_algorithm(curve: &[u8]) -> Result<&'static EcdsaSigningAlgorithm, KeyError> {
    match curve {
        oid::P256 => Ok(&sig::ECDSA_P256_SHA256_ASN1_SIGNING),
        oid::P384 => Ok(&sig::ECDSA_P384_SHA384_ASN1_SIGNING),
        oid::P521 => Ok(&sig::ECDSA_P521_SHA512_ASN1_SIGNING),
        _ => Err(KeyError::UnsupportedAlgorithm),
    }
}

fn rsa_encoding(algorithm: SignatureAlgorithm) -> Option<&'static dyn RsaEncoding> {
    use SignatureAlgorithm as Alg;
    Some(match algorithm {
        Alg::RsaPkcs1Sha256 => &sig::RSA_PKCS1_SHA256,
        Alg::RsaPkcs1Sha384 => &sig::RSA_PKCS1_SHA384,
        Alg::RsaPkcs1Sha512 => &sig::RSA_PKCS1_SHA512,
        Alg::RsaPssSha256 => &sig::RSA_PSS_SHA256,
        Alg::RsaPssSha384 => &sig::RSA_PSS_SHA384,
        Alg::RsaPssSha512 => &sig::RSA_PSS_SHA512,
        _ => return None,
    })
}

fn encode_ec_pkcs8(out: &mut Vec<u8>, public_key: &PublicKey, scalar: &[u8]) {
    let curve = curve_oid(public_key.kind()).expect("an EC key has a curve");
    der::put_nested(out, der::SEQUENCE, |out| {
        der::put_unsigned(out, &[0]);
        der::put_nested(out, der::SEQUENCE, |out| {
            der::put(out, der::OID, oid::EC_PUBLIC_KEY);
            der::put(out, der::OID, curve);
        });
        der::put_nested(out, der::OCTET_STRING, |out| {
            der::put_nested(out, der::SEQUENCE, |out| {
                der::put_unsigned(out, &[1]);
                der::put(out, der::OCTET_STRING, scalar);
                der::put_nested(out, der::context_constructed(1), |out| {
                    der::put_bit_string(out, public_key.bits());
                });
            });
        });
    });
}
