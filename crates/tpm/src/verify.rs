//! Judging what a TPM says, from its bytes alone: nothing here talks to one.
//!
//! The chain of proof: an EK certificate of a manufacturer vouches for the endorsement key; only
//! the TPM that holds this key can open what [`EndorsementKey::make_credential`] wrapped, and it
//! does so only if the attestation key of that name is loaded beside it; an [`AttestationKey`] is
//! restricted, so that it signs nothing but what its TPM generated; and what it signed tells of
//! other keys ([`AttestationKey::certified`]) and of PCRs ([`AttestationKey::quoted`]).
//!
//! Parsers take exactly one structure: what is truncated, oversized or followed by anything is
//! refused. A verifier returns what it verified.

use thiserror::Error;

mod attest;
mod credential;
mod keys;
mod pcr;
mod public;
mod signature;
mod wire;

pub use attest::{Attest, Attested, ClockInfo, PcrSelection, TPM_GENERATED};
pub use credential::{Credential, kdfa, kdfe};
pub use keys::{AttestationKey, EndorsementKey, ResidentKey, check_endorsement_usage};
pub use pcr::{PcrValue, Quoted};
pub use public::{Attributes, Name, Parameters, Public, Scheme, Symmetric};
pub use signature::Signature;
pub use wire::hash_of;

/// The largest TPMT_PUBLIC, TPMS_ATTEST or TPMT_SIGNATURE that is looked at, in bytes: a public
/// area with an RSA key of 8192 bits has some 1100.
pub const MAX_STRUCTURE: usize = 2048;

/// What is wrong with an encoded structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum StructureError {
    /// The input ends inside the structure.
    #[error("decoding {0}: unexpected EOF")]
    Truncated(&'static str),
    /// Something follows the structure.
    #[error("decoding {0}: trailing data")]
    Trailing(&'static str),
    /// Longer than [`MAX_STRUCTURE`].
    #[error("decoding {0}: too large")]
    TooLarge(&'static str),
    /// A public area of a type that is no RSA or EC key.
    #[error("unsupported type in TPMT_PUBLIC: 0x{0:x}")]
    PublicType(u16),
    /// An algorithm that does not belong where it stands.
    #[error("decoding {0}: unsupported algorithm 0x{1:x}")]
    Algorithm(&'static str, u16),
    /// A signature that is neither RSA nor ECDSA.
    #[error("unsupported signature algorithm 0x{0:x}")]
    SignatureAlgorithm(u16),
    /// An attestation that no TPM generated.
    #[error("incorrect magic value: {0:x}")]
    Magic(u32),
    /// An attestation of something else than a key or PCRs.
    #[error(
        "only Quote, Certify & Creation attestation structures are supported, got type 0x{0:x}"
    )]
    AttestType(u16),
    /// A value that makes no sense.
    #[error("decoding {0}: invalid value")]
    Value(&'static str),
}

/// Why something that a TPM is said to have said does not hold.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It cannot be read.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// A hash function that is none of SHA-2.
    #[error("hash algorithm not supported: 0x{0:x}")]
    Hash(u16),
    /// The numbers of a public area make no key that is supported.
    #[error("{0}")]
    Key(#[from] steeple_pki::KeyError),
    /// A public area says one key size and holds another.
    #[error("key size differs from the public area's")]
    KeySize,
    /// A key lacks an attribute that the proof rests on, or has one that spoils it.
    #[error("{key} {rule}")]
    Attributes {
        /// Which key.
        key: &'static str,
        /// What it must be, or must not.
        rule: &'static str,
    },
    /// A key that cannot sign.
    #[error("not a signing key")]
    NotSigning,
    /// The signature is made by another scheme than the key's.
    #[error("signature scheme differs from the key's")]
    Scheme,
    /// The signature is another key's, or over other data.
    #[error("signature verification failed")]
    Signature,
    /// The attestation is not of this kind.
    #[error("missing {0} info")]
    Kind(&'static str),
    /// The attestation speaks of another key.
    #[error("certify failed")]
    OtherKey,
    /// The attestation answers another question: it is a replay, or meant for somebody else.
    #[error("attestation is not bound to the expected data")]
    Binding,
    /// The PCR values do not have the quoted digest.
    #[error("PCR values differ from the quote")]
    PcrDigest,
    /// The key does not encrypt secrets as endorsement keys do.
    #[error("unsupported algorithm")]
    CannotWrap,
}

#[cfg(test)]
mod tests;
