//! What was acknowledged survives kill -9, and so does its event.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::{EntryUpdate, NewEntry, Revision, Since, Store, StoreConfig, open};

const CHILD_DATABASE: &str = "STEEPLE_STORE_TEST_DATABASE";
const ROUNDS: usize = 20;

fn config(path: &Path) -> StoreConfig {
    StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0")
}

/// Not a test by itself: the process that is killed. Says what is done, once it is done.
#[test]
#[ignore = "run by acknowledged_work_survives_kill_9"]
fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD_DATABASE) else { return };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        let store = open(&config(Path::new(&path))).await.unwrap();
        let writers: Vec<_> =
            (0..3).map(|_| tokio::spawn(write_forever(std::sync::Arc::clone(&store)))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

async fn write_forever(store: std::sync::Arc<dyn Store>) {
    let say = |what: &str, id: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nACK {what} {id}").unwrap();
        out.flush().unwrap();
    };
    for number in 0_u64.. {
        let id = SpiffeId::parse(&format!("spiffe://example.org/{number}")).unwrap();
        let parent = SpiffeId::parse("spiffe://example.org/agent").unwrap();
        let unique = fastrand::u64(..).to_string();
        let selectors = vec![Selector::new("unix", &unique), Selector::new("unix", "x")];
        let entry = store.create_entry(NewEntry::new(id, parent, selectors)).await.unwrap();
        let fleeting = number % 4 == 0;
        say(if fleeting { "fleeting" } else { "created" }, &entry.entry_id);
        match number % 4 {
            0 => {
                store.delete_entry(&entry.entry_id).await.unwrap();
                say("deleted", &entry.entry_id);
            }
            1 => {
                let update = EntryUpdate { hint: Some("new".into()), ..EntryUpdate::default() };
                store.update_entry(&entry.entry_id, update).await.unwrap();
                say("updated", &entry.entry_id);
            }
            _ => {}
        }
    }
}

/// Runs the writer for a while, kills it, and answers what it had said.
fn run_and_kill(database: &Path, acknowledgements: usize) -> Vec<(String, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
        .env(CHILD_DATABASE, database)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    while said.len() < acknowledgements {
        let line = lines.next().expect("the writer is alive").unwrap();
        said.extend(parse(&line));
    }
    std::thread::sleep(Duration::from_micros(fastrand::u64(0..3000)));
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died counts, read or not; the last line may be cut.
    said.extend(lines.map_while(Result::ok).filter_map(|line| parse(&line)));
    said
}

fn parse(line: &str) -> Option<(String, String)> {
    let (what, id) = line.strip_prefix("ACK ")?.split_once(' ')?;
    const UUID: usize = 36;
    (id.len() == UUID).then(|| (what.to_owned(), id.to_owned()))
}

async fn all_touched(store: &dyn Store, since: &Revision) -> BTreeSet<String> {
    match store.changes_since(since).await.unwrap() {
        Since::Changes(changes) => {
            changes.entries.into_iter().map(|change| change.entry_id).collect()
        }
        Since::ResnapshotNeeded(reason) => panic!("an event is missing: {reason}"),
    }
}

#[tokio::test]
async fn acknowledged_work_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("datastore.sqlite3");
    let store = open(&config(&path)).await.unwrap();
    assert!(store.was_created());
    let start = store.snapshot().await.unwrap().revision;
    store.close().await;

    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..ROUNDS {
        for (what, id) in run_and_kill(&path, fastrand::usize(1..40)) {
            expected.insert(id, what);
        }
        let store = open(&config(&path)).await.unwrap();
        assert!(!store.was_created());
        let snapshot = store.snapshot().await.unwrap();
        let entries: BTreeMap<_, _> =
            snapshot.entries.iter().map(|entry| (entry.entry_id.as_str(), entry)).collect();
        let touched = all_touched(&*store, &start).await;
        for (id, what) in &expected {
            let entry = entries.get(id.as_str());
            match what.as_str() {
                "deleted" => assert!(entry.is_none(), "round {round}: {id} is back"),
                "updated" => assert_eq!(entry.expect("updated and lost").hint, "new"),
                "created" => {
                    assert!(entry.is_some(), "round {round}: {id} was acknowledged and is lost");
                }
                // Killed between deleting it and saying so, or before.
                _ => {}
            }
            assert!(touched.contains(id), "round {round}: {id} has no event");
        }
        for entry in &snapshot.entries {
            assert!(touched.contains(&entry.entry_id), "round {round}: a row without event");
            assert_eq!(entry.selectors.len(), 2, "round {round}: half an entry");
        }
        store.close().await;
    }
    assert!(expected.len() > ROUNDS, "the writers did write");
}
