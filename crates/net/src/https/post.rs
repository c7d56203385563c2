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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body::Frame;
    use http_body_util::StreamBody;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::server::conn::auto;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// What was asked: path, content type, a header, and the body.
    type Asked = (String, String, String, Vec<u8>);

    /// Answers every call with this gRPC status and tells what was asked.
    async fn collector(status: &'static str) -> (String, mpsc::Receiver<Asked>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap());
        let (tell, asked) = mpsc::channel(16);
        let tasks = steeple_runtime::Tasks::new();
        let own = tasks.clone();
        tasks.spawn("collector", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tell = tell.clone();
                own.spawn("connection", async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let tell = tell.clone();
                        async move {
                            let text = |name: &str| {
                                let value = request.headers().get(name);
                                value.map_or("", |it| it.to_str().unwrap()).to_owned()
                            };
                            let (kind, token) = (text("content-type"), text("authorization"));
                            let path = request.uri().path().to_owned();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            tell.send((path, kind, token, body.to_vec())).await.unwrap();
                            let mut trailers = HeaderMap::new();
                            trailers.insert("grpc-status", HeaderValue::from_static(status));
                            let frames = [Ok::<_, Infallible>(Frame::<Bytes>::trailers(trailers))];
                            let body = StreamBody::new(tokio_stream::iter(frames));
                            Ok::<_, Infallible>(http::Response::new(body))
                        }
                    });
                    let io = TokioIo::new(stream);
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(io, service).await;
                });
            }
        });
        (url, asked)
    }

    fn poster(url: &str, wire: Wire) -> Poster {
        let headers = [("authorization", "Bearer x")];
        Poster::new(url, headers, wire, Duration::from_secs(20)).unwrap()
    }

    #[tokio::test]
    async fn messages_go_as_they_are_or_as_grpc_calls() {
        let (url, mut asked) = collector("0").await;
        poster(&url, Wire::Http).post("/v1/metrics", b"abc".to_vec()).await.unwrap();
        let (path, kind, token, body) = asked.recv().await.unwrap();
        assert_eq!((path.as_str(), kind.as_str()), ("/base/v1/metrics", "application/x-protobuf"));
        assert_eq!((token.as_str(), body.as_slice()), ("Bearer x", b"abc".as_slice()));

        poster(&url, Wire::Grpc).post("/pkg.Service/Export", b"abc".to_vec()).await.unwrap();
        let (path, kind, token, body) = asked.recv().await.unwrap();
        assert_eq!(
            (path.as_str(), kind.as_str()),
            ("/base/pkg.Service/Export", "application/grpc")
        );
        assert_eq!((token.as_str(), body.as_slice()), ("Bearer x", b"\0\0\0\0\x03abc".as_slice()));
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_headers_never() {
        let (url, _asked) = collector("16").await;
        let refused = poster(&url, Wire::Grpc).post("/s/m", Vec::new()).await.unwrap_err();
        assert!(matches!(refused, PostError::Grpc(16)), "{refused}");
        assert!(!format!("{:?}", poster(&url, Wire::Grpc)).contains("Bearer"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = format!("http://{}", listener.local_addr().unwrap());
        let silent = Poster::new(&silent, [], Wire::Http, Duration::from_millis(100)).unwrap();
        let error = silent.post("/x", Vec::new()).await.unwrap_err();
        assert!(matches!(error, PostError::Timeout(_)), "{error}");
        for bad in ["", "ftp://h", "http://"] {
            assert!(Poster::new(bad, [], Wire::Http, Duration::from_secs(1)).is_err(), "{bad:?}");
        }
    }
}
