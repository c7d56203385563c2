use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::bundle::public_jwk;
use crate::jwt::ecdsa;
use crate::keys::{KeyKind, KeyType, PrivateKey, SignatureAlgorithm};

const NOW: u64 = 1_800_000_000;
const RS_ES: &[JwtAlg] = &[JwtAlg::RS256, JwtAlg::ES256];
const EXPECTED: Expected<'static> = Expected {
    audiences: &["https://management.azure.com/"],
    issuers: &[],
    now: SystemTime::UNIX_EPOCH,
    leeway: Duration::from_secs(300),
};

fn expected() -> Expected<'static> {
    Expected { now: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW), ..EXPECTED }
}

fn claims() -> Value {
    json!({
        "iss": "https://issuer.test/", "aud": "https://management.azure.com/", "tid": "t",
        "nbf": NOW - 10, "iat": NOW - 10, "exp": NOW + 600,
    })
}

fn jwks(key: &PrivateKey, more: &Value) -> Vec<u8> {
    let mut jwk = public_jwk(key.public_key(), "none");
    jwk.as_object_mut().unwrap().remove("alg");
    let members = jwk.as_object_mut().unwrap();
    members.insert("kid".into(), "one".into());
    members.extend(more.as_object().unwrap().clone());
    json!({ "keys": [jwk] }).to_string().into_bytes()
}

fn keys(key: &PrivateKey) -> IssuerKeys {
    IssuerKeys::from_jwks(&jwks(key, &json!({}))).unwrap()
}

/// A token with any header at all, rightly signed.
fn forge(key: &PrivateKey, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let algorithm = SignatureAlgorithm::default_for(key.public_key().kind());
    let mut signature = key.sign(algorithm, signed.as_bytes()).unwrap();
    if key.public_key().kind() == KeyKind::P256 {
        signature = ecdsa::raw_from_der(&signature, 32).unwrap();
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn ec() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "one", "typ": "JWT" })
}

fn refusal(key: &PrivateKey, header: &Value) -> IssuerTokenError {
    open(&forge(key, header, &claims()), &keys(key), RS_ES).unwrap_err()
}

#[test]
fn claims_of_a_good_token_are_given_out() {
    for (kind, alg) in [(KeyType::EcP256, "ES256"), (KeyType::Rsa2048, "RS256")] {
        let key = PrivateKey::generate(kind).unwrap();
        let token = forge(&key, &json!({ "alg": alg, "kid": "one" }), &claims());
        let signed = open(&token, &keys(&key), RS_ES).unwrap();
        assert_eq!(signed.text("tid"), Some("t"));
        assert_eq!(Value::Object(signed.validate(&expected()).unwrap()), claims());
    }
}

#[test]
fn keys_may_come_as_certificates() {
    use rcgen::{CertificateParams, KeyPair};
    let key = ec();
    let pair = KeyPair::try_from(key.to_pkcs8_der().as_slice()).unwrap();
    let pem = CertificateParams::new(vec!["x.test".into()]).unwrap().self_signed(&pair).unwrap();
    let document = json!({ "one": pem.pem() }).to_string();
    let keys = IssuerKeys::from_certificates(document.as_bytes()).unwrap();
    assert_eq!(keys.len(), 1);
    open(&forge(&key, &header(), &claims()), &keys, RS_ES).unwrap();
    for bad in ["[]", "{\"one\":7}", "{\"one\":\"-----BEGIN\"}", "{\"one\":\"\"}"] {
        IssuerKeys::from_certificates(bad.as_bytes()).unwrap_err();
    }
}

#[test]
fn no_algorithm_but_those_asked_for_is_taken() {
    let key = ec();
    for alg in ["none", "HS256", "ES384", "EdDSA", ""] {
        let mut header = header();
        header["alg"] = alg.into();
        let refused = refusal(&key, &header).to_string();
        let text =
            format!("unexpected signature algorithm {alg:?}; expected [\"RS256\" \"ES256\"]");
        assert_eq!(refused, text);
    }
    // An algorithm that is allowed, but not the key's.
    assert_eq!(
        refusal(&key, &json!({ "alg": "RS256", "kid": "one" })),
        IssuerTokenError::Signature
    );
}

#[test]
fn a_token_signed_with_the_public_key_as_a_secret_is_refused() {
    let key = ec();
    let forged = |alg: &str| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "alg": alg, "kid": "one" });
        format!("{}.{}.{}", part(&header), part(&claims()), URL_SAFE_NO_PAD.encode([7; 32]))
    };
    assert!(matches!(open(&forged("HS256"), &keys(&key), RS_ES), Err(IssuerTokenError::Parse(_))));
    assert_eq!(
        open(&forged("ES256"), &keys(&key), RS_ES).unwrap_err(),
        IssuerTokenError::Signature
    );
}

