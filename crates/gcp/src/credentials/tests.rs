use serde_json::Value;
use steeple_pki::KeyType;
use steeple_runtime::ManualClock;

use super::*;
use crate::compute::SCOPE;
use crate::stand::{Answer, Stand, ok, status, web};

const NOW: u64 = 1_800_000_000;

fn tokens(source: Source) -> (Tokens, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)));
    (Tokens::new(source, SCOPE, web(Duration::from_secs(1)), clock.clone()), clock)
}

fn field(body: &str, name: &str) -> String {
    let mut pairs = url::form_urlencoded::parse(body.as_bytes());
    pairs.find(|(key, _)| key == name).unwrap().1.into_owned()
}

#[test]
fn credentials_are_looked_for_where_googles_libraries_look() {
    let folder = tempfile::tempdir().unwrap();
    let given = Path::new("/given.json");
    let home = folder.path().display().to_string();
    let variable = |set: &'static [(&'static str, &'static str)], home: Option<String>| {
        move |name: &str| {
            let found =
                set.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned());
            found.or_else(|| home.clone().filter(|_| name == "HOME"))
        }
    };
    let adc = &[("GOOGLE_APPLICATION_CREDENTIALS", "/adc.json")];
    let machine = |host: &str| Source::Metadata(host.to_owned());
    assert_eq!(Source::find(given, variable(adc, None)), Source::ServiceAccount(given.into()));
    let none = Path::new("");
    assert_eq!(Source::find(none, variable(adc, None)), Source::File("/adc.json".into()));
    let home = || Some(home.clone());
    assert_eq!(Source::find(none, variable(&[], home())), machine("169.254.169.254"));
    let other = &[("GCE_METADATA_HOST", "m.test:80"), ("GOOGLE_APPLICATION_CREDENTIALS", "")];
    assert_eq!(Source::find(none, variable(other, None)), machine("m.test:80"));
    let gcloud = folder.path().join(".config/gcloud");
    std::fs::create_dir_all(&gcloud).unwrap();
    let known = gcloud.join("application_default_credentials.json");
    std::fs::write(&known, "{}").unwrap();
    assert_eq!(Source::find(none, variable(&[], home())), Source::File(known));
}

