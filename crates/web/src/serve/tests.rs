//! Servers on real sockets, asked by clients good and bad.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use steeple_net::tls::{Identity, IdentitySlot, provider};
use steeple_pki::verify::X509Roots;
use steeple_pki::{Certificate, PrivateKey};
use steeple_runtime::drain::{self, Drain};
use steeple_spiffe::{SpiffeId, TrustDomain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{CertFiles, CertSource, ClientAuth, TlsOptions, reply};

const LONG: Duration = Duration::from_secs(20);
/// Short for a deadline, and long for a machine that is busy.
const SHORT: Duration = Duration::from_millis(800);

fn brisk() -> Limits {
    Limits { head_deadline: SHORT, write_deadline: SHORT, ..Limits::default() }
}

/// A server that says what it was asked for; `/body` says how long the body is, `/slow` takes its
/// time, `/large` says a lot.
struct Running {
    address: SocketAddr,
    tasks: Tasks,
    drain: Drain,
    seen: Arc<AtomicUsize>,
}

async fn start(tls: Option<Tls>, limits: Limits) -> Running {
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    start_on(listener, tls, limits)
}

fn start_on(listener: Listener, tls: Option<Tls>, limits: Limits) -> Running {
    let address = listener.local_addr().unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
    let (drain, watcher) = drain::channel();
    let tasks = Tasks::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let handler = move |request: Request| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let path = request.uri().path().to_owned();
            match path.as_str() {
                "/body" => match request.into_body().bytes().await {
                    Ok(body) => reply::content("text/plain", format!("{} bytes", body.len())),
                    Err(error) => reply::error(http::StatusCode::BAD_REQUEST, &error.to_string()),
                },
                "/slow" => {
                    tokio::time::sleep(SHORT * 3 / 2).await;
                    reply::content("text/plain", "at last")
                }
                "/large" => reply::content("text/plain", vec![b'x'; 32 * 1024 * 1024]),
                "/host" => {
                    let host = request_host(&request).unwrap_or_default().to_owned();
                    reply::content("text/plain", host)
                }
                _ => reply::content("text/plain", path),
            }
        }
    };
    tasks.spawn("server", serve(listener, tls, handler, limits, watcher));
    Running { address, tasks, drain, seen }
}

impl Running {
    async fn stop(self) {
        assert!(self.drain.drain(LONG).await);
        timeout(LONG, self.tasks.join()).await.unwrap().unwrap();
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }
}

