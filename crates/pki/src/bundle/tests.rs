use super::*;
use crate::keys::{KeyType, PrivateKey};

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn certificate() -> Certificate {
    let pem = rcgen::generate_simple_self_signed(vec![]).unwrap().cert.pem();
    Certificate::from_pem(&pem).unwrap()
}

fn authority(key_id: &str) -> JwtAuthority {
    JwtAuthority {
        key_id: key_id.into(),
        public_key: PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone(),
        expires_at: None,
        tainted: false,
    }
}

fn parse_text(text: &str) -> Result<Bundle, BundleError> {
    parse(trust_domain(), text.as_bytes())
}

fn refusal(text: &str) -> String {
    parse_text(text).unwrap_err().to_string()
}

#[test]
fn a_document_comes_back_as_it_was() {
    let mut bundle = Bundle::from_certificates(trust_domain(), vec![certificate(), certificate()]);
    bundle.set_jwt_authority(authority("one"));
    bundle.set_wit_authority(authority("two"));
    bundle.refresh_hint = Duration::from_secs(300);
    for indent in [Indent::FourSpaces, Indent::None] {
        assert_eq!(parse_text(&spiffe(&bundle, indent)).unwrap(), bundle);
    }
}

#[test]
fn tainted_authorities_are_listed_until_revoked() {
    let mut bundle = Bundle::from_certificates(trust_domain(), vec![certificate()]);
    let plain = spiffe(&bundle, Indent::None);
    bundle.x509_authorities[0].tainted = true;
    assert_eq!(spiffe(&bundle, Indent::None), plain);
}

#[test]
fn pem_carries_the_certificates() {
    let bundle = Bundle::from_certificates(trust_domain(), vec![certificate(), certificate()]);
    assert_eq!(from_pem(trust_domain(), &pem(&bundle)).unwrap(), bundle);
    assert_eq!(from_pem(trust_domain(), "").unwrap_err().to_string(), "no PEM blocks");
    let key = PrivateKey::generate(KeyType::EcP256).unwrap().to_pkcs8_pem();
    assert_eq!(
        from_pem(trust_domain(), &key).unwrap_err().to_string(),
        "expected block type \"CERTIFICATE\"; got \"PRIVATE KEY\""
    );
}

#[test]
fn duplicates_follow_spire() {
    let (certificate, first, second) = (certificate(), authority("kid"), authority("kid"));
    let mut bundle = Bundle::new(trust_domain());
    assert!(bundle.add_x509_authority(X509Authority::new(certificate.clone())));
    assert!(!bundle.add_x509_authority(X509Authority::new(certificate)));
    assert!(bundle.set_jwt_authority(first));
    assert!(!bundle.set_jwt_authority(second.clone()));
    assert_eq!(bundle.jwt_authorities, [second]);
}

#[test]
fn every_key_must_say_its_use() {
    let mut bundle = Bundle::new(trust_domain());
    bundle.set_jwt_authority(authority("kid"));
    let good = spiffe(&bundle, Indent::None);
    parse_text(&good).unwrap();
    let with_use = |key_use: &str| refusal(&good.replace("jwt-svid", key_use));
    assert_eq!(with_use(""), "missing use for key entry 0");
    assert_eq!(with_use("sig"), "unrecognized use \"sig\" for key entry 0");
    assert_eq!(with_use("x509-svid"), "expected a single certificate in x509-svid entry 0; got 0");
    assert_eq!(
        refusal(&jwks(&bundle, Indent::None)),
        "missing use for key entry 0",
        "a plain JWKS is no bundle"
    );
    assert_eq!(
        refusal(&good.replace("\"kid\":\"kid\",", "")),
        "missing key ID in jwt-svid entry 0"
    );
}

#[test]
fn a_certificate_must_have_the_key_beside_it() {
    let bundle = Bundle::from_certificates(trust_domain(), vec![certificate()]);
    let mut other = Bundle::new(trust_domain());
    other.set_jwt_authority(authority("kid"));
    let x = |bundle: &Bundle| {
        let text = spiffe(bundle, Indent::None);
        // 43 characters of x, `","y":"`, 43 of y.
        text.split("\"x\":\"").nth(1).unwrap()[..93].to_owned()
    };
    let swapped = spiffe(&bundle, Indent::None).replace(&x(&bundle), &x(&other));
    assert!(refusal(&swapped).contains("public keys in key and x5c fields do not match"));
}

