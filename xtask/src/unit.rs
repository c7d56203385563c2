//! `cargo test` over the workspace, with a second look at the little that failed.
//!
//! A few tests run tasks and sockets against deadlines of real time, which a machine that stalls
//! can miss. So up to [`MOST`] tests that failed run once more, alone; those that hold then are
//! named, loudly, for somebody to mend, and fail nothing. More than that, a test program that
//! ended without a verdict, or a test that fails again, is a failure.

use std::io::{BufRead, BufReader, Write, stdout};
use std::process::{Command, Stdio};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// So many tests get a second look.
const MOST: usize = 3;

/// A test program and those of its tests that failed.
#[derive(Debug, PartialEq, Eq)]
struct Failed {
    /// What picks the program: `-p steeple-store --test statements`.
    target: String,
    tests: Vec<String>,
}

/// Runs all tests, and those that failed once more if they are few.
pub(crate) fn run() -> Result<()> {
    let first = cargo_test(&["--workspace", "--no-fail-fast"], &[])?;
    if first.succeeded {
        return Ok(());
    }
    let failed = &first.failed;
    let count: usize = failed.iter().map(|it| it.tests.len()).sum();
    let all_named = !failed.is_empty() && failed.iter().all(|it| !it.tests.is_empty());
    if count > MOST || !all_named {
        return Err("tests failed; see above".into());
    }
    println!("\n== a second look, alone, at what failed");
    for Failed { target, tests } in failed {
        let target: Vec<&str> = target.split(' ').collect();
        for test in tests {
            let again = cargo_test(&target, &["--exact", test])?;
            if !again.succeeded || again.passed != 1 {
                return Err(format!("{test} did not hold when run again, alone").into());
            }
        }
    }
    println!("\nUNSTEADY: failed once and held once, to be mended:");
    for Failed { target, tests } in failed {
        tests.iter().for_each(|test| println!("{target}: {test}"));
    }
    Ok(())
}

fn cargo_test(target: &[&str], test: &[&str]) -> Result<Log> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--locked"]).args(target).arg("--").args(test);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // It holds the writing end, which would keep the pipe open.
    drop(command);
    let mut log = Log::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let mut out = stdout().lock();
        out.write_all(&line)?;
        out.write_all(b"\n")?;
        log.read(&String::from_utf8_lossy(&line));
    }
    log.succeeded = child.wait()?.success();
    Ok(log)
}

/// What `cargo test` prints, as far as it matters.
#[derive(Default)]
struct Log {
    succeeded: bool,
    passed: usize,
    /// Those of the program that runs.
    tests: Vec<String>,
    failed: Vec<Failed>,
}

impl Log {
    fn read(&mut self, line: &str) {
        if line.trim_start().starts_with("Running ") || line.trim_start().starts_with("Doc-tests ")
        {
            self.tests.clear();
        }
        if line.starts_with("test ") && line.ends_with(" ... ok") {
            self.passed += 1;
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|it| it.strip_suffix(" ... FAILED"))
        {
            self.tests.push(name.trim_end().to_owned());
        }
        let rerun = line.strip_prefix("error: ").and_then(|it| it.split_once("to rerun pass `"));
        if let Some((target, _)) = rerun.and_then(|(_, it)| it.split_once('`')) {
            let tests = std::mem::take(&mut self.tests);
            self.failed.push(Failed { target: target.to_owned(), tests });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_found_with_what_runs_it_again() {
        let mut log = Log::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/steeple_server_core-7d1f)",
            "test push::tests::a ... FAILED",
            "test push::tests::b ... ok",
            "test result: FAILED. 76 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            "error: test failed, to rerun pass `-p steeple-server-core --lib`",
            "     Running tests/index.rs (target/debug/deps/index-04ae)",
            "error: test failed, to rerun pass `-p steeple-server-core --test index`",
        ] {
            log.read(line);
        }
        let failed = |target: &str, tests: &[&str]| Failed {
            target: target.to_owned(),
            tests: tests.iter().map(|&it| it.to_owned()).collect(),
        };
        assert_eq!(log.passed, 1);
        assert_eq!(
            log.failed,
            [
                failed("-p steeple-server-core --lib", &["push::tests::a"]),
                failed("-p steeple-server-core --test index", &[]),
            ]
        );
    }
}
