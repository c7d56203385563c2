use proptest::prelude::*;

use super::*;

// Made with OpenSSL 3: `openssl cms -sign -binary -nodetach …`; ber.der with `-stream`, which gives
// indefinite lengths and an octet string in pieces, as AWS has them.
const CERTIFICATE: &str = include_str!("testdata/signer.pem");
const CONTENT: &[u8] = b"{\n  \"accountId\" : \"123456789012\"\n}";
const ATTRIBUTES: &[u8] = include_bytes!("testdata/attributes.der");
const WITH_CERTIFICATE: &[u8] = include_bytes!("testdata/certificate.der");
const PLAIN: &[u8] = include_bytes!("testdata/plain.der");
const BER: &[u8] = include_bytes!("testdata/ber.der");
const KEY_ID: &[u8] = include_bytes!("testdata/keyid.der");
const DETACHED: &[u8] = include_bytes!("testdata/detached.der");
const SHA1: &[u8] = include_bytes!("testdata/sha1.der");

fn signer() -> Certificate {
    Certificate::from_pem(CERTIFICATE).unwrap()
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).position(|it| it == needle).unwrap()
}

#[test]
fn what_openssl_signs_is_verified_with_and_without_attributes_der_and_ber() {
    for message in [ATTRIBUTES, WITH_CERTIFICATE, PLAIN, BER, KEY_ID] {
        let signed = signed_by(message, &[signer()]).unwrap();
        assert_eq!(signed.content, CONTENT);
        assert_eq!(signed.signer, signer());
        assert!(signed.intermediates.is_empty());
    }
}

#[test]
fn the_signer_may_be_the_one_that_came_along_or_must_be_one_that_is_known() {
    let found = signed(WITH_CERTIFICATE).unwrap();
    assert_eq!((found.content.as_slice(), found.signer), (CONTENT, signer()));
    assert!(matches!(signed(PLAIN), Err(CmsError::UnknownSigner)));
    assert!(matches!(signed_by(WITH_CERTIFICATE, &[]), Err(CmsError::UnknownSigner)));
}

/// A certificate with the signer's names and another key.
fn impostor() -> Certificate {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap_or_else(|_| {
        // Where RSA cannot be made, any key will do.
        rcgen::KeyPair::generate().unwrap()
    });
    let mut params = rcgen::CertificateParams::default();
    let mut name = rcgen::DistinguishedName::new();
    use rcgen::{DnType, DnValue};
    let printable = |text: &str| DnValue::PrintableString(text.try_into().unwrap());
    name.push(DnType::CountryName, printable("US"));
    name.push(DnType::StateOrProvinceName, DnValue::Utf8String("Washington State".into()));
    name.push(DnType::LocalityName, DnValue::Utf8String("Seattle".into()));
    name.push(DnType::OrganizationName, DnValue::Utf8String("Test Web Services".into()));
    params.distinguished_name = name;
    params.serial_number = Some(signer().serial_bytes().to_vec().into());
    Certificate::from_der(params.self_signed(&key).unwrap().der().to_vec()).unwrap()
}

#[test]
fn another_key_under_the_same_name_did_not_sign() {
    let impostor = impostor();
    assert_eq!(impostor.issuer_der(), signer().issuer_der());
    let refused = signed_by(ATTRIBUTES, &[impostor]).unwrap_err();
    assert!(matches!(refused, CmsError::Signature | CmsError::Algorithm), "{refused}");
}

#[test]
fn changed_content_attributes_or_signatures_are_refused() {
    let changed = |message: &[u8], at: usize| {
        let mut message = message.to_vec();
        message[at] ^= 1;
        signed_by(&message, &[signer()]).unwrap_err()
    };
    let at = |message| find(message, b"123456789012");
    assert!(matches!(changed(ATTRIBUTES, at(ATTRIBUTES)), CmsError::Digest));
    assert!(matches!(changed(PLAIN, at(PLAIN)), CmsError::Signature));
    assert!(matches!(changed(BER, at(BER)), CmsError::Digest));
    let last = PLAIN.len() - 1;
    assert!(matches!(changed(PLAIN, last), CmsError::Signature));
    // The digest among the attributes.
    let digest = find(ATTRIBUTES, digest::digest(&digest::SHA256, CONTENT).as_ref());
    assert!(matches!(changed(ATTRIBUTES, digest), CmsError::Digest));
}

