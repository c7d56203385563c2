//! The program that uses the files: started, and told of new ones.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::str::FromStr as _;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use steeple_runtime::{fsx, gotext};
use tokio::process::{Child, Command};
use tracing::{debug, error, info};

use crate::SYSTEM;

/// The signal that says that files changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RenewSignal(Signal);

impl RenewSignal {
    /// A signal by its name, as `SIGHUP`.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        Signal::from_str(name).map(Self).map_err(|_| {
            format!("error getting signal: {}", name.chars().take(32).collect::<String>())
        })
    }
}

impl fmt::Debug for RenewSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// Why nobody was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("error executing process {program:?}: {reason}")]
    Start { program: String, reason: String },
    #[error("error signaling process with signal {signal:?}: {reason}")]
    Signal { signal: RenewSignal, reason: String },
    #[error("failed to read pid file {path:?}: {reason}")]
    ReadPid { path: String, reason: String },
    #[error("failed to parse pid file {path:?}: it has no process id")]
    ParsePid { path: String },
}

/// The program, once it was started.
pub(crate) struct Program {
    command: (String, Vec<String>),
    signal: Option<RenewSignal>,
    running: Option<Child>,
}

impl Program {
    pub(crate) fn new(command: (String, Vec<String>), signal: Option<RenewSignal>) -> Self {
        Self { command, signal, running: None }
    }

    /// Starts the program if it does not run, and signals it if it does.
    pub(crate) fn renew(&mut self) -> Result<(), ProcessError> {
        if let Some(child) = &mut self.running
            && let Ok(Some(status)) = child.try_wait()
        {
            debug!(system = SYSTEM, %status, "The process has ended");
            self.running = None;
        }
        // A child that was not waited for keeps its process id.
        let pid = self.running.as_ref().and_then(Child::id);
        match (pid.and_then(|pid| i32::try_from(pid).ok()), self.signal) {
            (Some(pid), Some(signal)) => send(pid, signal),
            (Some(_), None) => Ok(()),
            (None, _) => self.start(),
        }
    }

    /// Waits for the program to end; for ever if it does not run.
    pub(crate) async fn ended(&mut self) {
        match &mut self.running {
            Some(child) => {
                match child.wait().await {
                    Ok(status) => info!(system = SYSTEM, %status, "The process has ended"),
                    Err(error) => {
                        error!(system = SYSTEM, "error waiting for process exit: {error}");
                    }
                }
                self.running = None;
            }
            None => std::future::pending().await,
        }
    }

    fn start(&mut self) -> Result<(), ProcessError> {
        let (program, arguments) = &self.command;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::inherit())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit())
            .kill_on_drop(false)
            .spawn()
            .map_err(|error| ProcessError::Start {
                program: program.clone(),
                reason: gotext::system(&error).to_string(),
            })?;
        self.running = Some(child);
        Ok(())
    }
}

/// Signals the process whose id is in a file, and tries again for a while.
pub(crate) async fn signal_pid_file(path: &Path, signal: RenewSignal) -> Result<(), ProcessError> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match try_pid_file(path, signal) {
            Ok(()) => return Ok(()),
            Err(error) => debug!(system = SYSTEM, %error, "Trying again to signal the PID file"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    try_pid_file(path, signal)
}

fn try_pid_file(path: &Path, signal: RenewSignal) -> Result<(), ProcessError> {
    let shown = || path.display().to_string();
    let unread = |reason| ProcessError::ReadPid { path: shown(), reason };
    let text = fsx::read_limited(path, MAX_PID_FILE)
        .map_err(|error| unread(gotext::system(&error).to_string()))?
        .ok_or_else(|| unread("no such file or directory".to_owned()))?;
    let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    // Zero and below are groups of processes, or all of them.
    let pid =
        pid.filter(|pid: &i32| *pid > 0).ok_or_else(|| ProcessError::ParsePid { path: shown() })?;
    send(pid, signal)
}

fn send(pid: i32, signal: RenewSignal) -> Result<(), ProcessError> {
    kill(Pid::from_raw(pid), signal.0).map_err(|error| ProcessError::Signal {
        signal,
        reason: gotext::system(&std::io::Error::from(error)).to_string(),
    })
}

const ATTEMPTS: usize = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PID_FILE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(format!("{:?}", RenewSignal::parse("SIGUSR1").unwrap()), "SIGUSR1");
        for wrong in ["", "USR1", "sighup", "SIGNOPE", "10"] {
            assert!(RenewSignal::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pid_file_names_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let signal = RenewSignal::parse("SIGCONT").unwrap();
        let told = |text: &str| {
            std::fs::write(&path, text).unwrap();
            try_pid_file(&path, signal)
        };
        told(&format!(" {}\n", std::process::id())).unwrap();
        for wrong in ["", "x", "0", "-1", "1 2", "99999999999"] {
            let error = told(wrong).unwrap_err();
            assert!(matches!(error, ProcessError::ParsePid { .. }), "{wrong}: {error}");
        }
        assert!(matches!(told("2147483647").unwrap_err(), ProcessError::Signal { .. }));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(try_pid_file(&path, signal), Err(ProcessError::ReadPid { .. })));
    }

    #[tokio::test]
    async fn a_program_that_ended_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let line = format!("echo started >> {}", out.display());
        let mut program = Program::new(("sh".into(), vec!["-c".into(), line]), None);
        for times in 1..3 {
            program.renew().unwrap();
            program.ended().await;
            assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), times);
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told() {
        let mut program = Program::new(("/nowhere".into(), Vec::new()), None);
        let text = "error executing process \"/nowhere\": no such file or directory";
        assert_eq!(program.renew().unwrap_err().to_string(), text);
    }
}
