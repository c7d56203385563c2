//! SQLite on a disk that is full, or that only reads.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

use std::path::Path;
use std::process::Command;

use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::{EntryFilter, NewEntry, StoreConfig, StoreError, open};

fn entry(number: usize) -> NewEntry {
    let id = |path: &str| SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap();
    let hint = "h".repeat(200);
    NewEntry {
        hint,
        ..NewEntry::new(id(&format!("/{number}")), id("/agent"), vec![Selector::new("a", "b")])
    }
}

fn mount(options: &str, on: &Path) -> bool {
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(on).output();
    mount.is_ok_and(|done| done.status.success())
}

struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let disk = Mounted(tempfile::tempdir().unwrap());
    if !mount("size=700k", disk.0.path()) {
        eprintln!("skipped: a small disk cannot be mounted here");
        return;
    }
    let path = disk.0.path().join("datastore.sqlite3");
    let store = open(&StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0")).await.unwrap();
    let mut made = 0;
    let error = loop {
        match store.create_entry(entry(made)).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 5000, "the disk is not full yet");
    };
    assert_eq!(error, StoreError::Unavailable("datastore-sql: database or disk is full".into()));
    let count = store.count_entries(&EntryFilter::default()).await.unwrap();
    assert_eq!(count, made as u64, "what was acknowledged is there, and nothing else");
    assert_eq!(store.snapshot().await.unwrap().entries.len(), made);
    assert!(mount("remount,size=20m", disk.0.path()));
    store.create_entry(entry(made)).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_file_that_can_only_be_read_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("datastore.sqlite3");
    let path = path.to_str().unwrap();
    open(&StoreConfig::sqlite(path, "1.15.0")).await.unwrap().close().await;
    let config = StoreConfig::sqlite(&format!("file:{path}?mode=ro"), "1.15.0");
    let store = open(&config).await.unwrap();
    assert_eq!(store.count_entries(&EntryFilter::default()).await, Ok(0));
    let text = "datastore-sql: attempt to write a readonly database";
    assert_eq!(store.create_entry(entry(1)).await, Err(StoreError::Unavailable(text.into())));
    assert_eq!(store.count_entries(&EntryFilter::default()).await, Ok(0));
    store.close().await;
}
