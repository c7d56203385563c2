//! The first snapshot, out of everything that the datastore has.

use steeple_spiffe::TrustDomain;
#[cfg(test)]
use steeple_store::model::Entry;
use steeple_store::{Revision, SnapshotPage, Store, StoreError};
use tokio::sync::mpsc;

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
        snapshot.link_all();
        snapshot
    });
    let revision = store.read_all(pages).await?;
    let stopped = |_| StoreError::Internal("reading all entries was interrupted".to_owned());
    Ok((filing.await.map_err(stopped)?, revision))
}

fn file(snapshot: &mut Snapshot, page: SnapshotPage) {
    match page {
        SnapshotPage::Entries(entries) => snapshot.put_unlinked(&entries),
        SnapshotPage::Nodes(nodes) => {
            for node in nodes {
                let agent = node.spiffe_id.clone();
                snapshot.put_node(&agent, Some(node));
            }
        }
    }
}

/// Everything at once, for tests.
#[cfg(test)]
pub(super) fn loaded(trust_domain: TrustDomain, entries: &[Entry]) -> Snapshot {
    let mut snapshot = Snapshot::empty(trust_domain);
    file(&mut snapshot, SnapshotPage::Entries(entries.iter().collect()));
    snapshot.link_all();
    snapshot
}
