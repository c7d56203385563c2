//! A map in shared parts: a copy costs its spine, a change one part.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Nodes of a spine, and parts below each. With 100,000 keys a part has about 100 of them, so that
/// a change copies some kilobytes, whatever the size of the whole.
const SPINE: usize = 32;

type Part<K, V> = Arc<HashMap<K, V, RandomState>>;

/// The parts below one node of the spine.
type Node<K, V> = Arc<Vec<Part<K, V>>>;

/// A hash map whose clones share every part that neither of them changed.
#[derive(Clone)]
pub(super) struct Shards<K, V> {
    /// Shared as a whole, too: most changes touch one map of several.
    spine: Arc<Vec<Node<K, V>>>,
    hasher: RandomState,
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    pub(super) fn new() -> Self {
        let hasher = RandomState::new();
        // The parts begin as one and the same empty map.
        let empty = Arc::new(HashMap::with_hasher(hasher.clone()));
        let node = Arc::new(vec![empty; SPINE]);
        Self { spine: Arc::new(vec![node; SPINE]), hasher }
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (node, part) = self.place(key);
        self.spine[node][part].get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.part_mut(&key).insert(key, value)
    }

    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // A key that is not there must not cost a copy.
        self.get(key)?;
        self.part_mut(key).remove(key)
    }

    /// The value of a key, made on first use.
    pub(super) fn entry_mut(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        self.part_mut(key).entry(key.clone()).or_insert_with(make)
    }

    /// Changes the value of a key that is there; `false` takes it out.
    pub(super) fn edit<Q>(&mut self, key: &Q, change: impl FnOnce(&mut V) -> bool)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if self.get(key).is_none() {
            return;
        }
        let part = self.part_mut(key);
        if !part.get_mut(key).is_some_and(change) {
            part.remove(key);
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.parts().flat_map(|part| part.values())
    }

    pub(super) fn len(&self) -> usize {
        self.parts().map(|part| part.len()).sum()
    }

    fn parts(&self) -> impl Iterator<Item = &Part<K, V>> {
        self.spine.iter().flat_map(|node| node.iter())
    }

    fn part_mut<Q>(&mut self, key: &Q) -> &mut HashMap<K, V, RandomState>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (node, part) = self.place(key);
        let node = &mut Arc::make_mut(&mut self.spine)[node];
        Arc::make_mut(&mut Arc::make_mut(node)[part])
    }

    /// Where the part of a key is.
    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> (usize, usize) {
        let bits = usize::try_from(self.hasher.hash_one(key) >> 32).expect("32 bits fit");
        (bits % SPINE, bits / SPINE % SPINE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_copies_one_part_and_leaves_the_older_clone_as_it_was() {
        let mut map: Shards<u32, u32> = Shards::new();
        for key in 0..10_000 {
            map.insert(key, key);
        }
        let before = map.clone();
        map.insert(7, 70);
        map.remove(&8);
        assert_eq!((before.get(&7), before.get(&8)), (Some(&7), Some(&8)));
        assert_eq!((map.get(&7), map.get(&8)), (Some(&70), None));
        let copied = map.parts().zip(before.parts()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert!(copied <= 2, "{copied} parts were copied");
        assert_eq!((before.len(), map.len()), (10_000, 9_999));
    }

    #[test]
    fn removing_what_is_not_there_copies_nothing() {
        let mut map: Shards<u32, u32> = Shards::new();
        let before = map.clone();
        assert_eq!(map.remove(&1), None);
        assert!(Arc::ptr_eq(&map.spine, &before.spine));
    }
}
