use std::sync::{LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use steeple_pki::{KeyType, PrivateKey, SignatureAlgorithm};
use steeple_plugin::{AgentAttributes, AgentLookup, Challenger, HostServices, contract};
use steeple_runtime::ManualClock;
use steeple_spiffe::TrustDomain;

use super::*;
use crate::compute::{Compute, ComputeError, Instance};
use crate::stand::{Answer, Stand, ok, status, web};

const NOW: u64 = 1_800_000_000;

static KEY: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::generate(KeyType::Rsa2048).unwrap());
static OTHER: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::generate(KeyType::Rsa2048).unwrap());

struct Nobody;

#[async_trait]
impl Challenger for Nobody {
    async fn challenge(&mut self, _: &[u8]) -> Result<Vec<u8>, PluginError> {
        panic!("nobody is asked back")
    }
}

/// The agents that have attested.
#[derive(Default)]
struct Attested(Mutex<Vec<String>>);

#[async_trait]
impl AgentLookup for Attested {
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
        Ok(self.0.lock().unwrap().iter().any(|it| it == id))
    }
}

/// What the API has recorded of instances.
#[derive(Default)]
struct Recorded(Option<Value>);

#[async_trait]
impl Compute for Recorded {
    async fn instance(&self, p: &str, zone: &str, name: &str) -> Result<Instance, ComputeError> {
        assert_eq!((p, zone, name), ("test-project", "test-zone", "test-instance-name"));
        let none = || ComputeError::Fetch("googleapi: Error 404: not found, notFound".to_owned());
        self.0.clone().map(|value| serde_json::from_value(value).unwrap()).ok_or_else(none)
    }
}

/// A document of keys, as Google publishes it.
fn certificates(keys: &[(&str, &PrivateKey)]) -> String {
    let mut document = serde_json::Map::new();
    for (id, key) in keys {
        let pair = rcgen::KeyPair::from_pem(&key.to_pkcs8_pem()).unwrap();
        let made = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&pair).unwrap();
        document.insert((*id).to_owned(), made.pem().into());
    }
    Value::Object(document).to_string()
}

fn published(seconds: u64, document: String) -> Answer {
    Answer::Whole(200, format!("Cache-Control: public, max-age={seconds}\r\n"), document)
}

fn claims() -> Value {
    json!({
        "iss": "https://accounts.google.com", "aud": "spire-gcp-node-attestor", "sub": "1",
        "azp": "1", "email": "123456789-compute@developer.gserviceaccount.com",
        "email_verified": true, "iat": NOW - 5, "exp": NOW + 3600,
        "google": {"compute_engine": {
            "project_id": "test-project", "project_number": 739_419_398_126_i64,
            "zone": "test-zone", "instance_id": "test-instance-id",
            "instance_name": "test-instance-name", "instance_creation_timestamp": 1_529_546_013,
            "instance_confidentiality": 0,
            "license_id": ["1"],
        }},
    })
}

fn sign(key: &PrivateKey, header: &Value, claims: &Value) -> Vec<u8> {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = key.sign(SignatureAlgorithm::RsaPkcs1Sha256, signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
}

fn header(kid: &str) -> Value {
    json!({"alg": "RS256", "typ": "JWT", "kid": kid})
}

fn token(claims: &Value) -> Vec<u8> {
    sign(&KEY, &header("kid"), claims)
}

/// The server's half, with what stands in for Google.
struct Bench {
    stand: Stand,
    clock: Arc<ManualClock>,
    attested: Arc<Attested>,
    attestor: server::Server,
}

impl Bench {
    async fn new(settings: &str, instance: Option<Value>) -> Self {
        let document = certificates(&[("kid", &KEY)]);
        let stand = Stand::start(move |_| published(600, document.clone())).await;
        let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)));
        let attested = Arc::new(Attested::default());
        let services = HostServices::new();
        services.provide_agents(attested.clone());
        let host = HostContext::new(TrustDomain::parse("example.org").unwrap())
            .with_clock(clock.clone())
            .with_services(services);
        let settings = format!("projectid_allow_list = [\"test-project\"]\n{settings}");
        let (config, template) = config::server(Some(&Block::parse(&settings).unwrap())).unwrap();
        let keys = keys::Keys::new(stand.url("/oauth2/v1/certs"), web(Duration::from_secs(1)));
        let compute = Box::new(Recorded(instance));
        let attestor = server::Server::new(config, template, &host, keys, compute);
        Self { stand, clock, attested, attestor }
    }

    async fn attest(&self, payload: &[u8]) -> Result<AgentAttributes, PluginError> {
        self.attestor.attest(payload, &mut Nobody).await
    }

    async fn refused(&self, payload: &[u8]) -> (Code, String) {
        let error = self.attest(payload).await.unwrap_err();
        let text = error.message.strip_prefix("nodeattestor(gcp_iit): ").unwrap();
        (error.code, text.to_owned())
    }
}

