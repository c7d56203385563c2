//! Everything at once, in pages: nobody holds all rows, and each page has its own deadline.

use tokio::sync::mpsc;

use super::entry_rows::{self, EntryPage};
use super::packed::{self, Packed, Reach};
use super::tx::Tx;
use super::{SqlStore, feed, node_rows, pages};
use crate::batch::EntryBatch;
use crate::error::StoreError;
use crate::feed::{Revision, SnapshotPage};
use crate::model::Page;

/// Rows in a page. More save little, and what is read but not handed on takes memory.
const ROWS: usize = 2_000;

/// Hands on all entries and agents that one transaction sees, oldest first, and answers where in
/// the history that is.
pub(super) async fn read(
    store: &SqlStore,
    to: &mpsc::Sender<SnapshotPage>,
) -> Result<Revision, StoreError> {
    let tx = store.within(store.read()).await?;
    let done = read_in(store, &tx, to).await;
    store.within(async { store.finish(tx, done).await.0 }).await
}

async fn read_in(
    store: &SqlStore,
    tx: &Tx,
    to: &mpsc::Sender<SnapshotPage>,
) -> Result<Revision, StoreError> {
    let revision = store.within(feed::heads(tx)).await?;
    let mut page = Page { token: None, size: ROWS };
    let mut fetched = store.within(fetch(tx, &page)).await?;
    while let Some(token) = pages::next_token(Some(&page), fetched.last_id()) {
        let next = Page { token: Some(token), size: ROWS };
        // The database reads on while what it has read is unpacked.
        let (following, unpacked) =
            tokio::join!(store.within(fetch(tx, &next)), async { fetched.unpack() });
        let entries = match unpacked {
            Some(entries) => entries,
            None => batch(&store.within(entry_rows::find_between(tx, &page)).await?),
        };
        hand(to, SnapshotPage::Entries(entries)).await?;
        (page, fetched) = (next, following?);
    }
    let nodes = store.within(node_rows::find_all(tx)).await?;
    hand(to, SnapshotPage::Nodes(nodes)).await?;
    Ok(revision)
}

/// A page of entries as it was read.
enum Fetched {
    Packed(Packed),
    Rows(EntryPage),
}

async fn fetch(tx: &Tx, page: &Page) -> Result<Fetched, StoreError> {
    let select = entry_rows::select_between(tx.dialect, page)?;
    if let Some(packed) = packed::fetch(tx, select, Reach::Contiguous).await {
        return Ok(Fetched::Packed(packed));
    }
    entry_rows::find_between(tx, page).await.map(Fetched::Rows)
}

impl Fetched {
    fn last_id(&self) -> Option<i64> {
        match self {
            Self::Packed(packed) => packed.last_id,
            Self::Rows(page) => page.last_id,
        }
    }

    /// None if the page is to be read row by row.
    fn unpack(&self) -> Option<EntryBatch> {
        match self {
            Self::Packed(packed) => packed.unpack(),
            Self::Rows(page) => Some(batch(page)),
        }
    }
}

fn batch(page: &EntryPage) -> EntryBatch {
    page.entries.iter().map(|stored| &stored.entry).collect()
}

async fn hand(to: &mpsc::Sender<SnapshotPage>, page: SnapshotPage) -> Result<(), StoreError> {
    let gone = |_| StoreError::Internal("nobody takes what is read".to_owned());
    to.send(page).await.map_err(gone)
}
