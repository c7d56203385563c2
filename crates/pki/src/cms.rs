//! Signed messages (CMS SignedData, RFC 5652; PKCS#7): as much as clouds sign the description of a
//! machine with. One signer, content inside, SHA-2.
//!
//! Nothing of a message can be had but what its signature was verified over, and who signed.

mod ber;

use aws_lc_rs::digest;
use thiserror::Error;

use crate::der::{self, DerError, Reader};
use crate::keys::{KeyKind, SignatureAlgorithm};
use crate::oid;
use crate::x509::Certificate;

/// The longest message that is looked at, in bytes.
pub const MAX_MESSAGE_LEN: usize = 64 * 1024;

/// How many certificates a message may bring.
pub const MAX_CERTIFICATES: usize = 16;

/// How many signed attributes there may be.
const MAX_ATTRIBUTES: usize = 32;

/// Why a message was not accepted.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CmsError {
    /// Longer than [`MAX_MESSAGE_LEN`].
    #[error("message is too large: {0} bytes")]
    TooLarge(usize),
    /// The encoding is broken.
    #[error("malformed message: {0}")]
    Der(#[from] DerError),
    /// Something else than SignedData over plain data.
    #[error("unsupported content type")]
    ContentType,
    /// The signed content is not in the message.
    #[error("message has no content")]
    Detached,
    /// More than [`MAX_CERTIFICATES`].
    #[error("message has too many certificates")]
    TooManyCertificates,
    /// Nobody signed.
    #[error("message has no signers")]
    NoSigner,
    /// Several signers: it would not be clear who vouches.
    #[error("message has more than one signer")]
    SeveralSigners,
    /// The signer's certificate is not among those that may be.
    #[error("no certificate for signer")]
    UnknownSigner,
    /// An algorithm that is not supported, or that does not go with the signer's key.
    #[error("unsupported signature algorithm")]
    Algorithm,
    /// The signed attributes do not say what they must.
    #[error("malformed signed attributes")]
    Attributes,
    /// The content is not the one that the signed attributes speak of.
    #[error("message digest mismatch")]
    Digest,
    /// The signature is another's, or over something else.
    #[error("signature verification failed")]
    Signature,
}

impl CmsError {
    /// Whether the message can be read, and what failed is its verification.
    #[must_use]
    pub const fn is_verification(&self) -> bool {
        matches!(
            self,
            Self::UnknownSigner
                | Self::NoSigner
                | Self::SeveralSigners
                | Self::Algorithm
                | Self::Attributes
                | Self::Digest
                | Self::Signature
        )
    }
}

/// What was signed, and by whom: both verified against each other.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The content that the signature is over.
    pub content: Vec<u8>,
    /// The certificate whose key made the signature. Whether it is to be trusted is another
    /// question, unless it was given to [`signed_by`].
    pub signer: Certificate,
    /// The other certificates that came with it. Nobody vouches for them: they may serve as
    /// intermediates of a path from the signer, and for nothing else.
    pub intermediates: Vec<Certificate>,
}

/// Verifies a message against the one of `signers` that it says signed it; certificates that came
/// with it do not count.
///
/// # Errors
/// When it is malformed, or nobody of them signed it.
pub fn signed_by(message: &[u8], signers: &[Certificate]) -> Result<Signed, CmsError> {
    let der = read(message)?;
    let parts = Parts::read(&der)?;
    let signer = parts.signer.find(signers).ok_or(CmsError::UnknownSigner)?;
    let content = parts.verify(signer)?;
    Ok(Signed { content, signer: signer.clone(), intermediates: Vec::new() })
}

/// Verifies a message against the certificate that it brings of its signer.
///
/// # Errors
/// When it is malformed, or the signature is not of a certificate that came with it.
pub fn signed(message: &[u8]) -> Result<Signed, CmsError> {
    let der = read(message)?;
    let parts = Parts::read(&der)?;
    // One that cannot be read is no signer that could be verified, nor part of a path.
    let mut certificates: Vec<_> = parts
        .certificates
        .iter()
        .filter_map(|der| Certificate::from_der(der.to_vec()).ok())
        .collect();
    let signer = parts.signer.find(&certificates).ok_or(CmsError::UnknownSigner)?.clone();
    let content = parts.verify(&signer)?;
    certificates.retain(|it| *it != signer);
    Ok(Signed { content, signer, intermediates: certificates })
}

