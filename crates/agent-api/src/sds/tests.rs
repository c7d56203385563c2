//! Over a real socket, with the generated client.

mod delta;

use prost::Message as _;
use steeple_agent_core::entry::Entry;
use steeple_net::channel::Channel;
use steeple_proto::envoy::config::core::v3::node::UserAgentVersionType;
use steeple_proto::envoy::config::core::v3::{BuildVersion, DataSource, Node, data_source};
use steeple_proto::envoy::extensions::transport_sockets::tls::v3::{
    Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
};
use steeple_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use steeple_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient as Client;
use steeple_proto::envoy::r#type::v3::SemanticVersion;
use steeple_proto::google::rpc;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::*;
use crate::workload::tests::fixture::{Authority, Fixture, Options, entry};

const OWN: &str = "spiffe://example.org";
const A: &str = "spiffe://example.org/a";
const B: &str = "spiffe://example.org/b";

pub(super) fn client(api: &Fixture) -> Client<Channel> {
    Client::new(steeple_net::channel::unix(&api.socket))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn asking(asked: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names(asked),
        type_url: secrets::SECRET.into(),
        ..Default::default()
    }
}

/// Two identities, the first of which federates with `other.org`.
async fn registered() -> (Fixture, Authority) {
    registered_with(Options::default()).await
}

async fn registered_with(options: Options) -> (Fixture, Authority) {
    let api = Fixture::with(options).await;
    let other = Authority::new("other.org").await;
    api.federate(other.bundle());
    let federated = Entry { federates_with: vec![other.trust_domain.clone()], ..entry("a") };
    api.register(federated).await;
    api.register(entry("b")).await;
    (api, other)
}

async fn fetch(api: &Fixture, request: DiscoveryRequest) -> Result<Vec<Secret>, Status> {
    let response = client(api).fetch_secrets(request).await?.into_inner();
    assert_eq!((response.version_info.as_str(), response.nonce.as_str()), ("", ""));
    assert_eq!(response.type_url, secrets::SECRET);
    Ok(secrets(&response))
}

fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    response.resources.iter().map(secret).collect()
}

pub(super) fn secret(any: &prost_types::Any) -> Secret {
    assert_eq!(any.type_url, secrets::SECRET);
    let secret = Secret::decode(&any.value[..]).unwrap();
    assert_eq!(secret.encode_to_vec(), any.value, "prost writes the same bytes");
    secret
}

fn named(secrets: &[Secret]) -> Vec<&str> {
    secrets.iter().map(|secret| secret.name.as_str()).collect()
}

fn data(source: &Option<DataSource>) -> String {
    match source.as_ref().unwrap().specifier.as_ref().unwrap() {
        data_source::Specifier::InlineBytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        _ => panic!("not inline bytes"),
    }
}

fn pair(secret: &Secret) -> &TlsCertificate {
    match secret.r#type.as_ref().unwrap() {
        secret::Type::TlsCertificate(pair) => pair,
        secret::Type::ValidationContext(_) => panic!("{} is no certificate", secret.name),
    }
}

/// The trust domains of a validator's configuration, each with its roots.
fn validator(secret: &Secret) -> Vec<(String, String)> {
    let Some(secret::Type::ValidationContext(context)) = &secret.r#type else {
        panic!("{} is no validation context", secret.name)
    };
    assert!(context.trusted_ca.is_none());
    let extension = context.custom_validator_config.as_ref().unwrap();
    assert_eq!(extension.name, "envoy.tls.cert_validator.spiffe");
    let config = extension.typed_config.as_ref().unwrap();
    let url =
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
    assert_eq!(config.type_url, url);
    let config = SpiffeCertValidatorConfig::decode(&config.value[..]).unwrap();
    config.trust_domains.iter().map(|it| (it.name.clone(), data(&it.trust_bundle))).collect()
}

fn roots(secret: &Secret) -> String {
    let Some(secret::Type::ValidationContext(context)) = &secret.r#type else {
        panic!("{} is no validation context", secret.name)
    };
    assert!(context.custom_validator_config.is_none());
    data(&context.trusted_ca)
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

