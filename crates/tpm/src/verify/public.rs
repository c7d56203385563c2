//! TPMT_PUBLIC: what a TPM tells of a key (TPM 2.0 part 2, §12.2.4).

use steeple_pki::external::{ec_public_key, rsa_public_key};
use steeple_pki::{KeyKind, PublicKey};

use super::wire::{NULL, Reader, hash_of};
use super::{StructureError, VerifyError};

const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const DEFAULT_EXPONENT: u32 = 65537;

/// A key's public area, and the bytes that it was read from, over which its name goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Public {
    encoded: Box<[u8]>,
    name_alg: u16,
    attributes: Attributes,
    auth_policy: Box<[u8]>,
    parameters: Parameters,
}

/// TPMA_OBJECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes(pub u32);

/// What goes with the type of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parameters {
    /// RSA.
    Rsa {
        /// How children are protected; none for a key that is no parent.
        symmetric: Option<Symmetric>,
        /// How it signs or decrypts; none where each command says.
        scheme: Option<Scheme>,
        /// The size of the modulus.
        bits: u16,
        /// The exponent.
        exponent: u32,
        /// The modulus, big-endian.
        modulus: Box<[u8]>,
    },
    /// Elliptic curves.
    Ecc {
        /// How children are protected; none for a key that is no parent.
        symmetric: Option<Symmetric>,
        /// How it signs or agrees; none where each command says.
        scheme: Option<Scheme>,
        /// The TPM_ECC_CURVE.
        curve: u16,
        /// The point's coordinates, big-endian.
        point: (Box<[u8]>, Box<[u8]>),
    },
}

/// A block cipher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symmetric {
    algorithm: u16,
    key_bits: u16,
    mode: u16,
}

/// A scheme of signing, or of encrypting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scheme {
    /// Its TPM_ALG_ID.
    pub algorithm: u16,
    /// The TPM_ALG_ID of its hash.
    pub hash: u16,
}

/// A key's name: the hash of its public area, behind the hash's identifier (part 1, §16).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(Box<[u8]>);

impl Attributes {
    const FIXED_TPM: u32 = 1 << 1;
    const FIXED_PARENT: u32 = 1 << 4;
    const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    const RESTRICTED: u32 = 1 << 16;
    const DECRYPT: u32 = 1 << 17;
    const SIGN: u32 = 1 << 18;

    /// It cannot leave its TPM, nor can a copy.
    #[must_use]
    pub const fn fixed_tpm(self) -> bool {
        self.0 & Self::FIXED_TPM != 0
    }

    /// It cannot get another parent.
    #[must_use]
    pub const fn fixed_parent(self) -> bool {
        self.0 & Self::FIXED_PARENT != 0
    }

    /// The TPM made its private half; nobody brought it.
    #[must_use]
    pub const fn made_inside(self) -> bool {
        self.0 & Self::SENSITIVE_DATA_ORIGIN != 0
    }

    /// It signs, or decrypts, nothing but the TPM's own structures.
    #[must_use]
    pub const fn restricted(self) -> bool {
        self.0 & Self::RESTRICTED != 0
    }

    /// It may decrypt.
    #[must_use]
    pub const fn decrypt(self) -> bool {
        self.0 & Self::DECRYPT != 0
    }

    /// It may sign.
    #[must_use]
    pub const fn sign(self) -> bool {
        self.0 & Self::SIGN != 0
    }

    /// It was born in the TPM and stays there.
    #[must_use]
    pub const fn resident(self) -> bool {
        self.fixed_tpm() && self.fixed_parent() && self.made_inside()
    }
}

impl Symmetric {
    /// The length of an AES key in CFB mode, in bytes; none for another cipher.
    #[must_use]
    pub const fn aes_cfb_key_len(self) -> Option<usize> {
        match (self.algorithm, self.mode, self.key_bits) {
            (AES, CFB, 128) => Some(16),
            (AES, CFB, 192) => Some(24),
            (AES, CFB, 256) => Some(32),
            _ => None,
        }
    }
}

