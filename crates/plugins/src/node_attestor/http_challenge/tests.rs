use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use steeple_hcl::Block;
use steeple_plugin::{
    AgentAttributes, AgentLookup, Challenger, Code, HostContext, HostServices, NodeAttestor,
    NodeEvidence, PluginError, contract,
};
use steeple_spiffe::TrustDomain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::fetch::Fetcher;
use super::payload::{AttestationData, Challenge, json};
use super::{config, pattern};

struct Attested(Vec<String>);

#[async_trait]
impl AgentLookup for Attested {
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
        Ok(self.0.iter().any(|it| it == id))
    }
}

fn host(attested: &[&str]) -> HostContext {
    let services = HostServices::new();
    let attested = attested.iter().map(|it| (*it).to_owned()).collect();
    services.provide_agents(Arc::new(Attested(attested)));
    HostContext::new(TrustDomain::parse("example.org").unwrap()).with_services(services)
}

fn block(text: &str) -> Option<Block> {
    Some(Block::parse(text).unwrap())
}

fn server(config: &str, attested: &[&str]) -> Arc<dyn NodeAttestor> {
    super::server(block(config).as_ref(), &host(attested)).unwrap()
}

fn data(host_name: &str, agent_name: &str, port: i64) -> Vec<u8> {
    let (host_name, agent_name) = (host_name.to_owned(), agent_name.to_owned());
    json(&AttestationData { host_name, agent_name, port })
}

/// The agent's half of the conversation, as the test wants it.
struct Agent<F>(F);

#[async_trait]
impl<F: FnMut(&[u8]) + Send> Challenger for Agent<F> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        (self.0)(challenge);
        Ok(b"\n".to_vec())
    }
}

async fn refused(config: &str, payload: &[u8]) -> (Code, String) {
    let error = server(config, &[]).attest(payload, &mut Agent(|_: &[u8]| {})).await.unwrap_err();
    let text = error.message.replacen("nodeattestor(http_challenge): ", "", 1);
    (error.code, text)
}

/// A host that answers each caller with what `answer` makes of the nonce, and the requests it got.
struct Web {
    address: SocketAddr,
    nonce: Arc<Mutex<String>>,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: steeple_runtime::Tasks,
}

impl Web {
    async fn new(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (nonce, requests) = (Arc::<Mutex<String>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let tasks = steeple_runtime::Tasks::new();
        let (known, seen) = (Arc::clone(&nonce), Arc::clone(&requests));
        tasks.spawn_isolated("web", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap_or_default();
                seen.lock().unwrap().push(String::from_utf8_lossy(&head[..read]).into_owned());
                let answer = answer(&known.lock().unwrap().clone());
                let _ = stream.write_all(&answer).await;
                if answer.ends_with(b"chunked\r\n\r\n") {
                    std::future::pending::<()>().await;
                }
            }
        });
        Self { address, nonce, requests, _tasks: tasks }
    }

    async fn attest(
        &self,
        config: &str,
        attested: &[&str],
    ) -> Result<AgentAttributes, PluginError> {
        let payload = data("127.0.0.1", "default", self.address.port().into());
        let mut agent = Agent(|challenge: &[u8]| {
            *self.nonce.lock().unwrap() = Challenge::parse(challenge).unwrap().nonce;
        });
        server(config, attested).attest(&payload, &mut agent).await
    }
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

const ID: &str = "spiffe://example.org/spire/agent/http_challenge/127.0.0.1";

