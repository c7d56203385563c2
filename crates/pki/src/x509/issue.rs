use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::rand;

use super::certificate::{Certificate, Extensions, Inner};
use super::{DistinguishedName, ExtKeyUsage, IssueError, KeyUsage, MAX_CERTIFICATE_LEN, Oid, time};
use crate::der;
use crate::keys::{PublicKey, SignatureAlgorithm, Signer};
use crate::oid;

/// A certificate's serial number: 1 to 2^128-1, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SerialNumber(pub [u8; 16]);

impl SerialNumber {
    /// A random serial number.
    ///
    /// # Panics
    /// When the system's random number generator fails, after which nothing is safe.
    #[must_use]
    pub fn random() -> Self {
        loop {
            let mut bytes = [0; 16];
            rand::fill(&mut bytes).expect("the system delivers random numbers");
            if bytes != [0; 16] {
                return Self(bytes);
            }
        }
    }
}

impl fmt::Display for SerialNumber {
    /// In decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SerialNumber({self})")
    }
}

/// What a certificate is to say. The subject key identifier follows from the key, the authority
/// key identifier and the issuer's name from the issuer.
#[derive(Clone, Debug)]
pub struct Template {
    /// The subject.
    pub subject: DistinguishedName,
    /// The subject's key.
    pub public_key: PublicKey,
    /// The serial number.
    pub serial: SerialNumber,
    /// The first moment of validity; fractions of a second are dropped.
    pub not_before: SystemTime,
    /// The last moment of validity; fractions of a second are dropped.
    pub not_after: SystemTime,
    /// Whether this is a CA. There is never a path length constraint.
    pub ca: bool,
    /// The key usages (a critical extension; left out when empty).
    pub key_usage: KeyUsage,
    /// The extended key usages (left out when empty).
    pub ext_key_usage: Vec<ExtKeyUsage>,
    /// The URIs of the subject alternative name.
    pub uri_sans: Vec<String>,
    /// Its DNS names.
    pub dns_names: Vec<String>,
    /// The certificate policies (left out when empty, or when there is an extra extension of
    /// that type).
    pub policies: Vec<Oid>,
    /// Further extensions, in this order behind all others. None of a type that follows from the
    /// rest of the template, and no type twice.
    pub extra_extensions: Vec<Extension>,
}

/// An extension of which nothing is known here but its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extension {
    /// Its type.
    pub id: Oid,
    /// Who does not know it must refuse the certificate.
    pub critical: bool,
    /// Its value, DER.
    pub value: Vec<u8>,
}

/// What a template says in fields of its own: an extra extension of such a type could say
/// something else, such as another name.
const RESERVED: [&[u8]; 6] = [
    oid::SUBJECT_KEY_ID,
    oid::KEY_USAGE,
    oid::SUBJECT_ALT_NAME,
    oid::BASIC_CONSTRAINTS,
    oid::AUTHORITY_KEY_ID,
    oid::EXT_KEY_USAGE,
];

/// Checks extensions for ones that cannot stand beside what a template says, or beside each other.
///
/// # Errors
/// The first such, or when they are too large together.
pub fn check_extensions(extensions: &[Extension]) -> Result<(), IssueError> {
    for (index, extension) in extensions.iter().enumerate() {
        let id = &extension.id;
        if RESERVED.contains(&id.as_bytes()) {
            return Err(IssueError::ReservedExtension(id.clone()));
        }
        if extensions[..index].iter().any(|earlier| earlier.id == *id) {
            return Err(IssueError::DuplicateExtension(id.clone()));
        }
    }
    let size = extensions.iter().map(|extension| extension.value.len()).sum();
    if size > MAX_CERTIFICATE_LEN { Err(IssueError::TooLarge(size)) } else { Ok(()) }
}

/// Appends them in their order.
pub(crate) fn put_extra(out: &mut Vec<u8>, extensions: &[Extension]) {
    for Extension { id, critical, value } in extensions {
        put_extension(out, id.as_bytes(), *critical, |out| out.extend_from_slice(value));
    }
}

