//! Unix sockets: binding with a mode, and callers known by their process.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, listen, socket,
};
use steeple_peer::Peer;
use steeple_runtime::Throttle;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Connected;

use crate::authority::Filtered;
use crate::serve::{Accept, pause_after};

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

/// Listens on `path` with permission bits `mode`, in place of a socket of that name if there is
/// one (as a restart leaves behind); a missing directory is made with `directory_mode`.
///
/// A socket that another process still listens on is replaced as well, with a warning: on a rolling
/// upgrade the new process starts before the old one ends. Files of other kinds are never touched.
///
/// # Errors
/// [`BindError`] says which step failed, and where. Must be called in a Tokio runtime.
pub fn bind(path: &Path, mode: u32, directory_mode: u32) -> Result<UnixIncoming, BindError> {
    let at = |source| BindError::Listen { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(directory_mode)
            .create(directory)
            .map_err(|source| BindError::Directory { path: directory.to_owned(), source })?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {
            if is_in_use(path) {
                tracing::warn!(path = %path.display(), "Replacing a socket that is in use");
            }
            fs::remove_file(path).map_err(at)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(error)),
    }
    let listener = UnixListener::bind(path).map_err(at)?;
    // Again, for the queue is short otherwise: callers in a storm of connections find it full.
    listen(&listener, QUEUE).map_err(|errno| at(errno.into()))?;
    let permissions = |source| BindError::Permissions { path: path.to_owned(), source };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(permissions)?;
    let inode = fs::symlink_metadata(path).map_err(permissions)?.ino();
    Ok(UnixIncoming { listener, path: path.to_owned(), inode, failures: Throttle::new(PERIOD) })
}

/// Whether somebody listens there. Does not wait for one whose queue is full.
fn is_in_use(path: &Path) -> bool {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let Ok(probe) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else {
        return false;
    };
    let Ok(address) = UnixAddr::new(path) else { return false };
    matches!(connect(probe.as_raw_fd(), &address), Ok(()) | Err(Errno::EAGAIN))
}

/// How many connections may wait to be accepted; the system may allow less.
const QUEUE: Backlog = Backlog::MAXALLOWABLE;
/// How often a line that a caller can cause is logged.
const PERIOD: Duration = Duration::from_secs(1);

/// A listening Unix socket. Dropped, it removes its file, unless another process replaced it.
#[derive(Debug)]
pub struct UnixIncoming {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    failures: Throttle,
}

impl UnixIncoming {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Accept for UnixIncoming {
    type Io = PeerStream;

    async fn accept(&mut self) -> PeerStream {
        loop {
            match self.listener.accept().await {
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

impl Drop for UnixIncoming {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // Left behind, it is replaced at the next start.
            let _ = fs::remove_file(&self.path);
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
    type Io = LocalStream<()>;

    async fn accept(&mut self) -> LocalStream<()> {
        loop {
            match self.0.listener.accept().await {
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
pub struct LocalStream<C> {
    stream: Filtered<UnixStream>,
    caller: C,
}

/// A connection on a Unix socket. Handlers find its [`Peer`] among the request's extensions.
pub type PeerStream = LocalStream<Peer>;

impl PeerStream {
    /// Takes hold of the process at the other end.
    ///
    /// # Errors
    /// When it is gone or lives in a process id namespace that we cannot see into.
    pub fn new(stream: UnixStream) -> Result<Self, steeple_peer::PeerError> {
        let caller = Peer::of(&stream)?;
        Ok(Self { stream: Filtered::new(stream), caller })
    }
}

impl<C: Clone + Send + Sync + 'static> Connected for LocalStream<C> {
    type ConnectInfo = C;

    fn connect_info(&self) -> C {
        self.caller.clone()
    }
}

impl<C: Unpin> AsyncRead for LocalStream<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<C: Unpin> AsyncWrite for LocalStream<C> {
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
