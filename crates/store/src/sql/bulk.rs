//! Everything at once, in pages: nobody holds all rows, and each page has its own deadline.

use tokio::sync::mpsc;

use super::tx::Tx;
use super::{SqlStore, entry_rows, feed, node_rows, pages};
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
    loop {
        let read = store.within(entry_rows::find_between(tx, &page)).await?;
        let entries = read.entries.into_iter().map(|stored| stored.entry).collect();
        hand(to, SnapshotPage::Entries(entries)).await?;
        page.token = pages::next_token(Some(&page), read.last_id);
        if page.token.is_none() {
            break;
        }
    }
    let nodes = store.within(node_rows::find_all(tx)).await?;
    hand(to, SnapshotPage::Nodes(nodes)).await?;
    Ok(revision)
}

async fn hand(to: &mpsc::Sender<SnapshotPage>, page: SnapshotPage) -> Result<(), StoreError> {
    let gone = |_| StoreError::Internal("nobody takes what is read".to_owned());
    to.send(page).await.map_err(gone)
}
