//! The first snapshot, out of everything that the datastore has.

use steeple_spiffe::TrustDomain;
#[cfg(test)]
use steeple_store::model::Entry;
use steeple_store::{Revision, SnapshotPage, Store, StoreError};
use tokio::sync::mpsc;

use super::pages::Handle;
use super::snapshot::Snapshot;

/// How many pages of rows may wait to be filed: reading and filing go side by side.
const AHEAD: usize = 2;

/// Reads all there is, and the revision that it is true at.
pub(super) async fn read_all(
    store: &dyn Store,
    trust_domain: &TrustDomain,
) -> Result<(Snapshot, Revision), StoreError> {
    let (pages, mut read) = mpsc::channel(AHEAD);
    let mut snapshot = Snapshot::empty(trust_domain.clone());
    let filing = tokio::task::spawn_blocking(move || {
        while let Some(page) = read.blocking_recv() {
            file(&mut snapshot, page);
        }
        link(&mut snapshot);
        snapshot
    });
    let revision = store.read_all(pages).await?;
    let stopped = |_| StoreError::Internal("reading all entries was interrupted".to_owned());
    Ok((filing.await.map_err(stopped)?, revision))
}

fn file(snapshot: &mut Snapshot, page: SnapshotPage) {
    match page {
        SnapshotPage::Entries(entries) => {
            let mut record = Vec::new();
            for entry in &entries {
                snapshot.put_unlinked(entry, &mut record);
            }
        }
        SnapshotPage::Nodes(nodes) => {
            for node in nodes {
                let agent = node.spiffe_id.clone();
                snapshot.put_node(&agent, Some(node));
            }
        }
    }
}

/// Files what has been put by its paths: in the order of ids, so that every list grows at its end.
fn link(snapshot: &mut Snapshot) {
    let mut order: Vec<(u128, Handle)> = snapshot
        .handles()
        .map(|(handle, entry)| (beginning(entry.entry_id().as_bytes()), handle))
        .collect();
    order.sort_unstable_by(|(a, x), (b, y)| {
        let ids = || (snapshot.get(*x).entry_id(), snapshot.get(*y).entry_id());
        a.cmp(b).then_with(|| {
            let (x, y) = ids();
            x.cmp(y)
        })
    });
    for (_, handle) in order {
        snapshot.link(handle);
    }
}

/// The beginning of an id as a number that sorts as the id does, as far as it goes.
fn beginning(id: &[u8]) -> u128 {
    let mut bytes = [0; size_of::<u128>()];
    let len = id.len().min(bytes.len());
    bytes[..len].copy_from_slice(&id[..len]);
    u128::from_be_bytes(bytes)
}

/// Everything at once, for tests.
#[cfg(test)]
pub(super) fn loaded(trust_domain: TrustDomain, entries: Vec<Entry>) -> Snapshot {
    let mut snapshot = Snapshot::empty(trust_domain);
    file(&mut snapshot, SnapshotPage::Entries(entries));
    link(&mut snapshot);
    snapshot
}
