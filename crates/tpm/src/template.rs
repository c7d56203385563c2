//! What keys are made by: public areas (TPMT_PUBLIC) without the key.

use crate::spec::{
    ADMIN_WITH_POLICY, ALG_AES, ALG_CFB, ALG_ECC, ALG_ECDSA, ALG_NULL, ALG_RSA, ALG_RSASSA,
    ALG_SHA256, CURVE_P256, CURVE_P384, DECRYPT, FIXED_PARENT, FIXED_TPM, NO_DA, RESTRICTED,
    SENSITIVE_DATA_ORIGIN, SIGN, USER_WITH_AUTH,
};
use crate::wire::Writer;

/// Kinds of keys that we have TPMs make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyShape {
    /// RSA with 2048 bits.
    Rsa2048,
    /// EC on P-256.
    P256,
    /// EC on P-384.
    P384,
}

impl KeyShape {
    const fn curve(self) -> Option<u16> {
        match self {
            Self::Rsa2048 => None,
            Self::P256 => Some(CURVE_P256),
            Self::P384 => Some(CURVE_P384),
        }
    }
}

/// The storage root key that TCG's provisioning guidance has, on P-256 or RSA-2048.
#[must_use]
pub fn srk(shape: KeyShape) -> Vec<u8> {
    let attributes = OURS | USER_WITH_AUTH | NO_DA | RESTRICTED | DECRYPT;
    storage(shape, attributes, &[], &[0; 256])
}

/// The storage root key of TCG's EK credential profile, templates H-1 and H-2, under which device
/// identities are made.
#[must_use]
pub fn srk_high_range(shape: KeyShape) -> Vec<u8> {
    let attributes = OURS | USER_WITH_AUTH | NO_DA | RESTRICTED | DECRYPT;
    let cipher = start(shape, attributes, &[]).u16(ALG_AES).u16(128).u16(ALG_CFB).u16(ALG_NULL);
    key(shape, cipher)
}

/// The endorsement key of TCG's EK credential profile, templates L-1 and L-2. Where the TPM has a
/// nonce for it, that is the beginning of what is otherwise zero.
#[must_use]
pub fn ek(shape: KeyShape, nonce: &[u8]) -> Vec<u8> {
    let mut unique = [0; 256];
    let len = nonce.len().min(unique.len());
    unique[..len].copy_from_slice(&nonce[..len]);
    let attributes = OURS | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT;
    storage(shape, attributes, &POLICY_A, &unique)
}

/// An attestation key: signs nothing but what the TPM itself says.
#[must_use]
pub fn ak(shape: KeyShape) -> Vec<u8> {
    signing(shape, OURS | USER_WITH_AUTH | NO_DA | RESTRICTED | SIGN, true)
}

/// A key that signs what it is given.
#[must_use]
pub fn signer(shape: KeyShape) -> Vec<u8> {
    signing(shape, OURS | USER_WITH_AUTH | NO_DA | SIGN, false)
}

fn start(shape: KeyShape, attributes: u32, policy: &[u8]) -> Writer {
    let kind = if shape == KeyShape::Rsa2048 { ALG_RSA } else { ALG_ECC };
    Writer::new().u16(kind).u16(ALG_SHA256).u32(attributes).sized(policy)
}

fn storage(shape: KeyShape, attributes: u32, policy: &[u8], unique: &[u8; 256]) -> Vec<u8> {
    let out = start(shape, attributes, policy).u16(ALG_AES).u16(128).u16(ALG_CFB).u16(ALG_NULL);
    match shape.curve() {
        None => out.u16(2048).u32(0).sized(unique),
        Some(curve) => out.u16(curve).u16(ALG_NULL).sized(&unique[..32]).sized(&[0; 32]),
    }
    .finish()
}

fn signing(shape: KeyShape, attributes: u32, with_scheme: bool) -> Vec<u8> {
    let out = start(shape, attributes, &[]).u16(ALG_NULL);
    let scheme = match shape.curve() {
        None => ALG_RSASSA,
        Some(_) => ALG_ECDSA,
    };
    let out = if with_scheme { out.u16(scheme).u16(ALG_SHA256) } else { out.u16(ALG_NULL) };
    key(shape, out)
}

/// What follows cipher and scheme, without a key.
fn key(shape: KeyShape, out: Writer) -> Vec<u8> {
    match shape.curve() {
        None => out.u16(2048).u32(0).sized(&[]),
        Some(curve) => out.u16(curve).u16(ALG_NULL).sized(&[]).sized(&[]),
    }
    .finish()
}

/// What all keys of ours have: made in this TPM, and never outside of it.
const OURS: u32 = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN;

/// `PolicySecret(TPM_RH_ENDORSEMENT)`, which is how EKs are used.
const POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