#[tokio::test]
async fn naming_nothing_gives_everything() {
    let (api, other) = registered().await;
    let all = fetch(&api, asking(&["", ""])).await.unwrap();
    assert_eq!(named(&all), [OWN, "spiffe://other.org", A, B]);
    let own = api.authority.certificate.pem();
    assert_eq!(validator(&all[0]), [("example.org".to_owned(), own)]);
    assert_eq!(validator(&all[1]), [("other.org".to_owned(), other.certificate.pem())]);
    let pair = pair(&all[2]);
    let chain = steeple_pki::Certificate::from_pem(&data(&pair.certificate_chain)).unwrap();
    assert_eq!(chain.uri_sans(), [A]);
    let pem = data(&pair.private_key);
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let key = steeple_pki::PrivateKey::from_pem(&pem).unwrap();
    assert_eq!(key.public_key(), chain.public_key());
}

#[tokio::test]
async fn names_stand_for_what_spire_says() {
    let (api, other) = registered().await;
    for (asked, given) in [
        (&["default"][..], &["default"][..]),
        (&["default", B], &["default", B]),
        (&[B], &[B]),
        (&["ROOTCA"], &["ROOTCA"]),
        (&["ALL", "spiffe://other.org"], &["ALL", "spiffe://other.org"]),
        (&[A, A, OWN], &[OWN, A]),
    ] {
        assert_eq!(named(&fetch(&api, asking(asked)).await.unwrap()), given, "{asked:?}");
    }
    let [first] = &fetch(&api, asking(&["default"])).await.unwrap()[..] else { panic!() };
    let chain = steeple_pki::Certificate::from_pem(&data(&pair(first).certificate_chain)).unwrap();
    assert_eq!(chain.uri_sans(), [A]);
    let [all] = &fetch(&api, asking(&["ALL"])).await.unwrap()[..] else { panic!() };
    let both = [
        ("example.org".to_owned(), api.authority.certificate.pem()),
        ("other.org".to_owned(), other.certificate.pem()),
    ];
    assert_eq!(validator(all), both);
}