#[tokio::test]
async fn an_instance_is_told_by_its_token() {
    let bench = Bench::new("", None).await;
    let agent = bench.attest(&token(&claims())).await.unwrap();
    let id = "spiffe://example.org/spire/agent/gcp_iit/test-project/test-instance-id";
    assert_eq!(agent.agent_id.as_str(), id);
    assert!(!agent.can_reattest);
    assert_eq!(
        agent.selector_values,
        [
            "project-id:test-project",
            "zone:test-zone",
            "instance-name:test-instance-name",
            "sa:123456789-compute@developer.gserviceaccount.com",
        ]
    );
    bench.attested.0.lock().unwrap().push(id.to_owned());
    let text = "attestation data has already been used to attest an agent";
    let expected = (Code::PermissionDenied, text.to_owned());
    assert_eq!(bench.refused(&token(&claims())).await, expected);
    assert_eq!(bench.stand.asked().len(), 1, "keys are kept");
    assert_eq!(bench.stand.asked()[0].line, "GET /oauth2/v1/certs");
}

#[tokio::test]
async fn the_instances_metadata_become_selectors_as_far_as_they_are_allowed() {
    let settings = r#"use_instance_metadata = true
        allowed_label_keys = ["allowed", "allowed-no-value"]
        allowed_metadata_keys = ["allowed", "allowed-no-value"]
        max_metadata_value_size = 10"#;
    let instance = json!({
        "id": "test-instance-id",
        "tags": {"items": ["tag-1", "tag-2"]},
        "labels": {"allowed": "ALLOWED", "allowed-no-value": "", "disallowed": "disallowed"},
        "metadata": {"items": [
            {"key": "allowed", "value": "ALLOWED"}, {"key": "allowed-no-value"},
            {"key": "disallowed", "value": "DISALLOWED DISALLOWED"},
        ]},
    });
    let bench = Bench::new(settings, Some(instance)).await;
    let agent = bench.attest(&token(&claims())).await.unwrap();
    assert_eq!(
        agent.selector_values[4..],
        [
            "tag:tag-1",
            "tag:tag-2",
            "label:allowed:ALLOWED",
            "label:allowed-no-value:",
            "metadata:allowed:ALLOWED",
            "metadata:allowed-no-value:",
        ]
    );

    let bench = Bench::new(settings, Some(json!({}))).await;
    let agent = bench.attest(&token(&claims())).await.unwrap();
    assert_eq!(agent.selector_values.len(), 4);
    let long =
        json!({"metadata": {"items": [{"key": "allowed", "value": "ALLOWED BUT TOO LONG"}]}});
    let bench = Bench::new(settings, Some(long)).await;
    let text = "metadata \"allowed\" exceeded value limit (20 > 10)".to_owned();
    assert_eq!(bench.refused(&token(&claims())).await, (Code::Internal, text));
    let bench = Bench::new(settings, None).await;
    let text = "failed to fetch instance metadata: failed to fetch instance metadata: googleapi: \
                Error 404: not found, notFound";
    assert_eq!(bench.refused(&token(&claims())).await, (Code::Internal, text.to_owned()));
    // The instance was deleted, and another one got its name, while the token was good yet.
    let bench =
        Bench::new(settings, Some(json!({"id": "another", "tags": {"items": ["x"]}}))).await;
    let text = "failed to fetch instance metadata: the instance of this name is another one";
    assert_eq!(bench.refused(&token(&claims())).await, (Code::Internal, text.to_owned()));
    let many: Vec<String> = (0..5000).map(|n| format!("tag-number-{n}")).collect();
    let bench = Bench::new(settings, Some(json!({"tags": {"items": many}}))).await;
    let text = "the instance's selectors have more than 65536 bytes".to_owned();
    assert_eq!(bench.refused(&token(&claims())).await, (Code::Internal, text));
}

