//! The authorised-entry index on a real datastore.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_runtime::{SystemClock, Tasks, drain};
use steeple_server_core::index::{AuthorizedIndex, IndexPeriods, IndexTask};
use steeple_server_core::time::unix_seconds;
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::model::NewEntry;
use steeple_store::{Store, StoreConfig};

const AGENT: &str = "/spire/agent/a";

fn home() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&home(), path).unwrap()
}

fn new_entry(path: &str) -> NewEntry {
    NewEntry::new(id(path), id(AGENT), vec![Selector::new("unix", "uid:1")])
}

async fn open(directory: &Path) -> Arc<dyn Store> {
    let file = directory.join("datastore.sqlite3");
    steeple_store::open(&StoreConfig::sqlite(file.to_str().unwrap(), "1.15.0")).await.unwrap()
}

async fn load(store: &Arc<dyn Store>) -> (AuthorizedIndex, IndexTask) {
    let poll = Duration::from_millis(200);
    let periods = IndexPeriods { poll, reload: Duration::from_secs(3600) };
    AuthorizedIndex::load(Arc::clone(store), Arc::new(SystemClock), home(), periods).await.unwrap()
}

fn seen(index: &AuthorizedIndex) -> Vec<String> {
    let now = unix_seconds(SystemTime::now());
    let snapshot = index.snapshot();
    let entries = snapshot.authorized(&id(AGENT), now);
    let mut paths: Vec<_> = entries.iter().map(|it| it.spiffe_path().to_owned()).collect();
    paths.sort();
    paths
}

async fn until(index: &AuthorizedIndex, expected: &[&str]) {
    for _ in 0..500 {
        if seen(index) == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the index shows {:?} and not {expected:?}", seen(index));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_its_own_writes_at_once_and_a_peers_soon() {
    let directory = tempfile::tempdir().unwrap();
    let (store, peer) = (open(directory.path()).await, open(directory.path()).await);
    store.create_entry(new_entry("/before")).await.unwrap();
    let (index, task) = load(&store).await;
    assert_eq!(seen(&index), ["/before"]);

    let (trigger, watcher) = drain::channel();
    let tasks = Tasks::new();
    tasks.spawn("index", task.run(watcher));
    let own = store.create_entry(new_entry("/own")).await.unwrap();
    index.refresh().await;
    assert_eq!(seen(&index), ["/before", "/own"]);
    peer.create_entry(new_entry("/peer")).await.unwrap();
    until(&index, &["/before", "/own", "/peer"]).await;
    peer.delete_entry(&own.entry_id).await.unwrap();
    until(&index, &["/before", "/peer"]).await;
    assert!(index.staleness(SystemTime::now()) < Duration::from_secs(2));
    assert!(trigger.drain(Duration::from_secs(5)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_everything_again_when_the_feed_has_forgotten_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let (index, task) = load(&store).await;
    for path in ["/a", "/b", "/c"] {
        store.create_entry(new_entry(path)).await.unwrap();
    }
    store.prune_events(SystemTime::now() + Duration::from_secs(3600)).await.unwrap();
    let (trigger, watcher) = drain::channel();
    let tasks = Tasks::new();
    tasks.spawn("index", task.run(watcher));
    index.refresh().await;
    assert_eq!(seen(&index), ["/a", "/b", "/c"]);
    assert!(trigger.drain(Duration::from_secs(5)).await);
}
