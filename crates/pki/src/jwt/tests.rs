use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::bundle::{Bundle, JwtAuthority};
use crate::keys::{KeyType, PrivateKey};

const SUB: &str = "spiffe://example.org/web";
const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn key() -> Arc<PrivateKey> {
    Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap())
}

fn bundle_of(key: &PublicKey) -> Bundle {
    let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
    bundle.set_jwt_authority(JwtAuthority {
        key_id: "kid".into(),
        public_key: key.clone(),
        expires_at: None,
        tainted: false,
    });
    bundle
}

fn claims() -> Value {
    json!({ "sub": SUB, "aud": ["db"], "exp": NOW + 300, "iat": NOW })
}

async fn token(key: &PrivateKey, claims: &Value) -> String {
    sign(claims.as_object().unwrap(), "kid", key).await.unwrap()
}

/// A token with any header at all, rightly signed.
fn forge(key: &PrivateKey, header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = key.sign(SignatureAlgorithm::EcdsaSha256, signed.as_bytes()).unwrap();
    let signature = ecdsa::raw_from_der(&signature, 32).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn verify(key: &PrivateKey, token: &str) -> Result<ValidJwt, JwtError> {
    verify_svid(token, &bundle_of(key.public_key()), "db", at(NOW), LEEWAY)
}

fn refusal(key: &PrivateKey, token: &str) -> String {
    verify(key, token).unwrap_err().to_string()
}

#[tokio::test]
async fn what_is_signed_verifies() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let key = PrivateKey::generate(kind).unwrap();
        let valid = verify(&key, &token(&key, &claims()).await).unwrap();
        assert_eq!(valid.spiffe_id.as_str(), SUB);
        assert_eq!(valid.audience, ["db"]);
        assert_eq!(valid.expires_at, at(NOW + 300));
        assert_eq!(Value::Object(valid.claims), claims());
    }
}

#[tokio::test]
async fn the_header_is_alg_kid_typ_and_nothing_else() {
    let key = key();
    let token = token(&key, &claims()).await;
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    assert_eq!(header, br#"{"alg":"ES256","kid":"kid","typ":"JWT"}"#);
}

#[tokio::test]
async fn another_implementation_verifies_our_tokens() {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    let key = key();
    let token = token(&key, &claims()).await;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["db"]);
    validation.validate_exp = false;
    let decoded =
        decode::<Value>(&token, &DecodingKey::from_ec_der(key.public_key().bits()), &validation)
            .unwrap();
    assert_eq!(decoded.claims, claims());
    assert_eq!(decoded.header.kid.as_deref(), Some("kid"));
}

#[tokio::test]
async fn we_verify_tokens_of_another_implementation() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let key = key();
    let encoding = EncodingKey::from_ec_der(&key.to_pkcs8_der());
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("kid".into());
    let token = encode(&header, &claims(), &encoding).unwrap();
    assert_eq!(verify(&key, &token).unwrap().spiffe_id.as_str(), SUB);
}

#[tokio::test]
async fn times_are_checked_with_leeway() {
    let key = key();
    let token = token(&key, &claims()).await;
    let bundle = bundle_of(key.public_key());
    let verify = |now| verify_svid(&token, &bundle, "db", at(now), LEEWAY);
    verify(NOW + 360).unwrap();
    assert_eq!(verify(NOW + 361).unwrap_err().to_string(), "token has expired");
    verify(NOW - 60).unwrap();
    assert!(matches!(verify(NOW - 61), Err(JwtError::IssuedInFuture)));
    let strict = verify_svid(&token, &bundle, "db", at(NOW + 301), Duration::ZERO);
    assert!(matches!(strict, Err(JwtError::Expired)));
}

#[tokio::test]
async fn a_token_before_its_time_is_refused() {
    let key = key();
    let mut early = claims();
    early["nbf"] = (NOW + 61).into();
    let token = token(&key, &early).await;
    assert!(matches!(verify(&key, &token), Err(JwtError::NotYetValid)));
}

#[tokio::test]
async fn claims_that_must_be_there() {
    let key = key();
    for (claim, value, text) in [
        ("sub", Value::Null, "token missing subject claim"),
        ("sub", "".into(), "token missing subject claim"),
        (
            "sub",
            "https://example.org".into(),
            "token has in invalid subject claim: scheme is missing or invalid",
        ),
        ("exp", Value::Null, "token missing exp claim"),
        ("jti", json!(5), "json: cannot unmarshal number into Go value of type string"),
        ("iss", json!([]), "json: cannot unmarshal array into Go value of type string"),
        (
            "exp",
            "soon".into(),
            "go-jose/go-jose/jwt: expected number value to unmarshal NumericDate",
        ),
        (
            "sub",
            "spiffe://elsewhere.org/x".into(),
            "no keys found for trust domain \"elsewhere.org\"",
        ),
        ("aud", json!(["a", "b"]), "expected audience in [\"db\"] (audience=[\"a\" \"b\"])"),
        ("aud", json!([]), "expected audience in [\"db\"] (audience=[])"),
        (
            "aud",
            json!([1]),
            "go-jose/go-jose/jwt: expected string or array value to unmarshal to Audience",
        ),
    ] {
        let mut claims = claims();
        claims[claim] = value;
        assert_eq!(refusal(&key, &token(&key, &claims).await), text);
    }
}

