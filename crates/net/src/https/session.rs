//! Requests to one server, over connections that are kept, with answers read as they come.
//!
//! Requests must be such that doing one twice does no harm: a server may close a kept connection
//! just when it is used again, and then the request is made anew.

mod check;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{FetchError, dial};

/// Connections that are kept while nobody uses them.
const KEPT: usize = 4;
/// How long one is kept, less than servers do.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// What an answer's head may have, and what is read ahead of its body, in bytes.
const BUFFER: usize = 512 * 1024;

/// Who may be on the other end of a TLS connection.
#[derive(Clone, Debug)]
pub enum ServerCheck {
    /// Who has a certificate for the host's name under these authorities, in DER.
    Name(Vec<CertificateDer<'static>>),
    /// Who has a certificate under these authorities, whatever its name.
    Chain(Vec<CertificateDer<'static>>),
    /// Anybody.
    Nobody,
}

/// The certificate that a client shows, and its key.
pub struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why a file has no identity, or no authorities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemFileError {
    /// It has none.
    #[error("no PEM blocks")]
    Empty,
    /// It has a block that cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// The key is not the certificate's, or of no kind that can be used.
    #[error("{0}")]
    Pair(String),
}

/// The certificates of a PEM text.
///
/// # Errors
/// When it has none, or one that is none.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemFileError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(found) if found.is_empty() => Err(PemFileError::Empty),
        Ok(found) => {
            for der in &found {
                steeple_pki::Certificate::from_der(der.to_vec())
                    .map_err(|error| PemFileError::Malformed(error.to_string()))?;
            }
            Ok(found)
        }
        Err(error) => Err(PemFileError::Malformed(error.to_string())),
    }
}

impl ClientIdentity {
    /// Reads a chain and its key.
    ///
    /// # Errors
    /// When either is not there, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, PemFileError> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| PemFileError::Malformed("no private key that can be read".into()))?;
        let identity = Self { chain, key };
        check::config(&ServerCheck::Nobody, Some(&identity))
            .map_err(|error| PemFileError::Pair(error.to_string()))?;
        Ok(identity)
    }
}

/// A server, and the connections to it.
pub struct Session {
    host: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    connection: Connection,
    since: Instant,
}

/// One connection; it goes on while somebody waits for something on it, and has no task.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    ended: bool,
}

impl Session {
    /// A server that is spoken to in the clear.
    pub fn plain(host: &str, port: u16) -> Self {
        Self { host: bare(host), port, tls: None, kept: Mutex::default() }
    }

    /// A server over TLS, whose certificate `check` is to accept.
    ///
    /// # Errors
    /// When the host can be no server's name, or the authorities cannot be used.
    pub fn tls(
        host: &str,
        port: u16,
        check: &ServerCheck,
        identity: Option<&ClientIdentity>,
    ) -> Result<Self, FetchError> {
        let host = bare(host);
        let name =
            ServerName::try_from(host.clone()).map_err(|_| FetchError::Url("invalid host"))?;
        let config = check::config(check, identity)
            .map_err(|error| FetchError::Connect(io::Error::other(error)))?;
        Ok(Self { host, port, tls: Some((Arc::new(config), name)), kept: Mutex::default() })
    }