fn read(message: &[u8]) -> Result<Vec<u8>, CmsError> {
    if message.len() > MAX_MESSAGE_LEN {
        return Err(CmsError::TooLarge(message.len()));
    }
    Ok(ber::to_der(message)?)
}

/// A message taken apart; private, so that nothing unverified is reachable.
struct Parts<'a> {
    content: &'a [u8],
    certificates: Vec<&'a [u8]>,
    signer: SignerId<'a>,
    hash: &'static digest::Algorithm,
    algorithm: &'a [u8],
    attributes: Option<&'a [u8]>,
    signature: &'a [u8],
}

/// How a message names its signer.
enum SignerId<'a> {
    IssuerAndSerial { issuer: &'a [u8], serial: &'a [u8] },
    KeyId(&'a [u8]),
}

impl SignerId<'_> {
    fn find<'c>(&self, certificates: &'c [Certificate]) -> Option<&'c Certificate> {
        certificates.iter().find(|it| match self {
            Self::IssuerAndSerial { issuer, serial } => {
                it.issuer_der() == *issuer && it.serial_bytes() == *serial
            }
            Self::KeyId(id) => it.subject_key_id() == Some(id),
        })
    }
}

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Result<Self, CmsError> {
        let mut outer = Reader::sequence_of(der)?;
        if outer.value(der::OID)? != oid::SIGNED_DATA {
            return Err(CmsError::ContentType);
        }
        let explicit = outer.value(der::context_constructed(0))?;
        outer.finish()?;
        let mut fields = Reader::sequence_of(explicit)?;
        fields.unsigned()?; // version
        fields.value(der::SET)?; // digest algorithms; the signer names his own
        let content = content(&mut fields)?;
        let certificates = match fields.optional(der::context_constructed(0))? {
            Some(set) => certificates(set)?,
            None => Vec::new(),
        };
        fields.optional(der::context_constructed(1))?; // revocation lists
        let mut signers = Reader::new(fields.value(der::SET)?);
        fields.finish()?;
        if signers.is_empty() {
            return Err(CmsError::NoSigner);
        }
        let signer = signers.sequence()?;
        if !signers.is_empty() {
            return Err(CmsError::SeveralSigners);
        }
        Self::read_signer(content, certificates, signer)
    }

    fn read_signer(
        content: &'a [u8],
        certificates: Vec<&'a [u8]>,
        mut fields: Reader<'a>,
    ) -> Result<Self, CmsError> {
        fields.unsigned()?; // version
        let signer = match fields.optional(der::context(0))? {
            Some(id) => SignerId::KeyId(id),
            None => {
                let mut names = fields.sequence()?;
                let issuer = names.element(der::SEQUENCE)?.raw;
                let serial = names.unsigned()?;
                names.finish()?;
                SignerId::IssuerAndSerial { issuer, serial }
            }
        };
        let hash = hash(algorithm(&mut fields)?).ok_or(CmsError::Algorithm)?;
        let attributes = match fields.peek_tag() {
            Some(tag) if tag == der::context_constructed(0) => Some(fields.any()?.value),
            _ => None,
        };
        let algorithm = algorithm(&mut fields)?;
        let signature = fields.value(der::OCTET_STRING)?;
        fields.optional(der::context_constructed(1))?; // attributes that nobody signed
        fields.finish()?;
        Ok(Self { content, certificates, signer, hash, algorithm, attributes, signature })
    }

    /// Gives the content when `signer` signed it.
    fn verify(&self, signer: &Certificate) -> Result<Vec<u8>, CmsError> {
        let key = signer.public_key();
        let algorithm = scheme(self.algorithm, self.hash, key.kind()).ok_or(CmsError::Algorithm)?;
        let message = match self.attributes {
            // The signature is over the attributes with their universal tag (RFC 5652 §5.4).
            Some(attributes) => {
                self.check_attributes(attributes)?;
                let mut set = Vec::with_capacity(attributes.len() + 6);
                der::put(&mut set, der::SET, attributes);
                set
            }
            // What was signed as attributes must not pass as content (the signature would hold).
            None if attribute(self.content, oid::MESSAGE_DIGEST).is_ok() => {
                return Err(CmsError::Attributes);
            }
            None => self.content.to_vec(),
        };
        key.verify(algorithm, &message, self.signature).map_err(|_| CmsError::Signature)?;
        Ok(self.content.to_vec())
    }

    fn check_attributes(&self, attributes: &[u8]) -> Result<(), CmsError> {
        let mut set = Vec::with_capacity(attributes.len() + 6);
        der::put(&mut set, der::SET, attributes);
        let kind = attribute(&set, oid::CONTENT_TYPE)?;
        if Reader::new(&kind).value(der::OID)? != oid::DATA {
            return Err(CmsError::Attributes);
        }
        let signed = attribute(&set, oid::MESSAGE_DIGEST)?;
        let signed = Reader::new(&signed).value(der::OCTET_STRING)?;
        if signed == digest::digest(self.hash, self.content).as_ref() {
            Ok(())
        } else {
            Err(CmsError::Digest)
        }
    }
}

