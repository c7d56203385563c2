//! The host runs a real plugin process (the example `every_kind`, over the Rust SDK): each kind
//! works, keeps its contract, and what a plugin does wrong is contained.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::{Map, Value};
use steeple_pki::digest::Sha256;
use steeple_pki::{Bundle, Certificate, JwtAuthority, KeyType, PrivateKey, SignatureAlgorithm};
use steeple_plugin::{AgentLookup, HostServices, IdentitySource, X509Identity};
use steeple_plugin::{
    Caller, Challenger, Code, Kind, PluginError, StoredX509Svid, WorkloadReference,
    X509CaAttributes, X509SvidAttributes, contract,
};
use steeple_plugin_host::{Host, HostError, Plugin, Side, Spec};
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_testkit::TestCa;

/// The example beside this test's own program.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/every_kind")
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn host() -> Host {
    Host { trust_domain: domain(), services: HostServices::new() }
}

fn spec(kind: Kind, side: Side, word: &str) -> Spec {
    Spec {
        side,
        kind,
        name: "every".into(),
        command: program(),
        args: vec![word.into()],
        checksum: String::new(),
    }
}

async fn load(kind: Kind, side: Side, word: &str, settings: &str) -> Plugin {
    let plugin = Plugin::load(spec(kind, side, word), &host()).await.unwrap();
    plugin.configure(settings).await.unwrap();
    plugin
}

async fn key_manager(mode: &str) -> Plugin {
    let settings = format!("mode = \"{mode}\"");
    load(Kind::KeyManager, Side::Server, "server-keymanager", &settings).await
}

#[tokio::test]
async fn key_managers_of_both_sides_keep_the_contract() {
    for (side, word) in [(Side::Server, "server-keymanager"), (Side::Agent, "agent-keymanager")] {
        contract::key_manager(async || load(Kind::KeyManager, side, word, "").await.key_manager())
            .await;
    }
}

#[tokio::test]
async fn workload_attestors_keep_the_contract() {
    let plugin = load(Kind::WorkloadAttestor, Side::Agent, "workload-attestor", "").await;
    let pid = i32::try_from(std::process::id()).unwrap();
    contract::workload_attestor(&*plugin.workload_attestor(), pid, i32::MAX).await;
}

#[tokio::test]
async fn references_reach_a_workload_attestor_with_the_broker_that_asks() {
    let plugin = load(Kind::WorkloadAttestor, Side::Agent, "workload-attestor", "").await;
    let attestor = plugin.workload_attestor();
    let broker = SpiffeId::parse("spiffe://example.org/broker").unwrap();
    let reference = |name: &str, value: &[u8]| WorkloadReference {
        type_url: format!("type.googleapis.com/{name}"),
        value: value.to_vec(),
    };
    let known = reference("steeple.test.Reference", b"w");
    let found = attestor.attest_reference(&known, Some(&broker)).await.unwrap();
    assert_eq!(found[0].to_string(), format!("every:w:for:{broker}"));
    let unknown = attestor.attest_reference(&reference("x", b""), Some(&broker)).await;
    assert_eq!(unknown.unwrap_err().code, Code::Unimplemented);
    let pid = [&[8_u8][..], &prost_varint(std::process::id())].concat();
    let process = reference("spiffe.broker.WorkloadPIDReference", &pid);
    let found = attestor.attest_reference(&process, None).await.unwrap();
    assert_eq!(*found[0].value, *format!("pid:{}", std::process::id()));
}

fn prost_varint(mut number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

#[tokio::test]
async fn evidence_keeps_the_contract() {
    let settings = "payload = \"p\"";
    let plugin = load(Kind::NodeAttestor, Side::Agent, "node-evidence", settings).await;
    contract::node_evidence(&*plugin.node_evidence()).await;
}

/// Answers with what the other half says.
struct Answers(Arc<dyn steeple_plugin::NodeEvidence>);

#[async_trait]
impl Challenger for Answers {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.0.respond(challenge).await
    }

    fn caller(&self) -> Caller {
        Caller { host: "spire.test".into(), ip: "192.0.2.1".into() }
    }
}

