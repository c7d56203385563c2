//! All records, 32 in a page: a copy costs a short list, a change one page.

use std::sync::Arc;

use super::record::EntryRef;

/// Records in a page. A change copies one, which is some kilobytes.
const PAGE: usize = 32;
/// Pages below one node of the spine.
const NODE: usize = 256;

/// A record's place. A place is used again once its record is gone, so that a handle means
/// something in the snapshot that it came from only.
pub(super) type Handle = u32;

/// No place.
const NONE: Handle = Handle::MAX;

/// What a free place begins with; the flags of a record are other ones.
const FREE: u8 = u8::MAX;

/// The counts before what is shared.
pub(super) const ARC: usize = 2 * size_of::<usize>();

/// Records by handle; clones share all pages that neither of them changed.
#[derive(Clone)]
pub(super) struct Pages {
    spine: Arc<Vec<Arc<Vec<Arc<Page>>>>>,
    /// How many places there are, free ones too.
    places: usize,
    /// The first free place. What is in a free place is the next one.
    free: Handle,
    /// How many records there are.
    len: usize,
}

/// Records back to back.
#[derive(Clone)]
struct Page {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: [u32; PAGE],
}

impl Pages {
    pub(super) fn new() -> Self {
        Self { spine: Arc::default(), places: 0, free: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, handle: Handle) -> EntryRef<'_> {
        EntryRef::new(self.record(handle))
    }

    /// Gives a record a place.
    pub(super) fn insert(&mut self, record: &[u8]) -> Handle {
        self.len += 1;
        if self.free != NONE {
            let handle = self.free;
            self.free = next_free(self.record(handle));
            self.replace(handle, record);
            return handle;
        }
        let handle = Handle::try_from(self.places).expect("no memory has so many entries");
        if self.places.is_multiple_of(PAGE * NODE) {
            Arc::make_mut(&mut self.spine).push(Arc::default());
        }
        if self.places.is_multiple_of(PAGE) {
            let node = Arc::make_mut(&mut self.spine).last_mut();
            let node = node.expect("one was just pushed if there was none");
            let page = Page { bytes: Vec::new(), ends: [0; PAGE] };
            Arc::make_mut(node).push(Arc::new(page));
        }
        self.places += 1;
        self.page_mut(handle).append(handle as usize % PAGE, record);
        handle
    }

    /// Puts another record in the place of one.
    pub(super) fn replace(&mut self, handle: Handle, record: &[u8]) {
        self.page_mut(handle).replace(handle as usize % PAGE, record);
    }

    /// Frees a place.
    pub(super) fn remove(&mut self, handle: Handle) {
        let mut record = [FREE; 1 + size_of::<Handle>()];
        record[1..].copy_from_slice(&self.free.to_le_bytes());
        self.replace(handle, &record);
        self.free = handle;
        self.len -= 1;
    }

    /// Every record with its handle, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, EntryRef<'_>)> {
        let pages = self.spine.iter().flat_map(|node| node.iter());
        pages
            .flat_map(|page| (0..PAGE).map(|at| page.record(at)))
            .zip(0..)
            .take(self.places)
            .filter(|(record, _)| record[0] != FREE)
            .map(|(record, handle)| (handle, EntryRef::new(record)))
    }

    /// What all of it takes, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let page = |page: &Arc<Page>| ARC + size_of::<Page>() + page.bytes.capacity();
        let node = |node: &Arc<Vec<Arc<Page>>>| {
            ARC + size_of::<Vec<Arc<Page>>>()
                + node.capacity() * size_of::<Arc<Page>>()
                + node.iter().map(page).sum::<usize>()
        };
        self.spine.capacity() * size_of::<Arc<Vec<Arc<Page>>>>()
            + self.spine.iter().map(node).sum::<usize>()
    }

    fn record(&self, handle: Handle) -> &[u8] {
        let at = handle as usize;
        self.spine[at / PAGE / NODE][at / PAGE % NODE].record(at % PAGE)
    }

    fn page_mut(&mut self, handle: Handle) -> &mut Page {
        let at = handle as usize / PAGE;
        let node = Arc::make_mut(&mut Arc::make_mut(&mut self.spine)[at / NODE]);
        Arc::make_mut(&mut node[at % NODE])
    }
}

