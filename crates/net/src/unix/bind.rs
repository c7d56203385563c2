//! Binding a path, so that nobody ever finds it missing or with the wrong mode.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, listen, setsockopt, socket,
    sockopt,
};
use tokio::net::UnixListener;

use super::{BindError, UnixIncoming};

/// How many connections may wait to be accepted; the system may allow less.
const QUEUE: Backlog = Backlog::MAXALLOWABLE;

/// Listens on `path` with permission bits `mode`, in place of a socket of that name if there is
/// one (as a restart leaves behind); a missing directory is made with `directory_mode`.
///
/// A socket that another process still listens on is replaced as well, with a warning: on a rolling
/// upgrade the new process starts before the old one ends. Files of other kinds are never touched.
/// What is replaced is replaced at once: there is no moment at which the path does not exist.
///
/// # Errors
/// [`BindError`] says which step failed, and where. Must be called in a Tokio runtime.
pub fn bind(path: &Path, mode: u32, directory_mode: u32) -> Result<UnixIncoming, BindError> {
    if is_in_use(path) {
        tracing::warn!(path = %path.display(), "Replacing a socket that is in use");
    }
    bind_over(path, mode, directory_mode)
}

/// As [`bind`], where it is expected that another process still listens.
///
/// # Errors
/// As [`bind`].
pub fn bind_over(path: &Path, mode: u32, directory_mode: u32) -> Result<UnixIncoming, BindError> {
    let at = |source| BindError::Listen { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(directory_mode)
            .create(directory)
            .map_err(|source| BindError::Directory { path: directory.to_owned(), source })?;
    }
    let socket = match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => replace(path, mode)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, path, mode)?,
        Err(error) => return Err(at(error)),
    };
    let inode = fs::symlink_metadata(path).map_err(at)?.ino();
    let listener = StdListener::from(socket);
    Listening::new(listener, path.to_owned(), Some(inode)).map_err(at).map(UnixIncoming::new)
}

/// Makes the socket beside `path` and puts it in its place.
fn replace(path: &Path, mode: u32) -> Result<OwnedFd, BindError> {
    let at = |source| BindError::Listen { path: path.to_owned(), source };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let beside = path.with_file_name(name);
    if UnixAddr::new(&beside).is_err() {
        // A path near the limit has no room for another name.
        fs::remove_file(path).map_err(at)?;
        return make(path, path, mode);
    }
    match fs::symlink_metadata(&beside) {
        // Of a process that died right here.
        Ok(found) if found.file_type().is_socket() => fs::remove_file(&beside).map_err(at)?,
        _ => {}
    }
    let socket = make(&beside, path, mode)?;
    fs::rename(&beside, path).map_err(|source| {
        let _ = fs::remove_file(&beside);
        at(source)
    })?;
    Ok(socket)
}

/// A listening socket at `path`; errors call it `named`. Nobody can connect before it has its mode.
fn make(path: &Path, named: &Path, mode: u32) -> Result<OwnedFd, BindError> {
    let at = |source| BindError::Listen { path: named.to_owned(), source };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let address = UnixAddr::new(path).map_err(|_| {
        let text = "path must be shorter than SUN_LEN";
        at(io::Error::new(io::ErrorKind::InvalidInput, text))
    })?;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|errno| at(errno.into()))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &address).map_err(|errno| at(errno.into()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| BindError::Permissions { path: named.to_owned(), source })?;
    listen(&socket, QUEUE).map_err(|errno| at(errno.into()))?;
    Ok(socket)
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

/// A socket that listens, and its file.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    /// The file as it was made; none when it is not ours to remove.
    pub(super) inode: Option<u64>,
    /// Whether another process serves it from now on.
    released: AtomicBool,
}

impl Listening {
    /// Takes a socket that listens already, with the full queue and us as its owner.
    pub(super) fn new(
        listener: StdListener,
        path: PathBuf,
        inode: Option<u64>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // The second `listen` is for one that we were given: its queue may be short, and clients
        // that ask who listens are to find this process, not the one before it.
        listen(&listener, QUEUE)?;
        // So that what arrives tells who sent it, from the first byte on.
        setsockopt(&listener, sockopt::PassCred, &true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { listener, path, inode, released: AtomicBool::new(false) })
    }

    /// Leaves the file alone from now on.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
    }

    /// Whether the path still leads here.
    pub(super) fn is_in_place(&self) -> bool {
        self.inode.is_none_or(|inode| {
            fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == inode)
        })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.inode.is_some() && !self.released.load(Ordering::SeqCst) && self.is_in_place() {
            // Left behind, it is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}
