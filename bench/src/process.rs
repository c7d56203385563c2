//! A program under test: started, read through `/proc`, and never left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::args::Bin;
use crate::error::{Error, Result};

/// How many files a service may have open where nobody configured more (systemd's default).
const USUAL_OPEN_FILES: u64 = 1024;
/// How long a program gets to end when asked to.
const GRACE: Duration = Duration::from_secs(20);

/// A running program; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// The programs that run, for whoever watches them.
static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

/// A program that runs, or did a moment ago.
#[derive(Clone, Debug)]
pub struct Running {
    pub pid: u32,
    pub program: &'static str,
    label: String,
}

/// What `/proc` says of a process at one moment, cheaply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    pub cpu: Duration,
    /// Resident now, and at most, in KiB.
    pub rss: u64,
    pub peak: u64,
    pub threads: u64,
    /// System calls so far.
    pub reads: u64,
    pub writes: u64,
    /// Bytes that went, or are to go, to a disk.
    pub written: u64,
}

/// What runs of the folder with this label.
pub fn running(label: &str) -> Vec<Running> {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.iter().filter(|it| it.label == label).cloned().collect()
}

impl Running {
    /// What it takes; `None` when it is gone.
    pub fn read(&self) -> Option<Reading> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", self.pid)).ok();
        let (status, io) = (read("status")?, read("io").unwrap_or_default());
        let rss = field(&status, "VmRSS:");
        // A process that has ended and was not waited for has no memory any more.
        (rss > 0).then_some(())?;
        Some(Reading {
            cpu: cpu_time(self.pid).ok()?,
            rss,
            peak: field(&status, "VmHWM:"),
            threads: field(&status, "Threads:"),
            reads: field(&io, "syscr:"),
            writes: field(&io, "syscw:"),
            written: field(&io, "write_bytes:"),
        })
    }

    /// How many files it has open.
    pub fn files(&self) -> u64 {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, |it| it.count() as u64)
    }

    /// Lets its peak count from now on, where that is allowed.
    pub fn reset_peak(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }
}

fn cpu_time(pid: u32) -> nix::Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))?;
    clock_gettime(clock).map(Duration::from)
}

/// What a process occupies. Memory in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, pages that other processes have too counted in proportion.
    pub pss: u64,
    /// Resident and backed by no file: heap and stacks.
    pub anonymous: u64,
    /// The most that was ever resident.
    pub peak: u64,
    pub threads: u64,
    pub files: u64,
}

impl Process {
    /// Starts a program of `bin` with both its outputs going to the file `log`. It is allowed as many open
    /// files as services usually are, and dies with this process even if that is killed, where
    /// there is a `setpriv` to ask for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(bin: &Bin, name: &'static str, arguments: &[&str], log: PathBuf) -> Result<Self> {
        let program = bin.folder.join(name);
        let out = fs::File::create(&log).map_err(Error::io(log.display().to_string()))?;
        let err = out.try_clone().map_err(Error::io(log.display().to_string()))?;
        let mut command = match Path::new("/usr/bin/setpriv") {
            setpriv if setpriv.exists() => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&program);
                command
            }
            _ => Command::new(&program),
        };
        command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(err);
        limit_open_files(USUAL_OPEN_FILES)?;
        let child = command.spawn().map_err(Error::io(program.display().to_string()));
        limit_open_files(u64::MAX)?;
        let child = child?;
        let running = Running { pid: child.id(), program: name, label: bin.label.clone() };
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(running);
        Ok(Self { child, log })
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// [`Error::Process`] with the end of its log.
    pub fn alive(&mut self) -> Result<()> {
        match self.child.try_wait().map_err(Error::io("waiting for a process"))? {
            None => Ok(()),
            Some(status) => Err(self.failure(&format!("ended: {status}"))),
        }
    }

    /// An error that tells what it logged last.
    pub fn failure(&self, what: &str) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(15)..].join("\n");
        Error::Process { what: format!("{}: {what}", self.log.display()), log }
    }

    /// The CPU time that all its threads have used: utime + stime of `/proc/PID/stat`, in
    /// nanoseconds instead of ticks.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_time(self.child.id()).map_err(|error| self.failure(&format!("CPU time: {error}")))
    }

    /// What it occupies now.
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory(&self) -> Result<Memory> {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(Error::io(path.display().to_string()))
        };
        let (status, rollup) = (read("status")?, read("smaps_rollup")?);
        let files = fs::read_dir(folder.join("fd")).map_err(Error::io("/proc/PID/fd"))?.count();
        Ok(Memory {
            rss: field(&status, "VmRSS:"),
            pss: field(&rollup, "Pss:"),
            anonymous: field(&status, "RssAnon:"),
            peak: field(&status, "VmHWM:"),
            threads: field(&status, "Threads:"),
            files: files as u64,
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Asks it to end, and sees to it that it does.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let pid = self.child.id();
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|it| it.pid != pid);
    }
}

/// Sets how many files this process and those it starts may have open, up to the hard limit.
///
/// # Errors
/// When the kernel refuses.
pub fn limit_open_files(wanted: u64) -> Result<()> {
    getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard))
        .map_err(|error| Error::io("limit of open files")(error.into()))
}

/// The number after `name` in a file of `/proc`.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|it| it.split_whitespace().next()).and_then(|it| it.parse().ok()).unwrap_or(0)
}