#[test]
fn the_header_is_held_to_the_rules() {
    let key = ec();
    assert_eq!(refusal(&key, &json!({ "alg": "ES256" })), IssuerTokenError::MissingKeyId);
    let unknown = refusal(&key, &json!({ "alg": "ES256", "kid": "x".repeat(1000) }));
    assert_eq!(unknown, IssuerTokenError::UnknownKey("x".repeat(64)));
    let other = json!({ "alg": "ES256", "kid": "one", "typ": "dpop+jwt" });
    assert_eq!(refusal(&key, &other), IssuerTokenError::Type);
    let critical = json!({ "alg": "ES256", "kid": "one", "crit": ["x"], "x": 1 });
    assert_eq!(refusal(&key, &critical), IssuerTokenError::Critical);
    for typ in ["JWT", "jwt", "at+jwt", ""] {
        let header = json!({ "alg": "ES256", "kid": "one", "typ": typ });
        open(&forge(&key, &header, &claims()), &keys(&key), RS_ES).unwrap();
    }
}

#[test]
fn a_key_is_used_for_nothing_that_its_issuer_does_not_say() {
    let key = ec();
    let token = forge(&key, &header(), &claims());
    let with = |more: Value| IssuerKeys::from_jwks(&jwks(&key, &more)).unwrap();
    open(&token, &with(json!({ "use": "sig", "alg": "ES256" })), RS_ES).unwrap();
    let refused = open(&token, &with(json!({ "alg": "ES512" })), RS_ES).unwrap_err();
    assert_eq!(refused, IssuerTokenError::Signature);
    for more in [json!({ "use": "enc" }), json!({ "kid": "" }), json!({ "d": "AAAA" })] {
        assert!(with(more).is_empty());
    }
    let signed = open(&token, &with(json!({ "issuer": "https://i.test/t" })), RS_ES).unwrap();
    assert_eq!(signed.key_issuer(), Some("https://i.test/t"));
}

#[test]
fn keys_that_cannot_be_used_do_not_hide_those_that_can() {
    let key = ec();
    let mut document: Value = serde_json::from_slice(&jwks(&key, &json!({}))).unwrap();
    let listed = document["keys"].as_array_mut().unwrap();
    listed.insert(0, json!({ "kty": "oct", "kid": "one", "k": "AAAA" }));
    listed.insert(0, json!({ "kty": "RSA", "kid": "small", "n": "AQAB", "e": "AQAB" }));
    listed.insert(0, json!("no key at all"));
    let keys = IssuerKeys::from_jwks(document.to_string().as_bytes()).unwrap();
    assert_eq!(keys.len(), 1);
    open(&forge(&key, &header(), &claims()), &keys, RS_ES).unwrap();
}

#[test]
fn documents_are_bounded() {
    let large = vec![b' '; MAX_DOCUMENT_LEN + 1];
    assert!(matches!(IssuerKeys::from_jwks(&large), Err(IssuerKeysError::TooLarge(_))));
    let many = json!({ "keys": vec![json!({}); MAX_KEYS + 1] }).to_string();
    let refused = IssuerKeys::from_jwks(many.as_bytes());
    assert!(matches!(refused, Err(IssuerKeysError::TooManyKeys(_))));
    for bad in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[],\"keys\":[]}", "{\"keys\":["] {
        assert!(matches!(IssuerKeys::from_jwks(bad.as_bytes()), Err(IssuerKeysError::Json(_))));
    }
    let token = format!("{}.{}.{}", "a".repeat(MAX_TOKEN_LEN), "b", "c");
    assert!(matches!(open(&token, &IssuerKeys::default(), RS_ES), Err(IssuerTokenError::Parse(_))));
}

#[test]
fn audience_issuer_and_times_must_hold() {
    use IssuerTokenError as Refused;
    let key = ec();
    let keys = keys(&key);
    let check = |change: Value, expected: &Expected<'_>| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        open(&forge(&key, &header(), &claims), &keys, RS_ES).and_then(|it| it.validate(expected))
    };
    let refused = |change: Value| check(change, &expected()).unwrap_err();
    check(json!({ "aud": ["x", "https://management.azure.com/"] }), &expected()).unwrap();
    assert_eq!(refused(json!({ "aud": "https://vault.azure.net" })), Refused::Audience);
    assert_eq!(
        refused(json!({ "aud": null })),
        Refused::Claims(
            "go-jose/go-jose/jwt: expected string or array value to unmarshal to Audience".into()
        )
    );
    assert_eq!(refused(json!({ "aud": [] })), Refused::Audience);
    check(json!({ "exp": NOW - 300 }), &expected()).unwrap();
    assert_eq!(refused(json!({ "exp": NOW - 301 })), Refused::Expired);
    assert_eq!(refused(json!({ "exp": null })), Refused::MissingExpiry);
    assert_eq!(refused(json!({ "nbf": NOW + 301 })), Refused::NotYetValid);
    assert_eq!(refused(json!({ "iat": NOW + 301 })), Refused::IssuedInFuture);
    assert_eq!(refused(json!({ "exp": 1e300 })), Refused::Expired);
    let issuers = Expected { issuers: &["https://other.test/"], ..expected() };
    assert_eq!(check(json!({}), &issuers).unwrap_err(), Refused::Issuer);
    let issuers = Expected { issuers: &["https://o.test/", "https://issuer.test/"], ..expected() };
    check(json!({}), &issuers).unwrap();
}

#[test]
fn a_changed_token_is_refused_wherever_it_was_changed() {
    let key = ec();
    let keys = keys(&key);
    let token = forge(&key, &header(), &claims());
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(open(&changed, &keys, RS_ES).is_err(), "changed at {at}");
        assert!(open(&token[..at], &keys, RS_ES).is_err(), "cut at {at}");
    }
}
