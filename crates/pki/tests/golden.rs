//! What Go's standard library and go-jose write, byte for byte: `golden/main.go` made the files.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use steeple_pki::bundle::{self, Indent};
use steeple_pki::csr::Csr;
use steeple_pki::jwt::{self, JwtAlg};
use steeple_pki::x509::{
    DistinguishedName, ExtKeyUsage, Extension, IssueError, Issuer, KeyUsage, Oid, SerialNumber,
    Template, issue, self_sign,
};
use steeple_pki::{
    Bundle, Certificate, JwtAuthority, KeyKind, KeyType, PrivateKey, PublicKey, Signer,
    X509Authority,
};
use steeple_spiffe::TrustDomain;

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name);
    std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn text(name: &str) -> String {
    String::from_utf8(file(name)).unwrap()
}

fn key(name: &str) -> PrivateKey {
    PrivateKey::from_pkcs8_der(&file(name)).unwrap()
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|it| (*it).to_owned()).collect()
}

fn oid(dotted: &str) -> Oid {
    dotted.parse().unwrap()
}

fn extra_names(names: &[(&str, &str)]) -> Vec<(Oid, String)> {
    names.iter().map(|(id, value)| (oid(id), (*value).to_owned())).collect()
}

/// 2026-01-02T03:04:05.999Z: fractions must be dropped.
fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_999)
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn private_keys_keep_their_bytes() {
    for (name, kind) in [
        ("p256.pk8", KeyType::EcP256),
        ("p384.pk8", KeyType::EcP384),
        ("rsa.pk8", KeyType::Rsa2048),
    ] {
        let parsed = key(name);
        assert_eq!(parsed.public_key().key_type(), Some(kind));
        assert_eq!(*parsed.to_pkcs8_der(), file(name), "{name}");
    }
}

#[test]
fn older_pem_forms_are_read() {
    let sec1 = PrivateKey::from_pem(&text("p256.sec1.pem")).unwrap();
    assert_eq!(*sec1.to_pkcs8_der(), file("p256.pk8"));
    let pkcs1 = PrivateKey::from_pem(&text("rsa.pkcs1.pem")).unwrap();
    assert_eq!(*pkcs1.to_pkcs8_der(), file("rsa.pk8"));
    let pkcs8 = PrivateKey::from_pem(&sec1.to_pkcs8_pem()).unwrap();
    assert_eq!(*pkcs8.to_pkcs8_der(), file("p256.pk8"));
}

#[test]
fn keys_that_are_only_verified_are_read() {
    assert_eq!(PublicKey::from_spki_der(&file("p521.spki")).unwrap().kind(), KeyKind::P521);
    assert_eq!(PublicKey::from_spki_der(&file("ed25519.spki")).unwrap().kind(), KeyKind::Ed25519);
}

fn ca_template(key: &PrivateKey) -> Template {
    let serial = SerialNumber([0xff; 16]);
    Template {
        subject: DistinguishedName {
            country: strings(&["US"]),
            organization: strings(&["SPIFFE"]),
            serial_number: serial.to_string(),
            ..DistinguishedName::default()
        },
        public_key: key.public_key().clone(),
        serial,
        not_before: start(),
        not_after: start() + 24 * HOUR,
        ca: true,
        key_usage: KeyUsage::CA,
        ext_key_usage: vec![],
        uri_sans: strings(&["spiffe://example.org"]),
        dns_names: vec![],
        policies: vec![],
        extra_extensions: vec![],
    }
}

async fn ca() -> (Certificate, Issuer) {
    let key = Arc::new(key("rsa.pk8"));
    let certificate = self_sign(&ca_template(&key), key.clone()).await.unwrap();
    let issuer = Issuer::new(&certificate, key);
    (certificate, issuer)
}

/// Everything that can be read from `made` is what reading its encoding gives.
fn assert_same_as_parsed(made: &Certificate) {
    let parsed = Certificate::from_der(made.der_bytes()).unwrap();
    assert_eq!(made.serial_bytes(), parsed.serial_bytes());
    assert_eq!(made.serial_decimal(), parsed.serial_decimal());
    assert_eq!(made.subject_der(), parsed.subject_der());
    assert_eq!(made.issuer_der(), parsed.issuer_der());
    assert_eq!(made.not_before(), parsed.not_before());
    assert_eq!(made.not_after(), parsed.not_after());
    assert_eq!(made.public_key(), parsed.public_key());
    assert_eq!(made.subject_key_id(), parsed.subject_key_id());
    assert_eq!(made.authority_key_id(), parsed.authority_key_id());
    assert_eq!(made.uri_sans(), parsed.uri_sans());
    assert_eq!(made.dns_sans(), parsed.dns_sans());
    assert_eq!(made.is_ca(), parsed.is_ca());
    assert_eq!(made.key_usage(), parsed.key_usage());
    assert_eq!(made.ext_key_usage(), parsed.ext_key_usage());
    assert_eq!(made.signature_algorithm(), parsed.signature_algorithm());
}

