//! What reading an entry at the start allocates: counted, so that it does not depend on the
//! machine. Alone in this binary, since the count is the whole process's.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use steeple_runtime::SystemClock;
use steeple_server_core::index::{AuthorizedIndex, IndexPeriods};
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::{NewEntry, Store, StoreConfig, open};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Children of one agent.
const SIBLINGS: usize = 20;
/// Entries made in one call.
const BATCH: usize = 200;
/// Between the one reading and the other.
const MORE: usize = 6_000;

/// Allocations for each hundred entries, the database's own not among them.
const BUDGET: usize = 100;

async fn make(store: &dyn Store, numbers: std::ops::Range<usize>) {
    let home = TrustDomain::parse("example.org").unwrap();
    let id = |path: &str| SpiffeId::from_path(&home, path).unwrap();
    let numbers: Vec<usize> = numbers.collect();
    for numbers in numbers.chunks(BATCH) {
        let new = numbers.iter().map(|number| {
            let selectors = vec![
                Selector::new("k8s", "ns:production"),
                Selector::new("k8s", &format!("sa:service-{number}")),
            ];
            let parent = id(&format!("/spire/agent/k8s_psat/cluster/{:032x}", number / SIBLINGS));
            NewEntry::new(id(&format!("/ns/production/sa/{number}")), parent, selectors)
        });
        let made = store.create_entries(new.collect()).await;
        assert!(made.iter().all(Result::is_ok));
    }
}

/// Loads an index, and answers how often that allocated.
async fn load(store: &Arc<dyn Store>, expected: usize) -> usize {
    let never = Duration::from_secs(3600);
    let periods = IndexPeriods { poll: never, reload: never };
    let home = TrustDomain::parse("example.org").unwrap();
    let region = Region::new(COUNTING);
    let (index, _task) =
        AuthorizedIndex::load(Arc::clone(store), Arc::new(SystemClock), home, periods)
            .await
            .unwrap();
    let change = region.change();
    assert_eq!(index.snapshot().entry_count(), expected);
    change.allocations + change.reallocations
}

#[test]
fn an_entry_that_is_read_at_the_start_costs_hardly_an_allocation() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("datastore.sqlite3");
        let store = open(&StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0")).await.unwrap();
        make(store.as_ref(), 0..MORE).await;
        // Once for what is only made once.
        load(&store, MORE).await;
        let few = load(&store, MORE).await;
        make(store.as_ref(), MORE..2 * MORE).await;
        let many = load(&store, 2 * MORE).await;
        let each = many.saturating_sub(few) * 100 / MORE;
        assert!(each <= BUDGET, "{each} allocations for a hundred entries");
        store.close().await;
    });
}
