//! The demonstration from outside: with the real programs, when they were built.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use steeple_testkit::ChildGuard;

/// For all of it, with a rotation, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(150);

/// The folder of the programs, if they were built; says so otherwise.
fn programs() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_steeple-demo")).parent().unwrap().to_owned();
    let folder = std::env::var_os("STEEPLE_BIN_DIR").map_or(built, PathBuf::from);
    let found = ["spire-server", "spire-agent"].iter().all(|it| folder.join(it).is_file());
    if !found {
        let text = format!("skipped: no spire-server and spire-agent in {}\n", folder.display());
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    found.then_some(folder)
}

fn demo(folder: &Path, state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steeple-demo"));
    command.arg("--bin").arg(folder).arg("--state-dir").arg(state);
    command
}

/// The processes whose command line names `text`.
fn processes(text: &str) -> Vec<String> {
    let numbers = std::fs::read_dir("/proc").unwrap().map(|it| it.unwrap().path());
    numbers
        .filter_map(|dir| std::fs::read(dir.join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

#[test]
fn once_it_shows_everything_and_leaves_nothing_behind() {
    let Some(folder) = programs() else { return };
    let dir = steeple_testkit::temp_dir();
    // Too long for a Unix socket, with a blank, and so worth a test.
    let state = dir.path().join(format!("a directory of {}", "x".repeat(90)));
    let done = demo(&folder, &state).arg("--once").output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    for expected in [
        "SPIFFE ID     spiffe://example.org/web",
        "URI SAN       spiffe://example.org/web",
        "earned by     unix:",
        "told: no identity issued",
        "sub           spiffe://example.org/web",
        "the token is valid, and its bearer is spiffe://example.org/web",
        "presented to anybody else it is refused",
        "web and db have verified each other",
        "unexpected ID \"spiffe://example.org/batch\"",
        "unexpected ID \"spiffe://example.org/db\"",
        "with a new key",
        "api watch -socketPath",
        "spire-server has stopped.",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "no colour without a terminal");
    assert_eq!(processes(state.to_str().unwrap()), [""; 0]);
}

#[test]
fn killed_on_the_spot_it_takes_its_children_along() {
    let Some(folder) = programs() else { return };
    let dir = steeple_testkit::temp_dir();
    let state = dir.path().join("state");
    let mut child = ChildGuard::spawn(&mut demo(&folder, &state)).unwrap();
    child.wait_for_line("has its identity", LIMIT);
    assert!(processes(state.to_str().unwrap()).len() >= 3);
    child.kill().unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !processes(state.to_str().unwrap()).is_empty() {
        assert!(std::time::Instant::now() < deadline, "{:?}", processes(state.to_str().unwrap()));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn interrupted_it_ends_well() {
    let Some(folder) = programs() else { return };
    let dir = steeple_testkit::temp_dir();
    let state = dir.path().join("state");
    let mut child = ChildGuard::spawn(&mut demo(&folder, &state)).unwrap();
    child.wait_for_line("the node is attested", LIMIT);
    let status = child.terminate(Duration::from_secs(20)).unwrap();
    assert!(status.expect("it ends").success());
    assert_eq!(processes(state.to_str().unwrap()), [""; 0]);
}

#[test]
fn a_server_that_fails_is_told_with_its_last_words_and_what_to_do() {
    let dir = steeple_testkit::temp_dir();
    for (name, script) in
        [("spire-server", "echo 'no space left on device'; exit 3"), ("spire-agent", "exit 0")]
    {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    let mut command = demo(dir.path(), &dir.path().join("state"));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(text.contains("✗ spire-server ended: exit status: 3"), "{text}");
    assert!(text.contains("no space left on device"), "{text}");
    assert!(text.contains("The log above says why"), "{text}");
}

#[test]
fn programs_that_were_not_built_are_named() {
    let dir = steeple_testkit::temp_dir();
    let done = demo(dir.path(), &dir.path().join("state")).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains("spire-server is not in"), "{text}");
    assert!(text.contains("make run"), "{text}");
}

/// make and scripts would take Ctrl-C for a failure if it reached them too.
#[test]
fn ctrl_c_in_a_terminal_reaches_the_demonstration_and_not_who_started_it() {
    let Some(folder) = programs() else { return };
    let dir = steeple_testkit::temp_dir();
    let program = env!("CARGO_BIN_EXE_steeple-demo");
    let line = format!(
        "'{program}' --bin '{}' --state-dir '{}'; echo it said $?",
        folder.display(),
        dir.path().join("state").display()
    );
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &format!("sh -c \"{line}\""), "/dev/null"]);
    terminal.env_remove("NO_COLOR").env("TERM", "xterm");
    let Ok(mut child) = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        std::io::stderr().write_all(b"skipped: no script(1) to make a terminal with\n").unwrap();
        return;
    };
    let mut typed = child.stdin.take().unwrap();
    let mut shown = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("the node is attested") {
            typed.write_all(b"\x03").unwrap();
        }
        shown.push_str(&line);
        shown.push('\n');
    }
    child.wait().unwrap();
    assert!(shown.contains("it said 0"), "{shown}");
    assert!(shown.contains("spire-server has stopped."), "{shown}");
    assert!(shown.contains("\x1b[1m"), "a terminal is shown colours: {shown}");
}
