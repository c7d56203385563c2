//! What a verb may touch: streams, environment variables, standard input.

use std::io::{self, Read, Write};

use steeple_runtime::gotext;

/// The surroundings of one invocation; tests hand in buffers.
pub struct Env {
    stdin: Box<dyn Read + Send>,
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    variable: fn(&str) -> Option<String>,
}

impl Env {
    /// The process's own streams and variables.
    pub fn process() -> Self {
        Self {
            stdin: Box::new(io::stdin()),
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
            variable: |name| std::env::var(name).ok(),
        }
    }

    /// Streams of a test; no variable is set.
    pub fn of(
        stdin: impl Read + Send + 'static,
        stdout: impl Write + Send + 'static,
        stderr: impl Write + Send + 'static,
    ) -> Self {
        Self {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
            variable: |_| None,
        }
    }

    /// Writes to standard output. A reader that went away is no error of ours:
    /// the exit code already tells what the verb did.
    pub fn out(&mut self, text: &str) {
        let _ = self.stdout.write_all(text.as_bytes()).and_then(|()| self.stdout.flush());
    }

    /// Writes to standard error.
    pub fn err(&mut self, text: &str) {
        let _ = self.stderr.write_all(text.as_bytes()).and_then(|()| self.stderr.flush());
    }

    /// A non-empty environment variable.
    pub fn var(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// The content of the file at `path`, or of standard input for `-`; at
    /// most 64 MiB.
    pub fn read(&mut self, path: &str) -> io::Result<Vec<u8>> {
        const LIMIT: u64 = 64 << 20;
        let mut content = Vec::new();
        if path == "-" {
            (&mut self.stdin).take(LIMIT + 1).read_to_end(&mut content)?;
        } else {
            let file = std::fs::File::open(path).map_err(|error| {
                io::Error::new(error.kind(), format!("open {path}: {}", gotext::system(&error)))
            })?;
            file.take(LIMIT + 1).read_to_end(&mut content)?;
        }
        if content.len() as u64 > LIMIT {
            return Err(io::Error::other(format!("{path} is larger than 64 MiB")));
        }
        Ok(content)
    }
}
