use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::certificate::{Certificate, Extensions, Inner};
use super::{CertificateError, ExtKeyUsage, KeyUsage, time};
use crate::der::{self, DerError, Reader};
use crate::keys::{PublicKey, SignatureAlgorithm};
use crate::oid;

/// More extensions than any real certificate has.
const MAX_EXTENSIONS: usize = 64;
/// More alternative names than any real certificate has.
const MAX_NAMES: usize = 1024;

pub(super) fn certificate(der: Bytes) -> Result<Certificate, CertificateError> {
    let mut outer = Reader::sequence_of(&der)?;
    let tbs_element = outer.element(der::SEQUENCE)?;
    let outer_algorithm = outer.element(der::SEQUENCE)?;
    let signature = outer.bit_string_bytes()?;
    outer.finish()?;

    let mut tbs = Reader::new(tbs_element.value);
    let version = version(&mut tbs)?;
    let serial = serial(&mut tbs)?;
    if tbs.element(der::SEQUENCE)?.raw != outer_algorithm.raw {
        return Err(CertificateError::AlgorithmMismatch);
    }
    let issuer = tbs.element(der::SEQUENCE)?.raw;
    let mut validity = tbs.sequence()?;
    let not_before = time::read(validity.any()?)?;
    let not_after = time::read(validity.any()?)?;
    validity.finish()?;
    let subject = tbs.element(der::SEQUENCE)?.raw;
    let public_key = PublicKey::from_spki_der(tbs.element(der::SEQUENCE)?.raw)?;
    // issuerUniqueID and subjectUniqueID: obsolete, and of no use here.
    tbs.optional(der::context(1))?;
    tbs.optional(der::context(2))?;
    let extensions = match tbs.optional(der::context_constructed(3))? {
        Some(list) if version == 3 => extensions(list)?,
        Some(_) => return Err(CertificateError::Version),
        None => Extensions::default(),
    };
    tbs.finish()?;

    let range = |part: &[u8]| range_in(&der, part);
    let inner = Inner {
        version,
        tbs: range(tbs_element.raw),
        serial,
        issuer: range(issuer),
        subject: range(subject),
        not_before,
        not_after,
        public_key,
        signature_algorithm: SignatureAlgorithm::from_identifier(outer_algorithm.value),
        signature: range(signature),
        extensions,
        der,
    };
    Ok(Certificate(Arc::new(inner)))
}

/// Where `part`, a slice of `whole`, lies in it.
fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

fn version(tbs: &mut Reader<'_>) -> Result<u8, CertificateError> {
    let Some(field) = tbs.optional(der::context_constructed(0))? else { return Ok(1) };
    let mut field = Reader::new(field);
    let version = match field.unsigned()? {
        [1] => 2,
        [2] => 3,
        _ => return Err(CertificateError::Version),
    };
    field.finish()?;
    Ok(version)
}

fn serial(tbs: &mut Reader<'_>) -> Result<Vec<u8>, CertificateError> {
    let serial = tbs.unsigned()?;
    // RFC 5280 §4.1.2.2 allows 20 bytes; some issuers have one more for the sign.
    if serial.len() > 21 {
        return Err(DerError::Value("serial number").into());
    }
    Ok(serial.to_vec())
}

fn extensions(list: &[u8]) -> Result<Extensions, CertificateError> {
    let mut list = Reader::sequence_of(list)?;
    let mut out = Extensions::default();
    let mut seen: Vec<&[u8]> = Vec::with_capacity(8);
    while !list.is_empty() {
        let mut extension = list.sequence()?;
        let id = extension.value(der::OID)?;
        let critical = extension.default_false()?;
        let value = extension.value(der::OCTET_STRING)?;
        extension.finish()?;
        if seen.contains(&id) {
            return Err(CertificateError::DuplicateExtension);
        }
        if seen.len() == MAX_EXTENSIONS {
            return Err(DerError::Value("extensions").into());
        }
        seen.push(id);
        read_extension(&mut out, id, value)?;
        // That is the path verifier's business.
        if critical && !is_handled(&out, id) {
            out.unhandled_critical.push(id.into());
        }
    }
    Ok(out)
}

