//! The authority's HTTPS interface: one request at a time, bounded in time and size.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_LANGUAGE, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, version};
use rustls_pki_types::ServerName;
use steeple_net::tls::provider;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Position, Url};

/// For a request and its answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// The largest answer, in bytes; a chain of certificates has a few thousand.
const MAX_LEN: usize = 512 * 1024;

/// Why an answer was not had.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL, which may come from the authority, is none that is asked; holds what is wrong.
    #[error("invalid URL: {0}")]
    Url(&'static str),
    /// There are no roots to verify the authority with.
    #[error("no usable root certificates on this system")]
    Roots,
    /// No connection.
    #[error("unable to connect to {host}: {source}")]
    Connect {
        /// The authority's host.
        host: String,
        /// What failed.
        source: io::Error,
    },
    /// The exchange broke off.
    #[error("HTTP exchange failed: {0}")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The deadline passed.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A client that trusts the system's roots, as they are when it is made (`SSL_CERT_FILE` and
/// `SSL_CERT_DIR` replace them).
pub(super) struct Http {
    connector: TlsConnector,
    user_agent: String,
}

impl Http {
    pub(super) async fn new(user_agent: String) -> Result<Self, HttpError> {
        let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
            .await
            .map_err(|_| HttpError::Roots)?;
        let mut roots = RootCertStore::empty();
        // Roots that cannot be read or parsed are missed only by servers under them.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(HttpError::Roots);
        }
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("the provider has cipher suites for both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), user_agent })
    }

    /// Sends `body` with the media type of JWS, or nothing with another method than POST.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        body: String,
    ) -> Result<Answer, HttpError> {
        let url = Url::parse(url).map_err(|_| HttpError::Url("it is not a URL"))?;
        if url.scheme() != "https" {
            return Err(HttpError::Url("it must begin with https://"));
        }
        match tokio::time::timeout(DEADLINE, self.exchange(method, &url, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Timeout(DEADLINE)),
        }
    }

    async fn exchange(&self, method: Method, url: &Url, body: String) -> Result<Answer, HttpError> {
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name =
            ServerName::try_from(host.clone()).map_err(|_| HttpError::Url("invalid host"))?;
        let port = url.port_or_known_default().unwrap_or(443);
        let mut request = Request::builder()
            .method(&method)
            .uri(&url[Position::BeforePath..Position::AfterQuery])
            .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
            .header(USER_AGENT, &self.user_agent)
            .header(ACCEPT_LANGUAGE, "en")
            .header(CONNECTION, "close");
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/jose+json");
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| HttpError::Url("invalid path"))?;

        let failed = |source| HttpError::Connect { host: host.clone(), source };
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        let stream = self.connector.connect(name, stream).await.map_err(failed)?;
        let exchanged = |error: hyper::Error| HttpError::Exchange(Box::new(error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(exchanged)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(exchanged)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_LEN).collect().await.map_err(HttpError::Exchange)?;
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        // The connection has no task of its own: it goes on for as long as the answer is awaited.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let mut connected = true;
        loop {
            tokio::select! {
                biased;
                answer = exchange.as_mut() => return answer,
                ended = connection.as_mut(), if connected => {
                    connected = false;
                    ended.map_err(exchanged)?;
                }
            }
        }
    }
}