#[tokio::test]
async fn who_answers_with_the_nonce_is_at_the_name() {
    let web = Web::new(|nonce| ok(&format!(" {nonce}\r\n"))).await;
    let attributes = web.attest("", &[]).await.unwrap();
    assert_eq!(attributes.agent_id.as_str(), ID);
    assert_eq!(attributes.selector_values, ["hostname:127.0.0.1"]);
    assert!(!attributes.can_reattest);
    let requests = web.requests.lock().unwrap();
    let path = "/.well-known/spiffe/nodeattestor/http_challenge/default/challenge";
    assert!(requests[0].starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{requests:?}");
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn a_host_that_attested_is_refused_unless_it_may_come_again() {
    let web = Web::new(ok).await;
    let error = web.attest("", &[ID]).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied);
    let text = "attestation data has already been used to attest an agent";
    assert_eq!(error.message, format!("nodeattestor(http_challenge): {text}"));
    // A port below 1024 takes root, so what is asked here is the configuration alone.
    let config = config::server(block("tofu = false\nrequired_port = 80").as_ref()).unwrap();
    assert!(!config.tofu);
}

#[tokio::test]
async fn no_byte_of_another_answer_comes_back() {
    const SECRET: &str = "AKIASECRET";
    let long = format!("{SECRET}{}", "x".repeat(100_000));
    for (answer, reason) in [
        (ok(SECRET), "expected nonce was not found in HTTP response"),
        (ok(&long), "expected nonce was not found in HTTP response"),
        (ok(""), "expected nonce was not found in HTTP response"),
        (
            format!("HTTP/1.1 302 Found\r\nLocation: http://{SECRET}/\r\n\r\n").into_bytes(),
            "http redirects are disabled",
        ),
        (
            format!("HTTP/1.1 307 Found\r\nLocation: /{SECRET}\r\n\r\n").into_bytes(),
            "http redirects are disabled",
        ),
        (format!("SSH-2.0-{SECRET}\r\n").into_bytes(), "no HTTP response that can be read"),
        (
            format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(100_000)).into_bytes(),
            "no HTTP response that can be read",
        ),
        (Vec::new(), "no HTTP response that can be read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\nshort".to_vec(), "no HTTP response"),
    ] {
        let web = Web::new(move |_| answer.clone()).await;
        let error = web.attest("", &[]).await.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{error}");
        assert!(error.message.contains("challenge verification failed: "), "{error}");
        assert!(error.message.contains(reason), "{error}");
        assert!(!error.message.contains(SECRET), "{error}");
        assert_eq!(web.requests.lock().unwrap().len(), 1, "one call, whatever is answered");
    }
}

#[tokio::test]
async fn an_answer_with_another_status_counts_as_it_does_upstream() {
    let web = Web::new(|nonce| {
        let mut answer = b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec();
        answer.extend(nonce.as_bytes());
        answer
    })
    .await;
    assert_eq!(web.attest("", &[]).await.unwrap().agent_id.as_str(), ID);
}

