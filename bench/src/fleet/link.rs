//! One agent's connection to the server: mutual TLS over TCP, from an address of the agent's own,
//! made when first used and again when it is gone.
//!
//! Each agent calls from another address of 127.0.0.0/8: servers limit callers by address, and real
//! agents do not share one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

/// How often a call is sent anew because its connection ended before it was sent.
const ATTEMPTS: usize = 4;
/// From dialling to the end of the handshake.
const CONNECT: Duration = Duration::from_secs(30);
/// What an answer may have in flight: more than any answer to an agent of ours has.
const WINDOW: u32 = 256 * 1024;

/// What the connections of many agents came to.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Connections made.
    pub connections: AtomicU64,
    /// Bytes to the server, TLS records and handshakes included.
    pub sent: AtomicU64,
    /// Bytes from it.
    pub received: AtomicU64,
}

impl Traffic {
    /// All bytes so far, both ways.
    pub fn bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed)
    }
}

/// A connection, made when needed. Clones share it. Generated clients take it.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    from: Ipv4Addr,
    to: SocketAddr,
    authority: Authority,
    tls: Arc<ClientConfig>,
    traffic: Arc<Traffic>,
    current: Mutex<Option<Current>>,
    made: AtomicU64,
}

#[derive(Clone)]
struct Current {
    number: u64,
    sender: SendRequest<Body>,
}

impl Link {
    /// From `from` to the server at `to`.
    pub fn new(
        from: Ipv4Addr,
        to: SocketAddr,
        tls: Arc<ClientConfig>,
        traffic: Arc<Traffic>,
    ) -> Self {
        let authority = to.to_string().parse().expect("a socket address is an authority");
        let (current, made) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { from, to, authority, tls, traffic, current, made }))
    }

    /// Lets go of the connection: the next call makes a new one.
    pub async fn release(&self) {
        *self.0.current.lock().await = None;
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.call(request).await })
    }
}

impl Inner {
    async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(self.authority.clone());
        *request.uri_mut() =
            Uri::from_parts(uri).map_err(|error| Status::internal(error.to_string()))?;
        for attempt in 1.. {
            let mut current = self.connection().await.map_err(lost)?;
            match current.sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(response.map(|body| Body::new(body.map_err(lost))));
                }
                Err(mut error) => {
                    let unsent = error.take_message();
                    self.forget(current.number).await;
                    match unsent {
                        Some(unsent) if attempt < ATTEMPTS => request = unsent,
                        _ => return Err(lost(error.into_error())),
                    }
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn connection(&self) -> io::Result<Current> {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_ref().filter(|it| !it.sender.is_closed()) {
            return Ok(current.clone());
        }
        *current = None;
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        let sender = tokio::time::timeout(CONNECT, self.connect());
        let sender = sender.await.map_err(|_| late())??;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Ok(current.insert(Current { number, sender }).clone())
    }

    async fn connect(&self) -> io::Result<SendRequest<Body>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((self.from, 0)))?;
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        let stream = Counted { stream, traffic: Arc::clone(&self.traffic) };
        let name = ServerName::from(self.to.ip());
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(io::Error::other)?;
        self.traffic.connections.fetch_add(1, Ordering::Relaxed);
        // It ends with its last sender, or when the server ends it: calls say so.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn forget(&self, number: u64) {
        self.current.lock().await.take_if(|current| current.number == number);
    }
}

fn lost(error: impl std::error::Error + Send + Sync + 'static) -> Status {
    match Status::try_from_error(Box::new(error)) {
        Ok(status) => status,
        Err(error) => Status::unavailable(format!("connection: {error}")),
    }
}

/// A TCP stream whose bytes are counted.
struct Counted {
    stream: TcpStream,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = (buf.filled().len() - before) as u64;
        self.traffic.received.fetch_add(read, Ordering::Relaxed);
        done
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = done {
            self.traffic.sent.fetch_add(written as u64, Ordering::Relaxed);
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
