//! A hold on one process: a pidfd where the kernel has them, and what `/proc` says.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{PeerError, PeerGone};
use crate::proc_stat::{Stat, stat};

pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Becomes readable when the process exits, and never names another one. Missing only on
    /// kernels before 5.3.
    pidfd: Option<OwnedFd>,
    /// `/proc/<pid>` as opened; a directory of a dead process cannot be listed. Only where there
    /// is no pidfd, which says the same and more.
    proc_fd: Option<OwnedFd>,
    stat: Stat,
    /// Device and inode of its executable; none where we may not know.
    executable: Option<(u64, u64)>,
}

impl Process {
    pub(crate) fn hold(
        pid: i32,
        uid: u32,
        gid: u32,
        pidfd: Option<OwnedFd>,
    ) -> Result<Self, PeerError> {
        let pidfd = pidfd.or_else(|| open_pidfd(pid));
        let proc_fd = match pidfd {
            Some(_) => None,
            None => Some(open_proc_dir(pid).map_err(PeerError::ProcDir)?),
        };
        let stat = stat(pid)?;
        let executable = executable(pid);
        // Only a process that is alive after its id was looked up is the one that the pidfd
        // holds: a dead one's id may have gone to another meanwhile.
        if let Some(pidfd) = &pidfd
            && has_exited(pidfd).unwrap_or(true)
        {
            return Err(PeerError::Exited);
        }
        Ok(Self { pid, uid, gid, pidfd, proc_fd, stat, executable })
    }

    pub(crate) fn is_alive(&self) -> Result<(), PeerGone> {
        let Some(pidfd) = &self.pidfd else {
            if let Some(proc_fd) = &self.proc_fd
                && !lists(proc_fd)
            {
                return Err(PeerGone::ProcDir);
            }
            return self.is_unchanged();
        };
        // The handle is asked last: what it says then covers all that was read by the number
        // before, here and by whoever asked.
        let unchanged = self.is_unchanged();
        if has_exited(pidfd).map_err(PeerGone::Poll)? {
            return Err(PeerGone::Exited);
        }
        unchanged
    }

    /// Whether the process that has the number now is, by its looks, the one that connected.
    fn is_unchanged(&self) -> Result<(), PeerGone> {
        let (found, expected) = (stat(self.pid)?, self.stat);
        if found.start_time != expected.start_time {
            let (expected, found) = (expected.start_time, found.start_time);
            return Err(PeerGone::Restarted { expected, found });
        }
        if differ(expected.image, found.image) || differ(self.executable, executable(self.pid)) {
            return Err(PeerGone::OtherProgram);
        }
        let owner = fs::metadata(self.proc_dir()).map_err(|_| PeerGone::Owner)?;
        if owner.uid() != self.uid {
            return Err(PeerGone::OtherUser { expected: self.uid, found: owner.uid() });
        }
        if owner.gid() != self.gid {
            return Err(PeerGone::OtherGroup { expected: self.gid, found: owner.gid() });
        }
        Ok(())
    }

    pub(crate) fn proc_dir(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid))
    }

    pub(crate) const fn start_time(&self) -> u64 {
        self.stat.start_time
    }

    pub(crate) const fn pidfd(&self) -> Option<&OwnedFd> {
        self.pidfd.as_ref()
    }

    #[cfg(test)]
    pub(crate) fn forget_pidfd(&mut self) {
        self.pidfd = None;
        self.proc_fd = Some(open_proc_dir(self.pid).unwrap());
    }

    #[cfg(test)]
    pub(crate) fn pretend_started_at(&mut self, ticks: u64) {
        self.stat.start_time = ticks;
    }
}

fn open_proc_dir(pid: i32) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let path = PathBuf::from(format!("/proc/{pid}"));
    Ok(nix::fcntl::open(&path, flags, Mode::empty())?)
}

fn lists(proc_fd: &OwnedFd) -> bool {
    // Opened anew through the handle, since listing moves the handle's position, which would not
    // be there for the next check.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut dir) = Dir::openat(proc_fd.as_fd(), ".", flags, Mode::empty()) else {
        return false;
    };
    dir.iter().next().is_some_and(|entry| entry.is_ok())
}

/// Which file process `pid` executes.
///
/// The file system is asked for nothing that it has to fetch: an executable may lie on a server
/// that does not answer, and device and inode never change.
fn executable(pid: i32) -> Option<(u64, u64)> {
    let link = format!("/proc/{pid}/exe");
    match statx(CWD, &link, AtFlags::STATX_DONT_SYNC, StatxFlags::INO) {
        Ok(file) => Some((makedev(file.stx_dev_major, file.stx_dev_minor), file.stx_ino)),
        // An old kernel, or a sandbox that knows no such call.
        Err(Errno::NOSYS | Errno::PERM) => {
            let file = fs::metadata(link).ok()?;
            Some((file.dev(), file.ino()))
        }
        Err(_) => None,
    }
}

/// Whether both are known and not the same.
fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

/// A pidfd by the number alone, for kernels that do not give the one of the socket.
fn open_pidfd(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

fn has_exited(pidfd: &OwnedFd) -> Result<bool, nix::errno::Errno> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).map(|ready| ready > 0)
}
