//! Reaching a server: names, sockets, handshakes, and what went wrong in grpc-go's words.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steeple_runtime::gotext;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::race::Servers;
use crate::tls::PeerVerifyError;

/// From looking up names to the end of a TLS handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// For a socket, and for a server without TLS.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

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
    Tcp(SocketAddr),
    Tls(Servers),
}

impl Target {
    /// Changes when a new connection would be another than the old one.
    pub(super) fn version(&self) -> u64 {
        match self {
            Self::Unix(_) | Self::Tcp(_) => 0,
            Self::Tls(servers) => servers.version(),
        }
    }

    /// How many addresses lead there.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Unix(_) | Self::Tcp(_) => 1,
            Self::Tls(servers) => servers.count(),
        }
    }

    pub(super) async fn dial(&self) -> Result<Box<dyn Io>, ConnectError> {
        match self {
            Self::Unix(path) => {
                let stream = timeout(DIAL_DEADLINE, UnixStream::connect(path)).await;
                Ok(Box::new(dialled(stream, "unix", || path.display().to_string())?))
            }
            Self::Tcp(address) => {
                let stream = timeout(DIAL_DEADLINE, TcpStream::connect(address)).await;
                Ok(Box::new(dialled(stream, "tcp", || address.to_string())?))
            }
            Self::Tls(servers) => match timeout(CONNECT_DEADLINE, servers.connect()).await {
                Ok(connected) => Ok(Box::new(connected?)),
                Err(_) => Err(ConnectError::Timeout { network: "tcp", address: servers.address() }),
            },
        }
    }
}

fn dialled<S>(
    outcome: Result<io::Result<S>, tokio::time::error::Elapsed>,
    network: &'static str,
    address: impl FnOnce() -> String,
) -> Result<S, ConnectError> {
    match outcome {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(ConnectError::Dial { network, address: address(), source }),
        Err(_) => Err(ConnectError::Timeout { network, address: address() }),
    }
}
