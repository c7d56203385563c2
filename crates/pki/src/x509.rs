//! X.509 certificates: what they hold, and issuing them as SPIRE does (RFC 5280).

use thiserror::Error;

use crate::der::DerError;
use crate::keys::{KeyError, SignError};
use crate::pem::PemError;

mod certificate;
mod extensions;
mod issue;
mod name;
mod oid;
mod parse;
mod time;

pub(crate) use self::time::truncate_to_seconds;
pub use certificate::{Certificate, authority_id};
pub use extensions::{ExtKeyUsage, KeyUsage};
pub use issue::{Extension, Issuer, SerialNumber, Template, check_extensions, issue, self_sign};
pub(crate) use issue::{put_extension, put_extra};
pub use name::DistinguishedName;
pub use oid::{InvalidOid, Oid};
pub(crate) use parse::parse_subject_alt_names;

/// The longest certificate that is looked at, in bytes.
pub const MAX_CERTIFICATE_LEN: usize = 64 * 1024;

/// Why something is not a certificate that can be used.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Longer than [`MAX_CERTIFICATE_LEN`].
    #[error("certificate is too large: {0} bytes")]
    TooLarge(usize),
    /// The encoding is broken.
    #[error("malformed certificate: {0}")]
    Der(#[from] DerError),
    /// A version other than 1 and 3, or extensions in a version 1 certificate.
    #[error("unsupported certificate version")]
    Version,
    /// The public key is not supported.
    #[error("unsupported certificate key: {0}")]
    Key(#[from] KeyError),
    /// An extension occurs twice.
    #[error("certificate contains duplicate extensions")]
    DuplicateExtension,
    /// The algorithm inside the signed part differs from the one beside the signature.
    #[error("inner and outer signature algorithm identifiers don't match")]
    AlgorithmMismatch,
    /// The text is not PEM.
    #[error("{0}")]
    Pem(#[from] PemError),
    /// A PEM block of another type; holds the beginning of its label.
    #[error("expected block type \"CERTIFICATE\"; got {0:?}")]
    PemLabel(String),
    /// There is no PEM block in the text.
    #[error("no PEM blocks")]
    NoPemBlocks,
}

/// Why a certificate was not issued.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The signer failed.
    #[error("{0}")]
    Sign(#[from] SignError),
    /// The signature does not verify with the signer's public key.
    #[error("the signer returned a signature that its public key does not verify")]
    BadSignature,
    /// A time that X.509 cannot express (before 1950 or after 9999).
    #[error("certificate validity is out of range")]
    Validity,
    /// A name that is not plain ASCII where the encoding needs that.
    #[error("{0} is not a valid IA5String")]
    NotAscii(&'static str),
    /// An extra extension that the issuer makes itself.
    #[error("extension {0} cannot be overridden")]
    ReservedExtension(Oid),
    /// An extra extension that occurs twice.
    #[error("duplicate extension {0}")]
    DuplicateExtension(Oid),
    /// More than a certificate may hold.
    #[error("certificate is too large: {0} bytes")]
    TooLarge(usize),
}

#[cfg(test)]
mod tests;
