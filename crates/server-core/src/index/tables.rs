//! Tables from a text of a record to handles. They hold no texts: what a handle stands for is
//! compared with. They are split into parts, so that a copy costs a spine and a change one part.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

use super::pages::{ARC, Handle, Pages};
use super::record::EntryRef;

/// Nodes of a spine, and parts below each. With a million keys a part has about a thousand, and a
/// change copies some kilobytes.
const SPINE: usize = 32;

/// How many handles a list holds before it is cut into chunks of half as many.
const CHUNK: usize = 256;

/// What records are told apart by: their id, or one of their paths.
pub(super) type Key = for<'a> fn(EntryRef<'a>) -> &'a [u8];

pub(super) fn by_id(entry: EntryRef<'_>) -> &[u8] {
    entry.id()
}

pub(super) fn by_spiffe_path(entry: EntryRef<'_>) -> &[u8] {
    entry.heads().spiffe_path
}

pub(super) fn by_parent_path(entry: EntryRef<'_>) -> &[u8] {
    entry.heads().parent_path
}

/// Records grouped by a key, each group in the order of entry ids.
#[derive(Clone)]
pub(super) struct Table {
    key: Key,
    hasher: RandomState,
    /// Shared as a whole, too: changes of agents touch no table.
    spine: Arc<Vec<Arc<Vec<Arc<Part>>>>>,
}

#[derive(Clone, Default)]
struct Part {
    /// Keys that one record has: mostly all of them.
    ones: HashTable<Handle>,
    /// Keys that several have.
    lists: HashTable<List>,
}

/// At least two handles, in the order of their entries' ids.
#[derive(Clone)]
pub(super) enum List {
    Short(Arc<[Handle]>),
    /// One parent may have a great many children (an alias of a whole cluster) that change one by
    /// one. No chunk is empty.
    Long(Arc<Vec<Arc<[Handle]>>>),
}

/// The handles of a key.
#[derive(Clone, Copy)]
pub(super) enum Group<'a> {
    None,
    One(Handle),
    List(&'a List),
}

impl Table {
    pub(super) fn new(key: Key, hasher: RandomState) -> Self {
        // Begins as one and the same empty part everywhere.
        let node = Arc::new(vec![Arc::default(); SPINE]);
        Self { key, hasher, spine: Arc::new(vec![node; SPINE]) }
    }