#[tokio::test]
async fn one_audience_may_stand_alone_and_dates_may_have_fractions() {
    let key = key();
    let mut claims = claims();
    claims["aud"] = "db".into();
    claims["exp"] = json!(1_800_000_300.75);
    assert_eq!(verify(&key, &token(&key, &claims).await).unwrap().expires_at, at(NOW + 300));
    for beyond in [1e300, -1e300] {
        claims["exp"] = json!(beyond);
        assert_eq!(refusal(&key, &token(&key, &claims).await), "token has expired");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let key = key();
    let good = claims().to_string();
    let refuse = |header: &str| refusal(&key, &forge(&key, header, &good));
    assert!(verify(&key, &forge(&key, r#"{"alg":"ES256","kid":"kid"}"#, &good)).is_ok());
    assert!(
        verify(&key, &forge(&key, r#"{"alg":"ES256","kid":"kid","typ":"JOSE"}"#, &good)).is_ok()
    );
    for header in [r#"{"alg":"none","kid":"kid"}"#, r#"{"alg":"HS256","kid":"kid"}"#, "{}"] {
        assert!(refuse(header).contains("unexpected signature algorithm"), "{header}");
    }
    assert_eq!(refuse(r#"{"alg":"ES256"}"#), "token header missing key id");
    assert_eq!(
        refuse(r#"{"alg":"ES256","kid":"other"}"#),
        "public key \"other\" not found in trust domain \"example.org\""
    );
    assert_eq!(
        refuse(r#"{"alg":"ES256","kid":"kid","typ":"wit+jwt"}"#),
        "token header type not equal to either JWT or JOSE"
    );
    assert_eq!(
        refuse(r#"{"alg":"ES256","kid":"kid","crit":["b64"]}"#),
        "go-jose/go-jose: unsupported critical header"
    );
    // The algorithm must go with the key, or a signature could be read in two ways.
    for alg in ["ES384", "RS256", "PS256"] {
        assert_eq!(
            refuse(&format!(r#"{{"alg":"{alg}","kid":"kid"}}"#)),
            "go-jose/go-jose: error in cryptographic primitive"
        );
    }
    assert!(refuse(r#"{"alg":"ES256","kid":"kid","kid":"kid"}"#).contains("duplicate key 'kid'"));
    assert_eq!(
        refuse(r#"{"alg":"ES256","kid":7}"#),
        "unable to parse JWT token: failed to unmarshal key ID: json: cannot unmarshal number \
         into Go value of type string: \"7\""
    );
}

#[tokio::test]
async fn a_changed_token_is_refused() {
    let (key, other) = (key(), key());
    let token = token(&key, &claims()).await;
    assert!(matches!(verify(&other, &token), Err(JwtError::Signature)));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let short = &signature[..84];
    assert!(matches!(verify(&key, &format!("{signed}.{short}")), Err(JwtError::Signature)));
    assert!(matches!(verify(&key, &format!("{signed}.")), Err(JwtError::Signature)));
    let header = signed.split('.').next().unwrap();
    let mut admin = claims();
    admin["sub"] = "spiffe://example.org/admin".into();
    let forged = URL_SAFE_NO_PAD.encode(admin.to_string());
    let forged = format!("{header}.{forged}.{signature}");
    assert!(matches!(verify(&key, &forged), Err(JwtError::Signature)));
}

#[test]
fn what_is_no_token_is_refused() {
    let key = key();
    for text in ["", "a", "a.b", "a.b.c.d"] {
        assert!(matches!(verify(&key, text), Err(JwtError::Parts)), "{text}");
    }
    assert!(matches!(verify(&key, "a=.b.c"), Err(JwtError::Base64(1))));
    assert!(matches!(verify(&key, &".".repeat(MAX_TOKEN_LEN + 1)), Err(JwtError::TooLarge(_))));
    let deep = URL_SAFE_NO_PAD.encode("[".repeat(10_000));
    assert!(matches!(verify(&key, &format!("{deep}.e30.")), Err(JwtError::Header(_))));
}

#[test]
fn errors_do_not_repeat_their_input_at_length() {
    let key = key();
    let long = "x".repeat(30_000);
    let mut claims = claims();
    claims["aud"] = json!(vec![long.clone(); 2]);
    for token in [
        forge(&key, &format!(r#"{{"alg":"{long}","kid":"kid"}}"#), "{}"),
        forge(&key, &format!(r#"{{"alg":"ES256","kid":"{long}"}}"#), &claims.to_string()[..1]),
        forge(&key, r#"{"alg":"ES256","kid":"kid"}"#, &claims.to_string()),
    ] {
        assert!(refusal(&key, &token).len() < 1200);
    }
}

#[tokio::test]
async fn an_agent_can_read_its_own_tokens() {
    let token = token(&key(), &claims()).await;
    let token = parse_unverified(&token).unwrap();
    assert_eq!(token.lifetime().unwrap(), (at(NOW), at(NOW + 300)));
    assert_eq!(token.subject().unwrap(), SUB);
    assert_eq!(token.key_id(), Some("kid"));
}

#[test]
fn ecdsa_forms_convert_both_ways() {
    let mut raw = [0_u8; 64];
    raw[31] = 1;
    raw[32] = 0x80;
    let der = ecdsa::der_from_raw(&raw, 32).unwrap();
    assert_eq!(ecdsa::raw_from_der(&der, 32).unwrap(), raw);
    assert_eq!(ecdsa::der_from_raw(&raw[1..], 32), None);
    // A number that does not fit is an error, not a panic.
    assert_eq!(ecdsa::raw_from_der(&der, 16), None);
}
