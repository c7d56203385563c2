//! What an operator is told about a set of selectors: which entries match,
//! which nearly do, and how the agent last heard from its server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use steeple_spiffe::{Selector, TrustDomain};

use crate::cache::Identity;
use crate::entry::{Entry, EntryId};
use crate::selectors::SelectorSet;
use crate::sync::EntryDelta;

/// What the cache knows about a set of selectors.
#[derive(Default)]
pub struct Examination {
    /// Entries that match, in ascending order of entry ID.
    pub matched: Vec<Matched>,
    /// Entries that nearly match, the nearest first.
    pub missed: Vec<Missed>,
}

/// An entry that matches.
pub struct Matched {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Its SVID, if it is there.
    pub identity: Option<Arc<Identity>>,
    /// How often in a row the server would not sign it.
    pub failures: u32,
    /// When it is asked for again, if it was refused.
    pub retry_at: SystemTime,
    /// Trust domains that it federates with and whose bundles are not here.
    pub missing_bundles: Vec<TrustDomain>,
}

/// An entry that nearly matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The entry.
    pub entry: Arc<Entry>,
    /// What it wants and the caller does not show: one or two.
    pub missing: Vec<Selector>,
    /// What the caller shows of the same kinds (`unix:uid:…`) instead.
    pub instead: Vec<Selector>,
}

impl Missed {
    /// How `entry` misses `shown`; `None` when it matches, or is far from it:
    /// it lacks more than two selectors, or nothing at all speaks for it.
    pub fn of(entry: &Arc<Entry>, shown: &SelectorSet) -> Option<Self> {
        let missing: Vec<Selector> =
            entry.selectors.iter().filter(|wanted| !shown.has(wanted)).cloned().collect();
        if missing.is_empty() || missing.len() > FAR {
            return None;
        }
        let instead: Vec<Selector> = shown
            .iter()
            .filter(|have| missing.iter().any(|wanted| kind(wanted) == kind(have)))
            .take(MAX_INSTEAD)
            .cloned()
            .collect();
        let shares = missing.len() < entry.selectors.len();
        let of_the_kind = |wanted: &Selector| instead.iter().any(|have| kind(have) == kind(wanted));
        if !shares && !missing.iter().all(of_the_kind) {
            return None;
        }
        Some(Self { entry: Arc::clone(entry), missing, instead })
    }

    /// The nearest first, at most `limit`.
    pub fn nearest(missed: impl IntoIterator<Item = Self>, limit: usize) -> Vec<Self> {
        let mut missed: Vec<Self> = missed.into_iter().collect();
        let rank = |it: &Self| {
            let shared = it.entry.selectors.len() - it.missing.len();
            (it.missing.len(), std::cmp::Reverse(shared), it.entry.id.clone())
        };
        missed.sort_by_key(rank);
        missed.truncate(limit);
        missed
    }
}

/// What a selector is about: its attestor and the name before the value's first colon.
fn kind(selector: &Selector) -> (&str, &str) {
    let name = selector.value.split_once(':').map_or("", |(name, _)| name);
    (&selector.kind, name)
}

/// How the agent last heard from its server. The loops write it, an operator reads it.
#[derive(Default)]
pub struct SyncBook(Mutex<SyncNotes>);

/// One look into the book.
#[derive(Clone, Debug, Default)]
pub struct SyncNotes {
    /// When a sync last succeeded in this run.
    pub last_success: Option<SystemTime>,
    /// When it failed since, and why.
    pub last_failure: Option<(SystemTime, String)>,
    /// Whether the server tells of changes.
    pub push: bool,
    /// Entries whose SVIDs go to SVID stores.
    pub stored: HashMap<EntryId, Arc<Entry>>,
}

impl SyncBook {
    /// A sync brought this.
    pub fn learned(&self, delta: &EntryDelta) {
        let mut notes = self.lock();
        for id in &delta.removed {
            notes.stored.remove(id);
        }
        for entry in &delta.upserted {
            if entry.store_svid {
                notes.stored.insert(entry.id.clone(), Arc::new(entry.clone()));
            } else {
                notes.stored.remove(&entry.id);
            }
        }
    }

    /// A sync ended.
    pub fn ended<E: ToString>(&self, outcome: Result<(), E>, now: SystemTime) {
        let mut notes = self.lock();
        match outcome {
            Ok(()) => {
                notes.last_success = Some(now);
                notes.last_failure = None;
            }
            Err(error) => notes.last_failure = Some((now, error.to_string())),
        }
    }

    /// Whether the server tells of changes from now on.
    pub fn pushed(&self, push: bool) {
        self.lock().push = push;
    }

    /// What is written.
    pub fn read(&self) -> SyncNotes {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, SyncNotes> {
        self.0.lock().expect("no code panics while it holds the book")
    }
}

/// From here on, an entry is not nearly the caller's.
const FAR: usize = 2;
const MAX_INSTEAD: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;

    fn shown(values: &[&str]) -> SelectorSet {
        values.iter().map(|value| Selector::new("unix", value)).collect()
    }

    fn missed(wanted: &[&str], has: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
        let texts = |list: Vec<Selector>| list.iter().map(ToString::to_string).collect();
        let missed = Missed::of(&Arc::new(entry("e", wanted)), &shown(has))?;
        Some((texts(missed.missing), texts(missed.instead)))
    }

    #[test]
    fn an_entry_is_near_when_little_is_missing_and_something_speaks_for_it() {
        let texts = |list: &[&str]| list.iter().map(|it| format!("unix:{it}")).collect::<Vec<_>>();
        assert_eq!(missed(&["uid:1"], &["uid:1"]), None, "it matches");
        assert_eq!(
            missed(&["uid:1", "user:a"], &["uid:1", "gid:5"]),
            Some((texts(&["user:a"]), vec![]))
        );
        assert_eq!(missed(&["uid:1"], &["uid:2"]), Some((texts(&["uid:1"]), texts(&["uid:2"]))));
        assert_eq!(missed(&["path:/bin/x"], &["uid:2"]), None, "nothing speaks for it");
        assert_eq!(
            missed(&["a:1", "b:1", "c:1", "uid:1"], &["uid:1"]),
            None,
            "too much is missing"
        );
    }

    #[test]
    fn the_nearest_come_first() {
        let has = shown(&["uid:1", "gid:1", "user:a"]);
        let near = |id: &str, wanted: &[&str]| Missed::of(&Arc::new(entry(id, wanted)), &has);
        let found = [
            near("two", &["uid:1", "x:1", "y:1"]),
            near("one", &["uid:1", "x:1"]),
            near("shares-more", &["uid:1", "gid:1", "x:1"]),
        ];
        let ids: Vec<String> = Missed::nearest(found.into_iter().flatten(), 2)
            .iter()
            .map(|it| it.entry.id.to_string())
            .collect();
        assert_eq!(ids, ["shares-more", "one"]);
    }

    #[test]
    fn the_book_forgets_a_failure_with_the_next_success() {
        let book = SyncBook::default();
        let at = SystemTime::UNIX_EPOCH;
        book.ended(Err("away"), at);
        assert_eq!(book.read().last_failure, Some((at, "away".to_owned())));
        book.ended(Ok::<(), String>(()), at);
        let notes = book.read();
        assert_eq!((notes.last_success, notes.last_failure), (Some(at), None));
    }
}
