//! Client channels over our own connections: a Unix socket, or TLS by SPIFFE ID.
//!
//! A channel connects when it is first used, and again whenever its connection is gone. Its
//! failures are [`ConnectError`]s; [`explain`] puts them in grpc-go's words.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::tls::{ClientTls, PeerVerifyError, find_peer_error};

/// From looking up a name to the end of the TLS handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// For one address of several.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// How long a TCP connection is idle before the kernel probes it.
const TCP_KEEPALIVE_SECONDS: u32 = 30;

/// Why there is no connection. The texts are grpc-go's.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server's name has no address.
    #[error("name resolver error: {host}: {}", go_text(.source))]
    Resolve {
        /// The name, with the port.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No connection to an address or socket.
    #[error("Error while dialing: dial {network} {address}: connect: {}", go_text(.source))]
    Dial {
        /// `tcp` or `unix`.
        network: &'static str,
        /// The address or path.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server is not who it should be.
    #[error("authentication handshake failed: {0}")]
    Peer(#[source] Arc<PeerVerifyError>),
    /// The TLS handshake failed for another reason.
    #[error("authentication handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// Connecting took too long.
    #[error("Error while dialing: dial {network} {address}: i/o timeout")]
    Timeout {
        /// `tcp` or `unix`.
        network: &'static str,
        /// The address or path.
        address: String,
    },
}

/// A channel to the server that listens on the Unix socket `path`. Its authority is `localhost`.
pub fn unix(path: &Path) -> Channel {
    let path: Arc<Path> = path.into();
    let connector = Connector(move || {
        let path = Arc::clone(&path);
        async move {
            let address = || PathBuf::from(&*path).display().to_string();
            match timeout(DIAL_DEADLINE, UnixStream::connect(&path)).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(source)) => {
                    Err(ConnectError::Dial { network: "unix", address: address(), source })
                }
                Err(_) => Err(ConnectError::Timeout { network: "unix", address: address() }),
            }
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

/// A channel that is renewed when its owner's identity or the server's roots change.
#[derive(Debug)]
pub struct TlsChannel {
    endpoint: Endpoint,
    server: Arc<Server>,
    current: Mutex<Option<(u64, Channel)>>,
}

#[derive(Debug)]
struct Server {
    host: String,
    port: u16,
    tls: ClientTls,
    /// How many connections were begun, so that each begins with another of the addresses.
    begun: AtomicUsize,
}

/// A server's address that is no host and port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid server address {0:?}")]
pub struct InvalidAddress(String);

impl TlsChannel {
    /// A channel to `host` (a DNS name or an IP address, without brackets) at `port`.
    ///
    /// # Errors
    /// When that does not make an address.
    pub fn new(host: &str, port: u16, tls: ClientTls) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(host.chars().take(100).collect());
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let uri = format!("https://{bracketed}:{port}");
        let endpoint = Endpoint::from_shared(uri).map_err(|_| invalid())?;
        if server_name(host).is_none() {
            return Err(invalid());
        }
        let server = Server { host: host.to_owned(), port, tls, begun: AtomicUsize::new(0) };
        Ok(Self { endpoint, server: Arc::new(server), current: Mutex::new(None) })
    }

    /// The channel to use now: for a call, not to be kept. What is under way on an older one goes
    /// on.
    pub fn channel(&self) -> Channel {
        let version = self.server.tls.version();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((of, channel)) if *of == version => channel.clone(),
            _ => {
                let channel = self.connect();
                *current = Some((version, channel.clone()));
                channel
            }
        }
    }

    /// Drops the connection: the next call makes a new one.
    pub fn release(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn connect(&self) -> Channel {
        let server = Arc::clone(&self.server);
        let connector = Connector(move || Arc::clone(&server).connect());
        self.endpoint.connect_with_connector_lazy(connector)
    }
}

type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

impl Server {
    async fn connect(self: Arc<Self>) -> Result<ClientStream, ConnectError> {
        match timeout(CONNECT_DEADLINE, self.dial_and_shake_hands()).await {
            Ok(connected) => connected,
            Err(_) => Err(ConnectError::Timeout { network: "tcp", address: self.address() }),
        }
    }

    async fn dial_and_shake_hands(&self) -> Result<ClientStream, ConnectError> {
        let name = server_name(&self.host).expect("checked when the channel was made");
        let stream = self.dial().await?;
        let connector = TlsConnector::from(self.tls.config());
        connector.connect(name, stream).await.map_err(|error| match find_peer_error(&error) {
            Some(peer) => ConnectError::Peer(peer),
            None => ConnectError::Handshake(error),
        })
    }

    /// Tries the addresses of the name one after the other, beginning with another one each time.
    async fn dial(&self) -> Result<TcpStream, ConnectError> {
        let resolve = |source| ConnectError::Resolve { host: self.address(), source };
        let mut addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((&*self.host, self.port)).await.map_err(resolve)?.collect();
        if !addresses.is_empty() {
            let begun = self.begun.fetch_add(1, Ordering::Relaxed);
            let first = begun % addresses.len();
            addresses.rotate_left(first);
        }
        let mut failure = resolve(io::Error::new(io::ErrorKind::NotFound, "no such host"));
        for address in addresses {
            failure = match timeout(DIAL_DEADLINE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    keep_alive(&stream);
                    return Ok(stream);
                }
                Ok(Err(source)) => {
                    ConnectError::Dial { network: "tcp", address: address.to_string(), source }
                }
                Err(_) => ConnectError::Timeout { network: "tcp", address: address.to_string() },
            };
        }
        Err(failure)
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// SPIFFE names servers, not DNS; TLS still wants to be told which one is meant.
fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

/// Keepalive by the kernel: HTTP/2 pings more often than every five minutes make a Go server end
/// the connection. It works without any.
fn keep_alive(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &TCP_KEEPALIVE_SECONDS);
}

/// A function that connects, as tonic wants it.
#[derive(Clone)]
struct Connector<F>(F);

impl<F, Fut, Io> Service<Uri> for Connector<F>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Io, ConnectError>> + Send + 'static,
    Io: 'static,
{
    type Response = TokioIo<Io>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Io>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = self.0();
        Box::pin(async move { connecting.await.map(TokioIo::new) })
    }
}

/// Why the call that ended in `status` had no connection, if that was the reason.
pub fn connect_error(status: &Status) -> Option<&ConnectError> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// `status` in the words of grpc-go, if there was no connection; as it is otherwise.
pub fn explain(status: Status) -> Status {
    match connect_error(&status) {
        Some(error @ ConnectError::Resolve { .. }) => Status::unavailable(error.to_string()),
        Some(error) => {
            let text = format!("transport: {error}");
            Status::unavailable(format!("connection error: desc = {text:?}"))
        }
        None => status,
    }
}

/// An error of the system as Go prints it: without a number, in lower case.
fn go_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}
