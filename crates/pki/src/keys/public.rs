use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    self as sig, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm,
};

use super::{BadSignature, KeyError, KeyKind, KeyType, MAX_SPKI_LEN, SignatureAlgorithm};
use crate::der::{self, DerError, Reader};
use crate::oid;

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A public key that was checked: supported kind, sane size, numbers that make a key.
/// Cheap to clone.
#[derive(Clone)]
pub struct PublicKey(Arc<Inner>);

struct Inner {
    /// SubjectPublicKeyInfo.
    spki: Box<[u8]>,
    /// Where the content of the BIT STRING starts in `spki`; it runs to the end.
    bits_start: usize,
    kind: KeyKind,
    /// Ready for the algorithm that goes with the key by default.
    parsed: ParsedPublicKey,
}

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), strictly.
    ///
    /// # Errors
    /// Size, encoding, algorithm and numbers are checked in this order; nothing costly happens
    /// to a key of an unsupported kind or size.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        if spki.len() > MAX_SPKI_LEN {
            return Err(KeyError::TooLarge { len: spki.len(), max: MAX_SPKI_LEN });
        }
        let mut fields = Reader::sequence_of(spki)?;
        let mut algorithm = fields.sequence()?;
        let bits = fields.bit_string_bytes()?;
        fields.finish()?;
        let name = algorithm.value(der::OID)?;
        let kind = match name {
            oid::EC_PUBLIC_KEY => ec_kind(algorithm.value(der::OID)?, bits)?,
            oid::RSA_ENCRYPTION => {
                if !algorithm.value(der::NULL)?.is_empty() {
                    return Err(DerError::Value("NULL").into());
                }
                rsa_kind(bits)?
            }
            oid::ED25519 => KeyKind::Ed25519,
            _ => return Err(KeyError::UnsupportedAlgorithm),
        };
        algorithm.finish()?;
        let parsed =
            ParsedPublicKey::new(default_verifier(kind), bits).map_err(|_| KeyError::Invalid)?;
        let bits_start = spki.len() - bits.len();
        Ok(Self(Arc::new(Inner { spki: spki.into(), bits_start, kind, parsed })))
    }

    /// Builds the key of an EC point in uncompressed form.
    pub(crate) fn from_ec_point(kind: KeyKind, point: &[u8]) -> Result<Self, KeyError> {
        let curve = curve_oid(kind).ok_or(KeyError::UnsupportedAlgorithm)?;
        let mut spki = Vec::with_capacity(160);
        der::put_nested(&mut spki, der::SEQUENCE, |out| {
            der::put_nested(out, der::SEQUENCE, |out| {
                der::put(out, der::OID, oid::EC_PUBLIC_KEY);
                der::put(out, der::OID, curve);
            });
            der::put_bit_string(out, point);
        });
        Self::from_spki_der(&spki)
    }

    /// Builds the key of a DER RSAPublicKey (RFC 8017 A.1.1).
    pub(crate) fn from_rsa_der(rsa_public_key: &[u8]) -> Result<Self, KeyError> {
        let mut spki = Vec::with_capacity(rsa_public_key.len() + 32);
        der::put_nested(&mut spki, der::SEQUENCE, |out| {
            der::put_nested(out, der::SEQUENCE, |out| {
                der::put(out, der::OID, oid::RSA_ENCRYPTION);
                der::put(out, der::NULL, &[]);
            });
            der::put_bit_string(out, rsa_public_key);
        });
        Self::from_spki_der(&spki)
    }

    /// Builds the key of 32 Ed25519 bytes.
    pub(crate) fn from_ed25519(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut spki = Vec::with_capacity(48);
        der::put_nested(&mut spki, der::SEQUENCE, |out| {
            der::put_nested(out, der::SEQUENCE, |out| der::put(out, der::OID, oid::ED25519));
            der::put_bit_string(out, bytes);
        });
        Self::from_spki_der(&spki)
    }

    /// The DER SubjectPublicKeyInfo ("PKIX" in Go and in SPIRE's API).
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.0.spki
    }

    /// The content of its BIT STRING: an EC point, an RSAPublicKey, or an Ed25519 key.
    pub(crate) fn bits(&self) -> &[u8] {
        &self.0.spki[self.0.bits_start..]
    }

    /// The kind of key.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.0.kind
    }

    /// The kind of key, if it is one that SPIRE makes.
    #[must_use]
    pub fn key_type(&self) -> Option<KeyType> {
        match self.kind() {
            KeyKind::P256 => Some(KeyType::EcP256),
            KeyKind::P384 => Some(KeyType::EcP384),
            KeyKind::Rsa(2048) => Some(KeyType::Rsa2048),
            KeyKind::Rsa(4096) => Some(KeyType::Rsa4096),
            _ => None,
        }
    }

    /// The subject key identifier: SHA-1 of the BIT STRING's content (RFC 5280 §4.2.1.2).
    #[must_use]
    pub fn subject_key_id(&self) -> [u8; 20] {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, self.bits());
        digest.as_ref().try_into().expect("SHA-1 has 20 bytes")
    }

    /// Checks a signature of this key. ECDSA signatures are in ASN.1 form.
    ///
    /// # Errors
    /// When the signature is another's or the algorithm does not go with the key.
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        let kind = self.kind();
        if algorithm == SignatureAlgorithm::default_for(kind) {
            return self.0.parsed.verify_sig(message, signature).map_err(|_| BadSignature);
        }
        let verifier = verifier(kind, algorithm).ok_or(BadSignature)?;
        UnparsedPublicKey::new(verifier, self.bits())
            .verify(message, signature)
            .map_err(|_| BadSignature)
    }

    /// The modulus and exponent of an RSA key, big-endian without leading zeros.
    pub(crate) fn rsa_numbers(&self) -> Option<(&[u8], &[u8])> {
        if !matches!(self.kind(), KeyKind::Rsa(_)) {
            return None;
        }
        let mut numbers = Reader::sequence_of(self.bits()).ok()?;
        Some((numbers.unsigned().ok()?, numbers.unsigned().ok()?))
    }
}