/// Who signs: a CA's name, key identifier and key, encoded once for any number of certificates.
#[derive(Clone)]
pub struct Issuer {
    name: Arc<[u8]>,
    /// The complete authority key identifier extension; empty without a key identifier.
    authority_key_id: Arc<[u8]>,
    key_id: Option<Arc<[u8]>>,
    algorithm: SignatureAlgorithm,
    identifier: Arc<[u8]>,
    signer: Arc<dyn Signer>,
}

impl Issuer {
    /// The issuer that `certificate` and the key it belongs to make. The name is copied byte by
    /// byte.
    #[must_use]
    pub fn new(certificate: &Certificate, signer: Arc<dyn Signer>) -> Self {
        let key_id = certificate.subject_key_id().map(Arc::from);
        Self::assemble(certificate.subject_der(), key_id, signer)
    }

    fn assemble(name: &[u8], key_id: Option<Arc<[u8]>>, signer: Arc<dyn Signer>) -> Self {
        let algorithm = SignatureAlgorithm::default_for(signer.public_key().kind());
        let identifier = algorithm.identifier().expect("default algorithms have an identifier");
        let mut authority_key_id = Vec::new();
        if let Some(key_id) = &key_id {
            put_extension(&mut authority_key_id, oid::AUTHORITY_KEY_ID, false, |out| {
                der::put_nested(out, der::SEQUENCE, |out| der::put(out, der::context(0), key_id));
            });
        }
        Self {
            name: name.into(),
            authority_key_id: authority_key_id.into(),
            key_id,
            algorithm,
            identifier: identifier.into(),
            signer,
        }
    }

    /// The key's holder.
    #[must_use]
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }
}

/// Issues the certificate that `template` describes. Extensions stand in the order in which Go
/// writes them: KU, EKU, BC, SKI, AKI, SAN, policies, extra ones.
///
/// # Errors
/// When the signer fails, or the template cannot be expressed in X.509.
pub async fn issue(template: &Template, issuer: &Issuer) -> Result<Certificate, IssueError> {
    let unsigned = Unsigned::build(template, issuer)?;
    let signature = issuer.signer.sign(issuer.algorithm, &unsigned.tbs).await?;
    Ok(unsigned.assemble(template, issuer, &signature))
}

/// Issues a certificate that is its own issuer, without an authority key identifier. The
/// template's key must be the signer's.
///
/// # Errors
/// As [`issue`]; and [`IssueError::BadSignature`] when the key is another.
pub async fn self_sign(
    template: &Template,
    signer: Arc<dyn Signer>,
) -> Result<Certificate, IssueError> {
    let issuer = Issuer::assemble(&template.subject.to_der(), None, signer);
    let certificate = issue(template, &issuer).await?;
    // Once in a CA's life: a broken signer is found before anything trusts its certificate.
    certificate.verify_signed_by(&template.public_key).map_err(|_| IssueError::BadSignature)?;
    Ok(certificate)
}

/// A TBSCertificate, and where its names are.
struct Unsigned {
    tbs: Vec<u8>,
    subject: Vec<u8>,
    key_id: [u8; 20],
}