#[test]
fn broken_keys_are_refused() {
    for (key, text) in [
        (r#"{"use":"jwt-svid"}"#, "missing json web key type"),
        (r#"{"kty":"oct","k":"AA"}"#, "unsupported key type/format"),
        (r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#, "unknown elliptic curve"),
        (r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#, "wrong length for x"),
        (r#"{"kty":"EC","crv":"P-256"}"#, "missing x value"),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, "unsupported RSA key size: 17 bits"),
        (r#"{"kty":"RSA","n":"!","e":"AQAB"}"#, "not base64url"),
        (r#"{"kty":"EC","d":"AA"}"#, "must not hold private keys"),
        (r#"{"kty":"EC","x5c":["AA=="]}"#, "failed to unmarshal x5c field"),
        (r#"{"kty":1}"#, "invalid type"),
        (r#"{"kty":"EC","kty":"EC"}"#, "duplicate key"),
    ] {
        let error = refusal(&format!(r#"{{"keys":[{key}]}}"#));
        assert!(error.contains(text), "{key}: {error}");
    }
    let zeros = "A".repeat(43);
    let off_curve = format!(r#"{{"kty":"EC","crv":"P-256","x":"{zeros}","y":"{zeros}"}}"#);
    assert!(refusal(&format!(r#"{{"keys":[{off_curve}]}}"#)).contains("not on declared curve"));
}

#[test]
fn numbers_beside_the_keys() {
    assert_eq!(parse_text("{}").unwrap(), Bundle::new(trust_domain()));
    assert_eq!(parse_text(r#"{"keys":null}"#).unwrap(), Bundle::new(trust_domain()));
    let hinted = parse_text(r#"{"keys":[],"spiffe_sequence":9,"spiffe_refresh_hint":60}"#).unwrap();
    assert_eq!(hinted.refresh_hint, Duration::from_secs(60));
    assert_eq!(hinted.sequence_number, 0, "the publisher's count is not ours");
    let huge = parse_text(&format!(r#"{{"spiffe_refresh_hint":{}}}"#, u64::MAX)).unwrap();
    assert!(huge.refresh_hint < Duration::from_secs(400 * 24 * 3600));
    assert_eq!(parse_text(r#"{"spiffe_refresh_hint":-5}"#).unwrap().refresh_hint, Duration::ZERO);
    for text in
        [r#"{"spiffe_refresh_hint":"1"}"#, r#"{"spiffe_sequence":-1}"#, r#"{"keys":{}}"#, "[]"]
    {
        assert!(matches!(parse_text(text), Err(BundleError::Json(_))), "{text}");
    }
}

#[test]
fn sizes_are_limited() {
    let long = vec![b' '; MAX_DOCUMENT_LEN + 1];
    assert!(matches!(parse(trust_domain(), &long), Err(BundleError::TooLarge(_))));
    let many = format!(r#"{{"keys":[{}0]}}"#, "0,".repeat(MAX_KEYS));
    assert!(matches!(parse_text(&many), Err(BundleError::TooManyKeys(_))));
}

#[test]
fn differences_are_found() {
    let (old_ca, new_ca) = (certificate(), certificate());
    let old = Bundle::from_certificates(trust_domain(), vec![old_ca.clone()]);
    let mut new = Bundle::from_certificates(trust_domain(), vec![old_ca.clone(), new_ca.clone()]);
    new.x509_authorities[0].tainted = true;
    let added: Vec<_> = old.x509_added(&new).map(|it| &it.certificate).collect();
    assert_eq!(added, [&new_ca]);
    let tainted: Vec<_> = old.x509_newly_tainted(&new).map(|it| &it.certificate).collect();
    assert_eq!(tainted, [&old_ca]);
    assert_eq!(new.x509_newly_tainted(&new).count(), 0);
}

#[test]
fn concatenated_certificates_come_apart_again() {
    let certificates = vec![certificate(), certificate()];
    let bundle = Bundle::from_certificates(trust_domain(), certificates.clone());
    assert_eq!(Certificate::parse_concatenated_der(&bundle.x509_ders()).unwrap(), certificates);
    assert_eq!(Certificate::concatenate_der(&certificates), bundle.x509_ders());
    let cut = bundle.x509_ders().slice(1..);
    Certificate::parse_concatenated_der(&cut).unwrap_err();
}