#[tokio::test]
async fn evidence_that_is_none_is_refused_before_anybody_is_asked() {
    let bench = Bench::new("", None).await;
    let large = vec![b'a'; 20_000];
    let unsigned = sign(&KEY, &json!({"alg": "none", "kid": "kid"}), &claims());
    let symmetric = sign(&KEY, &json!({"alg": "HS256", "kid": "kid"}), &claims());
    let elliptic = sign(&KEY, &json!({"alg": "ES256", "kid": "kid"}), &claims());
    let algorithm =
        |name: &str| format!("unexpected signature algorithm \"{name}\"; expected [\"RS256\"]");
    let three = "go-jose/go-jose: compact JWS format must have three parts".to_owned();
    for (payload, reason) in [
        (&b"secret"[..], three),
        (b"\xff\xfe", "it is not UTF-8".to_owned()),
        (&large, "token is too large: 20000 bytes".to_owned()),
        (&unsigned, algorithm("none")),
        (&symmetric, algorithm("HS256")),
        (&elliptic, algorithm("ES256")),
    ] {
        let text = format!("unable to parse the identity token: {reason}");
        assert_eq!(bench.refused(payload).await, (Code::InvalidArgument, text));
    }
    let no_kid = sign(&KEY, &json!({"alg": "RS256"}), &claims());
    let text = "failed to validate the identity token signature: go-jose/go-jose: JWK with \
                matching kid not found in JWK Set";
    assert_eq!(bench.refused(&no_kid).await, (Code::InvalidArgument, text.to_owned()));
    assert!(bench.stand.asked().is_empty());
}

#[tokio::test]
async fn forged_expired_and_foreign_tokens_are_refused() {
    let bench = Bench::new("", None).await;
    let signature = |reason: &str| {
        let text = format!("failed to validate the identity token signature: {reason}");
        (Code::InvalidArgument, text)
    };
    let broken = signature("go-jose/go-jose: error in cryptographic primitive");
    assert_eq!(bench.refused(&sign(&OTHER, &header("kid"), &claims())).await, broken);
    let good = String::from_utf8(token(&claims())).unwrap();
    let mut other = claims();
    other["google"]["compute_engine"]["instance_id"] = json!("another");
    let parts: Vec<&str> = good.split('.').collect();
    let swapped =
        format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(other.to_string()), parts[2]);
    assert_eq!(bench.refused(swapped.as_bytes()).await, broken);

    let refused = async |change: &dyn Fn(&mut Value)| {
        let mut claims = claims();
        change(&mut claims);
        bench.refused(&token(&claims)).await
    };
    let invalid = |reason: &str| {
        let text = format!("failed to validate the identity token claims: {reason}");
        (Code::PermissionDenied, text)
    };
    let jose = |reason: &str| invalid(&format!("go-jose/go-jose/jwt: validation {reason}"));
    let expired = jose("failed, token is expired (exp)");
    assert_eq!(refused(&|it| it["exp"] = json!(NOW - 61)).await, expired);
    let early = jose("failed, token not valid yet (nbf)");
    assert_eq!(refused(&|it| it["nbf"] = json!(NOW + 100)).await, early);
    let future = jose("field, token issued in the future (iat)");
    assert_eq!(refused(&|it| it["iat"] = json!(NOW + 100)).await, future);
    let audience = jose("failed, invalid audience claim (aud)");
    assert_eq!(refused(&|it| it["aud"] = json!("invalid")).await, audience);
    let issuer = jose("failed, invalid issuer claim (iss)");
    assert_eq!(refused(&|it| it["iss"] = json!("https://evil.test")).await, issuer);
    let missing = invalid("token missing exp claim");
    assert_eq!(refused(&|it| drop(it.as_object_mut().unwrap().remove("exp"))).await, missing);

    let machine = |field: &'static str, value: &'static str| {
        move |it: &mut Value| it["google"]["compute_engine"][field] = json!(value)
    };
    let foreign = "identity token project ID \"other-project\" is not in the allow list".to_owned();
    let expected = (Code::PermissionDenied, foreign);
    assert_eq!(refused(&machine("project_id", "other-project")).await, expected);
    // A token of the same service account that is of no instance: anybody who may act as the
    // account can have one.
    let expected = "identity token project ID \"\" is not in the allow list".to_owned();
    let expected = (Code::PermissionDenied, expected);
    assert_eq!(refused(&|it| drop(it.as_object_mut().unwrap().remove("google"))).await, expected);
    let odd = signature("its claims are not those of an instance");
    assert_eq!(refused(&|it| it["google"] = json!([1])).await, odd);
    for id in ["", "a/../../x", "..", "a b"] {
        let (code, text) = refused(&machine("instance_id", id)).await;
        assert_eq!(code, Code::Internal);
        assert!(text.starts_with("failed to create agent ID: invalid agent path suffix"), "{text}");
    }
    let seconds = Duration::from_secs(3600 + 61);
    bench.clock.advance(seconds);
    assert_eq!(bench.refused(good.as_bytes()).await, expired, "shown again when it is over");
}

