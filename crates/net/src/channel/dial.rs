//! Reaching a server: names, sockets, handshakes, and what went wrong in grpc-go's words.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustls_pki_types::ServerName;
use steeple_runtime::gotext;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

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
    #[error("name resolver error: {host}: {}", gotext::system(.source))]
    Resolve {
        /// The name, with the port.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No connection to an address or socket.
    #[error("Error while dialing: dial {network} {address}: connect: {}", gotext::system(.source))]
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
    /// The server took the connection and does not speak HTTP/2.
    #[error("authentication handshake failed: {0}")]
    Http2(#[source] hyper::Error),
    /// Connecting took too long.
    #[error("Error while dialing: dial {network} {address}: i/o timeout")]
    Timeout {
        /// `tcp` or `unix`.
        network: &'static str,
        /// The address or path.
        address: String,
    },
}

/// Any kind of connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where a channel leads.
pub(super) enum Target {
    Unix(PathBuf),
    Tls(Server),
}

pub(super) struct Server {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: ClientTls,
    /// How many connections were begun, so that each begins with another of the addresses.
    begun: AtomicUsize,
}

impl Target {
    /// None if `host` is neither a DNS name nor an IP address.
    pub(super) fn tls(host: &str, port: u16, tls: ClientTls) -> Option<Self> {
        // SPIFFE names servers, not DNS; rustls still wants to be told which one is meant.
        let name = ServerName::try_from(host.to_owned()).ok()?;
        Some(Self::Tls(Server { host: host.into(), port, name, tls, begun: AtomicUsize::new(0) }))
    }

    /// Changes when a new connection would be another than the old one.
    pub(super) fn version(&self) -> u64 {
        match self {
            Self::Unix(_) => 0,
            Self::Tls(server) => server.tls.version(),
        }
    }

    pub(super) async fn dial(&self) -> Result<Box<dyn Io>, ConnectError> {
        match self {
            Self::Unix(path) => {
                let address = || path.display().to_string();
                match timeout(DIAL_DEADLINE, UnixStream::connect(path)).await {
                    Ok(Ok(stream)) => Ok(Box::new(stream)),
                    Ok(Err(source)) => {
                        Err(ConnectError::Dial { network: "unix", address: address(), source })
                    }
                    Err(_) => Err(ConnectError::Timeout { network: "unix", address: address() }),
                }
            }
            Self::Tls(server) => match timeout(CONNECT_DEADLINE, server.connect()).await {
                Ok(connected) => Ok(Box::new(connected?)),
                Err(_) => Err(ConnectError::Timeout { network: "tcp", address: server.address() }),
            },
        }
    }
}

type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

impl Server {
    async fn connect(&self) -> Result<ClientStream, ConnectError> {
        let stream = self.dial().await?;
        let connector = TlsConnector::from(self.tls.config());
        connector.connect(self.name.clone(), stream).await.map_err(|error| {
            match find_peer_error(&error) {
                Some(peer) => ConnectError::Peer(peer),
                None => ConnectError::Handshake(error),
            }
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

/// Keepalive by the kernel: HTTP/2 pings more often than every five minutes make a Go server end
/// the connection. It works without any.
fn keep_alive(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &TCP_KEEPALIVE_SECONDS);
}
