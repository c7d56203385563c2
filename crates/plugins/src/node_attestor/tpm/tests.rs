use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use proptest::prelude::*;
use steeple_hcl::Block;
use steeple_pki::{KeyType, PrivateKey, PublicKey, Signer};
use steeple_plugin::{
    AgentAttributes, Challenger, Code, HostContext, NodeAttestor, NodeEvidence, PluginError,
    contract,
};
use steeple_spiffe::TrustDomain;
use steeple_tpm::emulator::Emulator;
use steeple_tpm::verify::Public;

use super::payload::{self, Blob, Challenge, Evidence, Response};
use super::pcrs::Bank;
use super::trust;
use crate::key_manager;

fn host() -> HostContext {
    HostContext::new(TrustDomain::parse("example.org").unwrap())
}

fn block(text: &str) -> Block {
    Block::parse(text).unwrap()
}

/// A machine with a TPM.
struct Machine {
    emulator: Emulator,
    folder: tempfile::TempDir,
    agent: Arc<dyn NodeEvidence>,
}

impl Machine {
    fn new() -> Option<Self> {
        Self::with("")
    }

    fn with(settings: &str) -> Option<Self> {
        let emulator = Emulator::start()?;
        let agent = evidence_of(&emulator, settings);
        Some(Self { emulator, folder: tempfile::tempdir().unwrap(), agent })
    }

    /// A key in the TPM.
    async fn key(&self) -> Arc<dyn Signer> {
        let (folder, device) = (self.folder.path().display(), self.emulator.path());
        let text = format!("directory = \"{folder}\"\ntpm_device_path = \"{}\"", device.display());
        let manager = key_manager::tpm::from_config(Some(&block(&text)), &host()).unwrap();
        manager.generate_key("agent-svid-A", KeyType::EcP256).await.unwrap()
    }

    /// The public half of the endorsement key, and its hash.
    async fn ek(&self) -> (PublicKey, String) {
        let evidence = Evidence::parse(&self.agent.payload().await.unwrap()).unwrap();
        let key = Public::parse(&evidence.ek.0).unwrap().key().unwrap();
        let hash = trust::hex(&trust::hash(&key));
        (key, hash)
    }
}

fn evidence_of(emulator: &Emulator, settings: &str) -> Arc<dyn NodeEvidence> {
    let text = format!("tpm_device_path = \"{}\"\n{settings}", emulator.path().display());
    super::agent(Some(&block(&text)), &host()).unwrap()
}

fn server(settings: &str) -> Arc<dyn NodeAttestor> {
    super::server(Some(&block(settings)), &host()).unwrap()
}

/// A server that trusts the keys with these hashes.
fn server_for(folder: &Path, hashes: &[&str], settings: &str) -> Arc<dyn NodeAttestor> {
    let list = folder.join("hashes");
    std::fs::write(&list, hashes.join("\n")).unwrap();
    server(&format!("hash_path = \"{}\"\n{settings}", list.display()))
}

/// A key in memory, as other key managers have it.
async fn memory_key() -> Arc<dyn Signer> {
    let manager = key_manager::memory::from_config(None, &host()).unwrap();
    manager.generate_key("a", KeyType::EcP256).await.unwrap()
}

/// Somebody between agent and server, or the agent's own half as an enemy would have it.
struct Between<'a> {
    agent: &'a dyn NodeEvidence,
    subject: Option<PublicKey>,
    challenge: Box<dyn Fn(&mut Challenge) + Send + Sync + 'a>,
    response: Box<dyn Fn(&mut Response) + Send + Sync + 'a>,
}

#[async_trait]
impl Challenger for Between<'_> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let mut challenge = Challenge::parse(challenge).unwrap();
        (self.challenge)(&mut challenge);
        let answer = self.agent.respond(&payload::encode(&challenge)).await?;
        let mut response = Response::parse(&answer).unwrap();
        (self.response)(&mut response);
        Ok(payload::encode(&response))
    }

    fn requested_key(&self) -> Option<PublicKey> {
        self.subject.clone()
    }
}

fn between<'a>(agent: &'a dyn NodeEvidence, key: &dyn Signer) -> Between<'a> {
    let subject = Some(key.public_key().clone());
    Between { agent, subject, challenge: Box::new(|_| {}), response: Box::new(|_| {}) }
}

async fn attest(
    server: &dyn NodeAttestor,
    agent: &dyn NodeEvidence,
    key: &dyn Signer,
) -> Result<AgentAttributes, PluginError> {
    let payload = agent.payload_for(key).await.unwrap();
    server.attest(&payload, &mut between(agent, key)).await
}

