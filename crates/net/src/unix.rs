//! Unix sockets: binding with a mode, taking over from another process, and callers known by their
//! process.

mod bind;
mod caller;
mod sockets;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use steeple_peer::Peer;
use steeple_runtime::Throttle;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

use crate::authority::Filtered;
use crate::serve::{Accept, pause_after};

use bind::Listening;
pub use bind::{bind, bind_over};
use caller::FromCaller;
pub use sockets::{Given, Held, Sockets};

/// Why a socket could not be bound; each says where.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The directory of the socket is missing and cannot be made.
    #[error("unable to create socket directory {path:?}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something that is no socket has the name; it is left alone.
    #[error("{path:?} exists and is not a socket; remove it or choose another socket path")]
    NotASocket {
        /// The path in the way.
        path: PathBuf,
    },
    /// The old socket cannot be removed, or the new one not made.
    #[error("unable to listen on {path:?}: {source}")]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket's mode cannot be set.
    #[error("unable to change UDS permissions: {path:?}: {source}")]
    Permissions {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How often a line that a caller can cause is logged.
const PERIOD: Duration = Duration::from_secs(1);

/// A listening Unix socket. The last of those who hold it removes its file, unless another process
/// replaced it or serves it now.
#[derive(Debug)]
pub struct UnixIncoming {
    listening: Arc<Listening>,
    failures: Throttle,
}

impl UnixIncoming {
    fn new(listening: Listening) -> Self {
        Self { listening: Arc::new(listening), failures: Throttle::new(PERIOD) }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.listening.path
    }

    /// Leaves the file to whoever puts another one in its place.
    pub fn release(&self) {
        self.listening.release();
    }

    /// The next connection as it is, for those who speak something else than gRPC.
    ///
    /// # Errors
    /// As `accept(2)`.
    pub async fn accept_untracked(&self) -> io::Result<UnixStream> {
        self.listening.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for UnixIncoming {
    type Io = PeerStream;

    async fn accept(&mut self) -> PeerStream {
        loop {
            match self.listening.listener.accept().await {
                Ok((stream, _)) => match PeerStream::new(stream) {
                    Ok(stream) => return stream,
                    Err(error) => {
                        if let Some(unsaid) = self.failures.admit(Instant::now()) {
                            let unsaid = (unsaid > 0).then_some(unsaid);
                            tracing::warn!(%error, unsaid, "Connection failed during accept");
                        }
                    }
                },
                Err(error) => pause_after(&error).await,
            }
        }
    }
}

/// A listening Unix socket that takes callers as they come, without a hold on their processes: for
/// a socket whose mode decides who may call, also from containers whose process ids mean nothing
/// here.
#[derive(Debug)]
pub struct UntrackedIncoming(UnixIncoming);

impl From<UnixIncoming> for UntrackedIncoming {
    fn from(incoming: UnixIncoming) -> Self {
        Self(incoming)
    }
}

impl Accept for UntrackedIncoming {
    type Io = LocalStream<UnixStream, ()>;

    async fn accept(&mut self) -> LocalStream<UnixStream, ()> {
        loop {
            match self.0.listening.listener.accept().await {
                Ok((stream, _)) => {
                    return LocalStream { stream: Filtered::new(stream), caller: () };
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }
}

/// A connection on a Unix socket, and what is known of the caller.
#[derive(Debug)]
pub struct LocalStream<S, C> {
    stream: Filtered<S>,
    caller: C,
}

/// A connection on a Unix socket that ends with the process that opened it. Handlers find its
/// [`Peer`] among the request's extensions.
pub type PeerStream = LocalStream<FromCaller, Peer>;

impl PeerStream {
    /// Takes hold of the process at the other end.
    ///
    /// # Errors
    /// When it is gone or lives in a process id namespace that we cannot see into.
    pub fn new(stream: UnixStream) -> Result<Self, steeple_peer::PeerError> {
        let caller = Peer::of(&stream)?;
        let stream = FromCaller::new(stream, &caller);
        Ok(Self { stream: Filtered::new(stream), caller })
    }
}

impl<S, C: Clone + Send + Sync + 'static> Connected for LocalStream<S, C> {
    type ConnectInfo = C;

    fn connect_info(&self) -> C {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin, C: Unpin> AsyncRead for LocalStream<S, C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, C: Unpin> AsyncWrite for LocalStream<S, C> {
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
