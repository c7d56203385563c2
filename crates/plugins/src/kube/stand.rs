//! What stands in for kubelets and API servers in tests: a real HTTP(S) server on a port of the
//! kernel's choice, which answers what a test says and keeps what it was asked.

use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use steeple_runtime::Tasks;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// An authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pem: String,
}

/// A certificate of an authority, and its key.
pub(crate) struct Leaf {
    der: CertificateDer<'static>,
    key: KeyPair,
    pub(crate) pem: String,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        Self { der: own.der().clone(), pem: own.pem(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for `names`, for servers and clients.
    pub(crate) fn leaf(&self, names: &[&str]) -> Leaf {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { der: made.der().clone(), key, pem: made.pem() }
    }
}

impl Leaf {
    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// A request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) authorization: Option<String>,
    pub(crate) accept: String,
    pub(crate) body: String,
    /// Whether a certificate was shown.
    pub(crate) certificate: bool,
}

/// What comes of one.
pub(crate) enum Answer {
    /// A status and a body.
    Json(u16, String),
    /// These bytes, and then nothing more.
    Raw(Vec<u8>),
    /// A body of what comes, until its sender is dropped.
    Chunks(mpsc::UnboundedReceiver<String>),
    /// These bytes again and again.
    Endless(String, Vec<u8>),
    /// Nothing.
    Hang,
}

pub(crate) fn ok(body: impl Into<String>) -> Answer {
    Answer::Json(200, body.into())
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A server.
pub(crate) struct Stand {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    _tasks: Tasks,
}

struct Shared {
    handler: Mutex<Arc<Handler>>,
    asked: Mutex<Vec<Asked>>,
}

impl Stand {
    /// A server in the clear, or over TLS with a certificate, which accepts clients' certificates
    /// of the authority.
    pub(crate) async fn start(
        tls: Option<(&Leaf, &Ca)>,
        handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls.map(|(leaf, clients)| acceptor(leaf, clients));
        let handler: Arc<Handler> = Arc::new(handler);
        let shared = Arc::new(Shared { handler: Mutex::new(handler), asked: Mutex::default() });
        let tasks = Tasks::new();
        let (own, serving) = (tasks.clone(), Arc::clone(&shared));
        tasks.spawn("stand", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (Arc::clone(&serving), acceptor.clone());
                own.spawn("stand-connection", async move {
                    match acceptor {
                        None => shared.serve(stream, false).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let certificate = stream.get_ref().1.peer_certificates().is_some();
                            shared.serve(stream, certificate).await;
                        }
                    }
                });
            }
        });
        Self { port, shared, _tasks: tasks }
    }

    /// Answers otherwise from now on.
    pub(crate) fn answer(&self, handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) {
        *self.shared.handler.lock().unwrap() = Arc::new(handler);
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

fn acceptor(leaf: &Leaf, clients: &Ca) -> TlsAcceptor {
    let provider = steeple_net::tls::provider();
    let mut roots = RootCertStore::empty();
    roots.add(clients.der.clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![leaf.der.clone()],
            PrivatePkcs8KeyDer::from(leaf.key.serialize_der()).into(),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl Shared {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S, certificate: bool) {
        while let Some(mut asked) = request(&mut stream).await {
            asked.certificate = certificate;
            self.asked.lock().unwrap().push(asked.clone());
            let handler = Arc::clone(&*self.handler.lock().unwrap());
            match handler(&asked) {
                Answer::Json(status, body) => {
                    let head =
                        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
                    if stream.write_all((head + &body).as_bytes()).await.is_err() {
                        return;
                    }
                }
                Answer::Raw(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.read(&mut [0; 1]).await;
                    return;
                }
                Answer::Endless(head, bytes) => {
                    let _ = stream.write_all(head.as_bytes()).await;
                    while stream.write_all(&bytes).await.is_ok() {}
                    return;
                }
                Answer::Chunks(mut chunks) => {
                    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.flush().await;
                    while let Some(chunk) = chunks.recv().await {
                        let chunk = format!("{:x}\r\n{chunk}\r\n", chunk.len());
                        if stream.write_all(chunk.as_bytes()).await.is_err() {
                            return;
                        }
                        let _ = stream.flush().await;
                    }
                    let _ = stream.write_all(b"0\r\n\r\n").await;
                }
                Answer::Hang => {
                    let _ = stream.read(&mut [0; 1]).await;
                    return;
                }
            }
            let _ = stream.flush().await;
        }
    }
}

async fn request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let mut asked = Asked {
        method: first.next()?.to_owned(),
        target: first.next()?.to_owned(),
        ..Asked::default()
    };
    let mut length = 0;
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name.to_lowercase().as_str() {
            "authorization" => asked.authorization = Some(value.to_owned()),
            "accept" => asked.accept = value.to_owned(),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    asked.body = String::from_utf8(body).unwrap();
    Some(asked)
}
