use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::*;

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

#[tokio::test]
async fn the_server_is_verified() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve_one = async || {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else { return };
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let _ = stream.shutdown().await;
    };
    let by_name = format!("https://localhost:{port}/bundle");
    let by_address = format!("https://127.0.0.1:{port}/bundle");
    let roots = [certificate];

    let (document, ()) = tokio::join!(get_trusting(&by_name, &roots, LIMITS), serve_one());
    assert_eq!(document.unwrap(), "ok");
    let (document, ()) = tokio::join!(get_trusting(&by_address, &roots, LIMITS), serve_one());
    assert!(matches!(document, Err(FetchError::Connect(_))), "another name: {document:?}");
    let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let roots = [other.cert.der().clone()];
    let (document, ()) = tokio::join!(get_trusting(&by_name, &roots, LIMITS), serve_one());
    assert!(matches!(document, Err(FetchError::Connect(_))), "another root: {document:?}");
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