/// The OCTET STRING in EncapsulatedContentInfo.
fn content<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], CmsError> {
    let mut info = fields.sequence()?;
    if info.value(der::OID)? != oid::DATA {
        return Err(CmsError::ContentType);
    }
    let explicit = info.optional(der::context_constructed(0))?.ok_or(CmsError::Detached)?;
    info.finish()?;
    let mut explicit = Reader::new(explicit);
    let content = explicit.value(der::OCTET_STRING)?;
    explicit.finish()?;
    Ok(content)
}

fn certificates(set: &[u8]) -> Result<Vec<&[u8]>, CmsError> {
    let mut certificates = Vec::new();
    let mut set = Reader::new(set);
    while !set.is_empty() {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(CmsError::TooManyCertificates);
        }
        certificates.push(set.any()?.raw);
    }
    Ok(certificates)
}

/// The name of an AlgorithmIdentifier without parameters.
fn algorithm<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], CmsError> {
    let mut fields = fields.sequence()?;
    let name = fields.value(der::OID)?;
    if !fields.is_empty() && !fields.value(der::NULL)?.is_empty() {
        return Err(CmsError::Algorithm);
    }
    fields.finish()?;
    Ok(name)
}

/// The only value of the only attribute of this type in a SET of attributes.
fn attribute(set: &[u8], kind: &[u8]) -> Result<Vec<u8>, CmsError> {
    let mut outer = Reader::new(set);
    let mut attributes = Reader::new(outer.value(der::SET)?);
    outer.finish()?;
    let mut found = None;
    let mut count = 0;
    while !attributes.is_empty() {
        count += 1;
        if count > MAX_ATTRIBUTES {
            return Err(CmsError::Attributes);
        }
        let mut fields = attributes.sequence()?;
        let name = fields.value(der::OID)?;
        let mut values = Reader::new(fields.value(der::SET)?);
        fields.finish()?;
        if name != kind {
            continue;
        }
        let value = values.any()?.raw.to_vec();
        if !values.is_empty() || found.replace(value).is_some() {
            return Err(CmsError::Attributes);
        }
    }
    found.ok_or(CmsError::Attributes)
}

fn hash(name: &[u8]) -> Option<&'static digest::Algorithm> {
    match name {
        oid::SHA256 => Some(&digest::SHA256),
        oid::SHA384 => Some(&digest::SHA384),
        oid::SHA512 => Some(&digest::SHA512),
        _ => None,
    }
}

/// The signature scheme, where its digest is the one that the signer names beside it.
fn scheme(
    name: &[u8],
    hash: &'static digest::Algorithm,
    key: KeyKind,
) -> Option<SignatureAlgorithm> {
    use SignatureAlgorithm as Alg;
    let rsa = matches!(key, KeyKind::Rsa(_));
    let ec = matches!(key, KeyKind::P256 | KeyKind::P384 | KeyKind::P521);
    let bits = hash.output_len() * 8;
    match (name, bits) {
        (oid::RSA_ENCRYPTION | oid::RSA_SHA256, 256) if rsa => Some(Alg::RsaPkcs1Sha256),
        (oid::RSA_ENCRYPTION | oid::RSA_SHA384, 384) if rsa => Some(Alg::RsaPkcs1Sha384),
        (oid::RSA_ENCRYPTION | oid::RSA_SHA512, 512) if rsa => Some(Alg::RsaPkcs1Sha512),
        (oid::ECDSA_SHA256, 256) if ec => Some(Alg::EcdsaSha256),
        (oid::ECDSA_SHA384, 384) if ec => Some(Alg::EcdsaSha384),
        (oid::ECDSA_SHA512, 512) if ec => Some(Alg::EcdsaSha512),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
