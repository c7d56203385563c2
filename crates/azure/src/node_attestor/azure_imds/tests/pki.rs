//! A small Azure: root, issuing authority, the metadata service's certificate, and what it signs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, SigningKey as _,
};
use steeple_pki::Certificate;
use time::OffsetDateTime;

pub(crate) const NOW: i64 = 1_800_000_000;
pub(crate) const AIA: &str = "http://www.microsoft.com/pkiops/certs/Test%20Issuing%20CA.crt";

/// A certificate and its key.
pub(crate) struct Holder {
    pub(crate) certificate: Certificate,
    params: CertificateParams,
    key: KeyPair,
}

impl Holder {
    pub(crate) fn sign(&self, content: &[u8]) -> Vec<u8> {
        self.key.sign(content).unwrap()
    }
}

/// What a certificate is to be like.
#[derive(Clone)]
pub(crate) struct Wish<'a> {
    pub(crate) name: &'a str,
    pub(crate) ca: bool,
    pub(crate) dns: &'a [&'a str],
    pub(crate) aia: Option<&'a str>,
    pub(crate) usage: ExtendedKeyUsagePurpose,
    pub(crate) from: i64,
    pub(crate) until: i64,
    pub(crate) serial: Option<u64>,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self {
            name: "metadata.azure.com",
            ca: false,
            dns: &["eastus.metadata.azure.com"],
            aia: Some(AIA),
            usage: ExtendedKeyUsagePurpose::ServerAuth,
            from: NOW - 3600,
            until: NOW + 3600,
            serial: None,
        }
    }
}

pub(crate) fn authority(name: &str) -> Wish<'_> {
    Wish { name, ca: true, dns: &[], aia: None, ..Wish::default() }
}

/// DER.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let mut out = vec![tag];
    match value.len() {
        len @ 0..0x80 => out.push(u8::try_from(len).unwrap()),
        len => {
            let bytes = u32::try_from(len).unwrap().to_be_bytes();
            let bytes = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap()..];
            out.push(0x80 | u8::try_from(bytes.len()).unwrap());
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(&value);
    out
}

/// Makes a certificate, by `issuer` or by itself.
pub(crate) fn make(wish: &Wish<'_>, issuer: Option<&Holder>) -> Holder {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, wish.name);
    params.not_before = OffsetDateTime::from_unix_timestamp(wish.from).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp(wish.until).unwrap();
    params.serial_number = wish.serial.map(SerialNumber::from);
    if wish.ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    } else {
        params.extended_key_usages = vec![wish.usage.clone()];
    }
    let dns = |name: &&str| SanType::DnsName((*name).try_into().unwrap());
    params.subject_alt_names = wish.dns.iter().map(dns).collect();
    if let Some(url) = wish.aia {
        let ca_issuers = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02];
        let entry = tlv(0x30, &[&tlv(0x06, &[&ca_issuers]), &tlv(0x86, &[url.as_bytes()])]);
        let info =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], tlv(0x30, &[&entry]));
        params.custom_extensions.push(info);
    }
    let made = match issuer {
        None => params.self_signed(&key).unwrap(),
        Some(issuer) => {
            let by = Issuer::from_params(&issuer.params, &issuer.key);
            params.signed_by(&key, &by).unwrap()
        }
    };
    let certificate = Certificate::from_der(made.der().to_vec()).unwrap();
    Holder { certificate, params, key }
}

/// Root, issuing authority, and the metadata service.
pub(crate) struct Azure {
    pub(crate) root: Holder,
    pub(crate) issuing: Holder,
    pub(crate) service: Holder,
}

impl Azure {
    pub(crate) fn new() -> Self {
        let root = make(&authority("Test Root"), None);
        let issuing = make(&authority("Test Issuing CA"), Some(&root));
        let service = make(&Wish::default(), Some(&issuing));
        Self { root, issuing, service }
    }

    pub(crate) fn another(&self, wish: &Wish<'_>) -> Holder {
        make(wish, Some(&self.issuing))
    }
}

/// A message with `content`, signed by `signer`, with `certificates` in this order.
pub(crate) fn message(content: &[u8], signer: &Holder, certificates: &[&Holder]) -> Vec<u8> {
    signed_message(content, &signer.sign(content), signer, certificates)
}

pub(crate) fn signed_message(
    content: &[u8],
    signature: &[u8],
    signer: &Holder,
    certificates: &[&Holder],
) -> Vec<u8> {
    let oid = |bytes: &[u8]| tlv(0x06, &[bytes]);
    let pkcs7 = |last: u8| oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, last]);
    let sha256 = tlv(0x30, &[&oid(&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01])]);
    let ecdsa = tlv(0x30, &[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02])]);
    let one = tlv(0x02, &[&[1]]);
    let inner = tlv(0x30, &[&pkcs7(1), &tlv(0xa0, &[&tlv(0x04, &[content])])]);
    let bag: Vec<u8> = certificates.iter().flat_map(|it| it.certificate.der().to_vec()).collect();
    let serial = signer.certificate.serial_bytes();
    let pad: &[u8] = if serial[0] & 0x80 == 0 { &[] } else { &[0] };
    let name = tlv(0x30, &[signer.certificate.issuer_der(), &tlv(0x02, &[pad, serial])]);
    let info = tlv(0x30, &[&one, &name, &sha256, &ecdsa, &tlv(0x04, &[signature])]);
    let data = tlv(
        0x30,
        &[&one, &tlv(0x31, &[&sha256]), &inner, &tlv(0xa0, &[&bag]), &tlv(0x31, &[&info])],
    );
    tlv(0x30, &[&pkcs7(2), &tlv(0xa0, &[&data])])
}

/// The message in base64, as IMDS gives it.
pub(crate) fn document(content: &[u8], signer: &Holder, certificates: &[&Holder]) -> String {
    STANDARD.encode(message(content, signer, certificates))
}
