use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use steeple_pki::{Bundle, PrivateKey, SignatureAlgorithm, X509Authority};
use steeple_plugin::{AgentLookup, Caller, Challenger, IdentitySource, X509Identity, contract};
use steeple_runtime::ManualClock;
use steeple_spiffe::TrustDomain;

use super::*;

type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(super) fn host() -> HostContext {
    let host = HostContext::new(domain()).with_clock(Arc::new(ManualClock::new(now())));
    host.services.provide_agents(Arc::new(Known(Vec::new())));
    host
}

/// Who has attested.
struct Known(Vec<String>);

#[async_trait::async_trait]
impl AgentLookup for Known {
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
        Ok(self.0.iter().any(|it| it == id))
    }
}

pub(super) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (now() - Duration::from_secs(3600)).into();
    params.not_after = (now() + Duration::from_secs(3600)).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

pub(super) fn ca(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub(super) fn root(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(ca(name), KeyPair::generate().unwrap()).unwrap()
}

fn machine(params: CertificateParams, by: &Issuer) -> Issuer {
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), by).unwrap()
}

/// A machine's certificate as an operator would make it.
fn web_server() -> CertificateParams {
    let mut params = params("COMMONNAME");
    params.serial_number = Some(SerialNumber::from(vec![0x0a, 0x1b, 0x2c]));
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    params.subject_alt_names = vec![
        uri("x509pop://example.org/datacenter/us-east-1"),
        uri("x509pop://example.org/key/path/to/value"),
        uri("x509pop://example.org/lonely"),
        uri("x509pop://another.org/datacenter/elsewhere"),
        SanType::IpAddress([192, 0, 2, 1].into()),
    ];
    params
}

pub(super) fn payload_of(chain: &[&Issuer]) -> Vec<u8> {
    payload::attestation_data(chain.iter().map(|it| it.der().as_ref()))
}

/// An agent that answers challenges so.
pub(super) struct Talk<F> {
    pub(super) answer: F,
    pub(super) ip: &'static str,
}

#[async_trait::async_trait]
impl<F: FnMut(&[u8]) -> Vec<u8> + Send> Challenger for Talk<F> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Ok((self.answer)(challenge))
    }

    fn caller(&self) -> Caller {
        Caller { ip: self.ip.into(), ..Caller::default() }
    }
}

type Answer = fn(&[u8]) -> Vec<u8>;

/// One that nobody may ask.
pub(super) fn mute() -> Talk<Answer> {
    Talk { answer: |_| panic!("nothing was proved, and yet a challenge came"), ip: "" }
}

