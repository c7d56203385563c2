//! A TLS connection of a client that speaks something else than gRPC.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{ClientTls, find_peer_error};
use crate::channel::ConnectError;

/// From dialing to the end of the handshake.
const DEADLINE: Duration = Duration::from_secs(30);

/// A connection to a server whose SPIFFE ID was verified.
#[derive(Debug)]
pub struct ClientStream(tokio_rustls::client::TlsStream<TcpStream>);

impl ClientStream {
    /// The protocol and the key exchange that both sides settled on, as RFC 8446 and the IANA
    /// registry name them: `TLSv1_3` and `X25519MLKEM768`, say.
    pub fn negotiated(&self) -> (String, String) {
        let connection = self.0.get_ref().1;
        let version = connection.protocol_version().map(|it| format!("{it:?}"));
        let group = connection.negotiated_key_exchange_group().map(|it| format!("{:?}", it.name()));
        (version.unwrap_or_default(), group.unwrap_or_default())
    }
}

/// Connects to `address` and shakes hands as `tls` says. No application protocol is negotiated
/// (ALPN): what is spoken is the caller's to know.
///
/// With TLS 1.3 the server judges the client's certificate after this: a client that is refused
/// learns it from its first read.
///
/// # Errors
/// When there is no connection, or the server is not who it should be.
pub async fn connect(address: SocketAddr, tls: &ClientTls) -> Result<ClientStream, ConnectError> {
    let mut config = (*tls.config()).clone();
    config.alpn_protocols = Vec::new();
    let connecting =
        async {
            let stream = TcpStream::connect(address).await.map_err(|source| {
                ConnectError::Dial { network: "tcp", address: address.to_string(), source }
            })?;
            let name = ServerName::from(address.ip());
            let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
            handshake.map(ClientStream).map_err(|error| match find_peer_error(&error) {
                Some(peer) => ConnectError::Peer(peer),
                None => ConnectError::Handshake(error),
            })
        };
    timeout(DEADLINE, connecting).await.unwrap_or_else(|_| {
        Err(ConnectError::Timeout { network: "tcp", address: address.to_string() })
    })
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