/// Whether what the extension says is looked at here, in a path, or may be passed over by someone
/// who has no policies and asks for no revocation lists. As Go has it, an alternative name of
/// kinds that nobody reads is not.
fn is_handled(read: &Extensions, id: &[u8]) -> bool {
    match id {
        oid::SUBJECT_ALT_NAME => {
            let names = [read.uris.len(), read.dns_names.len(), read.ips.len(), read.emails.len()];
            names.iter().any(|count| *count > 0)
        }
        oid::NAME_CONSTRAINTS => read.name_constraints.is_some(),
        oid::BASIC_CONSTRAINTS
        | oid::KEY_USAGE
        | oid::EXT_KEY_USAGE
        | oid::SUBJECT_KEY_ID
        | oid::AUTHORITY_KEY_ID
        | oid::CERTIFICATE_POLICIES
        | oid::CRL_DISTRIBUTION_POINTS => true,
        _ => false,
    }
}

fn read_extension(out: &mut Extensions, id: &[u8], value: &[u8]) -> Result<(), DerError> {
    match id {
        oid::BASIC_CONSTRAINTS => {
            let mut fields = Reader::sequence_of(value)?;
            out.has_basic_constraints = true;
            out.is_ca = fields.default_false()?;
            if !fields.is_empty() {
                out.path_len = Some(small(fields.unsigned()?)?);
            }
            fields.finish()?;
        }
        oid::KEY_USAGE => {
            let mut field = Reader::new(value);
            out.key_usage = Some(KeyUsage::from_bit_string(field.value(der::BIT_STRING)?)?);
            field.finish()?;
        }
        oid::EXT_KEY_USAGE => {
            let mut purposes = Reader::sequence_of(value)?;
            while !purposes.is_empty() {
                out.ext_key_usage.push(ExtKeyUsage::from_oid(purposes.value(der::OID)?));
                if out.ext_key_usage.len() > MAX_EXTENSIONS {
                    return Err(DerError::Value("extended key usage"));
                }
            }
        }
        oid::SUBJECT_KEY_ID => {
            let mut field = Reader::new(value);
            out.subject_key_id = Some(field.value(der::OCTET_STRING)?.to_vec());
            field.finish()?;
        }
        oid::AUTHORITY_KEY_ID => {
            let mut fields = Reader::sequence_of(value)?;
            out.authority_key_id = fields.optional(der::context(0))?.map(<[u8]>::to_vec);
        }
        oid::SUBJECT_ALT_NAME => {
            let names = parse_subject_alt_names(value)?;
            (out.uris, out.dns_names, out.other_names) = names;
            if out.other_names {
                (out.ips, out.emails) = ips_and_emails(value)?;
                out.alt_names = Some(value.to_vec());
            }
        }
        oid::NAME_CONSTRAINTS => out.name_constraints = Some(value.to_vec()),
        oid::AUTHORITY_INFO => out.authority_info = Some(value.to_vec()),
        _ => {}
    }
    Ok(())
}

/// The attributes of the directory names in a subject alternative name extension.
pub(super) fn directory_attributes(value: &[u8]) -> Result<Vec<(Vec<u8>, String)>, DerError> {
    const MAX_ATTRIBUTES: usize = 32;
    let mut attributes = Vec::new();
    let mut names = Reader::sequence_of(value)?;
    while !names.is_empty() {
        let name = names.any()?;
        if name.tag != der::context_constructed(4) {
            continue;
        }
        let mut rdns = Reader::sequence_of(name.value)?;
        while !rdns.is_empty() {
            let mut rdn = Reader::new(rdns.value(der::SET)?);
            while !rdn.is_empty() {
                let mut attribute = rdn.sequence()?;
                let kind = attribute.value(der::OID)?.to_vec();
                let value = attribute.any()?;
                attribute.finish()?;
                if attributes.len() == MAX_ATTRIBUTES {
                    return Err(DerError::Value("directory name"));
                }
                attributes.push((kind, super::name::decode_string(value.tag, value.value)?));
            }
        }
    }
    Ok(attributes)
}

