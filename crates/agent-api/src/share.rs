//! What each user may hold of something at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Counts by user, none beyond the limit.
#[derive(Clone)]
pub(crate) struct Shares {
    held: Arc<Mutex<HashMap<u32, usize>>>,
    per_user: usize,
}

impl Shares {
    pub(crate) fn new(per_user: usize) -> Self {
        Self { held: Arc::default(), per_user }
    }

    /// One more for this user, until it is dropped; `None` beyond the limit.
    pub(crate) fn take(&self, uid: u32) -> Option<Share> {
        let mut counts = lock(&self.held);
        let count = counts.entry(uid).or_default();
        if *count >= self.per_user {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Share { held: self.held.clone(), uid })
    }
}

/// One of what a user holds; given back when it is dropped.
pub(crate) struct Share {
    held: Arc<Mutex<HashMap<u32, usize>>>,
    uid: u32,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = lock(&self.held);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// A number of things that may be held in all.
#[derive(Clone)]
pub(crate) struct Budget {
    held: Arc<AtomicUsize>,
    most: usize,
}

impl Budget {
    pub(crate) fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// So many more, until they are dropped; `None` beyond the budget.
    pub(crate) fn take(&self, count: usize) -> Option<Held> {
        let more = |held: usize| held.checked_add(count).filter(|held| *held <= self.most);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Held { held: self.held.clone(), count })
    }
}

/// A part of a budget; given back when it is dropped.
#[derive(Default)]
pub(crate) struct Held {
    held: Arc<AtomicUsize>,
    count: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(self.count, Ordering::Relaxed);
    }
}

fn lock(held: &Mutex<HashMap<u32, usize>>) -> MutexGuard<'_, HashMap<u32, usize>> {
    held.lock().expect("no code panics while it holds the counts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_its_own_share_and_gives_it_back() {
        let shares = Shares::new(2);
        let held: Vec<_> = (0..2).map(|_| shares.take(7).unwrap()).collect();
        assert!(shares.take(7).is_none());
        assert!(shares.take(8).is_some());
        drop(held);
        assert!(shares.take(7).is_some());
        assert!(lock(&shares.held).is_empty());
    }

    #[test]
    fn a_budget_is_spent_and_comes_back() {
        let budget = Budget::new(10);
        let held = budget.take(7).unwrap();
        assert!(budget.take(4).is_none());
        assert!(budget.take(usize::MAX).is_none());
        assert!(budget.take(3).is_some());
        drop(held);
        assert!(budget.take(10).is_some());
    }
}