// RSA PKCS#1 signatures are deterministic, so whole certificates can be compared.

#[tokio::test]
async fn a_self_signed_ca_is_what_go_makes() {
    let (made, _) = ca().await;
    assert_eq!(made.der(), file("ca-rsa.crt"));
    assert_same_as_parsed(&made);
    assert_eq!(made.authority_key_id(), None);
    assert_eq!(made.serial_decimal(), "340282366920938463463374607431768211455");
}

#[tokio::test]
async fn a_leaf_is_what_go_makes() {
    let (_, issuer) = ca().await;
    let template = Template {
        subject: DistinguishedName {
            country: strings(&["US"]),
            organization: strings(&["SPIRE"]),
            common_name: "a.example.org".into(),
            extra_names: extra_names(&[("2.5.4.45", "0123456789abcdef0123456789abcdef")]),
            ..DistinguishedName::default()
        },
        public_key: key("p256.pk8").public_key().clone(),
        serial: SerialNumber(1_u128.to_be_bytes()),
        not_before: start(),
        not_after: start() + HOUR,
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: vec![ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
        uri_sans: strings(&["spiffe://example.org/web"]),
        dns_names: strings(&["a.example.org", "b.example.org"]),
        policies: vec![],
        extra_extensions: vec![],
    };
    let made = issue(&template, &issuer).await.unwrap();
    assert_eq!(made.der(), file("leaf.crt"));
    assert_same_as_parsed(&made);
}

#[tokio::test]
async fn names_and_far_times_are_what_go_makes() {
    let (_, issuer) = ca().await;
    let subject = DistinguishedName {
        country: strings(&["US", "DE"]),
        organization: strings(&["Müller & Söhne", "a*b"]),
        organizational_unit: strings(&["DOWNSTREAM-1", "B"]),
        locality: strings(&["Köln"]),
        province: strings(&["NRW"]),
        street_address: strings(&["1 Main St."]),
        postal_code: strings(&["50667"]),
        common_name: "cn".into(),
        serial_number: "7".into(),
        extra_names: vec![],
    };
    let template = Template {
        subject: subject.clone(),
        public_key: key("p384.pk8").public_key().clone(),
        serial: SerialNumber(255_u128.to_be_bytes()),
        not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(2_524_608_000),
        ..ca_template(&key("rsa.pk8"))
    };
    let made = issue(&template, &issuer).await.unwrap();
    assert_eq!(made.der(), file("downstream.crt"));
    assert_same_as_parsed(&made);
    let back = made.subject().unwrap();
    // DER sorts the members of a set, which is how they come back.
    assert_eq!(back.organization, strings(&["a*b", "Müller & Söhne"]));
    assert_eq!(back.to_der(), subject.to_der());
}

#[tokio::test]
async fn without_a_subject_the_alternative_name_is_critical() {
    let (_, issuer) = ca().await;
    let template = Template {
        subject: DistinguishedName::default(),
        public_key: key("p384.pk8").public_key().clone(),
        serial: SerialNumber(128_u128.to_be_bytes()),
        not_after: start() + HOUR,
        ca: false,
        key_usage: KeyUsage::DIGITAL_SIGNATURE,
        uri_sans: strings(&["spiffe://example.org/bare"]),
        ..ca_template(&key("rsa.pk8"))
    };
    let made = issue(&template, &issuer).await.unwrap();
    assert_eq!(made.der(), file("bare.crt"));
    assert_same_as_parsed(&made);
}

fn composed_subject() -> DistinguishedName {
    DistinguishedName {
        country: strings(&["US"]),
        organization: strings(&["SPIRE"]),
        common_name: "not this".into(),
        serial_number: "7".into(),
        extra_names: extra_names(&[
            ("2.5.4.3", "a*b"),
            ("0.9.2342.19200300.100.1.25", "exämple"),
            ("2.5.4.45", ""),
        ]),
        ..DistinguishedName::default()
    }
}

fn composed_extensions() -> Vec<Extension> {
    vec![
        Extension { id: oid("1.3.6.1.4.1.99999.1"), critical: false, value: vec![4, 2, 1, 2] },
        Extension { id: oid("2.5.29.30"), critical: true, value: vec![0x30, 0] },
    ]
}

fn composed(serial: u128, key: &PrivateKey) -> Template {
    Template {
        subject: composed_subject(),
        public_key: key.public_key().clone(),
        serial: SerialNumber(serial.to_be_bytes()),
        not_after: start() + HOUR,
        dns_names: strings(&["a.example.org"]),
        policies: vec![
            oid("1.3.6.1.4.1.99999.2"),
            oid("2.23.140.1.2.1"),
            oid("2.25.329800735698586629295641978511506172918"),
        ],
        extra_extensions: composed_extensions(),
        ..ca_template(key)
    }
}

#[tokio::test]
async fn extra_names_policies_and_extensions_are_what_go_makes() {
    let (_, issuer) = ca().await;
    let made = issue(&composed(3, &key("p384.pk8")), &issuer).await.unwrap();
    assert_eq!(made.der(), file("composed.crt"));
    assert_same_as_parsed(&made);
    let own_policies = Template {
        extra_extensions: vec![Extension {
            id: oid("2.5.29.32"),
            critical: false,
            value: vec![0x30, 6, 0x30, 4, 6, 2, 0x2a, 3],
        }],
        ..composed(4, &key("p256.pk8"))
    };
    let made = issue(&own_policies, &issuer).await.unwrap();
    assert_eq!(made.der(), file("own-policies.crt"));
    assert_same_as_parsed(&made);
}

#[tokio::test]
async fn extra_extensions_of_a_request_are_what_go_makes() {
    let signer: &dyn Signer = &key("rsa.pk8");
    for (name, uris) in
        [("composed.csr", &["spiffe://example.org"][..]), ("extensions.csr", &[][..])]
    {
        let (subject, extensions) = (composed_subject(), composed_extensions());
        let made = steeple_pki::csr::create_with_extensions(signer, &subject, uris, &extensions);
        assert_eq!(made.await.unwrap(), file(name), "{name}");
        assert_eq!(Csr::parse(&file(name)).unwrap().uris(), uris);
    }
}

#[tokio::test]
async fn an_extra_extension_overrides_nothing_that_the_template_says() {
    let (_, issuer) = ca().await;
    let key = key("p256.pk8");
    let with = |ids: &[&str]| {
        let make = |id: &&str| Extension { id: oid(id), critical: false, value: vec![0x30, 0] };
        Template { extra_extensions: ids.iter().map(make).collect(), ..composed(5, &key) }
    };
    for id in ["2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.35", "2.5.29.37"] {
        let refused = issue(&with(&["1.2.3", id]), &issuer).await;
        assert!(matches!(refused, Err(IssueError::ReservedExtension(it)) if it == oid(id)), "{id}");
    }
    let twice = issue(&with(&["1.2.3", "1.2.4", "1.2.3"]), &issuer).await;
    assert!(matches!(twice, Err(IssueError::DuplicateExtension(it)) if it == oid("1.2.3")));
    let mut large = with(&["1.2.3"]);
    large.extra_extensions[0].value = vec![0; 70_000];
    assert!(matches!(issue(&large, &issuer).await, Err(IssueError::TooLarge(70_000))));
    let mut long = with(&[]);
    long.subject.common_name = "x".repeat(100);
    long.subject.extra_names = extra_names(&[("1.2.3", &"x".repeat(70_000))]);
    assert!(matches!(issue(&long, &issuer).await, Err(IssueError::TooLarge(_))));
}

#[test]
fn requests_of_go_are_read() {
    for (name, kind) in
        [("p256.csr", KeyKind::P256), ("p384.csr", KeyKind::P384), ("rsa.csr", KeyKind::Rsa(2048))]
    {
        let csr = Csr::parse(&file(name)).unwrap();
        assert_eq!(csr.public_key().kind(), kind, "{name}");
        assert_eq!(csr.uris(), ["spiffe://example.org/spire/agent/x"]);
        assert_eq!(csr.dns_names(), ["a.example.org"]);
        assert_eq!(csr.subject().unwrap().organization, ["SPIRE"]);
    }
    let bare = Csr::parse(&file("empty.csr")).unwrap();
    assert!(bare.uris().is_empty() && bare.dns_names().is_empty());
    assert!(bare.subject().unwrap().is_empty());
}

#[test]
fn our_rsa_request_is_what_go_makes() {
    let subject = DistinguishedName {
        country: strings(&["US"]),
        organization: strings(&["SPIRE"]),
        ..DistinguishedName::default()
    };
    let made = steeple_pki::csr::create_with_dns(
        &key("rsa.pk8"),
        &subject,
        &["spiffe://example.org/spire/agent/x"],
        &["a.example.org"],
    )
    .unwrap();
    assert_eq!(made, file("rsa.csr"));
    let empty = DistinguishedName::default();
    let bare = steeple_pki::csr::create(&key("p256.pk8"), &empty, &[]).unwrap();
    assert_eq!(bare[3..110], file("empty.csr")[3..110], "all but the signature and its length");
}

fn golden_bundle() -> Bundle {
    let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
    bundle
        .add_x509_authority(X509Authority::new(Certificate::from_der(file("ca-rsa.crt")).unwrap()));
    let authority = |key_id: &str, spki: &str| JwtAuthority {
        key_id: key_id.into(),
        public_key: PublicKey::from_spki_der(&file(spki)).unwrap(),
        expires_at: None,
        tainted: false,
    };
    bundle.set_jwt_authority(authority("a<b>&c", "ES256.spki"));
    bundle.set_jwt_authority(authority("two", "ES384.spki"));
    bundle.set_jwt_authority(authority("three", "p521.spki"));
    bundle.set_jwt_authority(authority("four", "RS256.spki"));
    bundle.set_wit_authority(authority("five", "ed25519.spki"));
    bundle.refresh_hint = Duration::from_secs(300);
    bundle.sequence_number = 7;
    bundle
}

#[test]
fn bundle_documents_are_what_spire_prints() {
    let bundle = golden_bundle();
    assert_eq!(bundle::spiffe(&bundle, Indent::FourSpaces), text("bundle.json"));
    assert_eq!(bundle::jwt_svid_jwks(&bundle, Indent::FourSpaces), text("jwks.json"));
    let empty = Bundle::new(bundle.trust_domain);
    assert_eq!(bundle::jwt_svid_jwks(&empty, Indent::FourSpaces), text("empty.json"));
}

#[test]
fn bundle_documents_of_spire_are_read() {
    let mut expected = golden_bundle();
    expected.sequence_number = 0;
    let trust_domain = expected.trust_domain.clone();
    assert_eq!(bundle::parse(trust_domain, &file("bundle.json")).unwrap(), expected);
}

const ALL: [&str; 9] =
    ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];