    /// What has this key.
    pub(super) fn get(&self, pages: &Pages, key: &[u8]) -> Group<'_> {
        let hash = self.hasher.hash_one(key);
        let (node, part) = place(hash);
        let part = &self.spine[node][part];
        if let Some(handle) = part.one(hash, self.key, pages, key) {
            return Group::One(handle);
        }
        part.list(hash, self.key, pages, key).map_or(Group::None, Group::List)
    }

    /// The one record with this key; for keys that only one can have.
    pub(super) fn get_one(&self, pages: &Pages, key: &[u8]) -> Option<Handle> {
        match self.get(pages, key) {
            Group::One(handle) => Some(handle),
            _ => None,
        }
    }

    /// Files a record that is in `pages`.
    pub(super) fn insert(&mut self, pages: &Pages, handle: Handle) {
        let (key, of) = ((self.key)(pages.get(handle)), self.key);
        let hash = self.hasher.hash_one(key);
        let rehash = |handle: Handle| self.hasher.hash_one(of(pages.get(handle)));
        let part = part_mut(&mut self.spine, hash);
        let is_it = |held: &Handle| of(pages.get(*held)) == key;
        if let Some(list) = part.lists.find_mut(hash, |list| is_it(&list.first())) {
            list.insert(pages, handle);
        } else if let Ok(one) = part.ones.find_entry(hash, is_it) {
            let (other, _) = one.remove();
            let mut both = [other, handle];
            both.sort_unstable_by_key(|it| by_id(pages.get(*it)));
            let list = List::Short(Arc::new(both));
            part.lists.insert_unique(hash, list, |list| rehash(list.first()));
        } else {
            part.ones.insert_unique(hash, handle, |held| rehash(*held));
        }
    }

    /// Files all records at once that belong here, in a table that has none yet (or none that
    /// matters): no part is made larger twice, and no list longer.
    pub(super) fn fill(&mut self, pages: &Pages, belongs: impl Fn(EntryRef<'_>) -> bool) {
        let mut all: Vec<(u64, Handle)> = Vec::with_capacity(pages.len());
        for (handle, entry) in pages.iter().filter(|(_, entry)| belongs(*entry)) {
            all.push((sorting(self.hasher.hash_one((self.key)(entry))), handle));
        }
        all.sort_unstable();
        *self = Self::new(self.key, self.hasher.clone());
        for part in all.chunk_by(|(a, _), (b, _)| place(unsorting(*a)) == place(unsorting(*b))) {
            self.fill_part(pages, part);
        }
    }

    /// Fills a part with the records in it, sorted by [`sorting`].
    fn fill_part(&mut self, pages: &Pages, records: &[(u64, Handle)]) {
        let of = self.key;
        let groups = || records.chunk_by(|(a, _), (b, _)| a == b);
        let ones = groups().filter(|group| group.len() == 1).count();
        let mut part = Part {
            ones: HashTable::with_capacity(ones),
            lists: HashTable::with_capacity(groups().count() - ones),
        };
        let mut collisions = Vec::new();
        for group in groups() {
            let hash = unsorting(group[0].0);
            let key = of(pages.get(group[0].1));
            if let [(_, one)] = group {
                part.ones.insert_unique(hash, *one, |it| self.hasher.hash_one(of(pages.get(*it))));
            } else if group.iter().all(|(_, handle)| of(pages.get(*handle)) == key) {
                let mut handles: Vec<Handle> = group.iter().map(|(_, handle)| *handle).collect();
                handles.sort_unstable_by_key(|handle| by_id(pages.get(*handle)));
                part.lists.insert_unique(hash, List::of(&handles), |list| {
                    self.hasher.hash_one(of(pages.get(list.first())))
                });
            } else {
                collisions.extend(group.iter().map(|(_, handle)| *handle));
            }
        }
        *part_mut(&mut self.spine, unsorting(records[0].0)) = part;
        for handle in collisions {
            self.insert(pages, handle);
        }
    }

    /// Of the records with the same key, all but the ones with the highest handles.
    pub(super) fn superseded(&self) -> Vec<Handle> {
        let mut found = Vec::new();
        for list in self.parts().flat_map(|part| part.lists.iter()) {
            let newest = list.chunks().iter().flat_map(|chunk| chunk.iter()).max();
            let all = list.chunks().iter().flat_map(|chunk| chunk.iter());
            found.extend(all.filter(|handle| Some(*handle) != newest));
        }
        found
    }

    /// Takes a record out, which is still in `pages`.
    pub(super) fn remove(&mut self, pages: &Pages, handle: Handle) {
        let (key, of) = ((self.key)(pages.get(handle)), self.key);
        let hash = self.hasher.hash_one(key);
        let rehash = |handle: &Handle| self.hasher.hash_one(of(pages.get(*handle)));
        // What is not filed must not cost a copy.
        if !self.has(pages, key, handle) {
            return;
        }
        let part = part_mut(&mut self.spine, hash);
        if let Ok(one) = part.ones.find_entry(hash, |held| *held == handle) {
            one.remove();
            return;
        }
        let is_it = |list: &List| of(pages.get(list.first())) == key;
        let Ok(mut list) = part.lists.find_entry(hash, is_it) else { return };
        if let Some(last) = list.get_mut().remove(pages, handle) {
            list.remove();
            part.ones.insert_unique(hash, last, rehash);
        }
    }

    fn has(&self, pages: &Pages, key: &[u8], handle: Handle) -> bool {
        match self.get(pages, key) {
            Group::None => false,
            Group::One(held) => held == handle,
            Group::List(list) => list.place(pages, handle).is_some(),
        }
    }

    /// What all of it takes, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let part = |part: &Part| {
            let lists = part.lists.iter().map(List::heap_bytes).sum::<usize>();
            ARC + size_of::<Part>()
                + part.ones.allocation_size()
                + part.lists.allocation_size()
                + lists
        };
        SPINE * (SPINE + 1) * size_of::<usize>() + self.parts().map(part).sum::<usize>()
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.spine.iter().flat_map(|node| node.iter()).map(Arc::as_ref)
    }
}

/// Where in the spine the part of a hash is. Its tables use the other bits.
fn place(hash: u64) -> (usize, usize) {
    let bits = (hash >> 32) as usize;
    (bits % SPINE, bits / SPINE % SPINE)
}

/// A hash such that hashes in their order come part by part.
fn sorting(hash: u64) -> u64 {
    hash.rotate_left(64 - 32 - 2 * SPINE.ilog2())
}

fn unsorting(sorting: u64) -> u64 {
    sorting.rotate_right(64 - 32 - 2 * SPINE.ilog2())
}

fn part_mut(spine: &mut Arc<Vec<Arc<Vec<Arc<Part>>>>>, hash: u64) -> &mut Part {
    let (node, part) = place(hash);
    let node = &mut Arc::make_mut(spine)[node];
    Arc::make_mut(&mut Arc::make_mut(node)[part])
}

impl Part {
    fn one(&self, hash: u64, of: Key, pages: &Pages, key: &[u8]) -> Option<Handle> {
        self.ones.find(hash, |held| of(pages.get(*held)) == key).copied()
    }

    fn list(&self, hash: u64, of: Key, pages: &Pages, key: &[u8]) -> Option<&List> {
        self.lists.find(hash, |list| of(pages.get(list.first())) == key)
    }
}

impl List {
    /// A list of handles that are in order, as it comes about when they are added one by one.
    fn of(handles: &[Handle]) -> Self {
        if handles.len() <= CHUNK {
            return Self::Short(handles.into());
        }
        Self::Long(Arc::new(handles.chunks(CHUNK).map(Arc::from).collect()))
    }

