//! Ties a child's life to this process: `guard` runs in the child, before the program does.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

/// What the kernel says to a child whose parent died. Both programs end cleanly on it.
const LAST_WORD: Signal = Signal::SIGTERM;

/// Becomes `program`, which ends when the process `parent` does.
pub(crate) fn main(parent: i32, program: &OsStr, arguments: &[OsString]) -> ExitCode {
    let failure = match follow(parent) {
        // Survives execve; only set-user-ID programs shed it.
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    };
    // Goes to the log of the program that it could not become.
    let _ = writeln!(io::stderr(), "cannot start {}: {failure}", program.display());
    ExitCode::from(127)
}

/// Asks the kernel to end this process with its parent.
///
/// # Errors
/// When the parent is gone already, or the kernel will not.
pub(crate) fn follow(parent: i32) -> io::Result<()> {
    prctl::set_pdeathsig(LAST_WORD)?;
    // It may have died before the request.
    if getppid().as_raw() == parent {
        Ok(())
    } else {
        Err(io::Error::other("the demonstration has ended"))
    }
}
