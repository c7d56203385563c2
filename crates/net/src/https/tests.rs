use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::provider;

const LIMITS: FetchLimits = FetchLimits { deadline: Duration::from_secs(30), size: 1000 };

/// Answers one request on a socket with `answer`, and keeps the connection; returns the request.
async fn answer_once(listener: UnixListener, answer: Vec<u8>) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 4096];
    let len = stream.read(&mut request).await.unwrap();
    // The client may have seen enough before the end.
    let _ = stream.write_all(&answer).await;
    let _ = stream.read(&mut [0; 1]).await;
    String::from_utf8(request[..len].to_vec()).unwrap()
}

struct Socket {
    _directory: tempfile::TempDir,
    path: PathBuf,
    listener: UnixListener,
}

fn socket() -> Socket {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let listener = UnixListener::bind(&path).unwrap();
    Socket { _directory: directory, path, listener }
}

async fn ask(answer: impl Into<Vec<u8>>) -> (Result<Bytes, FetchError>, String) {
    ask_within(LIMITS, answer).await
}

async fn ask_within(
    limits: FetchLimits,
    answer: impl Into<Vec<u8>>,
) -> (Result<Bytes, FetchError>, String) {
    let Socket { _directory, path, listener } = socket();
    let url = "http://bundles.test:8080/a/b?c=d#e";
    tokio::join!(get_unix(url, &path, limits), answer_once(listener, answer.into()))
}