fn holder(of: &Issuer) -> Talk<impl FnMut(&[u8]) -> Vec<u8> + Send + use<>> {
    let key = PrivateKey::from_pem(&of.key().serialize_pem()).unwrap();
    Talk { answer: move |asked: &[u8]| payload::respond(&key, asked).unwrap(), ip: "" }
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The server's half with these roots.
pub(super) fn server_for(roots: &[&Issuer], more: &str) -> Arc<dyn NodeAttestor> {
    let folder = tempfile::tempdir().unwrap();
    let pem: String = roots.iter().map(|it| it.pem()).collect();
    let path = file(folder.path(), "roots.pem", &pem);
    let data = Block::parse(&format!("ca_bundle_path = {path:?}\n{more}")).unwrap();
    server(Some(&data), &host()).unwrap()
}

async fn refused(
    server: &Arc<dyn NodeAttestor>,
    payload: &[u8],
    mut talk: impl Challenger,
) -> (Code, String) {
    let error = server.attest(payload, &mut talk).await.unwrap_err();
    let message = error.message.strip_prefix("nodeattestor(x509pop): ").unwrap().to_owned();
    (error.code, message)
}

#[tokio::test]
async fn a_trusted_certificate_and_its_key_make_an_agent() {
    let root = root("root");
    let middle = machine(ca("middle"), &root);
    let leaf = machine(web_server(), &middle);
    let fingerprint = |it: &Issuer| {
        steeple_pki::Certificate::from_der(it.der().to_vec()).unwrap().sha1_fingerprint()
    };
    let server = server_for(&[&root], "max_intermediates = 1");
    let made = server.attest(&payload_of(&[&leaf, &middle]), &mut holder(&leaf)).await.unwrap();
    let id = format!("spiffe://example.org/spire/agent/x509pop/{}", fingerprint(&leaf));
    assert_eq!(made.agent_id.as_str(), id);
    assert!(made.can_reattest);
    let mut selectors = made.selector_values;
    selectors.sort();
    let mut expected = vec![
        format!("ca:fingerprint:{}", fingerprint(&middle)),
        format!("ca:fingerprint:{}", fingerprint(&root)),
        "san:datacenter:us-east-1".to_owned(),
        "san:key:path/to/value".to_owned(),
        "serialnumber:0a1b2c".to_owned(),
        "subject:cn:COMMONNAME".to_owned(),
    ];
    expected.sort();
    assert_eq!(selectors, expected);
}

/// Of an ECDSA signature everyone can make a second one, and so a second fingerprint.
#[tokio::test]
async fn who_is_known_by_one_form_of_a_certificate_is_not_let_in_by_the_other() {
    let root = root("root");
    let leaf = machine(params("leaf"), &root);
    let parsed = |it: &Issuer| steeple_pki::Certificate::from_der(it.der().to_vec()).unwrap();
    let other = parsed(&leaf).in_other_form(parsed(&root).public_key()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "roots.pem", &root.pem());
    let id = |it: &steeple_pki::Certificate| {
        format!("spiffe://example.org/spire/agent/x509pop/{}", it.sha1_fingerprint())
    };
    let attest = async |more: &str, known: Vec<String>, shown: &[u8]| {
        let host = HostContext::new(domain()).with_clock(Arc::new(ManualClock::new(now())));
        host.services.provide_agents(Arc::new(Known(known)));
        let data = Block::parse(&format!("ca_bundle_path = {path:?}\n{more}")).unwrap();
        let server = server(Some(&data), &host).unwrap();
        let payload = payload::attestation_data(std::iter::once(shown));
        server.attest(&payload, &mut holder(&leaf)).await
    };
    let first = parsed(&leaf);
    for (shown, known) in [(&other, &first), (&first, &other)] {
        attest("", vec![], shown.der()).await.unwrap();
        attest("", vec![id(shown)], shown.der()).await.unwrap();
        let refused = attest("", vec![id(known)], shown.der()).await.unwrap_err();
        assert_eq!(refused.code, Code::PermissionDenied);
        assert!(refused.message.ends_with("another form of its signature"), "{refused}");
    }
    // Where the name is not by fingerprint, both forms are one agent.
    let template = "agent_path_template = \"/cn/{{ .Subject.CommonName }}\"";
    let known = vec!["spiffe://example.org/spire/agent/cn/leaf".to_owned()];
    attest(template, known, other.der()).await.unwrap();
    // Both at one moment, when nobody is on record yet.
    let server = server_for(&[&root], "");
    for (shown, is_taken) in [(&other, true), (&first, false), (&other, true)] {
        let payload = payload::attestation_data(std::iter::once(shown.der()));
        let made = server.attest(&payload, &mut holder(&leaf)).await;
        assert_eq!(made.is_ok(), is_taken, "{made:?}");
    }
}

#[tokio::test]
async fn templates_speak_of_the_certificate() {
    let root = root("root");
    let leaf = machine(web_server(), &root);
    for (template, path) in [
        ("/cn/{{ .Subject.CommonName }}", "/cn/COMMONNAME"),
        ("/serialnumber/{{ .SerialNumberHex }}", "/serialnumber/0a1b2c"),
        ("/{{ .URISanSelectors.datacenter }}/{{ .Issuer.CommonName }}", "/us-east-1/root"),
        ("/{{ .TrustDomain }}/{{ .SerialNumber }}", "/example.org/662316"),
    ] {
        let server = server_for(&[&root], &format!("agent_path_template = {template:?}"));
        let made = server.attest(&payload_of(&[&leaf]), &mut holder(&leaf)).await.unwrap();
        assert_eq!(made.agent_id.path(), format!("/spire/agent{path}"));
    }
    for template in ["/{{ .URISanSelectors.nothing }}", "/cn/../{{ .Subject.CommonName }}"] {
        let server = server_for(&[&root], &format!("agent_path_template = {template:?}"));
        let (code, text) = refused(&server, &payload_of(&[&leaf]), holder(&leaf)).await;
        assert_eq!(code, Code::Internal);
        assert!(text.starts_with("failed to make spiffe id: "), "{text}");
    }
}

#[tokio::test]
async fn rsa_and_every_curve_prove_possession_and_ed25519_does_not() {
    let root = root("root");
    let server = server_for(&[&root], "");
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384);
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512);
    for key in [rsa, p384, p521] {
        let leaf = CertifiedIssuer::signed_by(params("leaf"), key.unwrap(), &root).unwrap();
        server.attest(&payload_of(&[&leaf]), &mut holder(&leaf)).await.unwrap();
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let leaf = CertifiedIssuer::signed_by(params("leaf"), key, &root).unwrap();
    let text = "unable to generate challenge: unsupported public key type ed25519.PublicKey";
    let refusal = refused(&server, &payload_of(&[&leaf]), mute()).await;
    assert_eq!(refusal, (Code::Internal, text.to_owned()));
    let mut params = params("leaf");
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    let leaf = machine(params, &root);
    let text = "unable to generate challenge: certificate not intended for digital signature use";
    let refusal = refused(&server, &payload_of(&[&leaf]), mute()).await;
    assert_eq!(refusal, (Code::Internal, text.to_owned()));
}