    fn first(&self) -> Handle {
        match self {
            Self::Short(handles) => handles[0],
            Self::Long(chunks) => chunks[0][0],
        }
    }

    fn chunks(&self) -> &[Arc<[Handle]>] {
        match self {
            Self::Short(handles) => std::slice::from_ref(handles),
            Self::Long(chunks) => chunks,
        }
    }

    fn insert(&mut self, pages: &Pages, handle: Handle) {
        let (chunk, at) = self.find(pages, handle);
        let old = &self.chunks()[chunk];
        let new: Arc<[Handle]> = with(old, at, handle);
        match self {
            Self::Short(handles) if new.len() <= CHUNK => *handles = new,
            Self::Short(_) => {
                *self = Self::Long(Arc::new(vec![new]));
                self.split(0);
            }
            Self::Long(chunks) => {
                let full = new.len() > CHUNK;
                Arc::make_mut(chunks)[chunk] = new;
                if full {
                    self.split(chunk);
                }
            }
        }
    }

    /// Cuts a chunk in two: the last one at its end, since who adds in order adds there.
    fn split(&mut self, chunk: usize) {
        let Self::Long(chunks) = self else { return };
        let chunks = Arc::make_mut(chunks);
        let whole = Arc::clone(&chunks[chunk]);
        let is_last = chunk + 1 == chunks.len();
        let (front, back) = whole.split_at(if is_last { CHUNK } else { CHUNK / 2 });
        chunks[chunk] = front.into();
        chunks.insert(chunk + 1, back.into());
    }

    /// Takes a handle out, if it is there. Answers the last one when it is alone then.
    fn remove(&mut self, pages: &Pages, handle: Handle) -> Option<Handle> {
        let (chunk, at) = self.place(pages, handle)?;
        let rest: Vec<Handle> = {
            let old = &self.chunks()[chunk];
            old[..at].iter().chain(&old[at + 1..]).copied().collect()
        };
        match self {
            Self::Short(handles) => *handles = rest.into(),
            Self::Long(chunks) => {
                let chunks = Arc::make_mut(chunks);
                if rest.is_empty() {
                    chunks.remove(chunk);
                } else {
                    chunks[chunk] = rest.into();
                }
                if let [only] = chunks.as_slice() {
                    *self = Self::Short(Arc::clone(only));
                }
            }
        }
        match self {
            Self::Short(handles) => match handles.as_ref() {
                [last] => Some(*last),
                _ => None,
            },
            Self::Long(_) => None,
        }
    }

    /// Where a handle is.
    fn place(&self, pages: &Pages, handle: Handle) -> Option<(usize, usize)> {
        let (chunk, at) = self.find(pages, handle);
        let held = self.chunks()[chunk].get(at);
        (held == Some(&handle)).then_some((chunk, at))
    }

    /// Where a handle is, or would be: in a chunk, at a place in it.
    fn find(&self, pages: &Pages, handle: Handle) -> (usize, usize) {
        let chunks = self.chunks();
        let id = by_id(pages.get(handle));
        let last = chunks.last().expect("a list is not empty");
        // Who adds in order adds at the end.
        if last.last().is_some_and(|held| by_id(pages.get(*held)) < id) {
            return (chunks.len() - 1, last.len());
        }
        let after = chunks.partition_point(|chunk| by_id(pages.get(chunk[0])) <= id);
        let chunk = after.saturating_sub(1);
        (chunk, chunks[chunk].partition_point(|held| by_id(pages.get(*held)) < id))
    }

    fn heap_bytes(&self) -> usize {
        let chunk = |handles: &Arc<[Handle]>| ARC + handles.len() * size_of::<Handle>();
        let spine = match self {
            Self::Short(_) => 0,
            Self::Long(chunks) => {
                ARC + size_of::<Vec<Arc<[Handle]>>>()
                    + chunks.capacity() * size_of::<Arc<[Handle]>>()
            }
        };
        spine + self.chunks().iter().map(chunk).sum::<usize>()
    }
}

fn with(old: &[Handle], at: usize, handle: Handle) -> Arc<[Handle]> {
    let (before, after) = old.split_at(at);
    // The length is known to the iterator, so that this allocates once.
    (0..old.len() + 1)
        .map(|place| match place.checked_sub(at) {
            None => before[place],
            Some(0) => handle,
            Some(past) => after[past - 1],
        })
        .collect()
}

impl<'a> Group<'a> {
    /// The handles, in the order of their entries' ids.
    pub(super) fn iter(self) -> impl Iterator<Item = Handle> + 'a {
        let (one, chunks) = match self {
            Self::None => (None, [].as_slice()),
            Self::One(handle) => (Some(handle), [].as_slice()),
            Self::List(list) => (None, list.chunks()),
        };
        one.into_iter().chain(chunks.iter().flat_map(|chunk| chunk.iter().copied()))
    }

    pub(super) fn is_none(self) -> bool {
        matches!(self, Self::None)
    }
}
