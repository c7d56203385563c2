//! The documents, as relying parties and proxies ask for them.

use std::time::SystemTime;

use http_body_util::BodyExt as _;
use steeple_pki::{KeyType, PrivateKey};
use tokio::time::Instant;

use super::*;
use crate::config;
use crate::keys::Key;

const WELL_KNOWN: &str = "/.well-known/openid-configuration";

fn provider(settings: &str) -> Provider {
    let text = format!(
        "domains = [\"a.test\", \"b.test\"]\ninsecure_addr = \":0\"\nfile {{}}\n{settings}"
    );
    let (config, _) = config::parse(&text).unwrap();
    Provider::new(&config, Arc::new(Source::default())).unwrap()
}

fn ask(provider: &Provider, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::builder().uri(target).header("host", "a.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    provider.answer(&request.body(()).unwrap(), false)
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Issuer and JWKS URI.
async fn urls(provider: &Provider, target: &str, headers: &[(&str, &str)]) -> (String, String) {
    let response = ask(provider, target, headers);
    assert_eq!(response.status(), StatusCode::OK);
    let document: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    let member = |name: &str| document[name].as_str().unwrap().to_owned();
    (member("issuer"), member("jwks_uri"))
}

#[tokio::test]
async fn the_discovery_document_is_spires_byte_for_byte() {
    let response = ask(&provider(""), WELL_KNOWN, &[]);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(
        text(response).await,
        r#"{
  "issuer": "https://a.test",
  "jwks_uri": "https://a.test/keys",
  "authorization_endpoint": "",
  "response_types_supported": [
    "id_token"
  ],
  "subject_types_supported": [
    "public"
  ],
  "id_token_signing_alg_values_supported": [
    "RS256",
    "ES256",
    "ES384"
  ]
}"#
    );
}

#[tokio::test]
async fn the_host_that_a_proxy_names_is_the_one_that_counts() {
    let provider = provider("");
    let forwarded = [("x-forwarded-host", "b.test:8443")];
    let (issuer, jwks_uri) = urls(&provider, WELL_KNOWN, &forwarded).await;
    assert_eq!(issuer, "https://b.test:8443");
    assert_eq!(jwks_uri, "https://b.test:8443/keys");
    let refused = ask(&provider, WELL_KNOWN, &[("x-forwarded-host", "c.test")]);
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(text(refused).await, "domain \"c.test\" is not allowed\n");
}

/// With a `jwt_issuer`, SPIRE's provider once answered whatever host was asked for (1.11.2).
#[tokio::test]
async fn a_host_is_refused_whatever_else_is_configured() {
    for settings in ["jwt_issuer = \"https://c.test\"", "jwks_uri = \"https://c.test/keys\""] {
        let provider = provider(settings);
        let refused = ask(&provider, WELL_KNOWN, &[("x-forwarded-host", "evil.test")]);
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{settings}");
        let request = Request::builder().uri(WELL_KNOWN).header("host", "evil.test");
        let refused = provider.answer(&request.body(()).unwrap(), true);
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{settings}");
    }
}

#[tokio::test]
async fn nothing_that_a_client_made_up_gets_into_the_document() {
    let provider = provider("");
    for host in ["a.test:<b>", "a.test:80/x", "a.test, c.test", "a.test:999999", "a.test@c.test"] {
        let refused = ask(&provider, WELL_KNOWN, &[("x-forwarded-host", host)]);
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{host}");
    }
}

#[tokio::test]
async fn http_is_said_only_where_it_is_allowed_and_true() {
    let strict = provider("");
    assert_eq!(urls(&strict, WELL_KNOWN, &[]).await.0, "https://a.test");
    let lax = provider("allow_insecure_scheme = true");
    assert_eq!(urls(&lax, WELL_KNOWN, &[]).await.0, "http://a.test");
    for header in [
        ("x-forwarded-proto", "HTTPS"),
        ("x-forwarded-scheme", "https"),
        ("forwarded", "for=192.0.2.1;Proto=https"),
    ] {
        assert_eq!(urls(&lax, WELL_KNOWN, &[header]).await.0, "https://a.test");
    }
    let request = Request::builder().uri(WELL_KNOWN).header("host", "a.test").body(()).unwrap();
    assert!(text(lax.answer(&request, true)).await.contains("https://a.test/keys"));
}

#[tokio::test]
async fn issuer_jwks_uri_and_prefix_can_be_configured() {
    let at = |path: &str| format!("{path}{WELL_KNOWN}");
    let prefixed = provider("server_path_prefix = \"/foo\"");
    let found = urls(&prefixed, &at("/foo"), &[]).await;
    assert_eq!(found, ("https://a.test/foo".to_owned(), "https://a.test/foo/keys".to_owned()));
    assert_eq!(ask(&prefixed, WELL_KNOWN, &[]).status(), StatusCode::NOT_FOUND);

    let issued = provider("jwt_issuer = \"https://c.test/x/\"");
    let found = urls(&issued, WELL_KNOWN, &[]).await;
    assert_eq!(found, ("https://c.test/x/".to_owned(), "https://c.test/x/keys".to_owned()));

    let both = "jwt_issuer = \"https://c.test\"\njwks_uri = \"https://d.test/jwks?v=1\"";
    let found = urls(&provider(both), WELL_KNOWN, &[]).await;
    assert_eq!(found, ("https://c.test".to_owned(), "https://d.test/jwks?v=1".to_owned()));
}

#[tokio::test]
async fn keys_are_served_when_there_are_any() {
    let provider = provider("");
    let before = ask(&provider, "/keys", &[]);
    assert_eq!(before.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(before).await, "document not available\n");

    let (now, at) = (SystemTime::UNIX_EPOCH, Instant::now());
    provider.source.update(Vec::new(), false, now, at);
    let none = ask(&provider, "/keys", &[]);
    assert_eq!(none.status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(text(none).await, "jwt not supported/enabled in this service\n");

    let public_key = PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone();
    let key = Key { id: "a".to_owned(), public_key };
    provider.source.update(vec![key.clone()], false, now, at);
    for target in ["/keys", "/%6beys", "/keys?x=1"] {
        let served = ask(&provider, target, &[("host", "ignored.test")]);
        assert_eq!(served.status(), StatusCode::OK, "{target}");
        let cache = &served.headers()[CACHE_CONTROL];
        assert_eq!(cache, "no-cache, no-store, must-revalidate");
        assert_eq!(served.headers()[PRAGMA], "no-cache");
        assert_eq!(served.headers()[EXPIRES], "0");
        assert_eq!(served.headers()["last-modified"], "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(text(served).await.contains("\"kid\": \"a\""));
    }
    // The same keys are no change.
    let later = now + std::time::Duration::from_secs(60);
    provider.source.update(vec![key], false, later, at);
    assert_eq!(provider.source.document().unwrap().modified, now);
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let provider = provider("");
    for target in [WELL_KNOWN, "/keys"] {
        for method in ["POST", "HEAD", "OPTIONS", "DELETE"] {
            let request = Request::builder().method(method).uri(target).body(()).unwrap();
            let refused = provider.answer(&request, false);
            assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {target}");
            assert_eq!(text(refused).await, "method not allowed\n");
        }
    }
    for target in ["/", "/keys/", "/keys/x", "/Keys", "/keys%00", "/%2e%2e/keys"] {
        let refused = ask(&provider, target, &[]);
        assert_eq!(refused.status(), StatusCode::NOT_FOUND, "{target}");
    }
    assert_eq!(ask(&provider, "/%zz", &[]).status(), StatusCode::BAD_REQUEST);
}

proptest::proptest! {
    #[test]
    fn whatever_a_proxy_says_only_configured_names_are_repeated(
        host in "([ab]\\.test|[a-z.]{0,9}|[!-~]{0,12})(:[0-9]{0,6}|[!-~]{0,9})?",
        scheme in "[!-~]{0,9}",
        forwarded in "(proto=)?[!-~]{0,12}",
    ) {
        let provider = provider("allow_insecure_scheme = true");
        let headers = [
            ("x-forwarded-host", host.as_str()),
            ("x-forwarded-proto", scheme.as_str()),
            ("forwarded", forwarded.as_str()),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let response = ask(&provider, WELL_KNOWN, &headers);
        let found = response.status();
        let body = runtime.block_on(text(response));
        if found == StatusCode::OK {
            let document: serde_json::Value = serde_json::from_str(&body).unwrap();
            let (scheme, rest) = document["issuer"].as_str().unwrap().split_once("://").unwrap();
            proptest::prop_assert!(["http", "https"].contains(&scheme));
            let (name, port) = rest.split_once(':').unwrap_or((rest, "0"));
            proptest::prop_assert!(["a.test", "b.test"].contains(&name));
            proptest::prop_assert!(port.bytes().all(|it| it.is_ascii_digit()));
        } else {
            proptest::prop_assert_eq!(found, StatusCode::BAD_REQUEST);
            proptest::prop_assert!(body.len() < 300);
        }
    }

    #[test]
    fn any_range_is_served_or_refused(range in "(bytes=)?[-0-9, x]{0,20}") {
        let provider = provider("");
        let public_key = PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone();
        let keys = vec![Key { id: "a".to_owned(), public_key }];
        provider.source.update(keys, false, SystemTime::UNIX_EPOCH, Instant::now());
        let status = ask(&provider, "/keys", &[("range", &range)]).status().as_u16();
        proptest::prop_assert!([200, 206, 416].contains(&status), "{range:?}: {status}");
    }
}
