//! What ends a run early.

use std::io;
use std::time::Duration;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense.
    #[error("{0}\nSee bench --help.")]
    Usage(String),
    /// A file, process or socket of ours failed.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// A call was refused, or took too long.
    #[error("{call}: {status}")]
    Call { call: &'static str, status: String },
    /// A call was refused for now, with a hint when to come again.
    #[error("{call}: {status} (again in {again:?})")]
    Refused { call: &'static str, status: String, again: Duration },
    /// An answer came, but not the right one.
    #[error("{call}: wrong answer: {what}")]
    Wrong { call: &'static str, what: String },
    /// One of the programs under test did not get ready, or ended.
    #[error("{what}\nThe end of its log:\n{log}")]
    Process { what: String, log: String },
    /// The whole run took longer than it may.
    #[error("stopped: the run took longer than {0} s (--limit)")]
    Limit(u64),
    /// A signal came.
    #[error("stopped by a signal")]
    Stopped,
}

/// A result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: says what was being done when an I/O error came.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `map_err`: says which call was answered with a status.
    pub fn call(call: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| {
            let again = status.metadata().get("retry-after").and_then(|it| it.to_str().ok());
            let again = again.and_then(|it| it.parse().ok()).map(Duration::from_secs);
            let status = format!("{:?}: {}", status.code(), status.message());
            match again {
                Some(again) => Self::Refused { call, status, again },
                None => Self::Call { call, status },
            }
        }
    }
}
