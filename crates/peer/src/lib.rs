//! Who is on the other end of this Unix socket, and whether it is still the same process.
//!
//! Not here: what a caller may do, and what its properties are; that is attestation.
//!
//! The invariant to protect: when [`Peer::is_alive`] answers `Ok`, everything that was read from
//! `/proc/<pid>` since [`Peer::of`] was about the process that connected. A process id is
//! recycled by the kernel, so no answer may rest on the number alone.
//!
//! Start reading at [`Peer::of`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod by_pid;
mod error;
mod exit;
mod owner;
mod proc_stat;
mod process;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;

pub use error::{PeerError, PeerGone};
pub use exit::Exit;
use process::Process;

/// The process that connected to a Unix socket, held so that it cannot be mistaken for another.
#[derive(Clone)]
pub struct Peer(Arc<Process>);

impl Peer {
    /// Takes hold of the process that connected `stream`.
    ///
    /// The kernel recorded the process at the time of `connect(2)`, whoever holds the socket now.
    /// Its user and group are the effective ones of that time.
    ///
    /// # Errors
    /// When the caller lives in a process id namespace that we cannot see into (its id is 0), when
    /// it is gone already, or when the kernel does not answer. The connection is to be closed then.
    pub fn of(stream: &UnixStream) -> Result<Self, PeerError> {
        let credentials =
            getsockopt(stream, sockopt::PeerCredentials).map_err(PeerError::Credentials)?;
        if credentials.pid() <= 0 {
            return Err(PeerError::NoProcess);
        }
        if !owner::is_known(credentials.uid(), credentials.gid()) {
            return Err(PeerError::UnknownOwner);
        }
        let pidfd = kernel_pidfd(stream)?;
        let process =
            Process::hold(credentials.pid(), credentials.uid(), credentials.gid(), pidfd)?;
        Ok(Self(Arc::new(process)))
    }

    /// The process id, in our namespace.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// The effective user id at the time of connecting.
    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// The effective group id at the time of connecting.
    pub fn gid(&self) -> u32 {
        self.0.gid
    }

    /// Whether the process that connected still runs, the same program, as the same user and group.
    ///
    /// Ask *after* reading about the process, never only before.
    ///
    /// # Errors
    /// When it exited, or when another process has its id by now, or its owner or program changed.
    pub fn is_alive(&self) -> Result<(), PeerGone> {
        self.0.is_alive().inspect_err(|gone| self.log(gone))
    }

    /// The end of the process that connected, to be waited for; none where the kernel has no
    /// pidfds.
    ///
    /// # Errors
    /// When there is no room for one more thing to wait for. Must be called in a Tokio runtime.
    pub fn exit(&self) -> io::Result<Option<Exit>> {
        Exit::of(&self.0)
    }

    /// The path of the executable as the process sees it; only true if [`Peer::is_alive`]
    /// afterwards.
    ///
    /// # Errors
    /// When the link cannot be read, for want of rights or because the process is gone.
    pub fn exe(&self) -> io::Result<PathBuf> {
        std::fs::read_link(self.proc_dir().join("exe"))
    }

    /// `/proc/<pid>`.
    pub fn proc_dir(&self) -> PathBuf {
        self.0.proc_dir()
    }

    fn log(&self, gone: &PeerGone) {
        let (expected, received) = gone.difference();
        tracing::warn!(
            caller_gid = self.gid(),
            caller_uid = self.uid(),
            pid = self.pid(),
            path = %self.proc_dir().display(),
            start_time = self.0.start_time(),
            expected,
            received,
            error = gone.cause(),
            "{}",
            gone.headline()
        );
    }
}

/// The kernel's own hold on the process that connected, which Linux has had since 6.5.
///
/// `None` on an older kernel: the process is found by its id then, with a little race that
/// [`Peer::is_alive`] narrows by comparing the owner. A kernel that knows the option and still
/// does not give one says that the process is gone; looking for its id would find a stranger.
fn kernel_pidfd(stream: &UnixStream) -> Result<Option<OwnedFd>, PeerError> {
    match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(None),
        Err(_) => Err(PeerError::Exited),
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("pid", &self.pid())
            .field("uid", &self.uid())
            .field("gid", &self.gid())
            .finish()
    }
}