impl Unsigned {
    fn build(template: &Template, issuer: &Issuer) -> Result<Self, IssueError> {
        let subject = template.subject.to_der();
        let key_id = template.public_key.subject_key_id();
        let mut validity = Vec::with_capacity(36);
        time::put(&mut validity, template.not_before).ok_or(IssueError::Validity)?;
        time::put(&mut validity, template.not_after).ok_or(IssueError::Validity)?;
        if !template.uri_sans.iter().all(|uri| uri.is_ascii()) {
            return Err(IssueError::NotAscii("URI"));
        }
        if !template.dns_names.iter().all(|name| name.is_ascii()) {
            return Err(IssueError::NotAscii("DNS name"));
        }
        check_extensions(&template.extra_extensions)?;
        let mut tbs = Vec::with_capacity(768);
        der::put_nested(&mut tbs, der::SEQUENCE, |out| {
            // Version 3.
            out.extend_from_slice(&[der::context_constructed(0), 3, der::INTEGER, 1, 2]);
            der::put_unsigned(out, &template.serial.0);
            out.extend_from_slice(&issuer.identifier);
            out.extend_from_slice(&issuer.name);
            der::put(out, der::SEQUENCE, &validity);
            out.extend_from_slice(&subject);
            out.extend_from_slice(template.public_key.spki_der());
            der::put_nested(out, der::context_constructed(3), |out| {
                der::put_nested(out, der::SEQUENCE, |out| {
                    put_usages(out, template);
                    put_extension(out, oid::SUBJECT_KEY_ID, false, |out| {
                        der::put(out, der::OCTET_STRING, &key_id);
                    });
                    out.extend_from_slice(&issuer.authority_key_id);
                    put_subject_alt_name(out, template);
                    put_policies(out, template);
                    put_extra(out, &template.extra_extensions);
                });
            });
        });
        if tbs.len() > MAX_CERTIFICATE_LEN {
            return Err(IssueError::TooLarge(tbs.len()));
        }
        Ok(Self { tbs, subject, key_id })
    }

    /// Puts the certificate together; what it holds is known, so nothing is parsed.
    fn assemble(self, template: &Template, issuer: &Issuer, signature: &[u8]) -> Certificate {
        let mut der = Vec::with_capacity(self.tbs.len() + signature.len() + 40);
        der::put_nested(&mut der, der::SEQUENCE, |out| {
            out.extend_from_slice(&self.tbs);
            out.extend_from_slice(&issuer.identifier);
            der::put_bit_string(out, signature);
        });
        let signature_range = der.len() - signature.len()..der.len();
        let tail = issuer.identifier.len() + bit_string_len(signature.len());
        let tbs = der.len() - tail - self.tbs.len()..der.len() - tail;

        // Within the signed part, everything before the key has a length that is known.
        let mut reader = der::Reader::new(&der[tbs.clone()]);
        let mut fields = reader.sequence().expect("just encoded");
        let mut skip = || fields.any().expect("just encoded").raw;
        let (_version, _serial, _algorithm) = (skip(), skip(), skip());
        let issuer_name = skip();
        let start = issuer_name.as_ptr() as usize - der.as_ptr() as usize;
        let issuer_range = start..start + issuer_name.len();
        let _validity = skip();
        let subject_name = skip();
        let start = subject_name.as_ptr() as usize - der.as_ptr() as usize;
        debug_assert_eq!(subject_name, &self.subject);
        let subject_range = start..start + subject_name.len();

        let serial_start = template.serial.0.iter().position(|byte| *byte != 0).unwrap_or(16);
        let in_seconds = |at| time::truncate_to_seconds(at).expect("encoded above");
        let critical = template.extra_extensions.iter().filter(|it| it.critical);
        Certificate(Arc::new(Inner {
            version: 3,
            tbs,
            serial: template.serial.0[serial_start..].to_vec(),
            issuer: issuer_range,
            subject: subject_range,
            not_before: in_seconds(template.not_before),
            not_after: in_seconds(template.not_after),
            public_key: template.public_key.clone(),
            signature_algorithm: Some(issuer.algorithm),
            signature: signature_range,
            extensions: Extensions {
                has_basic_constraints: true,
                is_ca: template.ca,
                path_len: None,
                key_usage: Some(template.key_usage).filter(|usage| !usage.is_empty()),
                ext_key_usage: template.ext_key_usage.clone(),
                subject_key_id: Some(self.key_id.to_vec()),
                authority_key_id: issuer.key_id.as_deref().map(<[u8]>::to_vec),
                uris: template.uri_sans.clone(),
                dns_names: template.dns_names.clone(),
                unhandled_critical: critical.map(|it| it.id.as_bytes().into()).collect(),
                ..Extensions::default()
            },
            der: der.into(),
        }))
    }
}