/// The URIs of the issuers in an authority information access extension.
pub(super) fn issuer_urls(value: &[u8]) -> Result<Vec<String>, DerError> {
    const MAX_ENTRIES: usize = 16;
    let mut entries = Reader::sequence_of(value)?;
    let mut urls = Vec::new();
    for _ in 0..MAX_ENTRIES {
        if entries.is_empty() {
            return Ok(urls);
        }
        let mut entry = entries.sequence()?;
        let method = entry.value(der::OID)?;
        let location = entry.any()?;
        entry.finish()?;
        if method == oid::CA_ISSUERS && location.tag == der::context(6) {
            let url = std::str::from_utf8(location.value).map_err(|_| DerError::Value("URI"))?;
            urls.push(url.to_owned());
        }
    }
    entries.finish()?;
    Ok(urls)
}

/// The URIs and the DNS names of a subject alternative name, and whether there are others.
pub(crate) fn parse_subject_alt_names(
    value: &[u8],
) -> Result<(Vec<String>, Vec<String>, bool), DerError> {
    let (mut uris, mut dns_names, mut others) = (Vec::new(), Vec::new(), false);
    let mut names = Reader::sequence_of(value)?;
    while !names.is_empty() {
        let name = names.any()?;
        let list = match name.tag {
            0x86 => &mut uris,
            0x82 => &mut dns_names,
            _ => {
                others = true;
                continue;
            }
        };
        if list.len() == MAX_NAMES {
            return Err(DerError::Value("subject alternative name"));
        }
        let text = std::str::from_utf8(name.value).ok().filter(|text| text.is_ascii());
        list.push(text.ok_or(DerError::Value("subject alternative name"))?.to_owned());
    }
    Ok((uris, dns_names, others))
}

/// The other names of a subject alternative name that are read: IP and e-mail addresses.
fn ips_and_emails(value: &[u8]) -> Result<(Vec<IpAddr>, Vec<String>), DerError> {
    const BAD: DerError = DerError::Value("subject alternative name");
    let (mut ips, mut emails) = (Vec::new(), Vec::new());
    let mut names = Reader::sequence_of(value)?;
    while !names.is_empty() {
        let name = names.any()?;
        match name.tag {
            0x87 => ips.push(match name.value.len() {
                4 => IpAddr::from(*name.value.first_chunk::<4>().ok_or(BAD)?),
                16 => IpAddr::from(*name.value.first_chunk::<16>().ok_or(BAD)?),
                _ => return Err(BAD),
            }),
            0x81 => {
                let text = std::str::from_utf8(name.value).ok().filter(|text| text.is_ascii());
                emails.push(text.ok_or(BAD)?.to_owned());
            }
            _ => {}
        }
        if ips.len().max(emails.len()) > MAX_NAMES {
            return Err(BAD);
        }
    }
    Ok((ips, emails))
}

