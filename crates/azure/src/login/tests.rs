use serde_json::json;
use steeple_pki::bundle::public_jwk;
use steeple_pki::jwt;
use steeple_pki::{KeyType, PrivateKey};

use super::*;
use crate::web::recorded::Recorded;

const DISCOVERY: &str =
    "GET https://login.microsoftonline.com/common/.well-known/openid-configuration";
const KEYS: &str = "GET https://login.microsoftonline.com/common/discovery/keys";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// Publishes `key` under `id`.
fn publish(recorded: &Recorded, id: &str, key: &PrivateKey) {
    let uri = "https://login.microsoftonline.com/common/discovery/keys";
    recorded.on(DISCOVERY, 200, json!({ "jwks_uri": uri }).to_string());
    let mut jwk = public_jwk(key.public_key(), "ES256");
    jwk["kid"] = id.into();
    recorded.on(KEYS, 200, json!({ "keys": [jwk] }).to_string());
}

async fn token(id: &str, key: &PrivateKey) -> String {
    jwt::sign(json!({ "tid": "T" }).as_object().unwrap(), id, key).await.unwrap()
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

fn text(refused: Refused) -> String {
    match refused {
        Refused::Keys(error) => format!("keys: {error}"),
        Refused::Token(error) => format!("token: {error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys_fetches_once() {
    let (recorded, key, keys) = (Recorded::default(), key(), SigningKeys::default());
    publish(&recorded, "one", &key);
    let good = token("one", &key).await;
    keys.open(&recorded, at(0), &good).await.map_err(text).unwrap();
    for number in 0..200 {
        let flood = token(&format!("unknown-{number}"), &key).await;
        let refused = keys.open(&recorded, at(number), &flood).await.map_err(text).unwrap_err();
        assert_eq!(refused, format!("token: key id \"unknown-{number}\" not found"));
    }
    assert_eq!(recorded.count("discovery/keys"), 1);
    let flood = token("unknown", &key).await;
    for _ in 0..10 {
        assert!(keys.open(&recorded, at(301), &flood).await.is_err());
    }
    assert_eq!(recorded.count("discovery/keys"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_known_when_its_first_token_comes() {
    let (recorded, key, keys) = (Recorded::default(), key(), SigningKeys::default());
    publish(&recorded, "one", &key);
    keys.open(&recorded, at(0), &token("one", &key).await).await.map_err(text).unwrap();
    publish(&recorded, "two", &key);
    let new = token("two", &key).await;
    assert!(keys.open(&recorded, at(299), &new).await.is_err());
    keys.open(&recorded, at(300), &new).await.map_err(text).unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_fetched_anew_are_used_for_a_day() {
    let (recorded, key, keys) = (Recorded::default(), key(), SigningKeys::default());
    let good = token("one", &key).await;
    let refused = keys.open(&recorded, at(0), &good).await.map_err(text).unwrap_err();
    assert_eq!(refused, "keys: no complete answer within 10s");
    publish(&recorded, "one", &key);
    keys.open(&recorded, at(10), &good).await.map_err(text).unwrap();
    recorded.forget(KEYS);
    keys.open(&recorded, at(86_000), &good).await.map_err(text).unwrap();
    assert!(keys.open(&recorded, at(86_500), &good).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn keys_come_from_the_identity_provider_only() {
    let (recorded, key, keys) = (Recorded::default(), key(), SigningKeys::default());
    let good = token("one", &key).await;
    for (number, (body, why)) in [
        (json!({}), "configuration missing JWKS URI"),
        (json!({ "jwks_uri": "http://169.254.169.254/" }), "is not of https://login"),
        (json!({ "jwks_uri": "https://login.microsoftonline.com.evil.test/" }), "is not of"),
        (json!({ "jwks_uri": "https://login.microsoftonline.com@evil.test/" }), "is not of"),
        (json!([]), "unable to decode response"),
    ]
    .into_iter()
    .enumerate()
    {
        recorded.on(DISCOVERY, 200, body.to_string());
        let time = at(10 * number as u64);
        let refused = keys.open(&recorded, time, &good).await.map_err(text).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(recorded.asked().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_tenant_is_in_its_issuer() {
    let recorded = Recorded::default();
    let url = "GET https://login.microsoftonline.com/example.com/.well-known/openid-configuration";
    let ask = async |status, body: &'static str| {
        recorded.on(url, status, body);
        tenant_id(&recorded, "example.com").await.map_err(|error| error.to_string())
    };
    let good = r#"{"issuer":"https://sts.windows.net/TENANT/"}"#;
    assert_eq!(ask(200, good).await.unwrap(), "TENANT");
    assert_eq!(ask(404, "").await.unwrap_err(), "failed to fetch tenant ID, status: 404");
    let refused = ask(200, "{").await.unwrap_err();
    assert!(refused.starts_with("failed to unmarshal tenant ID: "), "{refused}");
    for issuer in ["", "https://sts.windows.net/", "https://sts.windows.net//", "https://x/T/"] {
        recorded.on(url, 200, json!({ "issuer": issuer }).to_string());
        let refused = tenant_id(&recorded, "example.com").await.unwrap_err().to_string();
        assert_eq!(refused, format!("malformed tenant ID: {issuer:?}"));
    }
    for domain in ["", "..", "."] {
        assert!(tenant_id(&recorded, domain).await.is_err());
    }
}