#[tokio::test]
async fn a_host_that_never_comes_to_an_end_is_given_up() {
    let config = config::server(None).unwrap();
    let fetcher = Fetcher::new(Duration::from_millis(200));
    let endless = Web::new(|_| b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into());
    let endless = endless.await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for address in [silent.local_addr().unwrap(), endless.address] {
        let data = data("127.0.0.1", "default", address.port().into());
        let place = AttestationData::parse(&data).unwrap().check().unwrap();
        let error = fetcher.fetch(&place, &config).await.unwrap_err().to_string();
        assert_eq!(error, "context deadline exceeded");
    }
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_told_in_upstreams_words() {
    // Bound and not listening: nobody else gets it meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let (code, text) = refused("", &data("127.0.0.1", "a", port.into())).await;
    let path = "/.well-known/spiffe/nodeattestor/http_challenge/a/challenge";
    assert_eq!(code, Code::PermissionDenied);
    assert_eq!(
        text,
        format!(
            "challenge verification failed: Get \"http://127.0.0.1:{port}{path}\": \
             dial tcp 127.0.0.1:{port}: connect: connection refused"
        )
    );
}

#[tokio::test]
async fn evidence_that_names_no_place_is_refused_before_anybody_is_asked() {
    use Code::{InvalidArgument, PermissionDenied};
    const NAME: &str = "agent name is not valid";
    const FAILED: &str = "challenge verification failed: ";
    let long = "h".repeat(254);
    for (config, payload, code, text) in [
        ("", b"".to_vec(), InvalidArgument, "payload cannot be empty".to_owned()),
        ("", data("", "a", 80), PermissionDenied, format!("{FAILED}hostname must be set")),
        ("", data("h", "", 80), InvalidArgument, NAME.to_owned()),
        ("", data("h", "a.b", 80), InvalidArgument, NAME.to_owned()),
        ("", data("h", "a^", 80), InvalidArgument, NAME.to_owned()),
        ("", data("h", "a_b", 80), InvalidArgument, NAME.to_owned()),
        ("", data("h", "1a", 80), InvalidArgument, NAME.to_owned()),
        ("", data("h", "a/../b", 80), InvalidArgument, NAME.to_owned()),
        ("", data("h", &"a".repeat(33), 80), InvalidArgument, NAME.to_owned()),
        ("", data("h", "a", 0), PermissionDenied, format!("{FAILED}port is invalid")),
        ("", data("h", "a", -1), PermissionDenied, format!("{FAILED}port is invalid")),
        ("", data("h", "a", 65_536), PermissionDenied, format!("{FAILED}port is invalid")),
        (
            "",
            data("a/b", "a", 80),
            PermissionDenied,
            format!("{FAILED}hostname can not contain a slash"),
        ),
        (
            "",
            data("a:b", "a", 80),
            PermissionDenied,
            format!("{FAILED}hostname can not contain a colon"),
        ),
        ("", data("u@h", "a", 80), PermissionDenied, format!("{FAILED}hostname is not valid")),
        ("", data("h?", "a", 80), PermissionDenied, format!("{FAILED}hostname is not valid")),
        ("", data("..", "a", 80), PermissionDenied, format!("{FAILED}hostname is not valid")),
        ("", data("h\r\nX", "a", 80), PermissionDenied, format!("{FAILED}hostname is not valid")),
        (
            "",
            data(&long, "a", 80),
            PermissionDenied,
            format!("{FAILED}hostname is longer than 253 characters"),
        ),
        (
            "",
            data("localhost", "a", 80),
            PermissionDenied,
            "you can not use localhost as a hostname".to_owned(),
        ),
        (
            "",
            data("a.LocalHost.", "a", 80),
            PermissionDenied,
            "you can not use localhost as a hostname".to_owned(),
        ),
        (
            "required_port = 80",
            data("h", "a", 81),
            InvalidArgument,
            "port 81 is not allowed to be used by this server".to_owned(),
        ),
        (
            "allow_non_root_ports = false",
            data("h", "a", 1024),
            InvalidArgument,
            "port 1024 is not allowed to be >= 1024".to_owned(),
        ),
        (
            "allowed_dns_patterns = [\"p[0-9][.]example[.]com\"]",
            data("foo", "a", 80),
            PermissionDenied,
            "the requested hostname is not allowed to connect".to_owned(),
        ),
    ] {
        assert_eq!(refused(config, &payload).await, (code, text));
    }
    for garbage in [&b"not json"[..], b"{\"port\": 1.5}", b"[", b"{\"port\": \"80\"}", &[0xff; 9]] {
        let (code, text) = refused("", garbage).await;
        assert_eq!(code, InvalidArgument);
        assert!(text.starts_with("failed to unmarshal data: "), "{text}");
    }
    let (_, text) = refused("", &vec![b' '; 10_000]).await;
    assert_eq!(text, "failed to unmarshal data: it is larger than 4096 bytes");
}

#[tokio::test]
async fn addresses_that_are_no_hosts_are_not_called() {
    for (config, host) in [
        ("", "169.254.169.254"),
        ("", "0.0.0.0"),
        ("", "224.0.0.1"),
        ("", "255.255.255.255"),
        ("deny_local_addresses = true", "127.0.0.1"),
        ("deny_local_addresses = true", "169.254.0.1"),
        ("allowed_address_ranges = [\"10.0.0.0/8\"]", "192.0.2.1"),
    ] {
        let (code, text) = refused(config, &data(host, "a", 80)).await;
        assert_eq!(code, Code::PermissionDenied);
        let expected = format!("dial tcp: the address of {host} is not one that may be called");
        assert!(text.ends_with(&expected), "{text}");
    }
    // What the C library takes for an address is a name, and there is none such.
    for host in ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.0x1"] {
        let (_, text) = refused("", &data(host, "a", 80)).await;
        assert!(text.ends_with(&format!("dial tcp: lookup {host}: no such host")), "{text}");
    }
}

