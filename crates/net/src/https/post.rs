//! Posts small messages to a server again and again: plain HTTP or HTTPS, as
//! they are or as gRPC calls without an answer worth reading.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{Trust, client_config, dial};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// How a message is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// As the body of an HTTP/1.1 request.
    Http,
    /// As the only message of a unary gRPC call, over HTTP/2.
    Grpc,
}

/// Why a message was not taken. Nothing of it names what was sent.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The URL cannot be used.
    #[error("invalid URL: {0}")]
    Url(&'static str),
    /// A header cannot be sent.
    #[error("header {0:?} cannot be sent")]
    Header(String),
    /// There is no connection.
    #[error("unable to connect: {0}")]
    Connect(String),
    /// The exchange broke off.
    #[error("unable to send: {0}")]
    Exchange(String),
    /// The server does not want it.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// The server does not want it, in words of gRPC.
    #[error("the server answered with gRPC status {0}")]
    Grpc(i32),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Where messages go, and with what.
#[derive(Clone, Debug)]
pub struct Poster {
    base: Url,
    headers: HeaderMap,
    wire: Wire,
    deadline: Duration,
}

impl Poster {
    /// Posts to paths below `base`, an `http` or `https` URL, with `headers`.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn new<'h>(
        base: &str,
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
        wire: Wire,
        deadline: Duration,
    ) -> Result<Self, PostError> {
        let base = Url::parse(base).map_err(|_| PostError::Url("it is not a URL"))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(PostError::Url("it must begin with http:// or https://"));
        }
        if base.host_str().is_none_or(str::is_empty) {
            return Err(PostError::Url("it has no host"));
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let bad = || PostError::Header(name.chars().take(64).collect());
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            map.insert(key, value);
        }
        Ok(Self { base, headers: map, wire, deadline })
    }

    /// Posts one message to `path`.
    ///
    /// # Errors
    /// [`PostError`] says how far it came.
    pub async fn post(&self, path: &str, message: Vec<u8>) -> Result<(), PostError> {
        match tokio::time::timeout(self.deadline, self.exchange(path, message)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(PostError::Timeout(self.deadline)),
        }
    }

    async fn exchange(&self, path: &str, message: Vec<u8>) -> Result<(), PostError> {
        let connect = |error: std::io::Error| PostError::Connect(error.to_string());
        let host = self.base.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.base.port_or_known_default().unwrap_or(443);
        let stream = dial::connect(host, port, self.deadline)
            .await
            .map_err(|error| PostError::Connect(error.to_string()))?;
        if self.base.scheme() == "http" {
            return self.send(stream, path, message).await;
        }
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| PostError::Url("invalid host"))?;
        let mut config =
            client_config(&Trust::System).map_err(|error| PostError::Connect(error.to_string()))?;
        if self.wire == Wire::Grpc {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(connect)?;
        self.send(stream, path, message).await
    }

    async fn send<S>(&self, stream: S, path: &str, message: Vec<u8>) -> Result<(), PostError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let broken = |error: hyper::Error| PostError::Exchange(error.to_string());
        let request = self.request(path, message)?;
        match self.wire {
            Wire::Http => {
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
                let exchange =
                    async { self.judge(sender.send_request(request).await.map_err(broken)?).await };
                drive(exchange, connection).await
            }
            Wire::Grpc => {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                        .await
                        .map_err(broken)?;
                let exchange =
                    async { self.judge(sender.send_request(request).await.map_err(broken)?).await };
                drive(exchange, connection).await
            }
        }
    }

    fn request(&self, path: &str, message: Vec<u8>) -> Result<Request<Full<Bytes>>, PostError> {
        let base = self.base.path().trim_end_matches('/');
        let (body, kind, target) = match self.wire {
            Wire::Http => (Bytes::from(message), "application/x-protobuf", format!("{base}{path}")),
            Wire::Grpc => {
                let mut framed = BytesMut::with_capacity(message.len() + 5);
                framed.put_u8(0);
                framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
                framed.put_slice(&message);
                let authority = &self.base[url::Position::BeforeHost..url::Position::AfterPort];
                let scheme = self.base.scheme();
                let target = format!("{scheme}://{authority}{base}{path}");
                (framed.freeze(), "application/grpc", target)
            }
        };
        let mut request = Request::post(target)
            .header(CONTENT_TYPE, kind)
            .body(Full::new(body))
            .map_err(|_| PostError::Url("invalid path"))?;
        let host = &self.base[url::Position::BeforeHost..url::Position::AfterPort];
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        match self.wire {
            Wire::Http => {
                let host = HeaderValue::from_str(host);
                let host = host.map_err(|_| PostError::Url("invalid host"))?;
                headers.insert(http::header::HOST, host);
            }
            Wire::Grpc => {
                headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
                *request.version_mut() = Version::HTTP_2;
            }
        }
        Ok(request)
    }

    async fn judge(
        &self,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<(), PostError> {
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(PostError::Status(head.status));
        }
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| PostError::Exchange(error.to_string()))?;
        if self.wire == Wire::Grpc {
            let status = |headers: &HeaderMap| -> Option<i32> {
                headers.get("grpc-status")?.to_str().ok()?.parse().ok()
            };
            let found = status(&head.headers).or_else(|| body.trailers().and_then(status));
            match found {
                Some(0) => {}
                Some(code) => return Err(PostError::Grpc(code)),
                None => return Err(PostError::Grpc(2)),
            }
        }
        Ok(())
    }
}

/// Awaits an exchange; its connection goes on for as long and no longer.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    exchange: impl Future<Output = Result<(), PostError>>,
    connection: C,
) -> Result<(), PostError> {
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    let mut connected = true;
    loop {
        tokio::select! {
            biased;
            result = exchange.as_mut() => return result,
            ended = connection.as_mut(), if connected => {
                connected = false;
                ended.map_err(|error| PostError::Exchange(error.to_string()))?;
            }
        }
    }
}
