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
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{PeerError, PeerGone};
use crate::proc_stat::start_time;

pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Becomes readable when the process exits, and never names another one. Missing only on
    /// kernels before 5.3.
    pidfd: Option<OwnedFd>,
    /// `/proc/<pid>` as opened; a directory of a dead process cannot be listed.
    proc_fd: OwnedFd,
    start_time: u64,
}

impl Process {
    pub(crate) fn hold(
        pid: i32,
        uid: u32,
        gid: u32,
        pidfd: Option<OwnedFd>,
    ) -> Result<Self, PeerError> {
        let pidfd = pidfd.or_else(|| open_pidfd(pid));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc_fd =
            nix::fcntl::open(&PathBuf::from(format!("/proc/{pid}")), flags, Mode::empty())
                .map_err(|errno| PeerError::ProcDir(io::Error::from(errno)))?;
        let start_time = start_time(pid)?;
        // Only a process that is alive after its id was looked up is the one that the pidfd
        // holds: a dead one's id may have gone to another meanwhile.
        if let Some(pidfd) = &pidfd
            && has_exited(pidfd).unwrap_or(true)
        {
            return Err(PeerError::Exited);
        }
        Ok(Self { pid, uid, gid, pidfd, proc_fd, start_time })
    }

    pub(crate) fn is_alive(&self) -> Result<(), PeerGone> {
        if let Some(pidfd) = &self.pidfd
            && has_exited(pidfd).map_err(PeerGone::Poll)?
        {
            return Err(PeerGone::Exited);
        }
        if !self.proc_dir_lists() {
            return Err(PeerGone::ProcDir);
        }
        let found = start_time(self.pid)?;
        if found != self.start_time {
            return Err(PeerGone::Restarted { expected: self.start_time, found });
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
        self.start_time
    }

    #[cfg(test)]
    pub(crate) fn forget_pidfd(&mut self) {
        self.pidfd = None;
    }

    #[cfg(test)]
    pub(crate) fn pretend_started_at(&mut self, ticks: u64) {
        self.start_time = ticks;
    }

    fn proc_dir_lists(&self) -> bool {
        // Opened anew through the handle, since listing moves the handle's position, which
        // would not be there for the next check.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(mut dir) = Dir::openat(self.proc_fd.as_fd(), ".", flags, Mode::empty()) else {
            return false;
        };
        dir.iter().next().is_some_and(|entry| entry.is_ok())
    }
}

/// A pidfd by the number alone, for kernels that do not give the one of the socket.
fn open_pidfd(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

fn has_exited(pidfd: &OwnedFd) -> Result<bool, nix::errno::Errno> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).map(|ready| ready > 0)
}