/// What comes until the other end closes; it may do so by a reset.
async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match timeout(LONG, stream.read(&mut buffer)).await.expect("it closes in time") {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&answer).into_owned(),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
        }
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn a_request_is_answered_and_head_gets_the_length_only() {
    let server = start(None, Limits::default()).await;
    let answer = server.raw(&get("/hello")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n/hello"), "{answer}");
    let answer = server.raw(&get("/hello").replace("GET", "HEAD")).await;
    assert!(answer.contains("Content-Length: 6\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let posted =
        "POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
    assert!(server.raw(posted).await.ends_with("3 bytes"));
    server.stop().await;
}

#[tokio::test]
async fn what_gos_server_refuses_no_handler_sees() {
    let server = start(None, Limits::default()).await;
    let long = "x".repeat(200_000);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nHost: a/../b\r\n\r\n".to_owned(), "400"),
        ("GET nopath HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "400"),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "400"),
        ("\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n".to_owned(), "400"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "4"),
    ] {
        let answer = server.raw(&request).await;
        let start: String = request.chars().take(60).collect();
        let status_line = format!("HTTP/1.1 {status}");
        // The client may still be writing when the connection is reset.
        assert!(answer.is_empty() || answer.starts_with(&status_line), "{start}: {answer}");
    }
    assert_eq!(server.seen.load(Ordering::SeqCst), 0);
    assert!(server.raw(&get("/still/here")).await.ends_with("/still/here"));
    server.stop().await;
}

#[tokio::test]
async fn a_head_in_drops_is_cut_off_and_others_are_served_meanwhile() {
    let server = start(None, brisk()).await;
    let begun = Instant::now();
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let dripping = async {
        for byte in get("/").bytes() {
            if slow.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(SHORT / 4).await;
        }
        begun.elapsed()
    };
    let other = get("/other");
    let (lasted, answer) = tokio::join!(dripping, server.raw(&other));
    assert!(answer.ends_with("/other"));
    // The whole head would take longer.
    assert!(lasted < SHORT * 8, "{lasted:?}");
    assert_eq!(server.seen.load(Ordering::SeqCst), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_or_only_begins_a_second_request_is_cut_off() {
    let server = start(None, brisk()).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(read_all(&mut silent).await, "");
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second.write_all(get("/a").replace("close", "keep-alive").as_bytes()).await.unwrap();
    // Idle for longer than a head may take, which is fine.
    tokio::time::sleep(SHORT * 3 / 2).await;
    second.write_all(b"GET /b HTT").await.unwrap();
    let answer = read_all(&mut second).await;
    assert!(answer.ends_with("\r\n\r\n/a"), "{answer}");
    assert_eq!(server.seen.load(Ordering::SeqCst), 1);
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_slow_answer_is_not() {
    let limits = Limits { idle: SHORT, ..Limits::default() };
    let server = start(None, limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(get("/slow").replace("close", "keep-alive").as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.ends_with("at last"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let server = start(None, brisk()).await;
    let mut greedy = TcpStream::connect(server.address).await.unwrap();
    greedy.write_all(get("/large").as_bytes()).await.unwrap();
    // Far longer than an answer may wait.
    tokio::time::sleep(SHORT * 3).await;
    let answer = read_all(&mut greedy).await;
    assert!(answer.len() < 32 * 1024 * 1024, "{}", answer.len());
    server.stop().await;
}

#[tokio::test]
async fn a_body_has_a_limit_of_size_and_of_time() {
    let limits = Limits {
        body_size: 10,
        body_deadline: SHORT,
        idle: Duration::from_secs(2),
        ..Limits::default()
    };
    let server = start(None, limits).await;
    let post = |len: usize, body: &str| {
        format!(
            "POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
        )
    };
    let answer = server.raw(&post(11, "12345678901")).await;
    assert!(answer.contains("larger than 10 bytes"), "{answer}");
    let answer = server.raw(&post(5, "123")).await;
    assert!(answer.contains("did not arrive within"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn one_address_cannot_have_all_connections() {
    let limits = Limits { connections_per_address: 2, ..Limits::default() };
    let server = start(None, limits).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(get("/").replace("close", "keep-alive").as_bytes()).await.unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap();
        held.push(stream);
    }
    assert_eq!(server.raw(&get("/")).await, "");
    drop(held);
    let served = async {
        while server.raw(&get("/")).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, served).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn at_the_end_open_requests_are_answered_and_idle_connections_closed() {
    let server = start(None, Limits::default()).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(get("/a").replace("close", "keep-alive").as_bytes()).await.unwrap();
    let mut open = TcpStream::connect(server.address).await.unwrap();
    open.write_all(get("/slow").replace("close", "keep-alive").as_bytes()).await.unwrap();
    while server.seen.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
    assert!(read_all(&mut idle).await.ends_with("/a"));
    assert!(read_all(&mut open).await.ends_with("at last"));
}

#[tokio::test]
async fn a_unix_socket_serves_plain_http() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = start_on(Listener::unix(&path, 0o777).unwrap(), None, Limits::default());
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(get("/unix").as_bytes()).await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("/unix"));
    // Not a moment later: the process may end then.
    assert!(server.drain.drain(LONG).await);
    assert!(!path.exists());
}

/// A CA, and what it signs.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new(uri: Option<&str>) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn issue(&self, san: SanType) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(san);
        params.key_usages.push(rcgen::KeyUsagePurpose::DigitalSignature);
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    fn dns(&self) -> (rcgen::Certificate, KeyPair) {
        self.issue(SanType::DnsName("a.test".try_into().unwrap()))
    }

    fn svid(&self, id: &str) -> (rcgen::Certificate, KeyPair) {
        self.issue(SanType::URI(id.try_into().unwrap()))
    }
}

fn write_pair(dir: &Path, pair: &(rcgen::Certificate, KeyPair)) -> CertFiles {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&cert, pair.0.pem()).unwrap();
    std::fs::write(&key, pair.1.serialize_pem()).unwrap();
    CertFiles { cert, key, sync_interval: None }
}

async fn tls(source: CertSource, clients: ClientAuth) -> Tls {
    let options = TlsOptions { source, clients, require_pq_kem: false, subsystem: None };
    let (_drain, watcher) = drain::channel();
    Tls::new(options, &Tasks::new(), &watcher).await.unwrap()
}

/// Asks over TLS as `client`, if it has a certificate, with these protocols; says what failed.
async fn ask(
    server: &Running,
    ca: &Ca,
    protocols: &[&[u8]],
    client: Option<&(rcgen::Certificate, KeyPair)>,
) -> Result<String, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
            builder.with_client_auth_cert(vec![cert.der().clone()], key).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    let text = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect(server.address).await.map_err(|it| text(&it))?;
    let name = ServerName::try_from("a.test").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.map_err(|it| text(&it))?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        stream.write_all(get("/tls").as_bytes()).await.map_err(|it| text(&it))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|it| text(&it))?;
        return Ok(answer);
    }
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|it| text(&it))?;
    let exchange = async {
        let request =
            http::Request::get("https://a.test/host").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.map_err(|it| text(&it))?;
        let body = response.into_body().collect().await.map_err(|it| text(&it))?.to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(format!("connection ended: {ended:?}")),
    }
}

#[tokio::test]
async fn http2_and_http1_are_spoken_over_tls_as_the_client_likes() {
    let (ca, dir) = (Ca::new(None), tempfile::tempdir().unwrap());
    let files = CertSource::Files(write_pair(dir.path(), &ca.dns()));
    let server = start(Some(tls(files, ClientAuth::None).await), Limits::default()).await;
    assert_eq!(ask(&server, &ca, &[b"h2", b"http/1.1"], None).await.unwrap(), "a.test");
    for protocols in [&[b"http/1.1".as_slice()][..], &[]] {
        assert!(ask(&server, &ca, protocols, None).await.unwrap().ends_with("/tls"));
    }
    // Somebody who speaks no TLS, and somebody who says nothing.
    assert!(!server.raw(&get("/")).await.starts_with("HTTP"));
    server.stop().await;
}

/// A handshake that agreed on HTTP/2, and nothing after it yet.
async fn http2_stream(server: &Running, ca: &Ca) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn http2_connections_without_a_preface_or_a_request_are_closed() {
    let (ca, dir) = (Ca::new(None), tempfile::tempdir().unwrap());
    let files = CertSource::Files(write_pair(dir.path(), &ca.dns()));
    let limits = Limits { idle: SHORT, ..brisk() };
    let server = start(Some(tls(files, ClientAuth::None).await), limits).await;
    let mut silent = http2_stream(&server, &ca).await;
    read_all(&mut silent).await;

    let stream = TokioIo::new(http2_stream(&server, &ca).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let request = http::Request::get("https://a.test/slow").body(Empty::<Bytes>::new()).unwrap();
    let exchange = async {
        // It takes longer than a connection may be idle, and is waited for.
        let answered = sender.send_request(request).await.unwrap();
        assert_eq!(answered.into_body().collect().await.unwrap().to_bytes(), "at last");
        // The sender lives on, so that it is the server that closes.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = exchange => {}
        ended = timeout(LONG, connection) => drop(ended.expect("it is closed in time")),
    }
    assert_eq!(server.seen.load(Ordering::SeqCst), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_client_authority_lets_its_clients_in_and_no_others() {
    let (ca, other, dir) = (Ca::new(None), Ca::new(None), tempfile::tempdir().unwrap());
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, ca.0.pem()).unwrap();
    let files = CertSource::Files(write_pair(dir.path(), &ca.dns()));
    let tls = tls(files, ClientAuth::CaFile(file)).await;
    let server = start(Some(tls), Limits::default()).await;
    assert!(ask(&server, &ca, &[], Some(&ca.dns())).await.is_ok());
    assert!(ask(&server, &ca, &[], Some(&other.dns())).await.is_err());
    assert!(ask(&server, &ca, &[], None).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn a_spiffe_id_is_let_in_under_its_own_bundle_only() {
    let (ca, other) = (Ca::new(Some("spiffe://td.test")), Ca::new(Some("spiffe://td.test")));
    let pair = ca.dns();
    let slot = IdentitySlot::new();
    let trust_domain = TrustDomain::parse("td.test").unwrap();
    let authority = Certificate::from_der(ca.der().to_vec()).unwrap();
    let clients = ClientAuth::Spiffe {
        authorized: vec![SpiffeId::parse("spiffe://td.test/prometheus").unwrap()],
        bundles: Arc::new(X509Roots { trust_domain, authorities: vec![authority] }),
    };
    let tls = tls(CertSource::Slot(slot.clone()), clients).await;
    let server = start(Some(tls), Limits::default()).await;
    let right = ca.svid("spiffe://td.test/prometheus");
    // Nothing in the slot yet.
    assert!(ask(&server, &ca, &[], Some(&right)).await.is_err());
    let chain = [Certificate::from_der(pair.0.der().to_vec()).unwrap()];
    let key = PrivateKey::from_pkcs8_der(&pair.1.serialize_der()).unwrap();
    slot.set(Identity::new(&chain, Arc::new(key)));
    ask(&server, &ca, &[], Some(&right)).await.unwrap();
    for wrong in [
        ca.svid("spiffe://td.test/other"),
        ca.svid("spiffe://other.test/prometheus"),
        other.svid("spiffe://td.test/prometheus"),
        ca.dns(),
    ] {
        assert!(ask(&server, &ca, &[], Some(&wrong)).await.is_err());
    }
    assert!(ask(&server, &ca, &[], None).await.is_err());
    server.stop().await;
}