fn bit_string_len(bytes: usize) -> usize {
    let content = bytes + 1;
    let header = match content {
        0..=0x7f => 2,
        0x80..=0xff => 3,
        _ => 4,
    };
    header + content
}

pub(crate) fn put_extension(
    out: &mut Vec<u8>,
    id: &[u8],
    critical: bool,
    value: impl FnOnce(&mut Vec<u8>),
) {
    der::put_nested(out, der::SEQUENCE, |out| {
        der::put(out, der::OID, id);
        if critical {
            der::put(out, der::BOOLEAN, &[0xff]);
        }
        der::put_nested(out, der::OCTET_STRING, value);
    });
}

fn put_usages(out: &mut Vec<u8>, template: &Template) {
    if !template.key_usage.is_empty() {
        put_extension(out, oid::KEY_USAGE, true, |out| {
            der::put(out, der::BIT_STRING, &template.key_usage.to_bit_string());
        });
    }
    if !template.ext_key_usage.is_empty() {
        put_extension(out, oid::EXT_KEY_USAGE, false, |out| {
            der::put_nested(out, der::SEQUENCE, |out| {
                template.ext_key_usage.iter().for_each(|it| der::put(out, der::OID, it.oid()));
            });
        });
    }
    put_extension(out, oid::BASIC_CONSTRAINTS, true, |out| {
        // Without CA the sequence is empty: FALSE is the default, which DER leaves out.
        der::put_nested(out, der::SEQUENCE, |out| {
            if template.ca {
                der::put(out, der::BOOLEAN, &[0xff]);
            }
        });
    });
}

fn put_subject_alt_name(out: &mut Vec<u8>, template: &Template) {
    if template.uri_sans.is_empty() && template.dns_names.is_empty() {
        return;
    }
    // Critical when there is no subject beside it (RFC 5280 §4.2.1.6).
    put_extension(out, oid::SUBJECT_ALT_NAME, template.subject.is_empty(), |out| {
        der::put_nested(out, der::SEQUENCE, |out| {
            // Go writes DNS names first, whatever the order in which they were asked for.
            template.dns_names.iter().for_each(|it| der::put(out, der::context(2), it.as_bytes()));
            template.uri_sans.iter().for_each(|it| der::put(out, der::context(6), it.as_bytes()));
        });
    });
}

fn put_policies(out: &mut Vec<u8>, template: &Template) {
    let is_policies = |it: &Extension| it.id.as_bytes() == oid::CERTIFICATE_POLICIES;
    if template.policies.is_empty() || template.extra_extensions.iter().any(is_policies) {
        return;
    }
    put_extension(out, oid::CERTIFICATE_POLICIES, false, |out| {
        der::put_nested(out, der::SEQUENCE, |out| {
            for policy in &template.policies {
                der::put_nested(out, der::SEQUENCE, |out| {
                    der::put(out, der::OID, policy.as_bytes());
                });
            }
        });
    });
}

/// A big-endian number in decimal.
pub(super) fn decimal(magnitude: &[u8]) -> String {
    if magnitude.len() <= 16 {
        let number = magnitude.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        return number.to_string();
    }
    // Schoolbook division by ten; serial numbers have at most 21 bytes.
    let mut rest = magnitude.to_vec();
    let mut digits = Vec::with_capacity(52);
    while rest.iter().any(|byte| *byte != 0) {
        let mut remainder = 0_u16;
        for byte in &mut rest {
            let value = remainder << 8 | u16::from(*byte);
            *byte = u8::try_from(value / 10).expect("a remainder below ten");
            remainder = value % 10;
        }
        digits.push(char::from(b'0' + u8::try_from(remainder).expect("below ten")));
    }
    digits.iter().rev().collect()
}
