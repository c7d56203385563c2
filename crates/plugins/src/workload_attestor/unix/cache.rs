//! A small map that forgets what was used longest ago.

use std::collections::HashMap;
use std::hash::Hash;

pub(super) struct Cache<K, V> {
    entries: HashMap<K, (V, u64)>,
    capacity: usize,
    uses: u64,
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity, uses: 0 }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        self.uses += 1;
        let (value, last_use) = self.entries.get_mut(key)?;
        *last_use = self.uses;
        Some(value)
    }

    /// Looks at all entries when it is full, which is cheap beside what is kept here.
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.uses += 1;
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            let oldest = self.entries.iter().min_by_key(|(_, (_, last_use))| *last_use);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&key);
            }
        }
        self.entries.insert(key, (value, self.uses));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_forgets_what_was_used_longest_ago() {
        let mut cache = Cache::new(2);
        cache.insert("a", 1);
        cache.insert("b", 2);
        assert_eq!(cache.get(&"a"), Some(&1));
        cache.insert("c", 3);
        assert_eq!(cache.get(&"b"), None);
        assert_eq!(cache.get(&"a"), Some(&1));
        assert_eq!(cache.len(), 2);
        cache.insert("a", 4);
        assert_eq!((cache.get(&"a").copied(), cache.get(&"c").copied()), (Some(4), Some(3)));
    }
}