#[test]
fn an_address_is_judged_by_where_it_leads() {
    let plain = config::server(None).unwrap();
    let strict = config::server(block("deny_local_addresses = true").as_ref()).unwrap();
    let ranges = "allowed_address_ranges = [\"10.0.0.0/8\", \"2001:db8::/32\"]";
    let ranges = config::server(block(ranges).as_ref()).unwrap();
    for (address, expected) in [
        ("192.0.2.1", [true, true, false]),
        ("10.1.2.3", [true, true, true]),
        ("::ffff:10.1.2.3", [true, true, true]),
        ("2001:db8::1", [true, true, true]),
        ("127.0.0.1", [true, false, false]),
        ("::1", [true, false, false]),
        ("::ffff:127.0.0.1", [true, false, false]),
        ("::127.0.0.1", [true, false, false]),
        ("64:ff9b::7f00:1", [true, false, false]),
        ("2002:7f00:1::1", [true, false, false]),
        ("169.254.1.1", [true, false, false]),
        ("fe80::1", [true, false, false]),
        ("169.254.169.254", [false; 3]),
        ("::ffff:169.254.169.254", [false; 3]),
        ("64:ff9b::a9fe:a9fe", [false; 3]),
        ("fd00:ec2::254", [false; 3]),
        ("0.0.0.0", [false; 3]),
        ("::", [false; 3]),
        ("ff02::1", [false; 3]),
    ] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!([&plain, &strict, &ranges].map(|it| it.allows(address)), expected, "{address}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused_in_upstreams_words() {
    let error = |text: &str| {
        let error = config::server(block(text).as_ref()).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message.replacen("nodeattestor(http_challenge): ", "", 1)
    };
    for text in [
        "tofu = false",
        "tofu = false\nallow_non_root_ports = true",
        "tofu = false\nrequired_port = 1024",
        "tofu = false\nrequired_port = 1024\nallow_non_root_ports = false",
    ] {
        let expected =
            "you can not turn off trust on first use (TOFU) when non-root ports are allowed";
        assert_eq!(error(text), expected, "{text}");
    }
    for text in ["tofu = false\nrequired_port = 80", "tofu = false\nallow_non_root_ports = false"] {
        assert!(!config::server(block(text).as_ref()).unwrap().tofu, "{text}");
    }
    assert_eq!(
        error("allowed_dns_patterns = [\"a\", \"*\"]"),
        "cannot compile allowed_dns_pattern: \"*\", error parsing regexp: missing argument to \
         repetition operator: `*`"
    );
    assert!(error("allowed_dns_patterns = 1").starts_with("unable to decode configuration"));
    assert!(error("allowed_address_ranges = [\"10\"]").ends_with("\"10\", invalid CIDR address"));
    for text in ["agentname = \"a.b\"", "port = 65536", "port = -1", "advertised_port = 99999"] {
        assert!(config::agent(block(text).as_ref()).is_err(), "{text}");
    }
    let own = config::agent(None).unwrap();
    assert!(!own.host_name.is_empty());
    assert_eq!((own.agent_name.as_str(), own.port, own.advertised_port), ("default", 0, 0));
}

#[test]
fn patterns_mean_what_they_mean_in_go() {
    for (pattern, matching, other) in [
        (r"p[0-9]\.example\.com", "xp1.example.com.org", "p1-example-com"),
        (r"^p\d+\.test$", "p12.test", "p\u{661}.test"),
        (r"^\w+$", "a_1", "é"),
        (r"^[\w.]+$", "a.b", "a-b"),
        (r"^[^\d]+$", "ab", "a1"),
        (r"^\Qa.b\E$", "a.b", "axb"),
        (r"^a{,2}$", "a{,2}", "aa"),
        (r"^a{2}b{1,}$", "aabb", "ab"),
        (r"^[[a]+$", "[a", "b"),
        (r"^[a&&b]+$", "a&b", "c"),
        (r"^[a~~b]$", "~", "c"),
        (r"^[]a]$", "]", "b"),
        (r"^[a-c-e]+$", "-bce", "d"),
        (r"^[[:alpha:]]+$", "ab", "1"),
        (r"^[[:^alpha:]]+$", "1", "a"),
        (r"^\<a\>$", "<a>", "a"),
        (r"^\x61\x{62}\143$", "abc", "a"),
        (r"(?i)^WEB$", "web", "wob"),
        (r"^(?:a|b)(?P<n>c)$", "bc", "cc"),
        (r"^\p{Lu}\pL$", "Ab", "ab"),
        (r"^a.b$", "axb", "a\nb"),
        (r"\bb\b", "a b c", "abc"),
        (r"^a#b c$", "a#b c", "a"),
        ("", "anything", "\u{0}never"),
    ] {
        let compiled = pattern::compile(pattern).unwrap_or_else(|it| panic!("{pattern}: {it}"));
        assert!(compiled.is_match(matching.as_bytes()), "{pattern} {matching}");
        if !pattern.is_empty() {
            assert!(!compiled.is_match(other.as_bytes()), "{pattern} {other}");
        }
    }
    for pattern in [
        "*",
        "a**",
        "(",
        ")",
        "[a",
        "[z-a]",
        r"\1",
        r"\y",
        r"\",
        "(?=a)",
        "(?<!a)",
        "(?x)a",
        r"\u0061",
        "a{1001}",
        "a{2}{3}",
        "|*",
        "(?P<n",
        "[[:nope:]]",
        r"\x{110000}",
        "a{1000}{1000}",
        "((a{100}){100}){100}",
    ] {
        assert!(pattern::compile(pattern).is_err(), "{pattern}");
    }
    assert!(pattern::compile(&"a".repeat(2000)).is_err());
}

proptest! {
    #[test]
    fn no_pattern_and_no_payload_panics(text in "\\PC{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = pattern::compile(&text);
        let _ = super::parse_payload(&bytes);
        let _ = super::parse_payload(text.as_bytes());
    }

    #[test]
    fn what_the_parser_lets_through_makes_an_agent_id(host in "[a-zA-Z0-9._:/@?#-]{0,12}", port in any::<i64>()) {
        let data = AttestationData { host_name: host.clone(), agent_name: "a".into(), port };
        if let Ok(place) = data.check() {
            let domain = TrustDomain::parse("example.org").unwrap();
            let id = ["spire", "agent", "http_challenge", &host];
            prop_assert!(steeple_spiffe::SpiffeId::from_segments(&domain, &id).is_ok());
            prop_assert_eq!(place.host, host);
        }
    }
}

async fn ask(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn agent(config: &str) -> Arc<dyn NodeEvidence> {
    super::agent(block(config).as_ref(), &host(&[])).unwrap()
}

#[tokio::test]
async fn the_agent_serves_the_nonce_during_an_attestation_only() {
    const PATH: &str = "/.well-known/spiffe/nodeattestor/http_challenge/blue/challenge";
    let agent = agent("hostname = \"h.test\"\nagentname = \"blue\"");
    let payload = AttestationData::parse(&agent.payload().await.unwrap()).unwrap();
    assert_eq!((&*payload.host_name, &*payload.agent_name), ("h.test", "blue"));
    let port = u16::try_from(payload.port).unwrap();
    let challenge = Challenge::random();
    assert_eq!(challenge.nonce.len(), 44);
    assert_eq!(agent.respond(&json(&challenge)).await.unwrap(), b"\n");
    let answer = ask(port, PATH).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(&format!("\r\n\r\n{}\n", challenge.nonce)), "{answer}");
    let other = ask(port, "/").await.unwrap();
    assert!(other.starts_with("HTTP/1.1 404 Not Found\r\n"), "{other}");
    assert!(!other.contains(&challenge.nonce));
    let error = agent.respond(&json(&challenge)).await.unwrap_err().to_string();
    assert!(error.contains("unexpected challenge"), "{error}");
}

#[tokio::test]
async fn the_port_is_closed_when_the_attestation_is_over() {
    let agent = agent("hostname = \"h\"");
    let payload = AttestationData::parse(&agent.payload().await.unwrap()).unwrap();
    let port = u16::try_from(payload.port).unwrap();
    agent.respond(&json(&Challenge::random())).await.unwrap();
    // One that connects and says nothing does not keep it open.
    let _idle = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    agent.end().await;
    let closed = async {
        while TcpListener::bind(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("the port stayed open");
    let error = agent.respond(&json(&Challenge::random())).await.unwrap_err();
    assert_eq!(error.code, Code::Internal);
}

#[tokio::test]
async fn the_agent_refuses_challenges_that_are_none() {
    let agent = agent("hostname = \"h\"");
    for challenge in [&b"{"[..], b"[]x", &[b' '; 10_000]] {
        agent.payload().await.unwrap();
        let error = agent.respond(challenge).await.unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert!(error.message.contains("unable to unmarshal challenge: "), "{error}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    let taken = TcpListener::bind("[::]:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = agent(&format!("port = {port}")).payload().await.unwrap_err();
    let text =
        format!("could not listen on port {port}: listen tcp :{port}: bind: address already");
    assert!(error.message.contains(&text), "{error}");
}

#[tokio::test]
async fn the_advertised_port_is_told_in_place_of_the_own() {
    let agent = agent("hostname = \"h\"\nadvertised_port = 80");
    contract::node_evidence(agent.as_ref()).await;
    let payload = AttestationData::parse(&agent.payload().await.unwrap()).unwrap();
    assert_eq!(payload.port, 80);
}

#[tokio::test]
async fn both_halves_understand_each_other() {
    let agent = agent("hostname = \"127.0.0.1\"");
    struct Forward(Arc<dyn NodeEvidence>);
    #[async_trait]
    impl Challenger for Forward {
        async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
            self.0.respond(challenge).await
        }
    }
    let payload = agent.payload().await.unwrap();
    let attested = server("", &[]).attest(&payload, &mut Forward(Arc::clone(&agent))).await;
    assert_eq!(attested.unwrap().agent_id.as_str(), ID);
}