#[test]
fn tokens_of_go_jose_verify() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_799_999_800);
    for alg in ALL {
        let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
        bundle.set_jwt_authority(JwtAuthority {
            key_id: alg.into(),
            public_key: PublicKey::from_spki_der(&file(&format!("{alg}.spki"))).unwrap(),
            expires_at: None,
            tainted: false,
        });
        let token = text(&format!("{alg}.jwt"));
        let valid = jwt::verify_svid(&token, &bundle, "<&>", now, jwt::LEEWAY)
            .unwrap_or_else(|err| panic!("{alg}: {err}"));
        assert_eq!(valid.spiffe_id.as_str(), "spiffe://example.org/web");
        assert_eq!(valid.audience, ["db", "<&>"]);
        assert_eq!(valid.claims["iss"], "https://issuer");
        assert_eq!(jwt::parse_unverified(&token).unwrap().alg().as_str(), alg);
    }
}

#[tokio::test]
async fn our_rsa_token_is_what_go_jose_makes() {
    let claims: Value = json!({
        "sub": "spiffe://example.org/web",
        "iss": "https://issuer",
        "iat": 1_799_999_700,
        "exp": 1_800_000_000,
        "cnf": { "z": 1, "a": null },
        "aud": ["db", "<&>"],
    });
    let claims: Map<String, Value> = claims.as_object().unwrap().clone();
    let token = jwt::sign(&claims, "RS256", &key("rsa.pk8")).await.unwrap();
    assert_eq!(token, text("RS256.jwt"));

    for (name, alg) in [("p256.pk8", JwtAlg::ES256), ("p384.pk8", JwtAlg::ES384)] {
        let key = key(name);
        let signer: &dyn Signer = &key;
        let token = jwt::sign(&claims, alg.as_str(), signer).await.unwrap();
        let golden = text(&format!("{}.jwt", alg.as_str()));
        let signed = |token: &str| token.rsplit_once('.').unwrap().0.to_owned();
        assert_eq!(signed(&token), signed(&golden), "all but the signature");
    }
}