struct Known;

#[async_trait]
impl AgentLookup for Known {
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
        Ok(id.ends_with("/node"))
    }
}

async fn judge(mode: &str) -> Plugin {
    let host = host();
    host.services.provide_agents(Arc::new(Known));
    let spec = spec(Kind::NodeAttestor, Side::Server, "node-attestor");
    let plugin = Plugin::load(spec, &host).await.unwrap();
    plugin.configure(&format!("mode = \"{mode}\"")).await.unwrap();
    plugin
}

#[tokio::test]
async fn both_halves_attest_a_node_by_challenges() {
    let settings = "payload = \"node\"";
    let half = load(Kind::NodeAttestor, Side::Agent, "node-evidence", settings).await;
    let evidence = half.node_evidence();
    let judge = judge("").await;
    let payload = evidence.payload().await.unwrap();
    let mut agent = Answers(evidence);
    let found = judge.node_attestor().attest(&payload, &mut agent).await.unwrap();
    assert_eq!(found.agent_id.as_str(), "spiffe://example.org/spire/agent/every/node");
    // The empty one is left out.
    assert_eq!(found.selector_values, ["known:true", "host:spire.test"]);
    assert!(found.can_reattest);
}

#[tokio::test]
async fn an_agent_that_a_plugin_lets_in_as_the_first_is_let_in_once() {
    let judge = judge("").await;
    for (name, once) in [("node", false), ("other", true)] {
        let settings = format!("payload = \"{name}\"");
        let half = load(Kind::NodeAttestor, Side::Agent, "node-evidence", &settings).await;
        let evidence = half.node_evidence();
        let payload = evidence.payload().await.unwrap();
        let attestor = judge.node_attestor();
        let found = attestor.attest(&payload, &mut Answers(evidence)).await.unwrap();
        assert_eq!(attestor.once(&found.agent_id), once, "{name}");
    }
}

/// Says what it was asked.
struct Parrot;

#[async_trait]
impl Challenger for Parrot {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Ok(challenge.to_vec())
    }
}

#[tokio::test]
async fn a_judge_says_no_and_its_name_is_in_front() {
    let judge = judge("").await;
    let error = judge.node_attestor().attest(b"node", &mut Parrot).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied);
    assert_eq!(error.message, "nodeattestor(every): that is not backwards");
    let error = judge.node_attestor().attest(b"", &mut Parrot).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::InvalidArgument, "payload cannot be empty")
    );
}

#[tokio::test]
async fn a_judge_cannot_flood_the_server_with_selectors() {
    let half = load(Kind::NodeAttestor, Side::Agent, "node-evidence", "payload = \"n\"").await;
    for (mode, expected) in [
        ("many", "plugin response has 5002 selectors; at most 2000 are taken"),
        ("long", "plugin response has a selector of 100000 bytes; at most 4096 are taken"),
    ] {
        let evidence = half.node_evidence();
        let payload = evidence.payload().await.unwrap();
        let judge = judge(mode).await;
        let outcome = judge.node_attestor().attest(&payload, &mut Answers(evidence)).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert_eq!(error.message, format!("nodeattestor(every): {expected}"));
    }
}

#[tokio::test]
async fn a_key_manager_that_lies_is_found_out() {
    let plugin = key_manager("other kind").await;
    let error = plugin.key_manager().generate_key("a", KeyType::EcP256).await.err().unwrap();
    assert_eq!(error.code, Code::Internal);
    assert!(error.message.starts_with("keymanager(every): plugin made a key of kind"), "{error}");

    let plugin = key_manager("other signature").await;
    let key = plugin.key_manager().generate_key("a", KeyType::EcP256).await.unwrap();
    let error = key.sign(SignatureAlgorithm::EcdsaSha256, b"m").await.unwrap_err().to_string();
    assert_eq!(
        error,
        "rpc error: code = Internal desc = keymanager(every): plugin returned a signature that key \
         \"a\" did not make"
    );
}

