//! The store's contract on an SQLite file, and on one in memory.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;

use steeple_store::{Store, StoreConfig, open};

async fn file() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("datastore.sqlite3");
    let store = open(&StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0")).await.unwrap();
    (dir, store)
}

async fn memory() -> ((), Arc<dyn Store>) {
    ((), open(&StoreConfig::sqlite("file:test?mode=memory", "1.15.0")).await.unwrap())
}

mod in_a_file {
    steeple_store::store_contract!(crate::file);
}

mod in_memory {
    steeple_store::store_contract!(crate::memory);
}
