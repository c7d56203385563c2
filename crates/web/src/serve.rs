//! From a listener to a handler, with limits, and drained in the end.

mod connection;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use steeple_net::serve::Accept;
use steeple_net::tls::{ServerTls, TlsIncoming, TlsLimits, TlsPeer};
use steeple_runtime::drain::{Tasks, Watcher};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::body::Body;
use crate::listen::Kind;
use crate::{Listener, Tls, acme};

/// A request. Who sent it is among its extensions, as a [`Client`].
pub type Request = http::Request<Body>;
/// An answer, complete in memory.
pub type Response = http::Response<Full<Bytes>>;

/// The host that a request is for, with its port if it names one: as in Go, that of its target
/// before that of its header.
pub fn request_host<B>(request: &http::Request<B>) -> Option<&str> {
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    let header = || request.headers().get(http::header::HOST)?.to_str().ok();
    target.or_else(header)
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address, unless it came over a Unix socket.
    pub address: Option<SocketAddr>,
    /// The other end of a TLS connection; `None` if it was not encrypted.
    pub tls: Option<TlsPeer>,
}

/// What a client may cost, and how connections end.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections served at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections served at once from one address; more are closed unanswered.
    pub connections_per_address: usize,
    /// TLS handshakes.
    pub handshakes: TlsLimits,
    /// How long the head of a request may take from its first byte, the first one from connecting.
    pub head_deadline: Duration,
    /// The bytes of a request's head.
    pub head_size: u32,
    /// The bytes of a request's body, for handlers that read it.
    pub body_size: usize,
    /// How long a body may take.
    pub body_deadline: Duration,
    /// How long an answer may wait for the client to read on.
    pub write_deadline: Duration,
    /// How long a connection may be without a request.
    pub idle: Duration,
    /// Open requests on one HTTP/2 connection.
    pub streams: u32,
    /// How long requests may go on once the process drains.
    pub drain_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            handshakes: TlsLimits::default(),
            head_deadline: Duration::from_secs(10),
            head_size: 64 * 1024,
            body_size: 1024 * 1024,
            body_deadline: Duration::from_secs(30),
            write_deadline: Duration::from_secs(30),
            idle: Duration::from_secs(180),
            streams: 100,
            drain_grace: Duration::from_secs(5),
        }
    }
}

/// Serves `handler` on `listener` until `drain` is signalled, then closes idle connections, waits
/// for open requests at most [`Limits::drain_grace`], and returns.
///
/// TCP listeners with `tls` speak HTTP/2 and HTTP/1.1 as the client likes, all others HTTP/1.1.
pub async fn serve<H, F>(
    listener: Listener,
    tls: Option<Tls>,
    handler: H,
    limits: Limits,
    drain: Watcher,
) where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    // Whoever drains waits until the socket's file is gone, too.
    let held = drain.clone();
    let server = Server { tasks: Tasks::new(), handler: Arc::new(handler), limits, drain };
    match (listener.0, tls) {
        (Kind::Tcp(listener), Some(tls)) => server.run_tls(listener, tls).await,
        (Kind::Tcp(listener), None) => server.run(listener).await,
        (Kind::Unix(listener, file), _) => {
            server.run(listener).await;
            drop(file);
        }
    }
    drop(held);
}

/// A listener without TLS. A closure for `accept` would do, were the future that holds it `Send`.
trait Plain: Send + Sync {
    type Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static;

    fn accept_plain(
        &self,
    ) -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;
}

impl Plain for TcpListener {
    type Stream = TcpStream;

    async fn accept_plain(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, address) = self.accept().await?;
        // Latency matters more than a segment saved; it works without.
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(address)))
    }
}

impl Plain for UnixListener {
    type Stream = UnixStream;

    async fn accept_plain(&self) -> io::Result<(UnixStream, Option<SocketAddr>)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, None))
    }
}

struct Server<H> {
    tasks: Tasks,
    handler: Arc<H>,
    limits: Limits,
    drain: Watcher,
}

impl<H, F> Server<H>
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    async fn run(mut self, listener: impl Plain) {
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let addresses = Addresses::default();
        loop {
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot.expect("the semaphore is never closed"), listener.accept_plain().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                () = self.drain.signalled() => break,
                next = next => next,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            let Some(counted) = addresses.count(address, self.limits.connections_per_address)
            else {
                tracing::debug!(?address, "Too many connections from this address");
                continue;
            };
            let client = Client { address, tls: None };
            self.spawn(stream, client, false, (slot, counted));
        }
        self.end().await;
    }

    async fn run_tls(mut self, listener: TcpListener, tls: Tls) {
        tls.serving.send_replace(true);
        let tls = ServerTls::from(tls.config);
        let mut incoming =
            TlsIncoming::new(listener, &tls, self.limits.handshakes, self.tasks.clone());
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let addresses = Addresses::default();
        loop {
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot.expect("the semaphore is never closed"), incoming.accept().await)
            };
            let (slot, stream) = tokio::select! {
                biased;
                () = self.drain.signalled() => break,
                next = next => next,
            };
            let peer = stream.peer().clone();
            let address = Some(peer.remote_addr());
            let http2 = match stream.alpn_protocol() {
                // The handshake was all that an ACME authority wanted.
                Some(acme::ALPN) => continue,
                protocol => protocol == Some(b"h2"),
            };
            let Some(counted) = addresses.count(address, self.limits.connections_per_address)
            else {
                tracing::debug!(?address, "Too many connections from this address");
                continue;
            };
            let client = Client { address, tls: Some(peer) };
            self.spawn(stream, client, http2, (slot, counted));
        }
        drop(incoming);
        self.end().await;
    }

    fn spawn<S>(&self, stream: S, client: Client, http2: bool, held: impl Send + 'static)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let handler = Arc::clone(&self.handler);
        let (limits, drain, tasks) = (self.limits.clone(), self.drain.clone(), self.tasks.clone());
        self.tasks.spawn_isolated("http_connection", async move {
            connection::run(stream, client, http2, handler, limits, drain, tasks).await;
            drop(held);
        });
    }

    async fn end(self) {
        // A task that panicked was logged when it did.
        let _ = self.tasks.join().await;
    }
}

/// Connections by address.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Addresses {
    /// Counts one for as long as the answer lives; `None` if there are too many.
    fn count(&self, address: Option<SocketAddr>, limit: usize) -> Option<Counted> {
        let Some(address) = address.map(|it| it.ip().to_canonical()) else {
            return Some(Counted(None));
        };
        let mut addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = addresses.entry(address).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Counted(Some((self.clone(), address))))
    }
}

struct Counted(Option<(Addresses, IpAddr)>);

impl Drop for Counted {
    fn drop(&mut self) {
        let Some((addresses, address)) = self.0.take() else { return };
        let mut addresses = addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
            }
        }
    }
}

/// Waits a little after a failure that may last, such as having no file descriptor left.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::warn!(%error, "Failed to accept a connection");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