#[tokio::test]
async fn a_service_account_shows_its_key_by_an_assertion_and_keeps_the_token() {
    let stand = Stand::start(|_| ok(r#"{"access_token":"one","expires_in":3599}"#)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sa.json");
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let file = json!({
        "type": "service_account", "client_email": "me@p.iam.gserviceaccount.com",
        "private_key_id": "k1", "private_key": key.to_pkcs8_pem().as_str(),
        "token_uri": stand.url("/token"), "project_id": "p",
    });
    std::fs::write(&path, file.to_string()).unwrap();
    let (tokens, clock) = tokens(Source::ServiceAccount(path.clone()));
    let token = tokens.get().await.unwrap();
    assert_eq!(token.expose(), "one");
    let asked = stand.asked().remove(0);
    assert_eq!(asked.line, "POST /token");
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    assert_eq!(field(&asked.body, "grant_type"), grant);
    let assertion = field(&asked.body, "assertion");
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let algorithm = SignatureAlgorithm::RsaPkcs1Sha256;
    key.public_key().verify(algorithm, signed.as_bytes(), &signature).unwrap();
    let part = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    let (header, claims) = signed.split_once('.').unwrap();
    assert_eq!(part(header), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
    assert_eq!(
        part(claims),
        json!({
            "iss": "me@p.iam.gserviceaccount.com", "aud": stand.url("/token"), "iat": NOW,
            "exp": NOW + 3600, "scope": "https://www.googleapis.com/auth/compute.readonly",
        })
    );

    clock.advance(Duration::from_secs(3500));
    assert_eq!(tokens.get().await.unwrap().expose(), "one");
    assert_eq!(stand.asked().len(), 1, "the token is good yet");
    stand.answer(|_| ok(r#"{"access_token":"two","expires_in":99999999999}"#));
    clock.advance(Duration::from_secs(100));
    let second = tokens.get().await.unwrap();
    assert_eq!(second.expose(), "two");
    clock.advance(Duration::from_secs(3600));
    tokens.get().await.unwrap();
    assert_eq!(stand.asked().len(), 3, "no token is kept for longer than an hour");
}

#[tokio::test]
async fn a_user_and_a_machine_have_tokens_as_well() {
    let stand = Stand::start(|_| ok(r#"{"access_token":"t","expires_in":100}"#)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adc.json");
    let file = json!({
        "type": "authorized_user", "client_id": "i", "client_secret": "s&", "refresh_token": "r",
        "token_uri": stand.url("/token"),
    });
    std::fs::write(&path, file.to_string()).unwrap();
    assert_eq!(tokens(Source::File(path.clone())).0.get().await.unwrap().expose(), "t");
    let body = "grant_type=refresh_token&client_id=i&client_secret=s%26&refresh_token=r";
    assert_eq!(stand.asked()[0].body, body);
    let error = tokens(Source::ServiceAccount(path)).0.get().await.unwrap_err();
    let text = "credentials: expected type \"service_account\", found \"authorized_user\"";
    assert_eq!(error, text);

    let (machine, _) = tokens(Source::Metadata(stand.host.clone()));
    assert_eq!(machine.get().await.unwrap().expose(), "t");
    let asked = stand.asked().remove(1);
    let line = "GET /computeMetadata/v1/instance/service-accounts/default/token?scopes=https%3A\
                %2F%2Fwww.googleapis.com%2Fauth%2Fcompute.readonly";
    assert_eq!(asked.line, line);
    assert_eq!(asked.header("metadata-flavor"), Some("Google"));
}

#[tokio::test]
async fn what_is_no_token_is_told_without_secrets() {
    let stand = Stand::start(|_| Answer::Hang).await;
    let whole = |code, body: &str| {
        let body = body.to_owned();
        move |_: &crate::stand::Asked| Answer::Whole(code, String::new(), body.clone())
    };
    let refused = async || tokens(Source::Metadata(stand.host.clone())).0.get().await.unwrap_err();
    let began = std::time::Instant::now();
    assert!(refused().await.starts_with("cannot fetch token: no complete answer within"));
    stand.answer(|_| Answer::Slow);
    assert!(refused().await.starts_with("cannot fetch token: no complete answer within"));
    assert!(began.elapsed() < Duration::from_secs(30));
    stand.answer(|_| Answer::Endless);
    assert!(refused().await.ends_with("the answer is larger than 65536 bytes"));
    stand.answer(whole(200, r#"{"access_token":"x"}"#));
    let text = "cannot fetch token: the answer is not a metadata server's";
    assert_eq!(refused().await, text);
    stand.answer(|_| ok("{}"));
    assert_eq!(refused().await, "cannot fetch token: the answer has none");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adc.json");
    let refused = async |file: Value| {
        std::fs::write(&path, file.to_string()).unwrap();
        tokens(Source::File(path.clone())).0.get().await.unwrap_err()
    };
    let user = json!({"type": "authorized_user", "token_uri": stand.url("/token")});
    let grant = r#"{"error":"invalid_grant","error_description":"Token has been revoked."}"#;
    stand.answer(whole(400, grant));
    let text = "cannot fetch token: 400: invalid_grant: Token has been revoked.";
    assert_eq!(refused(user.clone()).await, text);
    stand.answer(|_| Answer::Whole(302, "Location: http://else/\r\n".into(), String::new()));
    assert_eq!(refused(user).await, "cannot fetch token: 302");
    stand.answer(|_| status(503));
    let account = json!({"type": "service_account", "private_key": "secret"});
    assert_eq!(refused(account).await, "credentials: private_key cannot be read");
    let key = PrivateKey::generate(KeyType::EcP256).unwrap().to_pkcs8_pem().to_string();
    let account = json!({"type": "service_account", "private_key": key});
    assert_eq!(refused(account).await, "credentials: private_key is not an RSA key");
    let text = "credentials of type \"external_account\" are not supported";
    assert_eq!(refused(json!({"type": "external_account"})).await, text);
    let text = refused(json!({"type": 7, "private_key": "secret"})).await;
    assert_eq!(text, format!("{} is no file of credentials", path.display()));
    std::fs::remove_file(&path).unwrap();
    let text = tokens(Source::File(path.clone())).0.get().await.unwrap_err();
    assert_eq!(text, format!("open {}: no such file or directory", path.display()));
}

#[test]
fn secrets_go_to_https_alone() {
    let web = Web::default();
    assert!(web.may_have_secrets("https://oauth2.googleapis.com/token"));
    assert!(!web.may_have_secrets("http://oauth2.googleapis.com/token"));
}
