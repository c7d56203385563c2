use std::sync::Arc;
use std::time::{Duration, SystemTime};

use x509_cert::der::{Decode as _, Encode as _};

use super::*;
use crate::keys::{KeyType, PrivateKey};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn template(key: &PrivateKey) -> Template {
    Template {
        subject: DistinguishedName { common_name: "ca".into(), ..Default::default() },
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: at(1_800_000_000),
        not_after: at(1_800_003_600),
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: vec![ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
        uri_sans: vec!["spiffe://example.org/web".into()],
        dns_names: vec![],
        policies: vec![],
        extra_extensions: vec![],
    }
}

#[tokio::test]
async fn certificates_are_what_another_parser_reads() {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP384).unwrap());
    let made = self_sign(&template(&key), key.clone()).await.unwrap();
    let read = x509_cert::Certificate::from_der(made.der()).unwrap();
    let tbs = read.tbs_certificate();
    assert_eq!(
        tbs.serial_number().as_bytes().len(),
        made.serial_bytes().len() + usize::from(made.serial_bytes()[0] & 0x80 != 0)
    );
    assert_eq!(tbs.subject().to_der().unwrap(), made.subject_der());
    assert_eq!(tbs.subject_public_key_info().to_der().unwrap(), key.public_key().spki_der());
    let oids: Vec<String> =
        tbs.extensions().unwrap().iter().map(|it| it.extn_id.to_string()).collect();
    assert_eq!(oids, ["2.5.29.15", "2.5.29.37", "2.5.29.19", "2.5.29.14", "2.5.29.17"]);
    assert_eq!(read.to_der().unwrap(), made.der());
}

#[tokio::test]
async fn every_truncation_is_refused_and_no_changed_byte_panics() {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let made = self_sign(&template(&key), key.clone()).await.unwrap();
    for len in 0..made.der().len() {
        assert!(Certificate::from_der(made.der()[..len].to_vec()).is_err());
    }
    for place in 0..made.der().len() {
        for flip in [1, 0x80, 0xff] {
            let mut changed = made.der().to_vec();
            changed[place] ^= flip;
            if let Ok(changed) = Certificate::from_der(changed) {
                assert_ne!(changed, made);
            }
        }
    }
}

#[tokio::test]
async fn a_signer_with_another_key_is_found_out() {
    let (mine, theirs) = (
        PrivateKey::generate(KeyType::EcP256).unwrap(),
        PrivateKey::generate(KeyType::EcP256).unwrap(),
    );
    let result = self_sign(&template(&mine), Arc::new(theirs)).await;
    assert!(matches!(result, Err(IssueError::BadSignature)));
}

#[tokio::test]
async fn what_x509_cannot_say_is_refused() {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let mut late = template(&key);
    late.not_after = at(400_000_000_000);
    assert!(matches!(self_sign(&late, key.clone()).await, Err(IssueError::Validity)));
    let mut foreign = template(&key);
    foreign.dns_names = vec!["bücher.example".into()];
    assert!(matches!(self_sign(&foreign, key).await, Err(IssueError::NotAscii("DNS name"))));
}

#[tokio::test]
async fn serial_numbers_keep_their_value() {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    for number in [1, 127, 128, 255, 256, u128::MAX / 2, u128::MAX] {
        let mut template = template(&key);
        template.serial = SerialNumber(number.to_be_bytes());
        let made = self_sign(&template, key.clone()).await.unwrap();
        assert_eq!(made.serial_decimal(), number.to_string());
        let parsed = Certificate::from_der(made.der_bytes()).unwrap();
        assert_eq!(parsed.serial_decimal(), number.to_string());
    }
}

#[test]
fn long_serial_numbers_are_printed_in_decimal() {
    let mut magnitude = vec![0; 20];
    magnitude[0] = 1;
    assert_eq!(
        issue::decimal(&magnitude),
        "5708990770823839524233143877797980545530986496", // 2^152
    );
}

