//! One value for each of many keys, for as long as somebody holds it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Values that all who name the same key share: made for the first, gone with the last. What it
/// keeps is in proportion to what is held.
#[derive(Debug)]
pub struct PerKey<K, V>(Mutex<Values<K, V>>);

#[derive(Debug)]
struct Values<K, V> {
    by_key: HashMap<K, Weak<V>>,
    /// The size at which those that have gone are looked for.
    sweep_at: usize,
}

impl<K, V> Default for PerKey<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Values { by_key: HashMap::new(), sweep_at: 0 }))
    }
}

impl<K: Clone + Eq + Hash, V> PerKey<K, V> {
    /// The value of a key: the one that is held, or a new one.
    pub fn get(&self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = values.by_key.get(key).and_then(Weak::upgrade) {
            return value;
        }
        if values.by_key.len() >= values.sweep_at {
            values.by_key.retain(|_, value| value.strong_count() > 0);
            values.sweep_at = 2 * values.by_key.len() + 64;
        }
        let value = Arc::new(make());
        values.by_key.insert(key.clone(), Arc::downgrade(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_the_same_key_while_it_is_held_gets_the_same_value() {
        let values: PerKey<&str, u32> = PerKey::default();
        let first = values.get(&"a", || 1);
        assert!(Arc::ptr_eq(&first, &values.get(&"a", || 2)));
        assert_eq!(*values.get(&"b", || 3), 3);
        drop(first);
        assert_eq!(*values.get(&"a", || 4), 4);
    }

    #[test]
    fn what_nobody_holds_is_forgotten_and_what_somebody_does_is_not() {
        let values = PerKey::default();
        let held: Vec<Arc<u32>> = (0..100).map(|key| values.get(&key, || key)).collect();
        for key in 100..10_000 {
            values.get(&key, || key);
        }
        assert!(values.0.lock().unwrap().by_key.len() <= 2 * held.len() + 64);
        for (key, value) in (0..).zip(&held) {
            assert!(Arc::ptr_eq(value, &values.get(&key, || 0)));
        }
    }
}
