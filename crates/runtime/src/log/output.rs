//! Where lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The mode of a log file that we make.
const FILE_MODE: u32 = 0o640;

#[derive(Debug)]
pub(super) enum Output {
    Stdout,
    Stderr,
    File { path: PathBuf, file: Mutex<File> },
}

impl Output {
    pub(super) const fn stdout() -> Self {
        Self::Stdout
    }

    pub(super) const fn stderr() -> Self {
        Self::Stderr
    }

    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File { path: path.to_owned(), file: Mutex::new(open(path)?) })
    }

    pub(super) fn is_terminal(&self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
            Self::File { .. } => false,
        }
    }

    /// Writes one whole line, in one call, so that lines of several threads never mix.
    pub(super) fn write(&self, line: &[u8]) {
        // When a log cannot be written there is nowhere left to say so.
        let _ = match self {
            Self::Stdout => io::stdout().lock().write_all(line),
            Self::Stderr => io::stderr().lock().write_all(line),
            Self::File { file, .. } => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line)
            }
        };
    }

    pub(super) fn reopen(&self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            let reopened = open(path).map_err(|error| {
                let text = format!("unable to reopen {}: {error}", path.display());
                io::Error::new(error.kind(), text)
            })?;
            *file.lock().unwrap_or_else(PoisonError::into_inner) = reopened;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}
