//! Why the demonstration could not go on, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use steeple_pki::jwt::JwtError;
use steeple_pki::x509::CertificateError;

/// Why the demonstration could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("{program} is not in {}", .folder.display())]
    NoProgram { program: &'static str, folder: PathBuf },
    #[error("another demonstration is running in {}", .0.display())]
    Busy(PathBuf),
    #[error("{} has files in it and is not the state of a demonstration", .0.display())]
    NotOurs(PathBuf),
    #[error("cannot {action} {}: {source}", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{program} ended: {status}")]
    Ended { program: &'static str, status: ExitStatus, log: PathBuf },
    #[error("{program} does not answer after {seconds} s")]
    Silent { program: &'static str, seconds: u64, log: PathBuf },
    #[error("`{command}` failed: {said}")]
    Verb { command: String, said: String },
    #[error("{workload} ended without an answer: {said}")]
    Workload { workload: String, said: String },
    #[error("{workload} was to be refused, and was not")]
    NotRefused { workload: String },
    #[error("{workload} was refused: {why}")]
    Refused { workload: String, why: String },
    #[error("no rotation within {0} s")]
    NoRotation(u64),
    #[error("the certificate of {workload} cannot be read: {source}")]
    Certificate { workload: String, source: CertificateError },
    #[error("the token of {workload} cannot be read: {source}")]
    Token { workload: String, source: JwtError },
    #[error("cannot write to the terminal: {0}")]
    Screen(#[from] io::Error),
}

impl DemoError {
    /// The log that tells more.
    pub(crate) fn log(&self) -> Option<&PathBuf> {
        match self {
            Self::Ended { log, .. } | Self::Silent { log, .. } => Some(log),
            _ => None,
        }
    }

    /// What to do about it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::NoProgram { .. } => {
                "Build it with `make run`, or name the folder that has it with --bin."
            }
            Self::Busy(_) => {
                "End that one with Ctrl-C, or give this one a directory of its own: \
                 `make run STATE_DIR=/tmp/steeple`."
            }
            Self::NotOurs(_) => "Name another directory: `make run STATE_DIR=/tmp/steeple`.",
            Self::File { .. } => {
                "Check who owns it (a run as root leaves files of root) and whether the disk is \
                 full, or name another directory: `make run STATE_DIR=/tmp/steeple`."
            }
            Self::Ended { .. } | Self::Silent { .. } => {
                "The log above says why. If it does not, run `make run` anew; a kept STATE_DIR can \
                 be the cause, a fresh one is not."
            }
            Self::Screen(_) => "",
            _ => "The logs in the state directory say more: server.log and agent.log.",
        }
    }
}
