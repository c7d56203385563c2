use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use steeple_plugin::{AgentLookup, Challenger, contract};
use steeple_runtime::ManualClock;
use steeple_spiffe::TrustDomain;

use super::*;

const KINDS: [&str; 5] = ["ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa"];

/// Keys and certificates that `ssh-keygen` made.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pki/src/ssh/testdata").join(name)
}

fn host() -> HostContext {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let host = HostContext::new(TrustDomain::parse("example.org").unwrap())
        .with_clock(Arc::new(ManualClock::new(now)));
    host.services.provide_agents(Arc::new(Nobody));
    host
}

/// Nobody has attested.
struct Nobody;

#[async_trait::async_trait]
impl AgentLookup for Nobody {
    async fn is_attested(&self, _: &str) -> Result<bool, PluginError> {
        Ok(false)
    }
}

fn block(text: &str) -> Option<Block> {
    Some(Block::parse(text).unwrap())
}

fn agent_of(kind: &str) -> Arc<dyn NodeEvidence> {
    let (key, certificate) =
        (data(&format!("host_{kind}")), data(&format!("host_{kind}-cert.pub")));
    let text = format!("host_key_path = {key:?}\nhost_cert_path = {certificate:?}");
    agent(block(&text).as_ref(), &host()).unwrap()
}

fn server_with(ca: &str, more: &str) -> Arc<dyn NodeAttestor> {
    let text = format!("cert_authorities_path = {:?}\n{more}", data(ca));
    server(block(&text).as_ref(), &host()).unwrap()
}

/// The payload that shows the certificate in a file.
fn showing(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(data(name)).unwrap();
    let encoded = text.split(' ').nth(1).unwrap();
    format!("{{\"Certificate\":\"{encoded}\"}}").into_bytes()
}

struct Talk<F>(F);

#[async_trait::async_trait]
impl<F: FnMut(Vec<u8>) -> Vec<u8> + Send> Challenger for Talk<F> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Ok((self.0)(challenge.to_vec()))
    }
}

/// The agent itself.
struct Live<'a>(&'a dyn NodeEvidence);

#[async_trait::async_trait]
impl Challenger for Live<'_> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.0.respond(challenge).await
    }
}

fn mute() -> Talk<fn(Vec<u8>) -> Vec<u8>> {
    Talk(|_| panic!("nothing was proved, and yet a challenge came"))
}

async fn refused(
    server: &Arc<dyn NodeAttestor>,
    payload: &[u8],
    mut talk: impl Challenger,
) -> String {
    let error = server.attest(payload, &mut talk).await.unwrap_err();
    assert_eq!(error.code, Code::Internal, "{error}");
    error.message.strip_prefix("nodeattestor(sshpop): ").unwrap().to_owned()
}

#[tokio::test]
async fn every_kind_of_host_key_makes_an_agent() {
    for kind in KINDS {
        let agent = agent_of(kind);
        contract::node_evidence(agent.as_ref()).await;
        let payload = agent.payload().await.unwrap();
        assert_eq!(payload, showing(&format!("host_{kind}-cert.pub")));
        let server = server_with("ca.pub", "");
        let made = server.attest(&payload, &mut Live(agent.as_ref())).await.unwrap();
        let fingerprint = made.agent_id.path().strip_prefix("/spire/agent/sshpop/").unwrap();
        assert_eq!(fingerprint.len(), 43, "SHA-256 in base64, without padding");
        assert!(made.can_reattest && made.selector_values.is_empty());
        // One answer for each time that the certificate was shown.
        let again = agent.respond(b"{}").await.unwrap_err();
        assert_eq!(again.code, Code::FailedPrecondition);
    }
}

#[tokio::test]
async fn templates_speak_of_the_certificate() {
    let agent = agent_of("ed25519");
    for (more, path) in [
        ("agent_path_template = \"/host/{{ .Hostname }}\"", "/host/host.example.org"),
        (
            "canonical_domain = \"example.org\"\nagent_path_template = \"/static/{{ .Hostname }}\"",
            "/static/host",
        ),
        (
            "agent_path_template = \"/{{ .PluginName }}/{{ .KeyId }}/{{ .Serial }}\"",
            "/sshpop/id-host_ed25519/7",
        ),
    ] {
        let payload = agent.payload().await.unwrap();
        let server = server_with("ca.pub", more);
        let made = server.attest(&payload, &mut Live(agent.as_ref())).await.unwrap();
        assert_eq!(made.agent_id.path(), format!("/spire/agent{path}"));
    }
    let payload = agent.payload().await.unwrap();
    let server = server_with("ca.pub", "agent_path_template = \"/{{ .Hostname }}/..\"");
    let said = refused(&server, &payload, Live(agent.as_ref())).await;
    assert!(said.starts_with("failed to create AgentID: "), "{said}");
    let server = server_with("ca.pub", "canonical_domain = \"elsewhere.org\"");
    assert_eq!(
        refused(&server, &payload, mute()).await,
        "failed to decanonicalize hostname: cert principal is not in domain \".elsewhere.org\""
    );
}