    /// Expects the server's certificate to be for `name` instead of the host.
    ///
    /// # Errors
    /// When it can be no server's name.
    pub fn named(mut self, name: &str) -> Result<Self, FetchError> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| FetchError::Url("invalid server name"))?;
        self.tls = self.tls.map(|(config, _)| (config, name));
        Ok(self)
    }

    /// Makes a request, and gives its answer when the head of that is there. There is no deadline
    /// but the caller's, nor a limit to what is read.
    ///
    /// # Errors
    /// When there is no connection, or no answer on it.
    pub async fn send(
        &self,
        method: &Method,
        target: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: &Bytes,
    ) -> Result<Reply<'_>, FetchError> {
        while let Some(kept) = self.take() {
            if let Ok(reply) = self.ask(kept, method, target, headers, body).await {
                return Ok(reply);
            }
        }
        let fresh = self.connect().await?;
        self.ask(fresh, method, target, headers, body).await
    }

    async fn ask(
        &self,
        mut connection: Connection,
        method: &Method,
        target: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: &Bytes,
    ) -> Result<Reply<'_>, FetchError> {
        let request = self.request(method, target, headers, body)?;
        let response = connection.exchange(request).await.map_err(FetchError::Http)?;
        let (head, body) = response.into_parts();
        let (status, headers) = (head.status, head.headers);
        Ok(Reply { status, headers, body, connection: Some(connection), session: self })
    }

    fn request(
        &self,
        method: &Method,
        target: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: &Bytes,
    ) -> Result<Request<Full<Bytes>>, FetchError> {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, self.authority())
            .header(USER_AGENT, concat!("steeple/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(Full::new(body.clone())).map_err(|_| FetchError::Url("invalid path"))
    }

    /// The host and port, as URLs have them.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    async fn connect(&self) -> Result<Connection, FetchError> {
        let stream = dial::connect(&self.host, self.port, DIAL).await?;
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => Connection::begin(stream).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let handshake = tokio::time::timeout(DIAL, connector.connect(name.clone(), stream));
                let stream = match handshake.await {
                    Ok(stream) => stream.map_err(|error| check::refused(&error))?,
                    Err(_) => {
                        let text = "net/http: TLS handshake timeout";
                        let error = io::Error::new(io::ErrorKind::TimedOut, text);
                        return Err(FetchError::Connect(error));
                    }
                };
                Connection::begin(stream).await
            }
        }
    }

    fn take(&self) -> Option<Connection> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|it| it.since.elapsed() < KEPT_FOR);
        kept.pop().map(|it| it.connection)
    }

    fn keep(&self, connection: Connection) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(Kept { connection, since: Instant::now() });
        }
    }
}

/// How long one address, and a handshake, may take.
const DIAL: Duration = Duration::from_secs(10);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("server", &self.authority()).finish_non_exhaustive()
    }
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

impl Connection {
    async fn begin<S>(stream: S) -> Result<Self, FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(FetchError::Http)?;
        Ok(Self { sender, driver: Box::pin(driver), ended: false })
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        let Self { sender, driver, ended } = self;
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let mut answer = std::pin::pin!(answer);
        loop {
            tokio::select! {
                biased;
                answer = answer.as_mut() => return answer,
                result = driver.as_mut(), if !*ended => {
                    *ended = true;
                    result?;
                }
            }
        }
    }
}

/// An answer, whose body comes piece by piece.
pub struct Reply<'a> {
    /// The status.
    pub status: StatusCode,
    /// The head's fields.
    pub headers: HeaderMap,
    body: Incoming,
    connection: Option<Connection>,
    session: &'a Session,
}

impl Reply<'_> {
    /// The next piece of the body; nothing at its end. The connection is kept then.
    ///
    /// # Errors
    /// When the server breaks off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        let Connection { driver, ended, .. } = connection;
        let frame = loop {
            tokio::select! {
                biased;
                frame = self.body.frame() => match frame {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) if !data.is_empty() => break Some(data),
                        _ => {}
                    },
                    Some(Err(error)) => {
                        self.connection = None;
                        return Err(FetchError::Body(error.into()));
                    }
                    None => break None,
                },
                result = driver.as_mut(), if !*ended => {
                    *ended = true;
                    if let Err(error) = result {
                        self.connection = None;
                        return Err(FetchError::Body(error.into()));
                    }
                }
            }
        };
        if frame.is_none()
            && let Some(connection) = self.connection.take()
            && !connection.ended
        {
            self.session.keep(connection);
        }
        Ok(frame)
    }

    /// The rest of the body, up to `limit` bytes.
    ///
    /// # Errors
    /// When it is larger, or the server breaks off.
    pub async fn whole(&mut self, limit: usize) -> Result<Vec<u8>, FetchError> {
        let mut read = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if read.len() + chunk.len() > limit {
                return Err(FetchError::TooLarge(limit));
            }
            read.extend_from_slice(&chunk);
        }
        Ok(read)
    }

    /// The first piece of the body as text, cut to `limit` bytes, for who has to say what the
    /// server said.
    pub async fn excerpt(&mut self, limit: usize) -> String {
        match self.chunk().await {
            Ok(Some(chunk)) => String::from_utf8_lossy(&chunk[..chunk.len().min(limit)]).into(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests;