#[test]
fn both_content_and_its_digest_changed_are_refused() {
    let mut message = ATTRIBUTES.to_vec();
    let at = find(&message, digest::digest(&digest::SHA256, CONTENT).as_ref());
    let start = find(&message, CONTENT);
    message[start + find(CONTENT, b"123456789012")] = b'9';
    let forged = message[start..start + CONTENT.len()].to_vec();
    message[at..at + 32].copy_from_slice(digest::digest(&digest::SHA256, &forged).as_ref());
    let refused = signed_by(&message, &[signer()]).unwrap_err();
    assert!(matches!(refused, CmsError::Signature), "{refused}");
}

#[test]
fn signed_attributes_do_not_pass_as_content() {
    // The same signature over the same bytes, once as attributes and once as content.
    let der = read(ATTRIBUTES).unwrap();
    let parts = Parts::read(&der).unwrap();
    let mut set = Vec::new();
    der::put(&mut set, der::SET, parts.attributes.unwrap());
    let confused = Parts { content: &set, attributes: None, certificates: Vec::new(), ..parts };
    assert!(matches!(confused.verify(&signer()), Err(CmsError::Attributes)));
}

#[test]
fn what_is_no_message_of_the_kind_is_told_from_one_that_does_not_verify() {
    for (message, is_verification) in [
        (&DETACHED.to_vec(), false),
        (&SHA1.to_vec(), true),
        (&b"\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03".to_vec(), false),
        (&Vec::new(), false),
        (&vec![0; MAX_MESSAGE_LEN + 1], false),
    ] {
        let refused = signed_by(message, &[signer()]).unwrap_err();
        assert_eq!(refused.is_verification(), is_verification, "{refused}");
    }
    assert!(matches!(signed_by(DETACHED, &[signer()]), Err(CmsError::Detached)));
    assert!(matches!(signed_by(SHA1, &[signer()]), Err(CmsError::Algorithm)));
}

/// The message with its SET of signers, which is at its end, replaced.
fn with_signers(message: &[u8], change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let der = read(message).unwrap();
    let mut outer = Reader::sequence_of(&der).unwrap();
    outer.any().unwrap();
    let mut fields = Reader::sequence_of(outer.any().unwrap().value).unwrap();
    let mut inner = Vec::new();
    while !fields.is_empty() {
        let field = fields.any().unwrap();
        if fields.is_empty() {
            der::put(&mut inner, der::SET, &change(field.value));
        } else {
            inner.extend_from_slice(field.raw);
        }
    }
    let mut made = Vec::new();
    der::put_nested(&mut made, der::SEQUENCE, |out| {
        der::put(out, der::OID, oid::SIGNED_DATA);
        der::put_nested(out, der::context_constructed(0), |out| {
            der::put(out, der::SEQUENCE, &inner);
        });
    });
    made
}

#[test]
fn there_is_one_signer() {
    let none = with_signers(PLAIN, |_| Vec::new());
    assert!(matches!(signed_by(&none, &[signer()]), Err(CmsError::NoSigner)));
    let same = with_signers(PLAIN, <[u8]>::to_vec);
    assert!(signed_by(&same, &[signer()]).is_ok());
    let two = with_signers(PLAIN, |one| [one, one].concat());
    assert!(matches!(signed_by(&two, &[signer()]), Err(CmsError::SeveralSigners)));
}

#[test]
fn every_truncation_is_refused() {
    for message in [ATTRIBUTES, BER, PLAIN] {
        for length in 0..message.len() {
            assert!(signed_by(&message[..length], &[signer()]).is_err(), "{length}");
        }
    }
}

proptest! {
    #[test]
    fn a_message_with_any_byte_changed_is_refused_or_says_the_same(
        at in 0..BER.len(), by in 1..=255_u8
    ) {
        for message in [ATTRIBUTES, BER, PLAIN, WITH_CERTIFICATE] {
            let mut changed = message.to_vec();
            let at = at % changed.len();
            changed[at] ^= by;
            if let Ok(signed) = signed_by(&changed, &[signer()]) {
                prop_assert_eq!(signed.content, CONTENT);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(signed(&bytes).is_err());
    }
}
