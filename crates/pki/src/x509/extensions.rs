use std::fmt;
use std::ops::BitOr;

use crate::der::DerError;
use crate::oid;

/// The bits of the key usage extension (RFC 5280 §4.2.1.3); bit 0 of the RFC is the lowest here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyUsage(u16);

impl KeyUsage {
    /// No bit.
    pub const EMPTY: Self = Self(0);
    /// digitalSignature
    pub const DIGITAL_SIGNATURE: Self = Self(1);
    /// nonRepudiation, also called contentCommitment
    pub const CONTENT_COMMITMENT: Self = Self(1 << 1);
    /// keyEncipherment
    pub const KEY_ENCIPHERMENT: Self = Self(1 << 2);
    /// dataEncipherment
    pub const DATA_ENCIPHERMENT: Self = Self(1 << 3);
    /// keyAgreement
    pub const KEY_AGREEMENT: Self = Self(1 << 4);
    /// keyCertSign
    pub const KEY_CERT_SIGN: Self = Self(1 << 5);
    /// cRLSign
    pub const CRL_SIGN: Self = Self(1 << 6);
    /// encipherOnly
    pub const ENCIPHER_ONLY: Self = Self(1 << 7);
    /// decipherOnly
    pub const DECIPHER_ONLY: Self = Self(1 << 8);

    /// What an X509-SVID has: digitalSignature, keyEncipherment, keyAgreement.
    pub const SVID: Self = Self(1 | 1 << 2 | 1 << 4);
    /// What an X.509 CA has: keyCertSign, cRLSign.
    pub const CA: Self = Self(1 << 5 | 1 << 6);

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no bit is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The value of the extension's BIT STRING: unused bits, then one or two bytes.
    pub(super) fn to_bit_string(self) -> Vec<u8> {
        let [low, high] = self.0.to_le_bytes();
        let mut bytes = vec![0, low.reverse_bits()];
        if high != 0 {
            bytes.push(high.reverse_bits());
        }
        let last = bytes[bytes.len() - 1];
        bytes[0] = u8::try_from(last.trailing_zeros().min(7)).expect("at most 7");
        bytes
    }

    pub(super) fn from_bit_string(value: &[u8]) -> Result<Self, DerError> {
        match *value {
            [0..=7, low] => Ok(Self(u16::from(low.reverse_bits()))),
            [0..=7, low, high] => {
                Ok(Self(u16::from_le_bytes([low.reverse_bits(), high.reverse_bits()])))
            }
            [0] => Ok(Self::EMPTY),
            _ => Err(DerError::Value("key usage")),
        }
    }
}

impl BitOr for KeyUsage {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for KeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 9] = [
            "digitalSignature",
            "contentCommitment",
            "keyEncipherment",
            "dataEncipherment",
            "keyAgreement",
            "keyCertSign",
            "cRLSign",
            "encipherOnly",
            "decipherOnly",
        ];
        let set = NAMES.iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 == 1);
        f.debug_set().entries(set.map(|(_, name)| name)).finish()
    }
}

/// A purpose of the extended key usage extension (RFC 5280 §4.2.1.12).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ExtKeyUsage {
    /// id-kp-serverAuth
    ServerAuth,
    /// id-kp-clientAuth
    ClientAuth,
    /// Any other: the content bytes of its DER object identifier.
    Other(Box<[u8]>),
}

impl ExtKeyUsage {
    pub(super) fn oid(&self) -> &[u8] {
        match self {
            Self::ServerAuth => oid::EKU_SERVER_AUTH,
            Self::ClientAuth => oid::EKU_CLIENT_AUTH,
            Self::Other(oid) => oid,
        }
    }

    pub(super) fn from_oid(oid: &[u8]) -> Self {
        match oid {
            oid::EKU_SERVER_AUTH => Self::ServerAuth,
            oid::EKU_CLIENT_AUTH => Self::ClientAuth,
            other => Self::Other(other.into()),
        }
    }
}