#[tokio::test]
async fn a_key_that_was_replaced_no_longer_signs_under_its_old_name() {
    let keys = key_manager("").await.key_manager();
    let old = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    keys.generate_key("a", KeyType::EcP256).await.unwrap();
    let error = old.sign(SignatureAlgorithm::EcdsaSha256, b"m").await.unwrap_err().to_string();
    assert!(error.contains("on key \"a\" does not match"), "{error}");
}

#[tokio::test]
async fn a_failure_keeps_its_code_and_text() {
    let plugin = key_manager("fail").await;
    let error = plugin.key_manager().generate_key("a", KeyType::EcP256).await.err().unwrap();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert_eq!(error.message, "keymanager(every): told to fail");
}

#[tokio::test]
async fn a_killed_plugin_fails_at_once_and_says_that_it_is_gone() {
    let plugin = key_manager("").await;
    let keys = plugin.key_manager();
    keys.generate_key("a", KeyType::EcP256).await.unwrap();
    let pid = plugin.pid();
    kill(pid);
    tokio::time::timeout(Duration::from_secs(10), plugin.exited()).await.unwrap();
    let before = Instant::now();
    let error = keys.generate_key("b", KeyType::EcP256).await.err().unwrap();
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.starts_with("keymanager(every): connection error: desc = "), "{error}");
    // Ending what is gone is no trouble.
    plugin.close().await;
}

#[tokio::test]
async fn a_call_under_way_ends_when_the_plugin_is_killed() {
    let plugin = key_manager("hang").await;
    let keys = plugin.key_manager();
    let pid = plugin.pid();
    let (outcome, ()) = tokio::join!(keys.generate_key("a", KeyType::EcP256), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        kill(pid);
    });
    assert_eq!(outcome.err().unwrap().code, Code::Unavailable);
}

#[tokio::test]
async fn a_plugin_that_hangs_is_ended_all_the_same() {
    let plugin = key_manager("hang").await;
    let keys = plugin.key_manager();
    let before = Instant::now();
    let (outcome, ()) = tokio::join!(keys.generate_key("a", KeyType::EcP256), plugin.close());
    assert!(outcome.is_err());
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert!(!is_running(plugin.pid()));
}

