//! A map in shared parts: a copy costs its spine, a change one part.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Parts of one map. With 100,000 keys a part has about 200 of them, so that a
/// change copies some kilobytes, whatever the size of the whole.
const PARTS: usize = 512;

type Part<K, V> = Arc<HashMap<K, V, RandomState>>;

/// A hash map whose clones share every part that neither of them changed.
#[derive(Clone)]
pub(super) struct Shards<K, V> {
    parts: Box<[Part<K, V>]>,
    hasher: RandomState,
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    pub(super) fn new() -> Self {
        let hasher = RandomState::new();
        // The parts begin as one and the same empty map.
        let empty = Arc::new(HashMap::with_hasher(hasher.clone()));
        Self { parts: vec![empty; PARTS].into_boxed_slice(), hasher }
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.parts[self.part_of(key)].get(key)
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
        self.parts.iter().flat_map(|part| part.values())
    }

    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    fn part_mut<Q>(&mut self, key: &Q) -> &mut HashMap<K, V, RandomState>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let at = self.part_of(key);
        Arc::make_mut(&mut self.parts[at])
    }

    fn part_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        usize::try_from(self.hasher.hash_one(key) >> 32).expect("32 bits fit") % PARTS
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
        let copied =
            map.parts.iter().zip(&before.parts).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert!(copied <= 2, "{copied} parts were copied");
        assert_eq!((before.len(), map.len()), (10_000, 9_999));
    }

    #[test]
    fn removing_what_is_not_there_copies_nothing() {
        let mut map: Shards<u32, u32> = Shards::new();
        let before = map.clone();
        assert_eq!(map.remove(&1), None);
        assert!(map.parts.iter().zip(&before.parts).all(|(a, b)| Arc::ptr_eq(a, b)));
    }
}