#[tokio::test]
async fn paths_follow_the_template() {
    let cases = [
        (
            "/{{ .InstanceID }}/{{ .ServiceAccount }}",
            "test-instance-id/123456789-compute_developer.gserviceaccount.com",
        ),
        ("/x/{{ .ProjectNumber }}/{{ .InstanceCreationTimestamp }}", "x/739419398126/1529546013"),
        (
            "/{{ .PluginName }}/{{ .Zone }}/{{ .InstanceName }}",
            "gcp_iit/test-zone/test-instance-name",
        ),
        ("/{{ .ComputeEngine.ProjectID }}", "test-project"),
    ];
    for (template, path) in cases {
        let bench = Bench::new(&format!("agent_path_template = \"{template}\""), None).await;
        let agent = bench.attest(&token(&claims())).await.unwrap();
        assert_eq!(agent.agent_id.as_str(), format!("spiffe://example.org/spire/agent/{path}"));
    }
    let bench = Bench::new("agent_path_template = \"/{{ .Nothing }}\"", None).await;
    let (code, text) = bench.refused(&token(&claims())).await;
    assert_eq!(code, Code::Internal);
    assert!(text.starts_with("failed to create agent ID: "), "{text}");
}

#[tokio::test]
async fn keys_are_fetched_again_when_they_are_over_or_one_is_new() {
    let bench = Bench::new("", None).await;
    bench.attest(&token(&claims())).await.unwrap();
    let fetched = || bench.stand.asked().len();
    let new = sign(&OTHER, &header("new"), &claims());
    let unknown = bench.refused(&new).await;
    assert_eq!(unknown.0, Code::InvalidArgument);
    assert_eq!(fetched(), 1, "not within a minute, however many come");
    let document = certificates(&[("new", &OTHER), ("kid", &KEY)]);
    bench.stand.answer(move |_| published(600, document.clone()));
    bench.clock.advance(Duration::from_secs(61));
    bench.attest(&new).await.unwrap();
    assert_eq!(fetched(), 2);
    // A key that is published no more does not count any more.
    let document = certificates(&[("kid", &KEY)]);
    bench.stand.answer(move |_| published(600, document.clone()));
    bench.clock.advance(Duration::from_secs(601));
    assert_eq!(bench.refused(&new).await, unknown);
    bench.attest(&token(&claims())).await.unwrap();
    assert_eq!(fetched(), 3);
}

