//! What can be wrong with a caller.

use std::io;

use nix::errno::Errno;

/// Why a caller could not be taken hold of; its connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel told no credentials.
    #[error("could not read the caller's credentials: {0}")]
    Credentials(#[source] Errno),
    /// The caller's process id is not visible here: it lives in another namespace.
    #[error("could not resolve caller information")]
    NoProcess,
    /// The caller's user or group has no number here: it lives in another user namespace. The
    /// kernel shows `nobody` for it, which is somebody else.
    #[error("the caller's user or group is not known in the agent's user namespace")]
    UnknownOwner,
    /// The caller's directory in `/proc` could not be opened: most likely it exited.
    #[error("could not open caller's proc directory: {0}")]
    ProcDir(#[source] io::Error),
    /// The caller's start time could not be read.
    #[error(transparent)]
    StartTime(#[from] StartTimeError),
    /// The caller exited before the connection was accepted.
    #[error("caller exited before its connection was accepted")]
    Exited,
}

/// Why the start time of a process is not known.
#[derive(Debug, thiserror::Error)]
pub enum StartTimeError {
    /// `/proc/<pid>/stat` could not be read.
    #[error("could not read caller stat: {0}")]
    Read(#[source] io::Error),
    /// It does not look as Linux writes it.
    #[error("bad stat data or unsupported platform")]
    Malformed,
}

/// Why a caller is not, or may not be, the process that connected.
#[derive(Debug, thiserror::Error)]
pub enum PeerGone {
    /// The kernel's handle says that it exited.
    #[error("caller exited")]
    Exited,
    /// The kernel's handle could not be asked.
    #[error("caller exit suspected due to failed poll: {0}")]
    Poll(#[source] Errno),
    /// The directory in `/proc` that was opened for it is dead.
    #[error("caller exit suspected due to failed readdirent")]
    ProcDir,
    /// Its start time cannot be read any more.
    #[error("caller exit suspected due to failure to get starttime: {0}")]
    StartTime(#[from] StartTimeError),
    /// A process with the same id started at another time.
    #[error(
        "new process detected: process starttime {found} does not match original caller {expected}"
    )]
    Restarted {
        /// When the caller started, in clock ticks since boot.
        expected: u64,
        /// When the process that has its id now did.
        found: u64,
    },
    /// It executes another program than when it connected.
    #[error("new program detected: the process executed another program after it connected")]
    OtherProgram,
    /// Its owner cannot be read any more.
    #[error("caller exit suspected due to failed proc stat")]
    Owner,
    /// It belongs to another user now.
    #[error("new process detected: process uid {found} does not match original caller {expected}")]
    OtherUser {
        /// The user id at the time of connecting.
        expected: u32,
        /// The user id now.
        found: u32,
    },
    /// It belongs to another group now.
    #[error("new process detected: process gid {found} does not match original caller {expected}")]
    OtherGroup {
        /// The group id at the time of connecting.
        expected: u32,
        /// The group id now.
        found: u32,
    },
}

impl PeerGone {
    /// The sentence that SPIRE logs for it.
    pub(crate) const fn headline(&self) -> &'static str {
        match self {
            Self::Exited => "Caller exited",
            Self::Poll(_) => "Caller exit suspected due to failed poll",
            Self::ProcDir => "Caller exit suspected due to failed readdirent",
            Self::StartTime(_) => "Caller exit suspected due to failure to get starttime",
            Self::Restarted { .. } => {
                "New process detected: process starttime does not match original caller"
            }
            Self::OtherProgram => {
                "New program detected: process executed another program after it connected"
            }
            Self::Owner => "Caller exit suspected due to failed proc stat",
            Self::OtherUser { .. } => {
                "New process detected: process uid does not match original caller"
            }
            Self::OtherGroup { .. } => {
                "New process detected: process gid does not match original caller"
            }
        }
    }

    /// What was expected and what was found, where it is a matter of numbers.
    pub(crate) fn difference(&self) -> (Option<u64>, Option<u64>) {
        match *self {
            Self::Restarted { expected, found } => (Some(expected), Some(found)),
            Self::OtherUser { expected, found } | Self::OtherGroup { expected, found } => {
                (Some(expected.into()), Some(found.into()))
            }
            _ => (None, None),
        }
    }

    /// What the system said, where it said something.
    pub(crate) fn cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Poll(errno) => Some(errno),
            Self::StartTime(error) => Some(error),
            _ => None,
        }
    }
}
