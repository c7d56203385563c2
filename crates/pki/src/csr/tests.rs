use super::*;
use crate::keys::KeyType;

const ID: &str = "spiffe://example.org/web";

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

fn request(key: &PrivateKey) -> Vec<u8> {
    create(key, &DistinguishedName::default(), &[ID]).unwrap()
}

#[test]
fn a_request_proves_its_key() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let key = PrivateKey::generate(kind).unwrap();
        let csr = Csr::parse(&request(&key)).unwrap();
        assert_eq!(csr.public_key(), key.public_key());
        assert_eq!(csr.uris(), [ID]);
        assert!(csr.dns_names().is_empty() && !csr.has_other_names());
    }
}

#[test]
fn a_request_for_someone_elses_key_is_refused() {
    let (mine, theirs) = (key(), key());
    let mut request = request(&mine);
    let place = request
        .windows(mine.public_key().spki_der().len())
        .position(|window| window == mine.public_key().spki_der())
        .unwrap();
    let spki = theirs.public_key().spki_der();
    request[place..place + spki.len()].copy_from_slice(spki);
    let error = Csr::parse(&request).unwrap_err();
    assert_eq!(error.to_string(), "failed to verify CSR signature");
}

#[test]
fn any_changed_byte_is_noticed() {
    let request = request(&key());
    let whole = Csr::parse(&request).unwrap();
    for at in 0..request.len() {
        let mut changed = request.clone();
        changed[at] ^= 1;
        if let Ok(csr) = Csr::parse(&changed) {
            // ECDSA signatures can be altered without breaking; what is signed cannot.
            assert_eq!(csr.public_key(), whole.public_key());
            assert_eq!(csr.uris(), whole.uris());
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let request = request(&key());
    for len in 0..request.len() {
        assert!(Csr::parse(&request[..len]).is_err());
    }
    let longer = [request.as_slice(), &[0]].concat();
    assert!(matches!(Csr::parse(&longer), Err(CsrError::Der(DerError::Trailing))));
}

#[test]
fn size_is_limited_before_work() {
    let request = vec![0x30; MAX_CSR_LEN + 1];
    assert!(matches!(Csr::parse(&request), Err(CsrError::TooLarge(_))));
}

#[test]
fn requests_of_another_implementation_are_read() {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "web");
    params.subject_alt_names = vec![
        SanType::URI(ID.try_into().unwrap()),
        SanType::DnsName("web.example.org".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
    ];
    let request = params.serialize_request(&key).unwrap();
    let csr = Csr::parse(request.der()).unwrap();
    assert_eq!(csr.uris(), [ID]);
    assert_eq!(csr.dns_names(), ["web.example.org"]);
    assert!(csr.has_other_names());
    assert_eq!(csr.subject().unwrap().common_name, "web");
}