#[track_caller]
fn refused(outcome: Result<AgentAttributes, PluginError>, code: Code, text: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.code, code, "{error}");
    assert_eq!(error.to_string(), format!("nodeattestor(tpm): {text}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_half_keeps_the_contract() {
    let Some(machine) = Machine::new() else { return };
    contract::node_evidence(&*machine.agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_on_the_list_is_an_agent_whatever_key_its_svid_has() {
    let Some(machine) = Machine::with("ek = \"ec-p256\"") else { return };
    let (_, hash) = machine.ek().await;
    let server = server_for(machine.folder.path(), &["# ours", &hash], "");
    let attributes = attest(&*server, &*machine.agent, &*memory_key().await).await.unwrap();
    let id = format!("spiffe://example.org/spire/agent/tpm/{hash}");
    assert_eq!(attributes.agent_id.as_str(), id);
    assert!(attributes.can_reattest);
    let expected =
        [format!("pub_hash:{hash}"), "trusted_by:list".into(), "key_in_tpm:false".into()];
    assert_eq!(attributes.selector_values, expected);
    // With the key in the TPM, and again: what was loaded did not stay.
    for _ in 0..3 {
        let key = machine.key().await;
        let attributes = attest(&*server, &*machine.agent, &*key).await.unwrap();
        assert_eq!(attributes.agent_id.as_str(), id);
        assert_eq!(attributes.selector_values[2], "key_in_tpm:true");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pcrs_become_selectors() {
    let Some(machine) = Machine::new() else { return };
    let (_, hash) = machine.ek().await;
    let settings = "pcrs = \"sha256:0,17+sha1:3\"";
    let server = server_for(machine.folder.path(), &[&hash], settings);
    let key = memory_key().await;
    let attributes = attest(&*server, &*machine.agent, &*key).await.unwrap();
    let expected = [
        format!("pcr:sha256:0:{}", "00".repeat(32)),
        format!("pcr:sha256:17:{}", "ff".repeat(32)),
        format!("pcr:sha1:3:{}", "00".repeat(20)),
    ];
    assert_eq!(attributes.selector_values[3..], expected);
    let with = async |challenge: fn(&mut Challenge), response: fn(&mut Response)| {
        let payload = machine.agent.payload_for(&*key).await.unwrap();
        let mut enemy = between(&*machine.agent, &*key);
        enemy.challenge = Box::new(challenge);
        enemy.response = Box::new(response);
        server.attest(&payload, &mut enemy).await
    };
    // Other values than the TPM has.
    let outcome = with(|_| {}, |response| response.values[0].value.0[0] = 1).await;
    let text = "the quote does not hold: PCR values differ from the quote";
    refused(outcome, Code::PermissionDenied, text);
    // Other PCRs than were asked for, which have the same values.
    let outcome = with(|asked| asked.pcrs[0].pcrs[0] = 1, |said| said.values[0].pcr = 0).await;
    refused(outcome, Code::PermissionDenied, text);
    // Fewer, and more.
    let outcome = with(|asked| asked.pcrs.truncate(1), |_| {}).await;
    let missing = "the quote does not hold: the value of PCR sha1:3 is missing";
    refused(outcome, Code::PermissionDenied, missing);
    let more = |asked: &mut Challenge| {
        asked.pcrs.push(Bank { hash: "sha384".into(), pcrs: vec![1] });
    };
    refused(with(more, |_| {}).await, Code::PermissionDenied, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endorsement_key_that_nobody_trusts_is_refused() {
    let Some(machine) = Machine::new() else { return };
    let (ek, hash) = machine.ek().await;
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = machine.folder.path();
    let ca = ours.write(folder);
    let list = folder.join("list");
    let other = "00".repeat(32);
    std::fs::write(&list, &other).unwrap();
    let key = memory_key().await;
    let plain = &*machine.agent;

    let by_list = server(&format!("hash_path = \"{}\"", list.display()));
    let text = format!("endorsement key {hash} is not trusted: it is not on the list");
    refused(attest(&*by_list, plain, &*key).await, Code::PermissionDenied, &text);
    // The list is read again when it changes, and a broken one changes nothing.
    std::fs::write(&list, format!("{other}\n{}\n", hash.to_uppercase())).unwrap();
    attest(&*by_list, plain, &*key).await.unwrap();
    std::fs::write(&list, "what?").unwrap();
    attest(&*by_list, plain, &*key).await.unwrap();
    std::fs::remove_file(&list).unwrap();
    attest(&*by_list, plain, &*key).await.unwrap();
    std::fs::write(&list, "").unwrap();
    refused(attest(&*by_list, plain, &*key).await, Code::PermissionDenied, &text);

    let by_certificate = server(&format!("ca_path = \"{}\"", ca.display()));
    let untrusted = |why: &str| {
        format!("endorsement key {hash} is not trusted: its certificate is not trusted: {why}")
    };
    let outcome = attest(&*by_certificate, plain, &*key).await;
    refused(outcome, Code::PermissionDenied, &untrusted("the TPM has none"));
    let showing = |name: &str, der: Vec<u8>| {
        let path = folder.join(name);
        std::fs::write(&path, der).unwrap();
        let settings = format!("ek_certificate_path = \"{}\"", path.display());
        evidence_of(&machine.emulator, &settings)
    };
    let wrong_ca = showing("wrong", theirs.issue(&ek));
    let outcome = attest(&*by_certificate, &*wrong_ca, &*key).await;
    let why = "x509: certificate signed by unknown authority";
    refused(outcome, Code::PermissionDenied, &untrusted(why));
    let of_another = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let of_another = showing("another", ours.issue(of_another.public_key()));
    let outcome = attest(&*by_certificate, &*of_another, &*key).await;
    refused(outcome, Code::PermissionDenied, &untrusted("it is of another key"));

    // An authority that vouches for others than TPMs vouches for web servers' keys as such.
    for (purpose, why) in [
        (Purpose::Web, "endorsement certificate is not for endorsement keys"),
        (Purpose::Signing, "endorsement certificate is not for a key that secrets are wrapped for"),
    ] {
        let otherwise = showing("otherwise", ours.issue_for(&ek, purpose));
        let outcome = attest(&*by_certificate, &*otherwise, &*key).await;
        refused(outcome, Code::PermissionDenied, &untrusted(why));
    }
    let said = showing("said", ours.issue_for(&ek, Purpose::Endorsement));
    attest(&*by_certificate, &*said, &*key).await.unwrap();

    let good = showing("good", ours.issue(&ek));
    let attributes = attest(&*by_certificate, &*good, &*key).await.unwrap();
    let expected = [
        format!("pub_hash:{hash}"),
        "trusted_by:certificate".into(),
        "manufacturer:id:49424D00".into(),
        "model:swtpm".into(),
        "version:id:20191023".into(),
        "key_in_tpm:false".into(),
    ];
    assert_eq!(attributes.selector_values, expected);
    // Both are asked for.
    let (ca, list) = (ca.display(), list.display());
    let both = format!("ca_path = \"{ca}\"\nhash_path = \"{list}\"\nrequire_both = true");
    let both = server(&both);
    refused(attest(&*both, &*good, &*key).await, Code::PermissionDenied, &text);
    std::fs::write(folder.join("list"), &hash).unwrap();
    attest(&*both, &*good, &*key).await.unwrap();
    let outcome = attest(&*both, &*wrong_ca, &*key).await;
    refused(outcome, Code::PermissionDenied, &untrusted(why));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_outside_of_the_tpm_is_refused_where_one_inside_is_asked_for() {
    let Some(machine) = Machine::new() else { return };
    let (_, hash) = machine.ek().await;
    let settings = "require_key_in_tpm = true";
    let server = server_for(machine.folder.path(), &[&hash], settings);
    let text = "the key of the CSR is not in the TPM, which require_key_in_tpm asks for: the agent \
                needs the KeyManager \"tpm\"";
    let (outside, inside) = (memory_key().await, machine.key().await);
    refused(attest(&*server, &*machine.agent, &*outside).await, Code::PermissionDenied, text);
    attest(&*server, &*machine.agent, &*inside).await.unwrap();

    // The key in the TPM is shown, and the CSR is for one outside.
    let payload = machine.agent.payload_for(&*inside).await.unwrap();
    let outcome = server.attest(&payload, &mut between(&*machine.agent, &*outside)).await;
    let text = "the key in the TPM is not the one of the CSR";
    refused(outcome, Code::InvalidArgument, text);
    // A key that is said to be in the TPM, and is not.
    let payload = machine.agent.payload_for(&*inside).await.unwrap();
    let mut evidence = Evidence::parse(&payload).unwrap();
    let public = evidence.key.take().unwrap().0;
    let point = outside.public_key().spki_der();
    let (x, y) = (&point[point.len() - 64..point.len() - 32], &point[point.len() - 32..]);
    let head = &public[..public.len() - 68];
    let forged = [head, &[0, 32], x, &[0, 32], y].concat();
    evidence.key = Some(Blob(forged));
    let payload = payload::encode(&evidence);
    let outcome = server.attest(&payload, &mut between(&*machine.agent, &*outside)).await;
    // The TPM signed for the key that it has; the quote shows it first.
    let text = "the quote does not hold: attestation is not bound to the expected data";
    refused(outcome, Code::PermissionDenied, text);
    // No certification, and that of the attestation before.
    let payload = machine.agent.payload_for(&*inside).await.unwrap();
    let mut enemy = between(&*machine.agent, &*inside);
    let earlier = Arc::new(std::sync::Mutex::new(None));
    let taken = Arc::clone(&earlier);
    enemy.response = Box::new(move |response| {
        *taken.lock().unwrap() = response.certification.take();
    });
    let outcome = server.attest(&payload, &mut enemy).await;
    let text = "the certification does not hold: it is missing";
    refused(outcome, Code::PermissionDenied, text);
    let earlier = earlier.lock().unwrap().take();
    let payload = machine.agent.payload_for(&*inside).await.unwrap();
    let mut enemy = between(&*machine.agent, &*inside);
    enemy.response = Box::new(move |response| response.certification.clone_from(&earlier));
    let outcome = server.attest(&payload, &mut enemy).await.unwrap_err().to_string();
    assert!(outcome.contains("the certification does not hold: "), "{outcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_once_is_of_no_use_a_second_time() {
    let Some(machine) = Machine::new() else { return };
    let (_, hash) = machine.ek().await;
    let server = server_for(machine.folder.path(), &[&hash], "");
    let key = memory_key().await;
    let heard = Arc::new(std::sync::Mutex::new(None));
    let told = Arc::clone(&heard);
    let payload = machine.agent.payload_for(&*key).await.unwrap();
    let mut listening = between(&*machine.agent, &*key);
    listening.response = Box::new(move |it| *told.lock().unwrap() = Some(it.clone()));
    server.attest(&payload, &mut listening).await.unwrap();
    let heard: Response = heard.lock().unwrap().take().unwrap();
    // All of it again.
    struct Replay(Response, PublicKey);
    #[async_trait]
    impl Challenger for Replay {
        async fn challenge(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
            Ok(payload::encode(&self.0))
        }
        fn requested_key(&self) -> Option<PublicKey> {
            Some(self.1.clone())
        }
    }
    let mut replay = Replay(heard.clone(), key.public_key().clone());
    let outcome = server.attest(&payload, &mut replay).await;
    let text = "credential activation failed: the secret is another than the one for this TPM and \
                attestation key";
    refused(outcome, Code::PermissionDenied, text);
    // The old quote beside a new secret.
    let payload = machine.agent.payload_for(&*key).await.unwrap();
    let mut enemy = between(&*machine.agent, &*key);
    let quote = heard.quote;
    enemy.response = Box::new(move |response| response.quote = quote.clone());
    let outcome = server.attest(&payload, &mut enemy).await.unwrap_err();
    assert_eq!(outcome.code, Code::PermissionDenied);
    assert!(outcome.to_string().contains("the quote does not hold: "), "{outcome}");
    // Somebody in between, who wants an SVID for a key of theirs.
    let theirs = memory_key().await;
    let payload = machine.agent.payload_for(&*key).await.unwrap();
    let outcome = server.attest(&payload, &mut between(&*machine.agent, &*theirs)).await;
    let text = "the quote does not hold: attestation is not bound to the expected data";
    refused(outcome, Code::PermissionDenied, text);
    // The agent answers once.
    let error = machine.agent.respond(&payload::encode(&challenge())).await.unwrap_err();
    let text = "nodeattestor(tpm): server issued unexpected challenge";
    assert_eq!(error.to_string(), text);
}

fn challenge() -> Challenge {
    Challenge::new(vec![0; 68], vec![0; 256], &[0; 32], &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_key_of_another_tpm_opens_nothing() {
    let (Some(trusted), Some(enemy)) = (Machine::new(), Machine::new()) else { return };
    let (_, hash) = trusted.ek().await;
    let server = server_for(trusted.folder.path(), &[&hash], "");
    let key = memory_key().await;
    let theirs = Evidence::parse(&enemy.agent.payload_for(&*key).await.unwrap()).unwrap();
    let payload = trusted.agent.payload_for(&*key).await.unwrap();
    let mut evidence = Evidence::parse(&payload).unwrap();
    evidence.ak = theirs.ak;
    // The TPM of the endorsement key will not open it, nor does the other one.
    for agent in [&*trusted.agent, &*enemy.agent] {
        let outcome = server.attest(&payload::encode(&evidence), &mut between(agent, &*key)).await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("TPM2_ActivateCredential: "), "{error}");
        agent.payload_for(&*key).await.unwrap();
    }
    // The TPM was swapped between the two halves, or for good.
    let mut machine = trusted;
    machine.agent.payload_for(&*key).await.unwrap();
    machine.emulator.swap();
    let error = machine.agent.respond(&payload::encode(&challenge())).await.unwrap_err();
    assert!(error.to_string().contains("not made for this TPM"), "{error}");
    let error = attest(&*server, &*machine.agent, &*key).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied);
    assert!(error.to_string().ends_with("is not trusted: it is not on the list"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_that_is_none_is_refused_before_anything_is_asked() {
    let Some(machine) = Machine::new() else { return };
    let (_, hash) = machine.ek().await;
    let server = server_for(machine.folder.path(), &[&hash], "");
    struct Nobody;
    #[async_trait]
    impl Challenger for Nobody {
        async fn challenge(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
            panic!("the server asked for the sake of evidence that is none");
        }
    }
    let payload = machine.agent.payload().await.unwrap();
    let evidence = Evidence::parse(&payload).unwrap();
    let changed = |change: &dyn Fn(&mut Evidence)| {
        let mut evidence = evidence.clone();
        change(&mut evidence);
        payload::encode(&evidence)
    };
    let mut bad_scheme = evidence.ak.0.clone();
    bad_scheme[5] &= !1; // not restricted
    for (payload, text) in [
        (vec![b' '; 70_000], "failed to read the evidence: it is larger than 65536 bytes"),
        (
            changed(&|it| it.version = 2),
            "failed to read the evidence: it has version 2, and this program knows version 1",
        ),
        (
            changed(&|it| it.certificates = vec![Blob(vec![0]); 9]),
            "failed to read the evidence: it has more than 8 certificates",
        ),
        (changed(&|it| it.certificates = vec![Blob(vec![0x30, 0])]), "certificate 0 is malformed"),
        (
            changed(&|it| it.ek = it.ak.clone()),
            "the endorsement key cannot be used: endorsement key is not a restricted decryption key",
        ),
        (
            changed(&|it| it.ak = it.ek.clone()),
            "the attestation key cannot be used: not a signing key",
        ),
        (
            changed(&|it| it.ak.0.truncate(20)),
            "the attestation key cannot be used: decoding TPMT_PUBLIC: unexpected EOF",
        ),
        (
            changed(&|it| it.ak = Blob(bad_scheme.clone())),
            "the attestation key cannot be used: attestation key is not a restricted signing key",
        ),
        (changed(&|it| it.key = Some(it.ak.clone())), "there is no CSR for the key in the TPM"),
    ] {
        let error = server.attest(&payload, &mut Nobody).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        let prefix = format!("nodeattestor(tpm): {text}");
        assert!(error.to_string().starts_with(&prefix), "{error}, not {text}");
    }
    for len in 0..payload.len() {
        let error = server.attest(&payload[..len], &mut Nobody).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_none_is_refused() {
    let Some(machine) = Machine::new() else { return };
    let (_, hash) = machine.ek().await;
    let server = server_for(machine.folder.path(), &[&hash], "");
    struct Says(Vec<u8>);
    #[async_trait]
    impl Challenger for Says {
        async fn challenge(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
            Ok(self.0.clone())
        }
    }
    let payload = machine.agent.payload().await.unwrap();
    for (response, text) in [
        (vec![], "it is malformed (line 1, column 0)"),
        (b"{\"version\":1}".to_vec(), "it is malformed (line 1, column 13)"),
        (vec![b' '; 20_000], "it is larger than 16384 bytes"),
    ] {
        let outcome = server.attest(&payload, &mut Says(response)).await;
        let text = format!("failed to read the response: {text}");
        refused(outcome, Code::InvalidArgument, &text);
    }
}

#[test]
fn settings_that_are_wrong_are_told() {
    let server = |text: &str| super::check_server(Some(&block(text))).map(drop);
    let agent = |text: &str| super::check_agent(Some(&block(text))).map(drop);
    for (outcome, text) in [
        (server(""), "one of ca_path and hash_path is required"),
        (
            server("ca_path = \"/x\"\nrequire_both = true"),
            "require_both needs both of ca_path and hash_path",
        ),
        (
            server("ca_path = \"/x\"\npcrs = \"md5:1\""),
            "pcrs: the banks of PCRs are sha1, sha256, sha384 and sha512",
        ),
        (server("ca_path = \"/x\"\nca = 1"), "unknown configurations detected: ca"),
        (agent("ek = \"rsa\""), "ek must be \"rsa-2048\" or \"ec-p256\""),
    ] {
        assert_eq!(outcome.unwrap_err().to_string(), format!("nodeattestor(tpm): {text}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let text = format!("ca_path = \"{}\"", empty.display());
    let error = super::server(Some(&block(&text)), &host()).err().unwrap().to_string();
    assert!(error.contains(&format!("ca_path: {}", empty.display())), "{error}");
    std::fs::write(&empty, "aa\n").unwrap();
    let text = format!("hash_path = \"{}\"", empty.display());
    let error = super::server(Some(&block(&text)), &host()).err().unwrap().to_string();
    assert!(error.ends_with("line 1: not the SHA-256 of a key in hexadecimal"), "{error}");
    // A folder of files that are called like the keys, as others have it.
    let hash = "ab".repeat(32);
    std::fs::write(folder.path().join(&hash), "").unwrap();
    let listed = trust::hashes(folder.path()).unwrap();
    assert_eq!(listed.into_iter().collect::<Vec<_>>(), [[0xab; 32]]);
}

proptest! {
    #[test]
    fn no_payload_makes_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        super::parse_evidence(&bytes);
        let text = payload::encode(&Evidence::new(bytes.clone(), bytes));
        super::parse_evidence(&text);
    }
}

/// What a certificate says that its key is for.
#[derive(Clone, Copy)]
enum Purpose {
    Unsaid,
    Endorsement,
    Web,
    Signing,
}

/// A manufacturer.
struct Authority {
    name: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        Self { name: name.to_owned(), issuer, certificate }
    }

    fn write(&self, folder: &Path) -> std::path::PathBuf {
        let path = folder.join(format!("{}.pem", self.name));
        std::fs::write(&path, self.certificate.pem()).unwrap();
        path
    }

    /// A certificate for an endorsement key, as the EK credential profile has it: no subject, and
    /// what the TPM is in a critical alternative name.
    fn issue(&self, ek: &PublicKey) -> Vec<u8> {
        self.issue_for(ek, Purpose::Unsaid)
    }

    fn issue_for(&self, ek: &PublicKey, purpose: Purpose) -> Vec<u8> {
        use rcgen::{ExtendedKeyUsagePurpose as Extended, KeyUsagePurpose as Usage};
        let mut params = rcgen::CertificateParams::default();
        (params.key_usages, params.extended_key_usages) = match purpose {
            Purpose::Unsaid => (vec![], vec![]),
            Purpose::Endorsement => {
                (vec![Usage::KeyEncipherment], vec![Extended::Other(vec![2, 23, 133, 8, 1])])
            }
            Purpose::Web => (vec![Usage::KeyEncipherment], vec![Extended::ServerAuth]),
            Purpose::Signing => (vec![Usage::DigitalSignature], vec![]),
        };
        params.distinguished_name = rcgen::DistinguishedName::new();
        let attribute = |last: u8, value: &str| {
            let kind = der(6, &[0x67, 0x81, 0x05, 0x02, last]);
            der(0x31, &der(0x30, &[kind, der(12, value.as_bytes())].concat()))
        };
        let name =
            [attribute(1, "id:49424D00"), attribute(2, "swtpm"), attribute(3, "id:20191023")];
        let names = der(0x30, &der(0xa4, &der(0x30, &name.concat())));
        let mut names = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
        names.set_criticality(true);
        params.custom_extensions.push(names);
        params.signed_by(&Ek(ek), &self.issuer).unwrap().der().to_vec()
    }
}

struct Ek<'a>(&'a PublicKey);

impl rcgen::PublicKeyData for Ek<'_> {
    fn der_bytes(&self) -> &[u8] {
        // An RSAPublicKey with 2048 bits is what a SubjectPublicKeyInfo ends with.
        &self.0.spki_der()[self.0.spki_der().len() - 270..]
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128);
    [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
}
