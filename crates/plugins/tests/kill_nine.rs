//! A process that makes keys without pause is killed at any moment, again and again.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use steeple_pki::KeyType;
use steeple_plugins::key_manager::disk;

const DIRECTORY: &str = "STEEPLE_TEST_KEYS_DIRECTORY";
const IDS: usize = 3;
const ROUNDS: usize = 30;

/// No test but the process that is killed, when its directory is given.
#[tokio::test]
async fn make_keys_for_ever() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let manager = disk::open(directory.join("keys.json")).unwrap();
    for id in (0..IDS).cycle() {
        let key = manager.generate_key(&id.to_string(), KeyType::EcP256).await.unwrap();
        let line = format!("made {id} {}\n", hex(key.public_key().spki_der()));
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn a_key_that_was_handed_out_survives_kill_nine() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let mut handed_out = HashMap::new();
    for round in 0..ROUNDS {
        let last = run_and_kill(directory.path(), round, &mut handed_out);
        let manager = disk::open(path.clone()).unwrap_or_else(|error| panic!("{round}: {error}"));
        // The key after the last one may have reached the disk without having been handed out.
        let in_progress = last.map_or(0, |id| (id + 1) % IDS);
        for (id, expected) in &handed_out {
            let found = manager.key(&id.to_string()).await.unwrap().unwrap();
            let same = hex(found.public_key().spki_der()) == *expected;
            assert!(same || *id == in_progress, "round {round}: key {id} was lost");
        }
        // Whatever was found is what counts from now on.
        handed_out.clear();
        for (id, key) in manager.keys().await.unwrap() {
            handed_out.insert(id.parse().unwrap(), hex(key.public_key().spki_der()));
        }
    }
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert!(left <= 1 + ROUNDS, "at most one temporary file is left behind by a kill");
}

/// Lets keys be made until some were reported, kills; gives the id of the last one reported.
fn run_and_kill(
    directory: &Path,
    round: usize,
    handed_out: &mut HashMap<usize, String>,
) -> Option<usize> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "make_keys_for_ever", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut last = None;
    let mut take = |line: &str| {
        // The harness writes its own words into the same line.
        let Some(at) = line.find("made ") else { return false };
        let mut words = line[at..].split(' ').skip(1);
        let id = words.next().unwrap().parse().unwrap();
        handed_out.insert(id, words.next().unwrap().to_owned());
        last = Some(id);
        true
    };
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut reported = 0;
    while reported <= round {
        reported += usize::from(take(&lines.next().unwrap().unwrap()));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it reported before it died and we had not read yet. Its last line is whole: it is
    // written at once.
    for line in lines.map_while(Result::ok) {
        take(&line);
    }
    last
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