#[test]
fn random_serial_numbers_differ() {
    assert_ne!(SerialNumber::random(), SerialNumber::random());
}

#[test]
fn times_are_read_in_both_forms() {
    let read =
        |tag, text: &str| time::read(crate::der::Tlv { tag, value: text.as_bytes(), raw: &[] });
    assert_eq!(read(0x17, "700101000000Z").unwrap(), at(0));
    assert_eq!(read(0x17, "491231235959Z").unwrap(), at(2_524_607_999));
    assert_eq!(read(0x18, "20500101000000Z").unwrap(), at(2_524_608_000));
    assert!(read(0x17, "500101000000Z").unwrap() < at(0));
    for text in ["7001010000Z", "700101000000+", "701301000000Z", "700101006000Z", "70010100000xZ"]
    {
        assert!(read(0x17, text).is_err(), "{text}");
    }
}

#[test]
fn key_usages_have_the_bits_of_the_standard() {
    for (usage, bits) in [
        (KeyUsage::SVID, &[3, 0xa8][..]),
        (KeyUsage::CA, &[1, 0x06]),
        (KeyUsage::DIGITAL_SIGNATURE, &[7, 0x80]),
        (KeyUsage::DECIPHER_ONLY | KeyUsage::KEY_AGREEMENT, &[7, 0x08, 0x80]),
    ] {
        assert_eq!(usage.to_bit_string(), bits);
        assert_eq!(KeyUsage::from_bit_string(bits).unwrap(), usage);
    }
    assert_eq!(format!("{:?}", KeyUsage::CA), r#"{"keyCertSign", "cRLSign"}"#);
}

#[tokio::test]
async fn pem_holds_exactly_what_was_asked_for() {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let made = self_sign(&template(&key), key).await.unwrap();
    assert_eq!(Certificate::from_pem(&made.pem()).unwrap(), made);
    let two = made.pem() + &made.pem();
    assert!(Certificate::from_pem(&two).is_err());
    assert_eq!(Certificate::parse_pem_bundle(&two).unwrap(), [made.clone(), made]);
}

#[tokio::test]
async fn issuers_urls_are_read_as_they_stand() {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let entry = |last: u8, tag: u8, value: &[u8]| {
        let mut out = Vec::new();
        crate::der::put_nested(&mut out, crate::der::SEQUENCE, |out| {
            let id = [&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30][..], &[last]].concat();
            crate::der::put(out, crate::der::OID, &id);
            crate::der::put(out, tag, value);
        });
        out
    };
    let read = async |entries: &[Vec<u8>]| {
        let mut value = Vec::new();
        crate::der::put(&mut value, crate::der::SEQUENCE, &entries.concat());
        let id = "1.3.6.1.5.5.7.1.1".parse().unwrap();
        let extra_extensions = vec![Extension { id, critical: false, value }];
        let template = Template { extra_extensions, ..template(&key) };
        let made = self_sign(&template, key.clone()).await.unwrap();
        Certificate::from_der(made.der_bytes()).unwrap().issuer_urls()
    };
    let ocsp = entry(1, 0x86, b"http://ocsp.test");
    let issuer = entry(2, 0x86, b"http://ca.test/a b");
    let name = entry(2, 0x82, b"ca.test");
    let urls = read(&[ocsp.clone(), name, entry(2, 0x86, b""), issuer.clone()]).await.unwrap();
    assert_eq!(urls, ["", "http://ca.test/a b"]);
    assert!(read(&[]).await.unwrap().is_empty());
    assert!(read(&[entry(2, 0x86, b"\xff")]).await.is_err());
    assert!(read(&vec![issuer; 17]).await.is_err());
    assert!(read(&[ocsp[..5].to_vec()]).await.is_err());
    assert!(self_sign(&template(&key), key).await.unwrap().issuer_urls().unwrap().is_empty());
}
