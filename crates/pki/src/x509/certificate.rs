use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::{CertificateError, DistinguishedName, ExtKeyUsage, KeyUsage, MAX_CERTIFICATE_LEN};
use crate::der::{self, DerError, Reader};
use crate::keys::{self, BadSignature, PublicKey, SignatureAlgorithm};
use crate::pem;

/// An X.509 certificate: its encoding, and what was read from that once. Cheap to clone;
/// equal when the encodings are.
#[derive(Clone)]
pub struct Certificate(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) der: Bytes,
    pub(super) version: u8,
    pub(super) tbs: Range<usize>,
    /// The serial number's magnitude, big-endian without leading zeros.
    pub(super) serial: Vec<u8>,
    pub(super) issuer: Range<usize>,
    pub(super) subject: Range<usize>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) public_key: PublicKey,
    /// `None` for an algorithm that is not supported, such as SHA-1: it never verifies.
    pub(super) signature_algorithm: Option<SignatureAlgorithm>,
    pub(super) signature: Range<usize>,
    pub(super) extensions: Extensions,
}

/// What is read from the extensions.
#[derive(Clone, Default)]
pub(super) struct Extensions {
    pub(super) has_basic_constraints: bool,
    pub(super) is_ca: bool,
    pub(super) path_len: Option<u32>,
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) ext_key_usage: Vec<ExtKeyUsage>,
    pub(super) subject_key_id: Option<Vec<u8>>,
    pub(super) authority_key_id: Option<Vec<u8>>,
    pub(super) uris: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) emails: Vec<String>,
    /// Other kinds of subject alternative names than URI and DNS are present.
    pub(super) other_names: bool,
    /// The value of the name constraints extension.
    pub(super) name_constraints: Option<Vec<u8>>,
    /// The value of the authority information access extension.
    pub(super) authority_info: Option<Vec<u8>>,
    /// The subject alternative names, if there are some of kinds that few certificates have.
    pub(super) alt_names: Option<Vec<u8>>,
    /// The object identifiers of the critical extensions that nobody here looks into.
    pub(super) unhandled_critical: Vec<Box<[u8]>>,
}