fn small(magnitude: &[u8]) -> Result<u32, DerError> {
    if magnitude.len() > 4 {
        return Err(DerError::Value("path length"));
    }
    Ok(magnitude.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}

impl SignatureAlgorithm {
    /// Reads the content of an AlgorithmIdentifier; `None` for one that is not supported.
    pub(crate) fn from_identifier(content: &[u8]) -> Option<Self> {
        let mut fields = Reader::new(content);
        let name = fields.value(der::OID).ok()?;
        if name == oid::RSA_PSS {
            return pss_algorithm(&mut fields);
        }
        let null = !fields.is_empty();
        if null && fields.value(der::NULL).ok() != Some(&[]) {
            return None;
        }
        fields.finish().ok()?;
        match (name, null) {
            (oid::ECDSA_SHA256, false) => Some(Self::EcdsaSha256),
            (oid::ECDSA_SHA384, false) => Some(Self::EcdsaSha384),
            (oid::ECDSA_SHA512, false) => Some(Self::EcdsaSha512),
            // Absent parameters are wrong (RFC 4055 §5) but seen, and Go accepts them.
            (oid::RSA_SHA256, _) => Some(Self::RsaPkcs1Sha256),
            (oid::RSA_SHA384, _) => Some(Self::RsaPkcs1Sha384),
            (oid::RSA_SHA512, _) => Some(Self::RsaPkcs1Sha512),
            (oid::ED25519, false) => Some(Self::Ed25519),
            _ => None,
        }
    }

    /// The DER AlgorithmIdentifier; `None` for RSA-PSS, which nothing here issues with.
    pub(crate) fn identifier(self) -> Option<Vec<u8>> {
        let (name, null) = match self {
            Self::EcdsaSha256 => (oid::ECDSA_SHA256, false),
            Self::EcdsaSha384 => (oid::ECDSA_SHA384, false),
            Self::EcdsaSha512 => (oid::ECDSA_SHA512, false),
            Self::RsaPkcs1Sha256 => (oid::RSA_SHA256, true),
            Self::RsaPkcs1Sha384 => (oid::RSA_SHA384, true),
            Self::RsaPkcs1Sha512 => (oid::RSA_SHA512, true),
            Self::Ed25519 => (oid::ED25519, false),
            Self::RsaPssSha256 | Self::RsaPssSha384 | Self::RsaPssSha512 => return None,
        };
        let mut out = Vec::with_capacity(16);
        der::put_nested(&mut out, der::SEQUENCE, |out| {
            der::put(out, der::OID, name);
            if null {
                der::put(out, der::NULL, &[]);
            }
        });
        Some(out)
    }
}

/// RSASSA-PSS-params (RFC 4055 §3.1) as they are in use: one SHA-2 for digest and mask, and a salt
/// as long as the digest. The defaults, which are SHA-1, are not supported.
fn pss_algorithm(fields: &mut Reader<'_>) -> Option<SignatureAlgorithm> {
    let mut params = fields.sequence().ok()?;
    fields.finish().ok()?;
    let mut hash = Reader::new(params.value(der::context_constructed(0)).ok()?);
    let digest = sha2(&mut hash)?;
    let mut mask = Reader::new(params.value(der::context_constructed(1)).ok()?);
    let mut mask = mask.sequence().ok()?;
    if mask.value(der::OID).ok()? != oid::MGF1 || sha2(&mut mask)? != digest {
        return None;
    }
    let mut salt = Reader::new(params.value(der::context_constructed(2)).ok()?);
    let salt = small(salt.unsigned().ok()?).ok()?;
    let trailer = params.optional(der::context_constructed(3)).ok()?;
    if trailer.is_some_and(|it| Reader::new(it).unsigned().ok() != Some(&[1])) {
        return None;
    }
    params.finish().ok()?;
    match (digest, salt) {
        (oid::SHA256, 32) => Some(SignatureAlgorithm::RsaPssSha256),
        (oid::SHA384, 48) => Some(SignatureAlgorithm::RsaPssSha384),
        (oid::SHA512, 64) => Some(SignatureAlgorithm::RsaPssSha512),
        _ => None,
    }
}

fn sha2<'a>(fields: &mut Reader<'a>) -> Option<&'a [u8]> {
    let mut algorithm = fields.sequence().ok()?;
    let name = algorithm.value(der::OID).ok()?;
    let null = algorithm.optional(der::NULL).ok()?;
    algorithm.finish().ok()?;
    null.is_none_or(<[u8]>::is_empty).then_some(name)
}