#[tokio::test]
async fn a_document_is_had_over_a_unix_socket() {
    let (document, request) = ask("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(document.unwrap(), "hello");
    assert!(request.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("host: bundles.test:8080\r\n"), "{request}");

    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    assert_eq!(ask(chunked).await.0.unwrap(), "hi");
}

#[tokio::test]
async fn other_answers_are_errors_and_redirects_are_not_followed() {
    let (document, _) = ask("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(document.unwrap_err().to_string(), "the server answered 404 Not Found");
    let (document, _) =
        ask("HTTP/1.1 302 Found\r\nLocation: http://else/\r\nContent-Length: 0\r\n\r\n").await;
    assert!(matches!(document, Err(FetchError::Status(StatusCode::FOUND))));
    assert!(matches!(ask("SSH-2.0-OpenSSH\r\n").await.0, Err(FetchError::Http(_))));
}

#[tokio::test]
async fn size_and_time_are_limited() {
    let announced =
        "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n".to_owned() + &"x".repeat(1001);
    assert!(matches!(ask(announced).await.0, Err(FetchError::TooLarge(1000))));
    let endless = "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &"x".repeat(100_000);
    assert!(matches!(ask(endless).await.0, Err(FetchError::TooLarge(1000))));
    let stalled = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhell";
    let limits = FetchLimits { deadline: Duration::from_millis(300), ..LIMITS };
    assert!(matches!(ask_within(limits, stalled).await.0, Err(FetchError::Timeout(_))));
}

/// A server with one certificate, and what it takes to trust it.
struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    root: CertificateDer<'static>,
}

impl Server {
    async fn new(certificate: CertificateDer<'static>, key: &rcgen::KeyPair) -> Self {
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], der.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self { listener, acceptor, root: certificate }
    }

    /// A server of the web, `localhost`.
    async fn web() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        Self::new(made.cert.der().clone(), &made.signing_key).await
    }

    /// A server with an SVID.
    async fn spiffe(id: &str) -> Self {
        let uri = |text: &str| rcgen::SanType::URI(text.to_owned().try_into().unwrap());
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        authority.subject_alt_names = vec![uri("spiffe://example.org")];
        let root = authority.self_signed(&key).unwrap().der().clone();
        let issuer = rcgen::Issuer::new(authority, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new(Vec::new()).unwrap();
        leaf.subject_alt_names = vec![uri(id)];
        leaf.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        let leaf = leaf.signed_by(&key, &issuer).unwrap().der().clone();
        Self { root, ..Self::new(leaf, &key).await }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/bundle", self.listener.local_addr().unwrap().port())
    }

    async fn serve_one(&self, answer: &str) {
        let (stream, _) = self.listener.accept().await.unwrap();
        let Ok(mut stream) = self.acceptor.accept(stream).await else { return };
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    /// Asks it at `host`, and has it answer.
    async fn asked(&self, host: &str, trust: Trust, answer: &str) -> Result<Answer, FetchError> {
        let url = self.url(host);
        tokio::join!(super::ask(&url, &trust, LIMITS), self.serve_one(answer)).0
    }

    fn trust(&self) -> Trust {
        Trust::Roots(vec![self.root.clone()])
    }

    fn trust_as(&self, id: &str) -> Trust {
        let roots = vec![Certificate::from_der(self.root.to_vec()).unwrap()];
        Trust::Spiffe { server: SpiffeId::parse(id).unwrap(), roots }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SERVER_ID: &str = "spiffe://example.org/spire/server";

#[tokio::test]
async fn the_server_is_verified() {
    let server = Server::web().await;
    let document = server.asked("localhost", server.trust(), OK).await;
    assert_eq!(document.unwrap().body, "ok");
    let another_name = server.asked("127.0.0.1", server.trust(), OK).await;
    assert!(matches!(another_name, Err(FetchError::Connect(_))), "{another_name:?}");
    let another_root = Server::web().await.trust();
    let refused = server.asked("localhost", another_root, OK).await;
    assert!(matches!(refused, Err(FetchError::Connect(_))), "{refused:?}");
}

#[tokio::test]
async fn a_certificate_that_signed_itself_may_be_trusted_as_what_it_is() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let server = Server::new(params.self_signed(&key).unwrap().der().clone(), &key).await;
    let document = server.asked("localhost", server.trust(), OK).await;
    assert_eq!(document.unwrap().body, "ok");
    let another_name = server.asked("127.0.0.1", server.trust(), OK).await;
    assert!(matches!(another_name, Err(FetchError::Connect(_))), "{another_name:?}");

    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let server = Server::new(params.self_signed(&key).unwrap().der().clone(), &key).await;
    let expired = server.asked("localhost", server.trust(), OK).await;
    assert!(matches!(expired, Err(FetchError::Connect(_))), "{expired:?}");
}

#[tokio::test]
async fn the_holder_of_an_svid_is_known_by_its_id_whatever_the_host() {
    let server = Server::spiffe(SERVER_ID).await;
    for host in ["localhost", "127.0.0.1"] {
        let document = server.asked(host, server.trust_as(SERVER_ID), OK).await;
        assert_eq!(document.unwrap().body, "ok", "{host}");
    }
    let other = server.trust_as("spiffe://example.org/other");
    let refused = server.asked("localhost", other, OK).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("unexpected ID \"{SERVER_ID}\""));
    let other = Server::spiffe(SERVER_ID).await.trust_as(SERVER_ID);
    let refused = server.asked("localhost", other, OK).await;
    assert!(matches!(refused, Err(FetchError::Peer(_))), "another root: {refused:?}");
}

#[tokio::test]
async fn who_shows_an_svid_where_a_web_server_was_meant_is_named() {
    let server = Server::spiffe(SERVER_ID).await;
    let refused = server.asked("localhost", server.trust(), OK).await;
    assert!(
        matches!(&refused, Err(FetchError::SpiffeServer { id, .. }) if id.as_str() == SERVER_ID),
        "{refused:?}"
    );
}

#[tokio::test]
async fn of_an_answer_that_is_not_the_document_the_beginning_is_kept() {
    let server = Server::web().await;
    let answer = "HTTP/1.1 404 Not Found\r\n\r\n".to_owned() + &"x".repeat(100_000);
    let answer = server.asked("localhost", server.trust(), &answer).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_FOUND, 1024));
}

#[tokio::test]
async fn a_host_with_a_dead_address_is_reached_at_the_next() {
    let server = Server::web().await;
    let port = server.listener.local_addr().unwrap().port();
    // Where localhost has two addresses, nobody listens on ::1.
    assert!(dial::connect("localhost", port, LIMITS.deadline).await.is_ok());
}

#[tokio::test]
async fn urls_of_the_wrong_kind_are_refused_before_anything_is_dialled() {
    for url in ["http://localhost/", "ftp://localhost/", "localhost", "https://", ""] {
        let error = get(url, LIMITS).await.unwrap_err();
        assert!(matches!(error, FetchError::Url(_)), "{url}: {error}");
    }
    let nowhere = Path::new("/nowhere");
    let error = get_unix("https://localhost/", nowhere, LIMITS).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid URL: it must begin with http://");
}
