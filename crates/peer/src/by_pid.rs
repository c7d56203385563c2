//! A hold on a process that somebody else named by its number.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::process::Process;
use crate::{Peer, PeerError};

impl Peer {
    /// Takes hold of process `pid`, whichever has that id now. Whoever named it must know that it
    /// meant this one; from here on it cannot become another.
    ///
    /// Its user and group are those of its directory in `/proc`.
    ///
    /// # Errors
    /// When there is no such process, or it cannot be looked at.
    pub fn by_pid(pid: i32) -> Result<Self, PeerError> {
        if pid <= 0 {
            return Err(PeerError::NoProcess);
        }
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let owner = fs::metadata(directory).map_err(PeerError::ProcDir)?;
        let process = Process::hold(pid, owner.uid(), owner.gid(), None)?;
        Ok(Self(Arc::new(process)))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_held_by_its_number_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let held = Peer::by_pid(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(held.uid(), nix::unistd::getuid().as_raw());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(held.is_alive().is_err());
        assert!(Peer::by_pid(held.pid()).is_err(), "nobody has the id so soon again");
    }

    #[test]
    fn numbers_that_name_no_process_are_refused() {
        for pid in [0, -1, i32::MIN, i32::MAX] {
            assert!(Peer::by_pid(pid).is_err(), "{pid}");
        }
    }
}