impl Name {
    /// The bytes: an algorithm's identifier and a digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Public {
    /// Reads a TPMT_PUBLIC of an RSA or EC key, and nothing else.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(encoded: &[u8]) -> Result<Self, StructureError> {
        let mut reader = Reader::new("TPMT_PUBLIC", encoded)?;
        let kind = reader.u16()?;
        let name_alg = reader.u16()?;
        let attributes = Attributes(reader.u32()?);
        let auth_policy = reader.sized()?.into();
        let parameters = match kind {
            RSA => rsa(&mut reader)?,
            ECC => ecc(&mut reader)?,
            other => return Err(StructureError::PublicType(other)),
        };
        reader.finish()?;
        Ok(Self { encoded: encoded.into(), name_alg, attributes, auth_policy, parameters })
    }

    /// Reads a TPM2B_PUBLIC: the same behind its length, as `tpm2-tools` writes it to files.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse_sized(encoded: &[u8]) -> Result<Self, StructureError> {
        let mut reader = Reader::new("TPM2B_PUBLIC", encoded)?;
        let inner = reader.sized()?;
        reader.finish()?;
        Self::parse(inner)
    }

    /// The TPMT_PUBLIC that was read.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// What the key may do, and whether it may leave.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// The policy that its use takes; empty for none.
    #[must_use]
    pub fn auth_policy(&self) -> &[u8] {
        &self.auth_policy
    }

    /// The TPM_ALG_ID of the hash in its name.
    #[must_use]
    pub fn name_alg(&self) -> u16 {
        self.name_alg
    }

    /// What goes with its type.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// How it signs, if that is fixed.
    #[must_use]
    pub fn scheme(&self) -> Option<Scheme> {
        match self.parameters {
            Parameters::Rsa { scheme, .. } | Parameters::Ecc { scheme, .. } => scheme,
        }
    }

    /// How its children are protected, if it is a parent.
    #[must_use]
    pub fn symmetric(&self) -> Option<Symmetric> {
        match self.parameters {
            Parameters::Rsa { symmetric, .. } | Parameters::Ecc { symmetric, .. } => symmetric,
        }
    }

    /// Its name.
    ///
    /// # Errors
    /// When its hash is none of SHA-2.
    pub fn name(&self) -> Result<Name, VerifyError> {
        let hash = hash_of(self.name_alg).ok_or(VerifyError::Hash(self.name_alg))?;
        let mut name = self.name_alg.to_be_bytes().to_vec();
        name.extend(hash.digest(&[&self.encoded]));
        Ok(Name(name.into()))
    }

    /// Its public key.
    ///
    /// # Errors
    /// When it is of a size or on a curve that is not supported.
    pub fn key(&self) -> Result<PublicKey, VerifyError> {
        match &self.parameters {
            Parameters::Rsa { bits, exponent, modulus, .. } => {
                let key = rsa_public_key(modulus, &exponent.to_be_bytes())?;
                if key.kind() != KeyKind::Rsa(*bits) {
                    return Err(VerifyError::KeySize);
                }
                Ok(key)
            }
            Parameters::Ecc { curve, point: (x, y), .. } => {
                let (kind, len) = match curve {
                    0x0003 => (KeyKind::P256, 32),
                    0x0004 => (KeyKind::P384, 48),
                    0x0005 => (KeyKind::P521, 66),
                    _ => return Err(steeple_pki::KeyError::UnsupportedAlgorithm.into()),
                };
                let mut uncompressed = vec![0; 1 + 2 * len];
                uncompressed[0] = 4;
                let (first, second) = uncompressed[1..].split_at_mut(len);
                for (into, number) in [(first, x), (second, y)] {
                    // Some TPMs leave out leading zeros.
                    let start = len.checked_sub(number.len()).ok_or(VerifyError::KeySize)?;
                    into[start..].copy_from_slice(number);
                }
                Ok(ec_public_key(kind, &uncompressed)?)
            }
        }
    }
}

fn rsa(reader: &mut Reader<'_>) -> Result<Parameters, StructureError> {
    let symmetric = symmetric(reader)?;
    let scheme = scheme(reader)?;
    let bits = reader.u16()?;
    let exponent = match reader.u32()? {
        0 => DEFAULT_EXPONENT,
        other => other,
    };
    let modulus = reader.sized()?.into();
    Ok(Parameters::Rsa { symmetric, scheme, bits, exponent, modulus })
}

fn ecc(reader: &mut Reader<'_>) -> Result<Parameters, StructureError> {
    let symmetric = symmetric(reader)?;
    let scheme = scheme(reader)?;
    let curve = reader.u16()?;
    kdf_scheme(reader)?;
    let point = (reader.sized()?.into(), reader.sized()?.into());
    Ok(Parameters::Ecc { symmetric, scheme, curve, point })
}

fn symmetric(reader: &mut Reader<'_>) -> Result<Option<Symmetric>, StructureError> {
    match reader.u16()? {
        NULL => Ok(None),
        // TDES, AES, SM4, CAMELLIA.
        algorithm @ (0x0003 | AES | 0x0013 | 0x0026) => {
            Ok(Some(Symmetric { algorithm, key_bits: reader.u16()?, mode: reader.u16()? }))
        }
        other => Err(reader.bad_algorithm(other)),
    }
}

fn scheme(reader: &mut Reader<'_>) -> Result<Option<Scheme>, StructureError> {
    let algorithm = reader.u16()?;
    let hash = match algorithm {
        NULL => return Ok(None),
        // RSAES has no hash.
        0x0015 => NULL,
        // RSASSA, RSAPSS, OAEP, ECDSA, ECDH, SM2, ECSCHNORR, ECMQV.
        0x0014 | 0x0016..=0x0019 | 0x001b..=0x001d => reader.u16()?,
        // ECDAA counts, too.
        0x001a => {
            let hash = reader.u16()?;
            reader.u16()?;
            hash
        }
        other => return Err(reader.bad_algorithm(other)),
    };
    Ok(Some(Scheme { algorithm, hash }))
}

fn kdf_scheme(reader: &mut Reader<'_>) -> Result<(), StructureError> {
    match reader.u16()? {
        NULL => Ok(()),
        // MGF1, KDF1 of SP 800-56A, KDF2, KDF1 of SP 800-108.
        0x0007 | 0x0020..=0x0022 => reader.u16().map(|_hash| ()),
        other => Err(reader.bad_algorithm(other)),
    }
}
