//! One GET of a document: over https with the system's roots, or http over a Unix socket.
//!
//! Limits hold on time and size; redirects are answers like any other.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::tls::provider;

/// How long and how large an answer may be.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// For everything, from looking up the name to the last byte.
    pub deadline: Duration,
    /// Of the body, in bytes.
    pub size: usize,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), size: 5 * 1024 * 1024 }
    }
}

/// Why a document was not had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is not of the kind that is wanted; says which is.
    #[error("invalid URL: {0}")]
    Url(&'static str),
    /// The system's root certificates cannot be read.
    #[error("no usable root certificates on this system")]
    Roots,
    /// No connection.
    #[error("unable to connect: {0}")]
    Connect(#[source] io::Error),
    /// The server broke off, or does not speak HTTP.
    #[error("unable to read the answer: {0}")]
    Http(#[source] hyper::Error),
    /// Reading the body failed.
    #[error("unable to read the answer: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is something else than the document.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// The document is larger than the limit, in bytes.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The deadline passed.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
}

/// Gets `url`, which must be an `https` one; the server is verified against the system's roots.
///
/// # Errors
/// [`FetchError`] says how far it came.
pub async fn get(url: &str, limits: FetchLimits) -> Result<Bytes, FetchError> {
    get_with_roots(url, system_roots, limits).await
}

/// As [`get`], with roots of the caller's, in DER.
///
/// # Errors
/// As [`get`].
pub async fn get_trusting(
    url: &str,
    roots: &[CertificateDer<'static>],
    limits: FetchLimits,
) -> Result<Bytes, FetchError> {
    let store = || {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        store
    };
    get_with_roots(url, store, limits).await
}

/// Gets `url`, which must be an `http` one, from the server on the Unix socket `socket`.
///
/// # Errors
/// [`FetchError`] says how far it came.
pub async fn get_unix(url: &str, socket: &Path, limits: FetchLimits) -> Result<Bytes, FetchError> {
    let url = parse(url, "http", "it must begin with http://")?;
    within(limits, async {
        let stream = UnixStream::connect(socket).await.map_err(FetchError::Connect)?;
        fetch(&url, stream, limits).await
    })
    .await
}

async fn get_with_roots(
    url: &str,
    roots: impl FnOnce() -> RootCertStore,
    limits: FetchLimits,
) -> Result<Bytes, FetchError> {
    let url = parse(url, "https", "it must begin with https://")?;
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| FetchError::Url("invalid host"))?;
    let roots = roots();
    if roots.is_empty() {
        return Err(FetchError::Roots);
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has cipher suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let port = url.port_or_known_default().unwrap_or(443);
    within(limits, async {
        let stream = TcpStream::connect((host, port)).await.map_err(FetchError::Connect)?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(FetchError::Connect)?;
        fetch(&url, stream, limits).await
    })
    .await
}

fn parse(url: &str, scheme: &str, otherwise: &'static str) -> Result<Url, FetchError> {
    let url = Url::parse(url).map_err(|_| FetchError::Url("it is not a URL"))?;
    if url.scheme() != scheme {
        return Err(FetchError::Url(otherwise));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(FetchError::Url("it has no host"));
    }
    Ok(url)
}

async fn within(
    limits: FetchLimits,
    work: impl Future<Output = Result<Bytes, FetchError>>,
) -> Result<Bytes, FetchError> {
    match tokio::time::timeout(limits.deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(FetchError::Timeout(limits.deadline)),
    }
}

async fn fetch<S>(url: &Url, stream: S, limits: FetchLimits) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(USER_AGENT, concat!("steeple/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url("invalid path"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), limits.size).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLarge(limits.size)
            } else {
                FetchError::Body(error)
            }
        })
    };
    // The connection has no task of its own: it goes on for as long as the answer is awaited.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    let mut connected = true;
    loop {
        tokio::select! {
            biased;
            document = exchange.as_mut() => return document,
            ended = connection.as_mut(), if connected => {
                connected = false;
                ended.map_err(FetchError::Http)?;
            }
        }
    }
}

fn system_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    // Roots that cannot be read or parsed are missed only by servers under them.
    let found = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(found.certs);
    store
}

#[cfg(test)]
mod tests;
