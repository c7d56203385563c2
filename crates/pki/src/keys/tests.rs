use super::*;
use crate::der;
use crate::oid;

fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let mut spki = Vec::new();
    der::put_nested(&mut spki, der::SEQUENCE, |out| {
        der::put_nested(out, der::SEQUENCE, |out| {
            der::put(out, der::OID, oid::RSA_ENCRYPTION);
            der::put(out, der::NULL, &[]);
        });
        der::put_nested(out, der::BIT_STRING, |out| {
            out.push(0);
            der::put_nested(out, der::SEQUENCE, |out| {
                der::put_unsigned(out, modulus);
                der::put_unsigned(out, exponent);
            });
        });
    });
    spki
}

#[test]
fn names_of_key_types() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048, KeyType::Rsa4096] {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    assert_eq!("ec-p521".parse::<KeyType>(), Err(UnknownKeyType));
}

#[test]
fn generated_keys_sign_and_come_back() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let key = PrivateKey::generate(kind).unwrap();
        assert_eq!(key.public_key().key_type(), Some(kind));
        let again = PrivateKey::from_pem(&key.to_pkcs8_pem()).unwrap();
        assert_eq!(*again.to_pkcs8_der(), *key.to_pkcs8_der());
        let algorithm = SignatureAlgorithm::default_for(key.public_key().kind());
        let signature = again.sign(algorithm, b"message").unwrap();
        key.public_key().verify(algorithm, b"message", &signature).unwrap();
        assert_eq!(key.public_key().verify(algorithm, b"other", &signature), Err(BadSignature));
    }
}

#[test]
fn rsa_keys_make_every_kind_of_rsa_signature() {
    use SignatureAlgorithm as Alg;
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    for algorithm in [
        Alg::RsaPkcs1Sha256,
        Alg::RsaPkcs1Sha384,
        Alg::RsaPkcs1Sha512,
        Alg::RsaPssSha256,
        Alg::RsaPssSha384,
        Alg::RsaPssSha512,
    ] {
        let signature = key.sign(algorithm, b"message").unwrap();
        key.public_key().verify(algorithm, b"message", &signature).unwrap();
    }
    assert!(key.sign(Alg::EcdsaSha256, b"").is_err());
}

#[test]
fn a_key_is_not_used_with_an_algorithm_of_another_kind() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    assert!(key.sign(SignatureAlgorithm::RsaPkcs1Sha256, b"").is_err());
    assert!(key.sign(SignatureAlgorithm::EcdsaSha384, b"").is_err());
    let verdict = key.public_key().verify(SignatureAlgorithm::RsaPkcs1Sha256, b"", &[0; 256]);
    assert_eq!(verdict, Err(BadSignature));
}

#[test]
fn costly_rsa_keys_are_refused_before_work() {
    let sized = |len| {
        let mut modulus = vec![0xff; len];
        modulus[0] = 0x80;
        PublicKey::from_spki_der(&rsa_spki(&modulus, &[1, 0, 1]))
    };
    assert!(matches!(sized(128), Err(KeyError::RsaSize(1024))));
    assert!(matches!(sized(1032), Err(KeyError::RsaSize(8256))));
    assert!(matches!(sized(4096), Err(KeyError::TooLarge { .. })));
    assert_eq!(sized(256).unwrap().kind(), KeyKind::Rsa(2048));
    let modulus = vec![0xff; 256];
    for exponent in [&[1][..], &[2], &[], &[1, 0], &[0x80, 0, 0, 1], &[1, 0, 0, 0, 1]] {
        let key = PublicKey::from_spki_der(&rsa_spki(&modulus, exponent));
        assert!(matches!(key, Err(KeyError::RsaExponent)), "{exponent:?}");
    }
}

#[test]
fn points_beside_their_curve_are_refused() {
    let mut point = [0; 65];
    point[0] = 4;
    assert!(matches!(PublicKey::from_ec_point(KeyKind::P256, &point), Err(KeyError::Invalid)));
    // Compressed form, which Go does not read either.
    point[0] = 2;
    assert!(PublicKey::from_ec_point(KeyKind::P256, &point[..33]).is_err());
}

#[test]
fn every_truncation_of_a_key_is_refused() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let (spki, pkcs8) = (key.public_key().spki_der(), key.to_pkcs8_der());
    for len in 0..spki.len() {
        assert!(PublicKey::from_spki_der(&spki[..len]).is_err());
    }
    for len in 0..pkcs8.len() {
        assert!(PrivateKey::from_pkcs8_der(&pkcs8[..len]).is_err());
    }
}

#[test]
fn pem_that_is_no_private_key_is_told_so() {
    let error = |text: &str| PrivateKey::from_pem(text).err().unwrap().to_string();
    assert_eq!(error(""), "malformed PEM private key: no PEM blocks");
    let certificate = crate::pem::encode("CERTIFICATE", b"x");
    assert_eq!(
        error(&certificate),
        "malformed PEM private key: unexpected block type \"CERTIFICATE\""
    );
    assert_eq!(
        error("\n-----BEGIN PRIVATE KEY-----\nAA"),
        "malformed PEM private key: PEM block that begins on line 2 does not end"
    );
}

#[test]
fn a_key_in_its_traditional_form_is_the_same_key() {
    for (key_type, label) in [
        (KeyType::EcP256, "-----BEGIN EC PRIVATE KEY-----\n"),
        (KeyType::EcP384, "-----BEGIN EC PRIVATE KEY-----\n"),
        (KeyType::Rsa2048, "-----BEGIN RSA PRIVATE KEY-----\n"),
    ] {
        let key = PrivateKey::generate(key_type).unwrap();
        let text = key.to_traditional_pem();
        assert!(text.starts_with(label));
        let again = PrivateKey::from_pem(&text).unwrap();
        assert_eq!(*again.to_pkcs8_der(), *key.to_pkcs8_der());
    }
}