#[tokio::test]
async fn without_keys_nobody_attests_and_nobody_waits_long() {
    let bench = Bench::new("", None).await;
    let payload = token(&claims());
    for (answer, expected) in [
        (status(502), "unexpected status code: 502"),
        (
            Answer::Whole(302, "Location: http://else/\r\n".into(), String::new()),
            "unexpected status code: 302",
        ),
        (ok("{"), "unable to unmarshal certificate response: "),
        (ok(r#"{"someid":"NOT A PEM BLOCK"}"#), "unable to unmarshal certificate response: "),
        (Answer::Endless, "the answer is larger than 524288 bytes"),
        (Answer::Slow, "no complete answer within 1s"),
        (Answer::Hang, "no complete answer within 1s"),
    ] {
        bench.stand.answer(move |_| answer.clone());
        bench.clock.advance(Duration::from_secs(10));
        let (code, text) = bench.refused(&payload).await;
        assert_eq!(code, Code::Unknown);
        assert!(text.contains(expected), "{text}");
    }
    bench.clock.advance(Duration::from_secs(10));
    let (before, began) = (bench.stand.asked().len(), std::time::Instant::now());
    futures_util::future::join_all((0..200).map(|_| bench.refused(&payload))).await;
    assert_eq!(bench.stand.asked().len(), before + 1, "one asks for all");
    assert!(began.elapsed() < Duration::from_secs(60), "nobody waits for each other's deadline");
}

#[test]
fn settings_are_judged_in_spires_words() {
    let refused = |data: &str| {
        let error = check_server(Some(&Block::parse(data).unwrap())).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message
    };
    let prefix = "nodeattestor(gcp_iit): ";
    assert_eq!(refused(""), format!("{prefix}projectid_allow_list is required"));
    let text = refused("projectid_allow_list = 1\nagent_path_template = []");
    assert!(text.starts_with(&format!("{prefix}unable to decode configuration: ")), "{text}");
    let text =
        refused("projectid_allow_list = [\"p\"]\nagent_path_template = \"/{{ .InstanceID \"");
    let expected = "failed to parse agent path template: \"/{{ .InstanceID \"";
    assert!(text.starts_with(&format!("{prefix}{expected}")), "{text}");
    assert!(check_agent(None).unwrap().is_empty());
}

fn agent_of(stand: &Stand, settings: &str) -> agent::Agent {
    let settings = format!("identity_token_host = \"{}\"\n{settings}", stand.host);
    let config = config::agent(Some(&Block::parse(&settings).unwrap())).unwrap();
    agent::Agent::new(config, web(Duration::from_secs(1)))
}

#[tokio::test]
async fn the_agent_shows_what_the_metadata_server_gives() {
    let stand = Stand::start(|_| ok("a.b.c")).await;
    contract::node_evidence(&agent_of(&stand, "")).await;
    let payload = agent_of(&stand, "service_account = \"me@p\"").payload().await.unwrap();
    assert_eq!(payload, b"a.b.c");
    let asked = stand.asked();
    let line = |account: &str| {
        format!(
            "GET /computeMetadata/v1/instance/service-accounts/{account}/identity?\
             audience=spire-gcp-node-attestor&format=full"
        )
    };
    assert_eq!(asked[0].line, line("default"));
    assert_eq!(asked[1].line, line("me@p"));
    assert_eq!(asked[0].header("metadata-flavor"), Some("Google"));
}

#[tokio::test]
async fn a_hostile_metadata_server_costs_little() {
    let stand = Stand::start(|_| Answer::Hang).await;
    for (answer, expected) in [
        (status(404), "unexpected status code: 404"),
        (
            Answer::Whole(302, "Location: http://else/\r\n".into(), String::new()),
            "unexpected status code: 302",
        ),
        (ok(""), "the answer is empty"),
        (ok("x".repeat(20_000)), "the answer is larger than 16384 bytes"),
        (Answer::Endless, "the answer is larger than 16384 bytes"),
        (Answer::Slow, "no complete answer within 1s"),
        (Answer::Hang, "no complete answer within 1s"),
    ] {
        stand.answer(move |_| answer.clone());
        let error = agent_of(&stand, "").payload().await.unwrap_err();
        assert_eq!(error.code, Code::Internal);
        let prefix = "nodeattestor(gcp_iit): unable to retrieve valid identity token: ";
        assert_eq!(error.message, format!("{prefix}{expected}"));
    }
}

#[test]
fn no_payload_panics() {
    use proptest::prelude::*;
    proptest!(|(bytes: Vec<u8>, number: i64, text: String)| {
        let domain = TrustDomain::parse("example.org").unwrap();
        prop_assert!(!parse_payload(&bytes));
        prop_assert_eq!(parse_claims(&bytes, &domain), None);
        let machine = json!({"google": {"compute_engine": {"project_number": number, "zone": text}}});
        prop_assert!(token::claims(machine.as_object().unwrap().clone()).is_ok());
        prop_assert!(token::shape(text.replace('.', "").as_bytes()).is_err());
    });
}