impl SignatureAlgorithm {
    /// The algorithm that Go's standard library, and so SPIRE, picks for a key.
    #[must_use]
    pub const fn default_for(kind: KeyKind) -> Self {
        match kind {
            KeyKind::P256 => Self::EcdsaSha256,
            KeyKind::P384 => Self::EcdsaSha384,
            KeyKind::P521 => Self::EcdsaSha512,
            KeyKind::Rsa(_) => Self::RsaPkcs1Sha256,
            KeyKind::Ed25519 => Self::Ed25519,
        }
    }
}

pub(super) fn curve_oid(kind: KeyKind) -> Option<&'static [u8]> {
    match kind {
        KeyKind::P256 => Some(oid::P256),
        KeyKind::P384 => Some(oid::P384),
        KeyKind::P521 => Some(oid::P521),
        _ => None,
    }
}

fn ec_kind(curve: &[u8], point: &[u8]) -> Result<KeyKind, KeyError> {
    let (kind, point_len) = match curve {
        oid::P256 => (KeyKind::P256, 65),
        oid::P384 => (KeyKind::P384, 97),
        oid::P521 => (KeyKind::P521, 133),
        _ => return Err(KeyError::UnsupportedAlgorithm),
    };
    // Uncompressed only, as in Go.
    if point.len() == point_len && point[0] == 4 { Ok(kind) } else { Err(KeyError::Invalid) }
}

fn rsa_kind(rsa_public_key: &[u8]) -> Result<KeyKind, KeyError> {
    let mut numbers = Reader::sequence_of(rsa_public_key)?;
    let modulus = numbers.unsigned()?;
    let exponent = numbers.unsigned()?;
    numbers.finish()?;
    let bits = modulus.first().map_or(0, |top| modulus.len() * 8 - top.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(KeyError::RsaSize(bits));
    }
    // A large exponent would make every verification slow.
    let sane = match *exponent {
        [low] => low & 1 == 1 && low > 1,
        [_, .., low] if exponent.len() < 4 => low & 1 == 1,
        [top, _, _, low] => top & 0x80 == 0 && low & 1 == 1,
        _ => false,
    };
    if !sane {
        return Err(KeyError::RsaExponent);
    }
    Ok(KeyKind::Rsa(u16::try_from(bits).expect("at most 8192")))
}

fn default_verifier(kind: KeyKind) -> &'static dyn VerificationAlgorithm {
    verifier(kind, SignatureAlgorithm::default_for(kind)).expect("each kind has a default")
}

fn verifier(
    kind: KeyKind,
    algorithm: SignatureAlgorithm,
) -> Option<&'static dyn VerificationAlgorithm> {
    use KeyKind::{Ed25519, P256, P384, P521, Rsa};
    use SignatureAlgorithm as Alg;
    Some(match (kind, algorithm) {
        (P256, Alg::EcdsaSha256) => &sig::ECDSA_P256_SHA256_ASN1,
        (P256, Alg::EcdsaSha384) => &sig::ECDSA_P256_SHA384_ASN1,
        (P256, Alg::EcdsaSha512) => &sig::ECDSA_P256_SHA512_ASN1,
        (P384, Alg::EcdsaSha256) => &sig::ECDSA_P384_SHA256_ASN1,
        (P384, Alg::EcdsaSha384) => &sig::ECDSA_P384_SHA384_ASN1,
        (P384, Alg::EcdsaSha512) => &sig::ECDSA_P384_SHA512_ASN1,
        (P521, Alg::EcdsaSha256) => &sig::ECDSA_P521_SHA256_ASN1,
        (P521, Alg::EcdsaSha384) => &sig::ECDSA_P521_SHA384_ASN1,
        (P521, Alg::EcdsaSha512) => &sig::ECDSA_P521_SHA512_ASN1,
        (Rsa(_), Alg::RsaPkcs1Sha256) => &sig::RSA_PKCS1_2048_8192_SHA256,
        (Rsa(_), Alg::RsaPkcs1Sha384) => &sig::RSA_PKCS1_2048_8192_SHA384,
        (Rsa(_), Alg::RsaPkcs1Sha512) => &sig::RSA_PKCS1_2048_8192_SHA512,
        (Rsa(_), Alg::RsaPssSha256) => &sig::RSA_PSS_2048_8192_SHA256,
        (Rsa(_), Alg::RsaPssSha384) => &sig::RSA_PSS_2048_8192_SHA384,
        (Rsa(_), Alg::RsaPssSha512) => &sig::RSA_PSS_2048_8192_SHA512,
        (Ed25519, Alg::Ed25519) => &sig::ED25519,
        _ => return None,
    })
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.spki == other.0.spki
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, ", self.kind())?;
        self.subject_key_id().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}