#[tokio::test]
async fn names_that_are_left_are_refused_in_order() {
    let (api, _other) = registered().await;
    for (asked, left) in [
        (&["z", "y", A][..], r#"["y" "z"]"#),
        (&[OWN, "ROOTCA", "ALL"], r#"["ALL" "ROOTCA"]"#),
        (&["ROOTCA", "ALL"], r#"["ALL"]"#),
        (&["default", A], r#"["default"]"#),
        (&["spiffe://third.org"], r#"["spiffe://third.org"]"#),
    ] {
        let refused = fetch(&api, asking(asked)).await.unwrap_err();
        let text = format!("workload is not authorized for the requested identities {left}");
        assert_eq!(told(&refused), (Code::InvalidArgument, text.as_str()));
    }
}

#[tokio::test]
async fn a_caller_without_entries_gets_its_own_roots_alone() {
    let api = Fixture::new().await;
    api.federate(Authority::new("other.org").await.bundle());
    assert_eq!(named(&fetch(&api, asking(&[])).await.unwrap()), [OWN]);
    assert_eq!(named(&fetch(&api, asking(&["ALL"])).await.unwrap()), ["ALL"]);
    let refused = fetch(&api, asking(&["default"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_identity_that_lost_its_hint_is_served_here() {
    let api = Fixture::new().await;
    let hinted = |id| Entry { hint: "h".into(), ..entry(id) };
    api.register(hinted("a")).await;
    api.register(Entry { created_at: 0, ..hinted("b") }).await;
    assert_eq!(named(&fetch(&api, asking(&[])).await.unwrap()), [OWN, A, B]);
}

fn node(metadata: Option<(&str, prost_types::value::Kind)>, version: Option<(u32, u32)>) -> Node {
    let metadata = metadata.map(|(key, kind)| prost_types::Struct {
        fields: [(key.to_owned(), prost_types::Value { kind: Some(kind) })].into(),
    });
    let version = version.map(|(major_number, minor_number)| {
        let version = Some(SemanticVersion { major_number, minor_number, patch: 0 });
        UserAgentVersionType::UserAgentBuildVersion(BuildVersion { version, metadata: None })
    });
    Node { metadata, user_agent_version_type: version, ..Default::default() }
}

#[tokio::test]
async fn the_node_decides_whether_its_envoy_validates_spiffe_ids() {
    use prost_types::value::Kind;
    const KEY: &str = "disable_spiffe_cert_validation";
    for plain_by_default in [false, true] {
        let options = Options { plain_roots: plain_by_default, ..Default::default() };
        let (api, _other) = registered_with(options).await;
        let own = api.authority.certificate.pem();
        for (node, plain) in [
            (node(None, None), plain_by_default),
            (node(Some((KEY, Kind::BoolValue(true))), None), true),
            (node(Some((KEY, Kind::StringValue("T".into()))), None), true),
            (node(Some((KEY, Kind::StringValue("0".into()))), None), false),
            (node(Some((KEY, Kind::StringValue("yes".into()))), None), plain_by_default),
            (node(Some((KEY, Kind::NumberValue(1.0))), None), plain_by_default),
            (node(Some(("other", Kind::BoolValue(true))), None), plain_by_default),
            (node(None, Some((1, 17))), true),
            (node(None, Some((0, 99))), true),
            (node(None, Some((1, 18))), plain_by_default),
            (node(Some((KEY, Kind::BoolValue(false))), Some((2, 0))), false),
            (node(Some((KEY, Kind::BoolValue(false))), Some((1, 17))), true),
        ] {
            let shown = format!("{node:?}");
            let request = DiscoveryRequest { node: Some(node), ..asking(&["ROOTCA"]) };
            let secrets = fetch(&api, request.clone()).await.unwrap();
            if plain {
                assert_eq!(roots(&secrets[0]), own, "{shown}");
            } else {
                assert_eq!(validator(&secrets[0]).len(), 1, "{shown}");
            }
            let all = DiscoveryRequest { resource_names: names(&["ALL"]), ..request };
            match fetch(&api, all).await {
                Ok(_) => assert!(!plain, "{shown}"),
                Err(status) => {
                    let text = "unable to use \"SPIFFE validator\" on Envoy below 1.17";
                    assert_eq!(told(&status), (Code::Internal, text), "{shown}");
                    assert!(plain);
                }
            }
        }
    }
}

/// A stream and what is sent on it.
struct Stream {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Stream {
    async fn open(api: &Fixture) -> Self {
        let (requests, mut queue) = mpsc::channel(16);
        let queue = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
        let answers = client(api).stream_secrets(queue).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> DiscoveryResponse {
        self.answers.message().await.unwrap().unwrap()
    }

    /// Acknowledges an answer, asking for these names now.
    async fn acknowledge(&self, answer: &DiscoveryResponse, asked: &[&str]) {
        let acknowledged = DiscoveryRequest {
            version_info: answer.version_info.clone(),
            response_nonce: answer.nonce.clone(),
            ..asking(asked)
        };
        self.send(acknowledged).await;
    }
}

#[tokio::test]
async fn a_stream_tells_every_update_with_its_number() {
    let (api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    stream.send(asking(&["default"])).await;
    let first = stream.answer().await;
    assert_eq!((first.version_info.as_str(), first.nonce.len()), ("1", 8));
    stream.acknowledge(&first, &["default"]).await;
    api.rotate().await;
    let second = stream.answer().await;
    assert_eq!(second.version_info, "2");
    assert_ne!(second.nonce, first.nonce);
    assert_ne!(secrets(&first), secrets(&second));
    stream.acknowledge(&second, &["default", "ROOTCA"]).await;
    let third = stream.answer().await;
    assert_eq!(third.version_info, "2", "the same update, for more names");
    assert_eq!(named(&secrets(&third)), ["ROOTCA", "default"]);
}

#[tokio::test]
async fn a_stale_nonce_is_passed_over_and_a_rollback_may_change_the_names() {
    let (api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    stream.send(asking(&["ROOTCA"])).await;
    let first = stream.answer().await;
    let stale = DiscoveryRequest { response_nonce: "00".into(), ..asking(&["default"]) };
    stream.send(stale).await;
    let rejected = DiscoveryRequest {
        response_nonce: first.nonce.clone(),
        error_detail: Some(rpc::Status { message: "no".into(), ..Default::default() }),
        ..asking(&[B])
    };
    stream.send(rejected).await;
    let second = stream.answer().await;
    assert_eq!(named(&secrets(&second)), [B], "not what came with the stale nonce");
    assert_eq!(second.version_info, "1");
    // The same names again, acknowledged: nothing until something changes.
    stream.acknowledge(&second, &[B]).await;
    api.rotate().await;
    assert_eq!(stream.answer().await.version_info, "2");
}

#[tokio::test]
async fn a_node_need_not_say_twice_who_it_is() {
    let (api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    let old = Some(node(None, Some((1, 17))));
    stream.send(DiscoveryRequest { node: old, ..asking(&["ROOTCA"]) }).await;
    let first = stream.answer().await;
    let own = api.authority.certificate.pem();
    assert_eq!(roots(&secrets(&first)[0]), own);
    stream.acknowledge(&first, &[OWN]).await;
    let second = stream.answer().await;
    assert_eq!(roots(&secrets(&second)[0]), own);
    stream.acknowledge(&second, &[OWN, A]).await;
    assert_eq!(roots(&secrets(&stream.answer().await)[0]), own);
}

#[tokio::test]
async fn a_stream_ends_when_what_it_asks_for_goes() {
    let (api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    stream.send(asking(&[B])).await;
    stream.answer().await;
    api.apply(Vec::new(), &["b"]);
    let ended = stream.answers.message().await.unwrap_err();
    let text = format!("workload is not authorized for the requested identities [\"{B}\"]");
    assert_eq!(told(&ended), (Code::InvalidArgument, text.as_str()));
}

#[tokio::test]
async fn a_stream_ends_well_when_its_caller_asks_no_more() {
    let (api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    stream.send(asking(&["ROOTCA"])).await;
    drop(std::mem::replace(&mut stream.requests, mpsc::channel(1).0));
    assert_eq!(named(&secrets(&stream.answer().await)), ["ROOTCA"]);
    assert!(stream.answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn streams_end_when_the_agent_does() {
    let (mut api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    stream.send(asking(&["ROOTCA"])).await;
    stream.answer().await;
    drop(api.drain.take());
    let ended = stream.answers.message().await.unwrap_err();
    assert_eq!(told(&ended), (Code::Unavailable, "the agent is stopping"));
}

#[tokio::test]
async fn nobody_is_answered_without_attestation() {
    let api = Fixture::with(Options { attestation_fails: true, ..Default::default() }).await;
    let refused = (Code::Unavailable, "workload attestation failed");
    assert_eq!(told(&fetch(&api, asking(&[])).await.unwrap_err()), refused);
    let (_requests, mut queue) = mpsc::channel::<DiscoveryRequest>(1);
    let queue = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
    assert_eq!(told(&client(&api).stream_secrets(queue).await.unwrap_err()), refused);
}

#[tokio::test]
async fn there_are_limits_to_what_may_be_asked() {
    let (api, _other) = registered().await;
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    let many = vec!["x"; MAX_NAMES + 1];
    for asked in [&[long.as_str()][..], &many] {
        let refused = fetch(&api, asking(asked)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("too many resource names"), "{refused}");
    }
    let odd = DiscoveryRequest { type_url: "x".repeat(300), ..asking(&[]) };
    assert_eq!(fetch(&api, odd).await.unwrap_err().code(), Code::InvalidArgument);
    let huge = "x".repeat(MAX_REQUEST);
    assert_eq!(fetch(&api, asking(&[&huge])).await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn all_streams_send_the_same_certificates_and_keys() {
    let (api, _other) = registered().await;
    let selectors = [steeple_spiffe::Selector::new("test", "caller")].into_iter().collect();
    let update = api.cache.snapshot(&selectors);
    let identity = update.all_identities().next().unwrap();
    let pointers = |names: &SdsNames| {
        let asked = ["default".into()];
        let resources = names.resources(&asked, secrets::Form::Spiffe, &update).unwrap();
        let frames = resources.into_iter().flat_map(Message::into_frames);
        frames.map(|bytes| bytes.as_ptr()).collect::<Vec<_>>()
    };
    let names = SdsNames {
        svid: "default".into(),
        bundle: "ROOTCA".into(),
        all_bundles: "ALL".into(),
        disable_spiffe_cert_validation: false,
    };
    for _ in 0..2 {
        let sent = pointers(&names);
        assert!(sent.contains(&identity.pem().chain.as_ptr()));
        assert!(sent.contains(&identity.pem().key.as_ptr()));
    }
}
