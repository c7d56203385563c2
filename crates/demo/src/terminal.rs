//! Ctrl-C for this process alone, when make or a script started it.
//!
//! A terminal sends its signals to the whole foreground process group. make would take Ctrl-C for
//! a failure of the recipe, although this program ends cleanly on it. So, if it is a member of the
//! foreground group and not its leader, it makes a group of its own, brings that to the foreground
//! and gives the terminal back in the end. A shell that starts it directly does all that by itself.

use std::io::{self, IsTerminal as _, Stdin};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpgrp, getpid, setpgid, tcgetpgrp, tcsetpgrp};

/// The terminal, until this is dropped.
#[derive(Debug)]
pub(crate) struct Foreground {
    stdin: Stdin,
    /// Whom to give it back to.
    owner: Option<Pid>,
}

impl Foreground {
    /// Takes the terminal from the foreground group that this process is in. Does nothing where
    /// there is no terminal, or where it is this process's own already.
    pub(crate) fn take() -> Self {
        let stdin = io::stdin();
        let owner = owner(&stdin).filter(|owner| claim(&stdin, *owner).is_ok());
        Self { stdin, owner }
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if let Some(owner) = self.owner {
            // If that group is gone there is nobody to give it back to.
            let _ = tcsetpgrp(&self.stdin, owner);
        }
    }
}

fn owner(stdin: &Stdin) -> Option<Pid> {
    let group = getpgrp();
    let shares = stdin.is_terminal() && group != getpid() && tcgetpgrp(stdin) == Ok(group);
    shares.then_some(group)
}

fn claim(stdin: &Stdin, owner: Pid) -> nix::Result<()> {
    let mut held = SigSet::empty();
    // Whoever changes the foreground group from the background is stopped otherwise.
    held.add(Signal::SIGTTOU);
    // make could not be brought back from Ctrl-Z, since only this group would stop.
    held.add(Signal::SIGTSTP);
    held.thread_block()?;
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    tcsetpgrp(stdin, getpid()).inspect_err(|_| {
        // Back to where it was; it never left the session.
        let _ = setpgid(Pid::from_raw(0), owner);
    })
}