impl Certificate {
    /// Reads one DER certificate, strictly, without copying `der`.
    ///
    /// # Errors
    /// When it is too large, malformed, or its key is not supported.
    pub fn from_der(der: impl Into<Bytes>) -> Result<Self, CertificateError> {
        let der = der.into();
        if der.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::TooLarge(der.len()));
        }
        super::parse::certificate(der)
    }

    /// Reads a PEM text that holds exactly one certificate.
    ///
    /// # Errors
    /// As [`Certificate::parse_pem_bundle`], and when there is more than one block.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let mut all = Self::parse_pem_bundle(text)?;
        match (all.pop(), all.is_empty()) {
            (Some(certificate), true) => Ok(certificate),
            _ => Err(DerError::Trailing.into()),
        }
    }

    /// Reads a PEM text of one or more certificates and nothing else.
    ///
    /// # Errors
    /// When there is no block, a block of another type, or a malformed certificate.
    pub fn parse_pem_bundle(text: &str) -> Result<Vec<Self>, CertificateError> {
        let mut certificates = Vec::new();
        for block in pem::blocks(text) {
            let block = block?;
            if block.label != "CERTIFICATE" {
                let label = block.label.chars().take(32).collect();
                return Err(CertificateError::PemLabel(label));
            }
            certificates.push(Self::from_der(block.contents)?);
        }
        if certificates.is_empty() {
            return Err(CertificateError::NoPemBlocks);
        }
        Ok(certificates)
    }

    /// Reads DER certificates that follow each other without a separator, as the Workload API
    /// carries them. An empty input gives an empty list.
    ///
    /// # Errors
    /// When one of them is malformed.
    pub fn parse_concatenated_der(der: &Bytes) -> Result<Vec<Self>, CertificateError> {
        let mut certificates = Vec::new();
        let mut reader = Reader::new(der);
        while !reader.is_empty() {
            certificates.push(Self::from_der(der.slice_ref(reader.any()?.raw))?);
        }
        Ok(certificates)
    }

    /// The DER encodings of `certificates`, one after the other.
    #[must_use]
    pub fn concatenate_der(certificates: &[Self]) -> Bytes {
        let mut out = Vec::with_capacity(certificates.iter().map(|it| it.der().len()).sum());
        certificates.iter().for_each(|it| out.extend_from_slice(it.der()));
        out.into()
    }

    /// The DER encoding.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The DER encoding, shared.
    #[must_use]
    pub fn der_bytes(&self) -> Bytes {
        self.0.der.clone()
    }

    /// A PEM block `CERTIFICATE`.
    #[must_use]
    pub fn pem(&self) -> String {
        pem::encode("CERTIFICATE", self.der())
    }

    /// The serial number as a big-endian number without leading zeros.
    #[must_use]
    pub fn serial_bytes(&self) -> &[u8] {
        &self.0.serial
    }

    /// The serial number in decimal, as SPIRE stores and prints it.
    #[must_use]
    pub fn serial_decimal(&self) -> String {
        super::issue::decimal(&self.0.serial)
    }

    /// The subject's DER RDNSequence.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.0.der[self.0.subject.clone()]
    }

    /// The issuer's DER RDNSequence.
    #[must_use]
    pub fn issuer_der(&self) -> &[u8] {
        &self.0.der[self.0.issuer.clone()]
    }

    /// The subject, as far as [`DistinguishedName`] knows its attributes.
    ///
    /// # Errors
    /// When an attribute's value is not the text that it should be.
    pub fn subject(&self) -> Result<DistinguishedName, DerError> {
        DistinguishedName::from_der(self.subject_der())
    }

    /// The first moment of validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.0.not_before
    }

    /// The last moment of validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// Whether `now` lies in the validity period, both ends included.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before() <= now && now <= self.not_after()
    }

    /// The subject's key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public_key
    }

    /// The subject key identifier extension.
    #[must_use]
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.0.extensions.subject_key_id.as_deref()
    }

    /// The key identifier of the authority key identifier extension.
    #[must_use]
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.0.extensions.authority_key_id.as_deref()
    }

    /// The URIs of the subject alternative name extension, as they stand.
    #[must_use]
    pub fn uri_sans(&self) -> &[String] {
        &self.0.extensions.uris
    }

    /// The DNS names of the subject alternative name extension, as they stand.
    #[must_use]
    pub fn dns_sans(&self) -> &[String] {
        &self.0.extensions.dns_names
    }

    /// The IP addresses of the subject alternative name extension.
    #[must_use]
    pub fn ip_sans(&self) -> &[IpAddr] {
        &self.0.extensions.ips
    }

    /// The e-mail addresses of the subject alternative name extension, as they stand.
    #[must_use]
    pub fn email_sans(&self) -> &[String] {
        &self.0.extensions.emails
    }

    /// Whether the subject alternative name extension has names of other kinds than URI and DNS.
    #[must_use]
    pub fn has_other_sans(&self) -> bool {
        self.0.extensions.other_names
    }

    /// Whether the basic constraints say that this is a CA.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.0.extensions.is_ca
    }

    /// Whether there are basic constraints at all.
    #[must_use]
    pub fn has_basic_constraints(&self) -> bool {
        self.0.extensions.has_basic_constraints
    }

    /// The version: 1, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.0.version
    }

    /// The object identifiers (the content bytes of their DER encoding) of critical extensions
    /// that nobody here looks into: who does not know them may not rely on the certificate.
    pub fn unhandled_critical(&self) -> impl Iterator<Item = &[u8]> {
        self.0.extensions.unhandled_critical.iter().map(|oid| &**oid)
    }

    pub(crate) fn name_constraints_der(&self) -> Option<&[u8]> {
        self.0.extensions.name_constraints.as_deref()
    }

    /// What the directory names among the subject alternative names say: the content bytes of each
    /// attribute's object identifier, and its value. Certificates of TPMs name the model there.
    ///
    /// # Errors
    /// When they are malformed, or have more than any real certificate.
    pub fn directory_attributes(&self) -> Result<Vec<(Vec<u8>, String)>, DerError> {
        match &self.0.extensions.alt_names {
            None => Ok(Vec::new()),
            Some(value) => super::parse::directory_attributes(value),
        }
    }

    /// Where the certificate says that its issuer's certificate can be had (RFC 5280 §4.2.2.1):
    /// URIs, as they stand there. Whoever made the certificate chose them.
    ///
    /// # Errors
    /// When the extension is malformed, or has more of them than any real certificate.
    pub fn issuer_urls(&self) -> Result<Vec<String>, DerError> {
        match &self.0.extensions.authority_info {
            None => Ok(Vec::new()),
            Some(value) => super::parse::issuer_urls(value),
        }
    }

    /// SHA-1 over the encoding, in lower-case hexadecimal: what SPIRE calls the fingerprint.
    #[must_use]
    pub fn sha1_fingerprint(&self) -> String {
        authority_id(&crate::digest::sha1(self.der()))
    }

    /// The path length constraint of a CA.
    #[must_use]
    pub fn path_len(&self) -> Option<u32> {
        self.0.extensions.path_len
    }

    /// The key usage; `None` when the extension is absent.
    #[must_use]
    pub fn key_usage(&self) -> Option<KeyUsage> {
        self.0.extensions.key_usage
    }

    /// The extended key usages; empty when the extension is absent.
    #[must_use]
    pub fn ext_key_usage(&self) -> &[ExtKeyUsage] {
        &self.0.extensions.ext_key_usage
    }

    /// Whether subject and issuer are the same name.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.subject_der() == self.issuer_der()
    }

    /// The signature's algorithm, if it is a supported one.
    #[must_use]
    pub fn signature_algorithm(&self) -> Option<SignatureAlgorithm> {
        self.0.signature_algorithm
    }

    /// Whether `issuer` signed this certificate. Checks the signature and nothing else.
    ///
    /// # Errors
    /// When it did not, or the algorithm is not supported.
    pub fn verify_signed_by(&self, issuer: &PublicKey) -> Result<(), BadSignature> {
        let algorithm = self.signature_algorithm().ok_or(BadSignature)?;
        let inner = &self.0;
        issuer.verify(algorithm, &inner.der[inner.tbs.clone()], &inner.der[inner.signature.clone()])
    }

    /// The same certificate with the other signature that everyone can make of an ECDSA
    /// signature, as good as the first: whoever knows certificates by their encodings must know
    /// both. None where there is no other.
    #[must_use]
    pub fn in_other_form(&self, issuer: &PublicKey) -> Option<Self> {
        let inner = &self.0;
        let (r, s) = keys::ecdsa_numbers(&inner.der[inner.signature.clone()])?;
        let signature = keys::ecdsa_der(&r, &keys::other_s(issuer.kind(), &s)?);
        let mut parts = Reader::sequence_of(&inner.der).ok()?;
        let (signed, algorithm) = (parts.any().ok()?.raw, parts.any().ok()?.raw);
        let mut out = Vec::with_capacity(inner.der.len() + 8);
        der::put_nested(&mut out, der::SEQUENCE, |out| {
            out.extend_from_slice(signed);
            out.extend_from_slice(algorithm);
            der::put_bit_string(out, &signature);
        });
        Self::from_der(out).ok()
    }

    /// SPIRE's id of an X.509 authority: the subject key identifier in lower-case hexadecimal
    /// (empty without one).
    #[must_use]
    pub fn authority_id(&self) -> String {
        authority_id(self.subject_key_id().unwrap_or_default())
    }
}

/// SPIRE's text form of a subject key identifier: lower-case hexadecimal.
#[must_use]
pub fn authority_id(subject_key_id: &[u8]) -> String {
    subject_key_id.iter().fold(String::with_capacity(40), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a String takes every write");
        out
    })
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("serial", &self.serial_decimal())
            .field("uris", &self.uri_sans())
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}