impl Page {
    fn record(&self, at: usize) -> &[u8] {
        &self.bytes[self.start(at)..self.ends[at] as usize]
    }

    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    /// Adds the record with the number `at`; all before it are there.
    fn append(&mut self, at: usize, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends[at] = end_of(&self.bytes);
        if at == PAGE - 1 {
            self.bytes.shrink_to_fit();
        }
    }

    fn replace(&mut self, at: usize, record: &[u8]) {
        let (start, end) = (self.start(at), self.ends[at] as usize);
        let mut bytes = Vec::with_capacity(self.bytes.len() - (end - start) + record.len());
        bytes.extend_from_slice(&self.bytes[..start]);
        bytes.extend_from_slice(record);
        bytes.extend_from_slice(&self.bytes[end..]);
        for after in self.ends[at..].iter_mut().filter(|after| **after != 0) {
            *after = end_of(&bytes) - (end_of(&self.bytes) - *after);
        }
        self.bytes = bytes;
    }
}

fn end_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a page of entries is far from 4 GiB")
}

fn next_free(record: &[u8]) -> Handle {
    let next = record[1..].try_into().expect("a free place holds a handle");
    Handle::from_le_bytes(next)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// A record of some length whose first byte is no [`FREE`].
    fn record(number: u16) -> Vec<u8> {
        let len = usize::from(number % 300) + 1;
        number.to_le_bytes().iter().cycle().map(|byte| byte & 0x7f).take(len).collect()
    }

    proptest! {
        #[test]
        fn any_history_leaves_what_was_put_last_and_no_clone_changes(
            steps in prop::collection::vec((0..3u8, 0..200usize, any::<u16>()), 0..600)
        ) {
            let mut pages = Pages::new();
            let mut expected: HashMap<Handle, Vec<u8>> = HashMap::new();
            let mut older = None;
            for (at, (what, which, number)) in steps.into_iter().enumerate() {
                let held: Vec<Handle> = expected.keys().copied().collect();
                let chosen = held.get(which % held.len().max(1)).copied();
                match (what, chosen) {
                    (1, Some(handle)) => {
                        pages.replace(handle, &record(number));
                        expected.insert(handle, record(number));
                    }
                    (2, Some(handle)) => {
                        pages.remove(handle);
                        expected.remove(&handle);
                    }
                    _ => {
                        let handle = pages.insert(&record(number));
                        prop_assert_eq!(expected.insert(handle, record(number)), None);
                    }
                }
                if at == 300 {
                    older = Some((pages.clone(), expected.clone()));
                }
            }
            for (pages, expected) in older.into_iter().chain([(pages, expected)]) {
                prop_assert_eq!(pages.len(), expected.len());
                let held: HashMap<Handle, Vec<u8>> = pages
                    .iter()
                    .map(|(handle, _)| (handle, pages.record(handle).to_vec()))
                    .collect();
                prop_assert_eq!(held, expected);
            }
        }
    }

    #[test]
    fn a_freed_place_is_used_again() {
        let mut pages = Pages::new();
        let handles: Vec<Handle> = (0..100).map(|number| pages.insert(&record(number))).collect();
        pages.remove(handles[7]);
        pages.remove(handles[50]);
        assert_eq!(pages.insert(&record(1)), handles[50]);
        assert_eq!(pages.insert(&record(2)), handles[7]);
        assert_eq!(pages.insert(&record(3)), 100);
    }

    #[test]
    fn a_change_copies_one_page() {
        let mut pages = Pages::new();
        for number in 0..20_000 {
            pages.insert(&record(number));
        }
        let before = pages.clone();
        pages.replace(9_999, &record(1));
        let all = |pages: &Pages| -> Vec<Arc<Page>> {
            pages.spine.iter().flat_map(|node| node.iter().cloned()).collect()
        };
        let copied = all(&pages).into_iter().zip(all(&before)).filter(|(a, b)| !Arc::ptr_eq(a, b));
        assert_eq!(copied.count(), 1);
    }
}