#[tokio::test]
async fn evidence_that_does_not_hold_is_refused_without_a_challenge() {
    let root = root("root");
    let other = self::root("other");
    let middle = machine(ca("middle"), &root);
    let leaf = machine(params("leaf"), &middle);
    let server = server_for(&[&root], "");
    let json = |text: &str| text.as_bytes().to_vec();
    let whole = payload_of(&[&leaf, &middle]);
    let mut old = params("old");
    old.not_after = (now() - Duration::from_secs(1)).into();
    let old = machine(old, &root);
    let foreign = machine(params("foreign"), &other);
    let many = [&leaf, &middle, &middle, &middle, &middle, &middle];
    let bad = Code::InvalidArgument;
    let unknown = "certificate verification failed: x509: certificate signed by unknown authority";
    for (payload, code, text) in [
        (json("payload"), bad, "failed to unmarshal data: invalid character 'p' looking for"),
        (whole[..whole.len() / 2].to_vec(), bad, "failed to unmarshal data: unexpected end of"),
        (json("{}"), bad, "no certificate to attest"),
        (json(r#"{"certificates":null}"#), bad, "no certificate to attest"),
        (json(r#"{"certificates":["AA=="]}"#), bad, "unable to parse leaf certificate: x509: "),
        (json(r#"{"certificates":"AA=="}"#), bad, "failed to unmarshal data: json: cannot"),
        (vec![b' '; 5 * 32 * 1024 + 1], bad, "failed to unmarshal data: message is too large"),
        (payload_of(&many), bad, "too many intermediate certificates"),
        (payload_of(&[&leaf]), Code::PermissionDenied, unknown),
        (payload_of(&[&foreign, &other]), Code::PermissionDenied, unknown),
        (
            payload_of(&[&old]),
            Code::PermissionDenied,
            "certificate verification failed: x509: certificate has expired or is not yet valid: ",
        ),
    ] {
        let (found, said) = refused(&server, &payload, mute()).await;
        assert_eq!(found, code, "{said}");
        assert!(said.starts_with(text), "{said}");
    }
    let broken = payload::attestation_data([leaf.der().as_ref(), &[0]].into_iter());
    let (code, said) = refused(&server, &broken, mute()).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(said.starts_with("unable to parse intermediate certificate 0: x509: "), "{said}");
}

#[tokio::test]
async fn large_keys_are_refused_by_size_alone() {
    let root = root("root");
    let leaf = machine(params("leaf"), &root);
    let server = server_for(&[&root], "max_rsa_key_size = 2048");
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072);
    let big = CertifiedIssuer::signed_by(ca("big"), key.unwrap(), &root).unwrap();
    let refusal = refused(&server, &payload_of(&[&big]), mute()).await;
    let text = "leaf certificate key size too large";
    assert_eq!(refusal, (Code::InvalidArgument, text.to_owned()));
    let refusal = refused(&server, &payload_of(&[&leaf, &big]), mute()).await;
    let text = "intermediate certificate 0 key size too large";
    assert_eq!(refusal, (Code::InvalidArgument, text.to_owned()));
}

#[tokio::test]
async fn without_the_key_a_certificate_is_worth_nothing() {
    let root = root("root");
    let leaf = machine(params("leaf"), &root);
    let other = machine(params("other"), &root);
    let server = server_for(&[&root], "");
    let payload = payload_of(&[&leaf]);
    let failed = |what: &str| {
        (Code::PermissionDenied, format!("challenge response verification failed: {what}"))
    };
    let wrong = refused(&server, &payload, holder(&other)).await;
    assert_eq!(wrong, failed("ECDSA signature verify failed"));

    // What was once answered is of no use for another challenge.
    let key = PrivateKey::from_pem(&leaf.key().serialize_pem()).unwrap();
    let mut kept = Vec::new();
    let mut talk = Talk {
        answer: |asked: &[u8]| {
            kept = payload::respond(&key, asked).unwrap();
            kept.clone()
        },
        ip: "",
    };
    server.attest(&payload, &mut talk).await.unwrap();
    let replay = Talk { answer: |_: &[u8]| kept.clone(), ip: "" };
    assert_eq!(refused(&server, &payload, replay).await, wrong);

    let say = |text: &'static str| Talk { answer: move |_: &[u8]| text.into(), ip: "" };
    assert_eq!(refused(&server, &payload, say("{}")).await, failed("expecting ECDSA response"));
    let (code, text) = refused(&server, &payload, say("")).await;
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(text, "unable to unmarshal challenge response: unexpected end of JSON input");
    let short = r#"{"ecdsa_signature":{"nonce":"AA==","r":"AQ==","s":"AQ=="}}"#;
    assert_eq!(refused(&server, &payload, say(short)).await, failed("invalid response nonce"));
    let rsa = r#"{"rsa_signature":{"nonce":"AA==","signature":"AQ=="}}"#;
    assert_eq!(refused(&server, &payload, say(rsa)).await, failed("expecting ECDSA response"));
    let huge = Talk { answer: |_: &[u8]| vec![b' '; 20_000], ip: "" };
    assert_eq!(refused(&server, &payload, huge).await.0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_signature_with_a_message_of_the_agents_choice_is_none() {
    // As a signing oracle would give it: right key, right scheme, another message.
    let root = root("root");
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
    let leaf = CertifiedIssuer::signed_by(params("leaf"), key.unwrap(), &root).unwrap();
    let key = PrivateKey::from_pem(&leaf.key().serialize_pem()).unwrap();
    let signature = key.sign(SignatureAlgorithm::RsaPssSha256, &[0; 64]).unwrap();
    let encode = steeple_plugin::go_json::encode;
    let (nonce, signature) = (encode(&[0; 32]), encode(&signature));
    let text = format!(r#"{{"rsa_signature":{{"nonce":"{nonce}","signature":"{signature}"}}}}"#);
    let talk = Talk { answer: |_: &[u8]| text.clone().into_bytes(), ip: "" };
    let (code, said) = refused(&server_for(&[&root], ""), &payload_of(&[&leaf]), talk).await;
    assert_eq!(code, Code::PermissionDenied);
    assert_eq!(said, "challenge response verification failed: RSA signature verify failed");
}

#[tokio::test]
async fn the_callers_address_must_be_in_the_certificate_where_that_is_asked() {
    let root = root("root");
    let leaf = machine(web_server(), &root);
    let server = server_for(&[&root], "verify_client_ip = true");
    let payload = payload_of(&[&leaf]);
    let from = |ip| Talk { ip, ..holder(&leaf) };
    for ip in ["192.0.2.1", "::ffff:192.0.2.1"] {
        server.attest(&payload, &mut from(ip)).await.unwrap();
    }
    for (ip, code, text) in [
        ("", Code::Internal, "client IP not available for verification"),
        ("nonsense", Code::Internal, "invalid client IP \"nonsense\""),
        (
            "192.0.2.2",
            Code::PermissionDenied,
            "client IP 192.0.2.2 does not match any certificate IP SAN",
        ),
    ] {
        assert_eq!(refused(&server, &payload, from(ip)).await, (code, text.to_owned()));
    }
}

struct Trust(Vec<X509Authority>);

#[async_trait::async_trait]
impl IdentitySource for Trust {
    async fn x509_identity(&self) -> Result<X509Identity, PluginError> {
        let mut bundle = Bundle::from_certificates(domain(), Vec::new());
        bundle.x509_authorities.clone_from(&self.0);
        let key = Arc::new(PrivateKey::generate(steeple_pki::KeyType::EcP256).unwrap());
        Ok(X509Identity { chain: Vec::new(), key, bundle })
    }
}

#[tokio::test]
async fn in_spiffe_mode_svids_of_our_own_trust_domain_are_exchanged() {
    let root = root("root");
    let svid = |uris: &[&str]| {
        let mut params = params("svid");
        let uri = |text: &&str| SanType::URI((*text).try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        machine(params, &root)
    };
    let context = host();
    let data = Block::parse("mode = \"spiffe\"").unwrap();
    let server = server(Some(&data), &context).unwrap();
    let good =
        svid(&["spiffe://example.org/spire-exchange/rack/host", "x509pop://example.org/a/b"]);
    let (code, said) = refused(&server, &payload_of(&[&good]), mute()).await;
    assert_eq!(code, Code::Internal);
    assert!(said.starts_with("failed to get trust bundle: "), "{said}");

    let authority = steeple_pki::Certificate::from_der(root.der().to_vec()).unwrap();
    context.services.provide_identity(Arc::new(Trust(vec![X509Authority::new(authority)])));
    let made = server.attest(&payload_of(&[&good]), &mut holder(&good)).await.unwrap();
    assert_eq!(made.agent_id.path(), "/spire/agent/x509pop/rack/host");
    assert!(made.selector_values.contains(&"san:a:b".to_owned()));

    for (uris, text) in [
        (&[][..], "valid SVID x509 cert not found"),
        (&["https://example.org/"], "valid SVID x509 cert not found"),
        (&["spiffe://example.org/web"], "x509 cert doesnt match SVID prefix"),
        (&["spiffe://example.org/spire-exchange"], "x509 cert doesnt match SVID prefix"),
        // Under the same root, and yet another trust domain's.
        (&["spiffe://another.org/spire-exchange/host"], "valid SVID x509 cert not found"),
        (
            &["spiffe://example.org/spire-exchange/a", "spiffe://example.org/spire-exchange/b"],
            "valid SVID x509 cert not found",
        ),
    ] {
        let leaf = svid(uris);
        let refusal = refused(&server, &payload_of(&[&leaf]), holder(&leaf)).await;
        assert_eq!(refusal, (Code::PermissionDenied, text.to_owned()), "{uris:?}");
    }
}

#[tokio::test]
async fn without_authorities_nobody_is_trusted() {
    let context = host();
    context.services.provide_identity(Arc::new(Trust(Vec::new())));
    let data = Block::parse("mode = \"spiffe\"").unwrap();
    let server = server(Some(&data), &context).unwrap();
    let leaf = machine(params("leaf"), &root("root"));
    let refusal = refused(&server, &payload_of(&[&leaf]), mute()).await;
    assert_eq!(refusal.0, Code::PermissionDenied);
}

#[test]
fn settings_are_refused_in_the_words_of_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let roots = file(folder.path(), "roots.pem", &root("root").pem());
    let none = file(folder.path(), "none.pem", "nothing");
    let refusal = |text: &str| {
        let error = check_server(Some(&Block::parse(text).unwrap())).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message.strip_prefix("nodeattestor(x509pop): ").unwrap().to_owned()
    };
    let with = |more: &str| refusal(&format!("ca_bundle_path = {roots:?}\n{more}"));
    assert_eq!(refusal(""), "one of ca_bundle_path or ca_bundle_paths must be configured");
    assert_eq!(
        with("ca_bundle_paths = [\"blah\"]"),
        "only one of ca_bundle_path or ca_bundle_paths can be configured, not both"
    );
    assert_eq!(
        refusal("ca_bundle_paths = [\"blah\"]"),
        "unable to load trust bundle \"blah\": open blah: no such file or directory"
    );
    assert!(
        refusal(&format!("ca_bundle_path = {none:?}")).ends_with("no certificates found in file")
    );
    for more in ["ca_bundle_path = \"blah\"", "ca_bundle_paths = [\"blah\"]"] {
        assert_eq!(
            refusal(&format!("mode = \"spiffe\"\n{more}")),
            "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode"
        );
    }
    assert_eq!(refusal("mode = \"x\""), "mode can only be either spiffe or external_pki");
    for bad in [0, -1] {
        let text = "max_intermediates must be greater than 0";
        assert_eq!(with(&format!("max_intermediates = {bad}")), text);
        let text = "max_rsa_key_size must be greater than 0";
        assert_eq!(with(&format!("max_rsa_key_size = {bad}")), text);
    }
    assert_eq!(
        with("agent_path_template = \"/{{ .X\""),
        "failed to parse agent svid template: \"/{{ .X\""
    );
    assert!(refusal("max_intermediates = \"many\"").starts_with("unable to decode configuration"));
    let fine = format!("ca_bundle_paths = [{roots:?}, {roots:?}]\nmax_intermediates = 20");
    check_server(Some(&Block::parse(&fine).unwrap())).unwrap();
    check_server(Some(&Block::parse("mode = \"spiffe\"\nspiffe_prefix = \"/x\"").unwrap()))
        .unwrap();
}

#[tokio::test]
async fn the_agents_half_reads_its_files_whenever_it_attests() {
    let folder = tempfile::tempdir().unwrap();
    let root = root("root");
    let middle = machine(ca("middle"), &root);
    let (first, second) = (machine(params("1"), &middle), machine(params("2"), &middle));
    let write = |it: &Issuer| {
        let certificate = file(folder.path(), "cert.pem", &it.pem());
        (certificate, file(folder.path(), "key.pem", &it.key().serialize_pem()))
    };
    let (certificate, key) = write(&first);
    let above = file(folder.path(), "above.pem", &middle.pem());
    let data = format!(
        "certificate_path = {certificate:?}\nprivate_key_path = {key:?}\n\
         intermediates_path = {above:?}"
    );
    let agent = agent(Some(&Block::parse(&data).unwrap()), &host()).unwrap();
    contract::node_evidence(agent.as_ref()).await;
    let server = server_for(&[&root], "");
    for shown in [&first, &second] {
        write(shown);
        let payload = agent.payload().await.unwrap();
        assert_eq!(payload, payload_of(&[shown, &middle]));
        let (asking, mut asked) = tokio::sync::mpsc::channel(1);
        let (answering, answers) = tokio::sync::mpsc::channel(1);
        let mut talk = Piped { asking, answers };
        let judge = server.attest(&payload, &mut talk);
        let respond = async {
            let challenge: Vec<u8> = asked.recv().await.unwrap();
            answering.send(agent.respond(&challenge).await.unwrap()).await.unwrap();
            agent.respond(&challenge).await.unwrap_err()
        };
        let (made, again) = tokio::join!(judge, respond);
        made.unwrap();
        assert!(again.message.contains("unexpected challenge"), "{again}");
    }
}

struct Piped {
    asking: tokio::sync::mpsc::Sender<Vec<u8>>,
    answers: tokio::sync::mpsc::Receiver<Vec<u8>>,
}

#[async_trait::async_trait]
impl Challenger for Piped {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.asking.send(challenge.to_vec()).await.unwrap();
        Ok(self.answers.recv().await.unwrap())
    }
}

#[test]
fn the_agents_files_are_examined_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let leaf = machine(params("leaf"), &root("root"));
    let other = KeyPair::generate().unwrap();
    let certificate = file(folder.path(), "cert.pem", &leaf.pem());
    let key = file(folder.path(), "key.pem", &leaf.key().serialize_pem());
    let foreign = file(folder.path(), "other.pem", &other.serialize_pem());
    let nothing = file(folder.path(), "nothing", "nothing");
    let refusal = |certificate: &str, key: &str, above: &str| {
        let data = format!(
            "certificate_path = {certificate:?}\nprivate_key_path = {key:?}\n\
             intermediates_path = {above:?}"
        );
        let data = Block::parse(&data).unwrap();
        check_agent(Some(&data)).unwrap();
        let error = agent(Some(&data), &host()).err().unwrap();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message.strip_prefix("nodeattestor(x509pop): ").unwrap().to_owned()
    };
    let keypair = |reason: &str| format!("unable to load keypair: {reason}");
    assert_eq!(refusal("blah", &key, ""), keypair("open blah: no such file or directory"));
    assert_eq!(
        refusal(&nothing, &key, ""),
        keypair("tls: failed to find any PEM data in certificate input")
    );
    assert_eq!(
        refusal(&certificate, &nothing, ""),
        keypair("tls: failed to find any PEM data in key input")
    );
    assert_eq!(
        refusal(&certificate, &foreign, ""),
        keypair("tls: private key does not match public key")
    );
    assert_eq!(
        refusal(&certificate, &key, &nothing),
        "unable to load intermediate certificates: no certificates found in file"
    );
    for (text, reason) in [
        ("", "private_key_path is required"),
        ("private_key_path = \"a\"", "certificate_path is required"),
    ] {
        let error = check_agent(Some(&Block::parse(text).unwrap())).unwrap_err();
        assert_eq!(error.message, format!("nodeattestor(x509pop): {reason}"));
    }
}

#[tokio::test]
async fn a_workload_api_that_is_not_there_is_told_of_when_it_is_asked() {
    let ask = async |address: &str| {
        let data = format!("spiffe_endpoint_socket = {address:?}");
        let agent = agent(Some(&Block::parse(&data).unwrap()), &host()).unwrap();
        let error = agent.payload().await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        error.message
    };
    let prefix = "nodeattestor(x509pop): unable to fetch SVID from workload API: ";
    for address in ["unix:///nonexistent/socket", "/no/scheme", "unix:relative"] {
        let said = ask(address).await;
        assert!(said.starts_with(prefix), "{said}");
    }
}