#[tokio::test]
async fn the_process_ends_with_the_last_handle() {
    let plugin = key_manager("").await;
    let pid = plugin.pid();
    assert!(is_running(pid));
    let keys = plugin.key_manager();
    drop(plugin);
    assert!(keys.keys().await.unwrap().is_empty());
    drop(keys);
    for _ in 0..200 {
        if !is_running(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the plugin outlived its host");
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn is_running(pid: u32) -> bool {
    // A zombie has no program any more.
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

#[tokio::test]
async fn the_right_checksum_is_needed_where_there_is_one() {
    let digest = Sha256::of(&std::fs::read(program()).unwrap());
    let right: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let with = |checksum: &str| Spec {
        checksum: checksum.to_owned(),
        ..spec(Kind::Notifier, Side::Server, "notifier")
    };
    let plugin = Plugin::load(with(&right), &host()).await.unwrap();
    assert!(plugin.has_config());
    plugin.close().await;
    let wrong = right.replace(&right[..2], if &right[..2] == "00" { "11" } else { "00" });
    let error = Plugin::load(with(&wrong), &host()).await.err().unwrap();
    assert_eq!(error.to_string(), "failed to launch plugin: checksums did not match");
    let error = Plugin::load(with("12"), &host()).await.err().unwrap();
    assert_eq!(error.to_string(), "expected checksum of length 64; got 2");
}

#[tokio::test]
async fn a_program_that_is_no_plugin_is_refused() {
    let of = |command: &str, args: &[&str]| Spec {
        command: command.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..spec(Kind::Notifier, Side::Server, "")
    };
    let text = async |spec| Plugin::load(spec, &host()).await.err().unwrap().to_string();
    let missing = text(of("/nope/nope", &[])).await;
    assert_eq!(missing, "failed to launch plugin: fork/exec /nope/nope: no such file or directory");
    let chatty = text(of("/bin/echo", &["hello"])).await;
    assert!(
        chatty.starts_with("failed to launch plugin: Unrecognized remote plugin message: hello"),
        "{chatty}"
    );
    let silent = text(of("/bin/true", &[])).await;
    assert!(silent.contains("Failed to read any lines from plugin's stdout"), "{silent}");
    let directory = text(of("/tmp", &[])).await;
    assert!(directory.ends_with("fork/exec /tmp: permission denied"), "{directory}");
}

#[tokio::test]
async fn a_plugin_of_the_other_side_is_refused() {
    let spec = spec(Kind::KeyManager, Side::Agent, "server-keymanager");
    let error = Plugin::load(spec, &host()).await.err().unwrap();
    assert!(matches!(error, HostError::NoInterface(_)));
    assert_eq!(
        error.to_string(),
        "no supported plugin interface found in: [\"spire.plugin.server.keymanager.v1.KeyManager\" \
         \"spire.service.common.config.v1.Config\"]"
    );
}

#[tokio::test]
async fn configuration_is_taken_refused_and_validated_by_the_plugin() {
    let plugin = key_manager("").await;
    let error = plugin.configure("no sense").await.unwrap_err();
    assert_eq!(
        steeple_plugin_host::rpc_text(&error),
        "rpc error: code = InvalidArgument desc = that is no setting"
    );
    assert_eq!(plugin.validate("odd").await.unwrap(), ["that is odd"]);
    assert!(plugin.validate("").await.unwrap().is_empty());
    let bare = spec(Kind::Notifier, Side::Server, "bare-notifier");
    assert!(!Plugin::load(bare, &host()).await.unwrap().has_config());
}

struct Identity(TestCa);

#[async_trait]
impl IdentitySource for Identity {
    async fn x509_identity(&self) -> Result<X509Identity, PluginError> {
        let certificate = Certificate::from_pem(&self.0.certificate_pem()).unwrap();
        Ok(X509Identity {
            chain: vec![certificate.clone()],
            key: Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap()),
            bundle: Bundle::from_certificates(domain(), vec![certificate]),
        })
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn notifiers_and_publishers_get_the_bundle_and_may_ask_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told");
    let settings = format!("file = \"{}\"", file.display());
    let mut bundle = Bundle::new(domain());
    bundle.sequence_number = 7;

    let host = host();
    let loading = Plugin::load(spec(Kind::Notifier, Side::Server, "notifier"), &host);
    let plugin = loading.await.unwrap();
    plugin.configure(&settings).await.unwrap();
    plugin.notifier().bundle_loaded(&bundle).await.unwrap();
    host.services.provide_identity(Arc::new(Identity(TestCa::new(&domain()))));
    plugin.notifier().bundle_loaded(&bundle).await.unwrap();
    plugin.notifier().bundle_updated(&bundle).await.unwrap();

    let publisher = load(Kind::BundlePublisher, Side::Server, "bundle-publisher", &settings).await;
    publisher.bundle_publisher().publish_bundle(&bundle).await.unwrap();
    assert_eq!(
        lines(&file),
        [
            "loaded example.org IdentityProvider host service has not been initialized",
            "loaded example.org 1 certificates",
            "updated 7",
            "published 7",
        ]
    );
}

#[tokio::test]
async fn an_upstream_authority_signs_and_goes_on_telling() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new(&domain());
    std::fs::write(folder.path().join("root"), ca.certificate_pem()).unwrap();
    let path = folder.path().display();
    let settings = format!("root = \"{path}/root\"\nfile = \"{path}/told\"\n");
    let plugin = load(Kind::UpstreamAuthority, Side::Server, "upstream-authority", &settings).await;
    let upstream = plugin.upstream_authority();
    let mut minted = upstream.mint_x509_ca(b"csr", Duration::from_secs(60)).await.unwrap();
    assert_eq!(minted.chain[0].der(), ca.certificate_der());
    assert!(!minted.roots[0].tainted);
    let update = minted.root_updates.next().await.unwrap().unwrap();
    assert!(update[0].tainted);
    assert!(minted.root_updates.next().await.is_none(), "the plugin ended the stream");
    assert_eq!(lines(&folder.path().join("told")), ["mint 3 60"]);

    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let key = JwtAuthority {
        key_id: "kid".into(),
        public_key: key.public_key().clone(),
        expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)),
        tainted: false,
    };
    let mut published = upstream.publish_jwt_key(&key).await.unwrap();
    assert!(published.keys == [key.clone()]);
    let error = published.updates.next().await.unwrap().unwrap_err();
    assert_eq!(error.message, "upstreamauthority(every): that was it");
    assert!(published.updates.next().await.is_none(), "a failure is the end");

    let mut bundles = upstream.subscribe_to_local_bundle().await.unwrap();
    assert_eq!(bundles.next().await.unwrap().unwrap().x509_roots.len(), 1);

    plugin.configure(&format!("{settings}mode = \"no keys\"")).await.unwrap();
    let error = upstream.publish_jwt_key(&key).await.err().unwrap();
    assert_eq!(error.code, Code::Unimplemented);
}

#[tokio::test]
async fn a_composer_changes_what_it_cares_for() {
    let plugin = load(Kind::CredentialComposer, Side::Server, "credential-composer", "").await;
    let composer = plugin.credential_composer();
    let id = SpiffeId::parse("spiffe://example.org/a/b").unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let given = X509SvidAttributes { dns_names: vec!["x.test".into()], ..Default::default() };
    let made =
        composer.compose_workload_x509_svid(&id, key.public_key(), given.clone()).await.unwrap();
    assert_eq!(made.dns_names, ["x.test", "for-a-b.test"]);
    let same = composer.compose_agent_x509_svid(&id, key.public_key(), given.clone()).await;
    assert_eq!(same.unwrap(), given);
    let ca = X509CaAttributes { policy_identifiers: vec!["1.2.3".into()], ..Default::default() };
    assert_eq!(composer.compose_server_x509_ca(ca.clone()).await.unwrap(), ca);
    let claims = Map::from_iter([("exp".to_owned(), Value::from(1_900_000_000))]);
    let claims = composer.compose_workload_jwt_svid(&id, claims).await.unwrap();
    assert_eq!(Value::Object(claims).to_string(), r#"{"composed":true,"exp":1900000000}"#);
}

#[tokio::test]
async fn an_svid_store_stores_and_forgets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told");
    let settings = format!("file = \"{}\"", file.display());
    let plugin = load(Kind::SvidStore, Side::Agent, "svid-store", &settings).await;
    let certificate = Certificate::from_pem(&TestCa::new(&domain()).certificate_pem()).unwrap();
    let svid = StoredX509Svid {
        spiffe_id: SpiffeId::parse("spiffe://example.org/w").unwrap(),
        chain: vec![certificate.clone()],
        private_key: PrivateKey::generate(KeyType::EcP256).unwrap(),
        bundle: Bundle::from_certificates(domain(), vec![certificate.clone()]),
        federated_bundles: vec![Bundle::from_certificates(
            TrustDomain::parse("other.test").unwrap(),
            vec![certificate],
        )],
        expires_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000),
        metadata: vec!["where:here".into()],
    };
    plugin.svid_store().put_x509_svid(&svid).await.unwrap();
    plugin.svid_store().delete_x509_svid(&svid.metadata).await.unwrap();
    assert_eq!(
        lines(&file),
        ["put spiffe://example.org/w [\"where:here\"]", "delete [\"where:here\"]"]
    );
}
