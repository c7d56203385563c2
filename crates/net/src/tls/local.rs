//! TLS over connections that something else accepted, such as those of a Unix socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use steeple_runtime::drain::Tasks;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use super::{ServerTls, TlsLimits, TlsPeer};
use crate::serve::Accept;

/// A listener whose connections speak TLS.
#[derive(Debug)]
pub struct LocalTlsIncoming<A: Accept> {
    listener: A,
    acceptor: Arc<TlsParts>,
    sender: mpsc::Sender<LocalTlsStream<A::Io>>,
    done: mpsc::Receiver<LocalTlsStream<A::Io>>,
    slots: Arc<Semaphore>,
    tasks: Tasks,
}

struct TlsParts {
    tls: TlsAcceptor,
    limits: TlsLimits,
}

impl std::fmt::Debug for TlsParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsParts").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<A: Accept> LocalTlsIncoming<A> {
    /// Shakes hands as `tls` says with whoever `listener` accepts; of the limits, those of one
    /// address mean nothing here.
    pub fn new(listener: A, tls: &ServerTls, limits: TlsLimits, tasks: Tasks) -> Self {
        let (sender, done) = mpsc::channel(1);
        let tls = TlsAcceptor::from(Arc::clone(&tls.config));
        let slots = Arc::new(Semaphore::new(limits.handshakes));
        Self { listener, acceptor: Arc::new(TlsParts { tls, limits }), sender, done, slots, tasks }
    }
}

impl<A: Accept> Accept for LocalTlsIncoming<A> {
    type Io = LocalTlsStream<A::Io>;

    async fn accept(&mut self) -> Self::Io {
        loop {
            let (slots, listener) = (&self.slots, &mut self.listener);
            let next = async {
                let slot = Arc::clone(slots).acquire_owned().await;
                (slot.expect("the semaphore is never closed"), listener.accept().await)
            };
            tokio::select! {
                stream = self.done.recv() => return stream.expect("this holds a sender"),
                (slot, stream) = next => {
                    let (parts, done) = (Arc::clone(&self.acceptor), self.sender.clone());
                    self.tasks.spawn_isolated("tls_handshake", async move {
                        let shaking = timeout(parts.limits.deadline, parts.tls.accept(stream));
                        let shaken = tokio::select! {
                            shaken = shaking => shaken,
                            // Nobody will serve it.
                            () = done.closed() => return,
                        };
                        drop(slot);
                        match shaken {
                            // Fails when nobody will serve it any more.
                            Ok(Ok(stream)) => drop(done.send(LocalTlsStream::new(stream)).await),
                            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                            Err(_) => tracing::debug!("TLS handshake took too long"),
                        }
                    });
                }
            }
        }
    }
}

/// Who is on the other end of a local TLS connection, which has no address.
#[derive(Clone, Debug)]
pub struct LocalTlsPeer(pub TlsPeer);

/// A local TLS connection after its handshake.
#[derive(Debug)]
pub struct LocalTlsStream<I> {
    stream: tokio_rustls::server::TlsStream<I>,
    peer: LocalTlsPeer,
}

impl<I> LocalTlsStream<I> {
    fn new(stream: tokio_rustls::server::TlsStream<I>) -> Self {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain = chain.iter().map(|it| it.clone().into_owned()).collect();
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self { stream, peer: LocalTlsPeer(TlsPeer::new(nowhere, chain)) }
    }
}

impl<I> Connected for LocalTlsStream<I> {
    type ConnectInfo = LocalTlsPeer;

    fn connect_info(&self) -> LocalTlsPeer {
        self.peer.clone()
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for LocalTlsStream<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LocalTlsStream<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
