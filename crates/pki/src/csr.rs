//! Certificate signing requests (PKCS#10, RFC 2986).

use thiserror::Error;

use crate::der::{self, DerError, Reader};
use crate::keys::{
    KeyError, KeyKind, PrivateKey, PublicKey, SignError, SignatureAlgorithm, Signer,
};
use crate::oid;
use crate::x509::{
    DistinguishedName, Extension, IssueError, check_extensions, parse_subject_alt_names,
    put_extension, put_extra,
};

/// The longest request that is looked at, in bytes.
pub const MAX_CSR_LEN: usize = 16 * 1024;

/// Why something is not a request that can be granted.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Longer than [`MAX_CSR_LEN`].
    #[error("CSR is too large: {0} bytes, at most {MAX_CSR_LEN} are accepted")]
    TooLarge(usize),
    /// The encoding is broken.
    #[error("malformed CSR: {0}")]
    Der(#[from] DerError),
    /// A version other than 1.
    #[error("unsupported CSR version")]
    Version,
    /// The public key is not supported.
    #[error("unsupported CSR key: {0}")]
    Key(#[from] KeyError),
    /// The signature's algorithm is not supported.
    #[error("unsupported CSR signature algorithm")]
    UnsupportedAlgorithm,
    /// The requester did not prove that it has the private key.
    #[error("failed to verify CSR signature")]
    Signature(#[from] UnprovenKey),
    /// The request could not be signed.
    #[error("failed to sign CSR: {0}")]
    Sign(#[from] SignError),
    /// Extensions that no certificate made of it could have.
    #[error("{0}")]
    Extensions(#[from] IssueError),
}

/// A signature that the request's key did not make, in the words of Go's crypto/x509.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum UnprovenKey {
    /// The key is an elliptic one.
    #[error("x509: ECDSA verification failure")]
    Ecdsa,
    /// The key is an RSA key.
    #[error("crypto/rsa: verification error")]
    Rsa,
}

/// A request whose signature was verified: whoever made it has the private key.
///
/// Only the key counts. The names in it are the requester's wishes, which MintX509SVID alone
/// looks at.
#[derive(Clone, Debug)]
pub struct Csr {
    public_key: PublicKey,
    subject: Vec<u8>,
    uris: Vec<String>,
    dns_names: Vec<String>,
    other_names: bool,
}

impl Csr {
    /// Reads a DER request and verifies its signature.
    ///
    /// # Errors
    /// Size, form and kind of key are checked first, the signature last.
    pub fn parse(request: &[u8]) -> Result<Self, CsrError> {
        if request.len() > MAX_CSR_LEN {
            return Err(CsrError::TooLarge(request.len()));
        }
        let mut outer = Reader::sequence_of(request)?;
        let info = outer.element(der::SEQUENCE)?;
        let algorithm = outer.value(der::SEQUENCE)?;
        let signature = outer.bit_string_bytes()?;
        outer.finish()?;

        let mut fields = Reader::new(info.value);
        if !fields.unsigned()?.is_empty() {
            return Err(CsrError::Version);
        }
        let subject = fields.element(der::SEQUENCE)?.raw;
        let spki = fields.element(der::SEQUENCE)?.raw;
        let attributes = fields.optional(der::context_constructed(0))?.unwrap_or_default();
        fields.finish()?;
        let (uris, dns_names, other_names) = requested_names(attributes)?;

        let public_key = PublicKey::from_spki_der(spki)?;
        let algorithm =
            SignatureAlgorithm::from_identifier(algorithm).ok_or(CsrError::UnsupportedAlgorithm)?;
        if public_key.verify(algorithm, info.raw, signature).is_err() {
            let rsa = matches!(public_key.kind(), KeyKind::Rsa(_));
            return Err(if rsa { UnprovenKey::Rsa } else { UnprovenKey::Ecdsa }.into());
        }
        Ok(Self { public_key, subject: subject.to_vec(), uris, dns_names, other_names })
    }

    /// The key whose possession was proved.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The URIs of the requested subject alternative name, as they stand.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// Its DNS names, as they stand.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Whether it asks for names of other kinds.
    #[must_use]
    pub fn has_other_names(&self) -> bool {
        self.other_names
    }

    /// The DER RDNSequence of the requested subject.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// The requested subject, as far as [`DistinguishedName`] knows its attributes.
    ///
    /// # Errors
    /// When the name is malformed.
    pub fn subject(&self) -> Result<DistinguishedName, DerError> {
        DistinguishedName::from_der(&self.subject)
    }
}

type Names = (Vec<String>, Vec<String>, bool);

/// Walks the attributes down to the subject alternative name of the extension request.
fn requested_names(attributes: &[u8]) -> Result<Names, DerError> {
    let mut names = None;
    let mut attributes = Reader::new(attributes);
    while !attributes.is_empty() {
        let mut attribute = attributes.sequence()?;
        let id = attribute.value(der::OID)?;
        let values = attribute.value(der::SET)?;
        attribute.finish()?;
        if id != oid::EXTENSION_REQUEST {
            continue;
        }
        let mut extensions = Reader::sequence_of(values)?;
        while !extensions.is_empty() {
            let mut extension = extensions.sequence()?;
            let id = extension.value(der::OID)?;
            let _critical = extension.default_false()?;
            let value = extension.value(der::OCTET_STRING)?;
            extension.finish()?;
            if id == oid::SUBJECT_ALT_NAME
                && names.replace(parse_subject_alt_names(value)?).is_some()
            {
                return Err(DerError::Value("subject alternative name"));
            }
        }
    }
    Ok(names.unwrap_or_default())
}

/// Makes a request for `uris` as Go's `x509.CreateCertificateRequest` does.
///
/// # Errors
/// When the key cannot sign.
pub fn create(
    key: &PrivateKey,
    subject: &DistinguishedName,
    uris: &[&str],
) -> Result<Vec<u8>, CsrError> {
    create_with_dns(key, subject, uris, &[])
}

/// Like [`create`], with DNS names beside the URIs.
///
/// # Errors
/// When the key cannot sign.
pub fn create_with_dns(
    key: &PrivateKey,
    subject: &DistinguishedName,
    uris: &[&str],
    dns_names: &[&str],
) -> Result<Vec<u8>, CsrError> {
    let unsigned = Unsigned::build(key.public_key(), subject, uris, dns_names, &[])?;
    let signature = key.sign(unsigned.algorithm, &unsigned.info)?;
    Ok(unsigned.assemble(&signature))
}

/// Like [`create`], for a key that is kept elsewhere.
///
/// # Errors
/// When the signer fails.
pub async fn create_with_signer(
    signer: &dyn Signer,
    subject: &DistinguishedName,
    uris: &[&str],
) -> Result<Vec<u8>, CsrError> {
    create_with_extensions(signer, subject, uris, &[]).await
}

/// Like [`create_with_signer`], asking for further extensions.
///
/// # Errors
/// When the signer fails, or the extensions cannot stand beside those that follow from the rest.
pub async fn create_with_extensions(
    signer: &dyn Signer,
    subject: &DistinguishedName,
    uris: &[&str],
    extra_extensions: &[Extension],
) -> Result<Vec<u8>, CsrError> {
    check_extensions(extra_extensions)?;
    let unsigned = Unsigned::build(signer.public_key(), subject, uris, &[], extra_extensions)?;
    let signature = signer.sign(unsigned.algorithm, &unsigned.info).await?;
    Ok(unsigned.assemble(&signature))
}

/// Like [`create_with_signer`], for DNS names.
///
/// # Errors
/// When the signer fails.
pub async fn create_for_dns(
    signer: &dyn Signer,
    subject: &DistinguishedName,
    dns_names: &[&str],
) -> Result<Vec<u8>, CsrError> {
    let unsigned = Unsigned::build(signer.public_key(), subject, &[], dns_names, &[])?;
    let signature = signer.sign(unsigned.algorithm, &unsigned.info).await?;
    Ok(unsigned.assemble(&signature))
}

/// What a request's signature is over, and how it is to be signed.
struct Unsigned {
    info: Vec<u8>,
    algorithm: SignatureAlgorithm,
    identifier: Vec<u8>,
}

impl Unsigned {
    fn build(
        public_key: &PublicKey,
        subject: &DistinguishedName,
        uris: &[&str],
        dns_names: &[&str],
        extra_extensions: &[Extension],
    ) -> Result<Self, CsrError> {
        let algorithm = SignatureAlgorithm::default_for(public_key.kind());
        let identifier = algorithm.identifier().ok_or(CsrError::UnsupportedAlgorithm)?;
        let mut info = Vec::with_capacity(512);
        der::put_nested(&mut info, der::SEQUENCE, |out| {
            der::put_unsigned(out, &[0]);
            out.extend_from_slice(&subject.to_der());
            out.extend_from_slice(public_key.spki_der());
            der::put_nested(out, der::context_constructed(0), |out| {
                if !uris.is_empty() || !dns_names.is_empty() || !extra_extensions.is_empty() {
                    put_extension_request(out, uris, dns_names, extra_extensions);
                }
            });
        });
        Ok(Self { info, algorithm, identifier })
    }

    fn assemble(&self, signature: &[u8]) -> Vec<u8> {
        let mut request = Vec::with_capacity(self.info.len() + signature.len() + 40);
        der::put_nested(&mut request, der::SEQUENCE, |out| {
            out.extend_from_slice(&self.info);
            out.extend_from_slice(&self.identifier);
            der::put_bit_string(out, signature);
        });
        request
    }
}

/// Names in the order of Go: DNS before URI; extra extensions behind them.
fn put_extension_request(
    out: &mut Vec<u8>,
    uris: &[&str],
    dns_names: &[&str],
    extra_extensions: &[Extension],
) {
    der::put_nested(out, der::SEQUENCE, |out| {
        der::put(out, der::OID, oid::EXTENSION_REQUEST);
        der::put_nested(out, der::SET, |out| {
            der::put_nested(out, der::SEQUENCE, |out| {
                if !uris.is_empty() || !dns_names.is_empty() {
                    put_names(out, uris, dns_names);
                }
                put_extra(out, extra_extensions);
            });
        });
    });
}

fn put_names(out: &mut Vec<u8>, uris: &[&str], dns_names: &[&str]) {
    put_extension(out, oid::SUBJECT_ALT_NAME, false, |out| {
        der::put_nested(out, der::SEQUENCE, |out| {
            dns_names.iter().for_each(|it| der::put(out, der::context(2), it.as_bytes()));
            uris.iter().for_each(|it| der::put(out, der::context(6), it.as_bytes()));
        });
    });
}

#[cfg(test)]
mod tests;
