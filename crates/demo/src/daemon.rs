//! The server and the agent as child processes: started, waited for, told from dead, stopped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use steeple_runtime::drain::Tasks;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::error::DemoError;
use crate::place::file;

/// How long a program may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end when asked to.
const GRACE: Duration = Duration::from_secs(10);
/// How often its socket is tried.
const POLL: Duration = Duration::from_millis(10);
/// How much of a log is shown.
const TAIL_LINES: usize = 10;
/// How long a shown line of a log may be.
const TAIL_WIDTH: usize = 240;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Before it was asked to.
    Before,
    /// When asked to, with success.
    Clean,
    /// When asked to, with a failure, or not without force.
    Unclean,
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) program: &'static str,
    pub(crate) log: PathBuf,
    pid: Pid,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Daemon {
    /// Starts `program` of the folder `bin` with its output in `log`.
    ///
    /// It is in a process group of its own, so that Ctrl-C does not reach it, and ends with this
    /// process, whatever ends that.
    pub(crate) fn start<S: AsRef<OsStr>>(
        program: &'static str,
        bin: &Path,
        arguments: &[S],
        log: &Path,
        tasks: &Tasks,
    ) -> Result<Self, DemoError> {
        let path = bin.join(program);
        if !path.is_file() {
            return Err(DemoError::NoProgram { program, folder: bin.to_owned() });
        }
        let out = File::create(log).map_err(file("create", log))?;
        let err = out.try_clone().map_err(file("open", log))?;
        let this = std::env::current_exe().map_err(file("find", Path::new("this program")))?;
        let mut command = std::process::Command::new(this);
        command.arg("guard").arg(std::process::id().to_string()).arg(&path).args(arguments);
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let mut child =
            tokio::process::Command::from(command).spawn().map_err(file("start", &path))?;
        let id = child.id().expect("it was not waited for yet");
        let (sender, ended) = watch::channel(None);
        tasks.spawn("daemon", async move {
            if let Ok(status) = child.wait().await {
                sender.send_replace(Some(status));
            }
        });
        let pid = Pid::from_raw(i32::try_from(id).expect("process ids fit"));
        Ok(Self { program, log: log.to_owned(), pid, ended })
    }

    /// Waits until something listens on `socket`.
    pub(crate) async fn listens(&self, socket: &Path) -> Result<(), DemoError> {
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(socket).await.is_err() {
            if let Some(status) = *self.ended.borrow() {
                return Err(self.death(status));
            }
            if Instant::now() >= deadline {
                let (seconds, log) = (PATIENCE.as_secs(), self.log.clone());
                return Err(DemoError::Silent { program: self.program, seconds, log });
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Resolves when it ends, which it should not by itself.
    pub(crate) fn end(&self) -> impl Future<Output = DemoError> + use<> {
        let (mut ended, program, log) = (self.ended.clone(), self.program, self.log.clone());
        async move {
            match ended.wait_for(Option::is_some).await.ok().and_then(|status| *status) {
                Some(status) => DemoError::Ended { program, status, log },
                None => std::future::pending().await,
            }
        }
    }

    /// Asks it to end, and ends it if it does not.
    pub(crate) async fn stop(mut self) -> End {
        if !self.is_running() {
            return End::Before;
        }
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // Not reaped before `ended` says so: the id is still its own.
            if self.is_running() {
                let _ = kill(self.pid, signal);
            }
            let ending = timeout(GRACE, self.ended.wait_for(Option::is_some));
            if let Ok(Ok(status)) = ending.await {
                let clean = status.is_some_and(|status| status.success());
                return if clean { End::Clean } else { End::Unclean };
            }
        }
        End::Unclean
    }

    fn death(&self, status: ExitStatus) -> DemoError {
        DemoError::Ended { program: self.program, status, log: self.log.clone() }
    }
}

/// The last lines of a log, each of readable length.
pub(crate) fn tail(log: &Path) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let last = lines.len().saturating_sub(TAIL_LINES);
    lines[last..].iter().map(|line| line.chars().take(TAIL_WIDTH).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_short() {
        let dir = steeple_testkit::temp_dir();
        let log = dir.path().join("agent.log");
        let lines: Vec<_> = (0..100).map(|n| format!("{n} {}", "x".repeat(1000))).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        let tail = tail(&log);
        assert_eq!(tail.len(), TAIL_LINES);
        assert!(tail[TAIL_LINES - 1].starts_with("99 x"));
        assert!(tail.iter().all(|line| line.chars().count() <= TAIL_WIDTH));
    }

    #[test]
    fn a_log_that_was_never_written_has_no_tail() {
        assert!(tail(Path::new("/nonexistent/agent.log")).is_empty());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named_with_its_folder() {
        let dir = steeple_testkit::temp_dir();
        let log = dir.path().join("server.log");
        let started =
            Daemon::start("spire-server", dir.path(), &["run"], &log, &Tasks::new()).unwrap_err();
        assert_eq!(started.to_string(), format!("spire-server is not in {}", dir.path().display()));
    }
}