#[tokio::test]
async fn certificates_that_do_not_hold_are_refused_without_a_challenge() {
    let json = |text: &str| text.as_bytes().to_vec();
    let good = showing("host_ed25519-cert.pub");
    for (ca, payload, text) in [
        ("ca.pub", json("payload"), "failed to unmarshal data: invalid character 'p' looking for "),
        ("ca.pub", json("{}"), "no certificate in response"),
        (
            "ca.pub",
            json(r#"{"Certificate":"AA=="}"#),
            "failed to parse public key: ssh: short read",
        ),
        ("ca.pub", good[..good.len() / 2].to_vec(), "failed to unmarshal data: unexpected end of "),
        ("ca.pub", vec![b' '; 100_000], "failed to unmarshal data: message is too large"),
        ("ca.pub", showing("ca.pub"), "pubkey in response is not a certificate"),
        (
            "ca_rsa.pub",
            good,
            "failed to check host key: ssh: no authorities for hostname: host.example.org:22",
        ),
        (
            "ca.pub",
            showing("user-cert.pub"),
            "failed to check host key: ssh: certificate presented as a host key has type 1",
        ),
        ("ca_rsa.pub", showing("old-cert.pub"), "failed to check host key: ssh: cert has expired"),
        (
            "ca_rsa.pub",
            showing("sha1-cert.pub"),
            "failed to check host key: ssh: certificate signature does not verify",
        ),
        (
            "ca.pub",
            showing("strange-cert.pub"),
            "failed to check host key: ssh: unsupported critical option \"strange@example.org\" in",
        ),
    ] {
        let said = refused(&server_with(ca, ""), &payload, mute()).await;
        assert!(said.starts_with(text), "{said}");
    }
}

#[tokio::test]
async fn without_the_key_a_certificate_is_worth_nothing() {
    let server = server_with("ca.pub", "");
    let payload = showing("host_ed25519-cert.pub");
    let other = agent_of("ecdsa256");
    other.payload().await.unwrap();
    let said = refused(&server, &payload, Live(other.as_ref())).await;
    assert_eq!(
        said,
        "failed to verify signature: ssh: signature type ecdsa-sha2-nistp256 for key type \
         ssh-ed25519"
    );

    let key = std::fs::read_to_string(data("host_ed25519")).unwrap();
    let key = steeple_pki::ssh::private_key(&key).unwrap();
    let mut kept = Vec::new();
    let mut first = Talk(|asked: Vec<u8>| {
        kept = payload::respond(&key, &asked).unwrap();
        kept.clone()
    });
    server.attest(&payload, &mut first).await.unwrap();
    let replayed = Talk(|_: Vec<u8>| kept.clone());
    let did_not = "failed to verify signature: ssh: signature did not verify";
    assert_eq!(refused(&server, &payload, replayed).await, did_not);

    let nonce = steeple_plugin::go_json::encode(&[0; 32]);
    for (answer, text) in [
        ("", "failed to unmarshal challenge response: unexpected end of JSON input"),
        ("{}", "failed to combine nonces: invalid response nonce size"),
        (&format!("{{\"Nonce\":\"{nonce}\"}}"), did_not),
        (&format!("{{\"Nonce\":\"{nonce}\",\"Signature\":{{}}}}"), "failed to verify signature: "),
        (&" ".repeat(20_000), "failed to unmarshal challenge response: message is too large"),
    ] {
        let say = Talk(|_: Vec<u8>| answer.as_bytes().to_vec());
        let said = refused(&server, &payload, say).await;
        assert!(said.starts_with(text), "{said}");
    }
}

#[test]
fn settings_are_refused_in_the_words_of_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let refusal = |text: &str| {
        let error = check_server(block(text).as_ref()).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message.strip_prefix("nodeattestor(sshpop): ").unwrap().to_owned()
    };
    assert_eq!(
        refusal(""),
        "missing required config value for \"cert_authorities\" or \"cert_authorities_path\""
    );
    assert_eq!(
        refusal("cert_authorities = []"),
        "failed to create cert checker: must provide at least one cert authority"
    );
    assert_eq!(
        refusal("cert_authorities = [\"not a pubkey\"]"),
        "failed to create cert checker: failed to parse public key \"not a pubkey\": ssh: no key \
         found"
    );
    assert_eq!(
        refusal("cert_authorities_path = \"blah\""),
        "failed to get cert authorities from file: open blah: no such file or directory"
    );
    let empty = file("empty", "\n\n");
    let said = refusal(&format!("cert_authorities_path = {empty:?}"));
    assert!(said.contains("no data found in file: "), "{said}");
    let ca = std::fs::read_to_string(data("ca.pub")).unwrap();
    let with = |more: &str| format!("cert_authorities = [{:?}]\n{more}", ca.trim());
    assert!(
        refusal("canonical_domain = [\"a\", \"b\"]").starts_with("failed to decode configuration")
    );
    assert_eq!(
        refusal(&with("agent_path_template = \"{{ .A\"")),
        "failed to parse agent svid template: \"{{ .A\""
    );
    check_server(block(&with("")).as_ref()).unwrap();

    let refusal = |key: &Path, certificate: &Path| {
        let text = format!("host_key_path = {key:?}\nhost_cert_path = {certificate:?}");
        let error = check_agent(block(&text).as_ref()).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message.strip_prefix("nodeattestor(sshpop): ").unwrap().to_owned()
    };
    let (key, certificate) = (data("host_rsa"), data("host_rsa-cert.pub"));
    assert!(refusal(Path::new("blah"), &certificate).starts_with("failed to read host key file: "));
    assert!(refusal(&key, Path::new("blah")).starts_with("failed to read host cert file: "));
    let pem = "failed to get cert and signer from pem: ";
    assert_eq!(refusal(&key, &data("ca.pub")), format!("{pem}pubkey isn't a certificate"));
    assert_eq!(refusal(&empty, &certificate), format!("{pem}ssh: no key found"));
    assert_eq!(
        refusal(&data("locked"), &certificate),
        format!("{pem}ssh: this private key is passphrase protected")
    );
    assert_eq!(
        refusal(&data("host_ed25519"), &certificate),
        format!("{pem}the certificate is not of the host key")
    );
}
