//! One GET of a document: over https from a web server or from the holder of an SVID, or over http
//! from a Unix socket; and one call of any kind ([`call()`]).
//!
//! Limits hold on time and size; redirects are answers like any other.

mod call;
mod dial;
pub mod post;
pub mod session;
mod web;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use steeple_pki::Certificate;
use steeple_spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::tls::{ClientTls, PeerVerifyError, Roots, find_peer_error};

pub use call::{Reply, Request, call};

/// As much of an answer that is not the document as anybody gets to see, in bytes.
const EXCERPT: usize = 1024;

/// What the head of an answer may have, and what is read ahead of a document, in bytes.
const MAX_BUFFER: usize = 400 * 1024;

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
    #[error("{0}")]
    Connect(#[source] io::Error),
    /// The server's certificate is no SVID of the server that was meant.
    #[error("{0}")]
    Peer(Arc<PeerVerifyError>),
    /// Web PKI does not accept the server, which shows the SVID of a SPIFFE ID.
    #[error("{reason}")]
    SpiffeServer {
        /// Whose SVID it is, by its own word.
        id: SpiffeId,
        /// Why it was not accepted.
        reason: io::Error,
    },
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

/// Who may be on the other end of an `https` connection.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Who has a certificate for the URL's host under the system's roots, or under those that
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    System,
    /// Who has a certificate for the URL's host under these roots, in DER.
    Roots(Vec<CertificateDer<'static>>),
    /// Who has this SPIFFE ID, by an SVID under these authorities of its trust domain. The URL's
    /// host is an address and no more.
    Spiffe {
        /// The server.
        server: SpiffeId,
        /// The authorities.
        roots: Vec<Certificate>,
    },
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body; of any other status than 200, its first 1024 bytes.
    pub body: Bytes,
}

/// Gets `url`, which must be an `https` one; the server is verified against the system's roots.
///
/// # Errors
/// [`FetchError`] says how far it came.
pub async fn get(url: &str, limits: FetchLimits) -> Result<Bytes, FetchError> {
    document(ask(url, &Trust::System, limits).await?)
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
    document(ask(url, &Trust::Roots(roots.to_vec()), limits).await?)
}

/// Gets `url`, which must be an `http` one, from the server on the Unix socket `socket`.
///
/// # Errors
/// [`FetchError`] says how far it came.
pub async fn get_unix(url: &str, socket: &Path, limits: FetchLimits) -> Result<Bytes, FetchError> {
    let url = parse(url, "http", "it must begin with http://")?;
    let answer = within(limits, async {
        let stream = UnixStream::connect(socket).await.map_err(FetchError::Connect)?;
        fetch(&url, stream, limits).await
    });
    document(answer.await?)
}

/// Gets `url`, which must be an `https` one, from a server that `trust` accepts; any answer is
/// one.
///
/// # Errors
/// [`FetchError`] says how far it came.
pub async fn ask(url: &str, trust: &Trust, limits: FetchLimits) -> Result<Answer, FetchError> {
    let url = parse(url, "https", "it must begin with https://")?;
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| FetchError::Url("invalid host"))?;
    let config = client_config(trust)?;
    let port = url.port_or_known_default().unwrap_or(443);
    within(limits, async {
        let stream = dial::connect(&host, port, limits.deadline).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(refused)?;
        fetch(&url, stream, limits).await
    })
    .await
}

fn document(answer: Answer) -> Result<Bytes, FetchError> {
    match answer.status {
        StatusCode::OK => Ok(answer.body),
        other => Err(FetchError::Status(other)),
    }
}

fn client_config(trust: &Trust) -> Result<ClientConfig, FetchError> {
    let mut config = match trust {
        Trust::System => web::config(system_roots())?,
        Trust::Roots(roots) => web::config(roots.clone())?,
        Trust::Spiffe { server, roots } => {
            let tls = ClientTls::new(server.clone(), Roots::new(roots.clone()), None);
            let mut config = (*tls.config()).clone();
            // What stands between may route by the name, though nobody is verified by it.
            config.enable_sni = true;
            config
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A handshake that failed.
fn refused(error: io::Error) -> FetchError {
    if let Some(peer) = find_peer_error(&error) {
        return FetchError::Peer(peer);
    }
    match web::spiffe_server(&error) {
        Some(server) => server,
        None => FetchError::Connect(error),
    }
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

async fn within<T>(
    limits: FetchLimits,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    match tokio::time::timeout(limits.deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(FetchError::Timeout(limits.deadline)),
    }
}

async fn fetch<S>(url: &Url, stream: S, limits: FetchLimits) -> Result<Answer, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = http::Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(USER_AGENT, concat!("steeple/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Full::default())
        .map_err(|_| FetchError::Url("invalid path"))?;
    exchange(request, stream, MAX_BUFFER, async |response| {
        let status = response.status();
        let body = match status {
            StatusCode::OK => whole(response.into_body(), limits.size).await?,
            _ => beginning(response.into_body()).await,
        };
        Ok(Answer { status, body })
    })
    .await
}

/// Sends one request on a new connection, and has `read` read the answer.
async fn exchange<S, T>(
    request: http::Request<Full<Bytes>>,
    stream: S,
    buffer: usize,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, FetchError>,
) -> Result<T, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(buffer)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        read(response).await
    };
    // The connection has no task of its own: it goes on for as long as the answer is awaited.
    let mut connection = Box::pin(connection);
    let mut exchange = std::pin::pin!(exchange);
    let mut connected = true;
    loop {
        tokio::select! {
            biased;
            answer = exchange.as_mut() => return answer,
            ended = connection.as_mut(), if connected => {
                connected = false;
                ended.map_err(FetchError::Http)?;
            }
        }
    }
}

async fn whole(body: Incoming, size: usize) -> Result<Bytes, FetchError> {
    let body = Limited::new(body, size).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| {
        if error.is::<LengthLimitError>() {
            FetchError::TooLarge(size)
        } else {
            FetchError::Body(error)
        }
    })
}

/// As much of an answer's body as comes, up to the limit.
async fn beginning(mut body: Incoming) -> Bytes {
    let mut read = Vec::new();
    while read.len() < EXCERPT
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(&data[..data.len().min(EXCERPT - read.len())]);
        }
    }
    read.into()
}

/// Roots that cannot be read are missed only by servers under them.
fn system_roots() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

#[cfg(test)]
mod tests;
