//! What one agent may have, for as long as it takes to tell it.

use std::fmt;
use std::sync::Arc;

use super::pages::Handle;
use super::record::EntryRef;
use super::snapshot::Snapshot;

/// The entries that an agent may have, of one snapshot, which they keep.
pub struct Authorized {
    snapshot: Arc<Snapshot>,
    handles: Vec<Handle>,
}

impl Authorized {
    pub(super) fn new(snapshot: Arc<Snapshot>, handles: Vec<Handle>) -> Self {
        Self { snapshot, handles }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    /// The entries, sorted by entry id within a parent, or all of them after
    /// [`Self::sort_by_id`].
    pub fn iter(&self) -> impl ExactSizeIterator<Item = EntryRef<'_>> + Clone {
        self.handles.iter().map(|handle| self.snapshot.get(*handle))
    }

    /// The entry at a place of [`Self::iter`].
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn at(&self, place: usize) -> EntryRef<'_> {
        self.snapshot.get(self.handles[place])
    }

    /// Puts them in the order of their ids.
    pub fn sort_by_id(&mut self) {
        let snapshot = &self.snapshot;
        self.handles.sort_unstable_by_key(|handle| snapshot.get(*handle).entry_id());
    }

    /// The place of an id, after [`Self::sort_by_id`].
    #[must_use]
    pub fn find(&self, entry_id: &str) -> Option<usize> {
        let id_of = |handle: &Handle| self.snapshot.get(*handle).entry_id();
        self.handles.binary_search_by(|handle| id_of(handle).cmp(entry_id)).ok()
    }
}

impl fmt::Debug for Authorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
