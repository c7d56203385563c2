//! The entries under one parent, in the order of their ids.

use std::sync::Arc;

use steeple_store::model::Entry;

/// A chunk is split at this size; a change copies one chunk.
const CHUNK: usize = 256;

/// A sorted list in shared chunks, since one parent may have a great many
/// children (a node alias of a whole cluster) and they change one by one.
#[derive(Clone, Default)]
pub(super) struct EntryList {
    /// Never empty chunks; ids ascend within and across them.
    chunks: Vec<Arc<Vec<Arc<Entry>>>>,
}

impl EntryList {
    /// Puts an entry in its place, or in the place of the one with its id.
    pub(super) fn insert(&mut self, entry: Arc<Entry>) {
        let Some(at) = self.chunk_for(&entry.entry_id) else {
            self.chunks.push(Arc::new(vec![entry]));
            return;
        };
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        match chunk.binary_search_by(|held| held.entry_id.cmp(&entry.entry_id)) {
            Ok(same) => chunk[same] = entry,
            Err(place) => chunk.insert(place, entry),
        }
        if chunk.len() > CHUNK {
            let tail = chunk.split_off(chunk.len() / 2);
            self.chunks.insert(at + 1, Arc::new(tail));
        }
    }

    pub(super) fn remove(&mut self, entry_id: &str) {
        let Some(at) = self.chunk_for(entry_id) else { return };
        let Ok(place) =
            self.chunks[at].binary_search_by(|held| held.entry_id.as_str().cmp(entry_id))
        else {
            return;
        };
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        chunk.remove(place);
        if chunk.is_empty() {
            self.chunks.remove(at);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The chunk that holds, or would hold, the id: the last one that begins
    /// at or before it, else the first.
    fn chunk_for(&self, entry_id: &str) -> Option<usize> {
        let after = self.chunks.partition_point(|chunk| chunk[0].entry_id.as_str() <= entry_id);
        if self.chunks.is_empty() { None } else { Some(after.saturating_sub(1)) }
    }
}
