//! Processes that do not outlive their test.

use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running process, killed when dropped. Both its outputs are collected line by line.
pub struct ChildGuard {
    child: Child,
    output: Arc<Output>,
}

#[derive(Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl ChildGuard {
    /// Starts `command` with its outputs collected.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = Arc::new(Output::default());
        if let Some(stdout) = child.stdout.take() {
            collect(stdout, &output);
        }
        if let Some(stderr) = child.stderr.take() {
            collect(stderr, &output);
        }
        Ok(Self { child, output })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids fit")
    }

    /// Every line that it wrote so far, to either output.
    pub fn lines(&self) -> Vec<String> {
        self.output.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line that holds `text`, waited for at most `limit`.
    ///
    /// # Panics
    /// When there is none by then; the panic shows all that it wrote.
    pub fn wait_for_line(&self, text: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        let mut lines = self.output.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {text:?} within {limit:?}:\n{}", lines.join("\n"));
            lines = self
                .output
                .grown
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Sends it `signal`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.pid()), signal)?)
    }

    /// Asks it to end (SIGTERM) and waits at most `grace` for it; `None` if it did not.
    ///
    /// # Errors
    /// When it cannot be asked or waited for.
    pub fn terminate(&mut self, grace: Duration) -> io::Result<Option<ExitStatus>> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + grace;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(Some(status)),
                None if Instant::now() >= deadline => return Ok(None),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Kills it on the spot (SIGKILL) and waits for it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: impl io::Read + Send + 'static, output: &Arc<Output>) {
    let output = Arc::clone(output);
    // Ends with the process: its side of the pipe closes then.
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            output.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            output.grown.notify_all();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> ChildGuard {
        ChildGuard::spawn(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn lines_of_both_outputs_are_waited_for() {
        let child = shell("echo one; echo two >&2; exec sleep 60");
        assert_eq!(child.wait_for_line("one", LIMIT), "one");
        assert_eq!(child.wait_for_line("tw", LIMIT), "two");
        assert_eq!(child.lines().len(), 2);
    }

    #[test]
    fn terminate_tells_whether_it_ended() {
        let mut polite = shell("exec sleep 60");
        assert!(polite.terminate(LIMIT).unwrap().is_some());
        let mut stubborn = shell("trap '' TERM; echo ready; while :; do sleep 0.01; done");
        stubborn.wait_for_line("ready", LIMIT);
        assert!(stubborn.terminate(Duration::from_millis(50)).unwrap().is_none());
        assert!(!stubborn.kill().unwrap().success());
    }

    #[test]
    fn a_dropped_guard_leaves_no_process() {
        let child = shell("exec sleep 60");
        let pid = Pid::from_raw(child.pid());
        drop(child);
        assert!(kill(pid, None).is_err());
    }
}
