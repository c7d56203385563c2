//! What to ask the server for, and when.
//!
//! [`EntrySync`] is one run of `SyncAuthorizedEntries`: the server answers
//! either with every entry, or, when there are many, with pages of revisions
//! from which the agent asks for those that it lacks. [`SyncSchedule`] spaces
//! the runs; [`BatchSize`] sizes the signing requests.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use steeple_runtime::backoff::Backoff;

use crate::entry::{Entry, EntryId};

/// The difference between two states of what the agent is authorised for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EntryDelta {
    /// New entries, and known ones that differ.
    pub upserted: Vec<Entry>,
    /// Entries that are gone.
    pub removed: Vec<EntryId>,
}

impl EntryDelta {
    /// The delta from what is known to a complete list.
    pub fn between(known: &KnownEntries, complete: Vec<Entry>) -> Self {
        let seen: HashSet<EntryId> = complete.iter().map(|entry| entry.id.clone()).collect();
        Self {
            upserted: complete.into_iter().filter(|entry| known.differs(entry)).collect(),
            removed: known.0.keys().filter(|id| !seen.contains(*id)).cloned().collect(),
        }
    }
}

/// The revision and creation time of every entry that the agent holds.
#[derive(Debug, Default, Clone)]
pub struct KnownEntries(HashMap<EntryId, Stamp>, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    revision: i64,
    created_at: i64,
}

impl Stamp {
    /// A server that does not tell when an entry was created says 0.
    fn matches(self, revision: i64, created_at: i64) -> bool {
        self.revision == revision && (created_at == 0 || self.created_at == created_at)
    }
}

impl KnownEntries {
    /// Whether this one is among them.
    pub fn contains(&self, id: &EntryId) -> bool {
        self.0.contains_key(id)
    }

    /// Records that the cache now holds what `delta` says.
    pub fn apply(&mut self, delta: &EntryDelta) {
        self.1 += u64::from(!delta.removed.is_empty() || !delta.upserted.is_empty());
        for id in &delta.removed {
            self.0.remove(id);
        }
        for entry in &delta.upserted {
            let stamp = Stamp { revision: entry.revision, created_at: entry.created_at };
            self.0.insert(entry.id.clone(), stamp);
        }
    }

    /// Counts the changes.
    pub fn changes(&self) -> u64 {
        self.1
    }

    /// How many entries are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn differs(&self, entry: &Entry) -> bool {
        !self.has(&entry.id, entry.revision, entry.created_at)
    }

    fn has(&self, id: &str, revision: i64, created_at: i64) -> bool {
        self.0.get(id).is_some_and(|stamp| stamp.matches(revision, created_at))
    }
}

/// An entry in the short form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRevision {
    /// The entry.
    pub id: String,
    /// Its revision on the server.
    pub revision: i64,
    /// Seconds since the epoch; 0 when the server does not say.
    pub created_at: i64,
}

/// One response of the exchange.
#[derive(Debug, Default)]
pub struct SyncPage {
    /// Entries in full.
    pub entries: Vec<Entry>,
    /// Entries in short form.
    pub revisions: Vec<EntryRevision>,
    /// Whether another response follows without being asked for.
    pub more: bool,
}

/// What the exchange needs next.
#[derive(Debug, PartialEq, Eq)]
pub enum SyncStep {
    /// Read one more response.
    Receive,
    /// Send a request for these entries, then read.
    Request(Vec<String>),
    /// Nothing: this is what changed.
    Done(EntryDelta),
}

/// The server answered what was not asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// Full entries among the pages of revisions.
    #[error("unexpected entry in response receiving entry revisions")]
    UnexpectedEntries,
    /// Revisions among the full entries that were asked for.
    #[error("unexpected entry revisions in response while requesting entries")]
    UnexpectedRevisions,
}

/// One run of the exchange; feed it each response.
pub struct EntrySync<'k> {
    known: &'k KnownEntries,
    unseen: HashSet<EntryId>,
    upserted: Vec<Entry>,
    phase: Phase,
}

enum Phase {
    First,
    Revisions { needed: Vec<String>, page_size: usize },
    Full { needed: std::vec::IntoIter<String>, page_size: usize },
}

impl<'k> EntrySync<'k> {
    /// A run that starts from what is known.
    pub fn new(known: &'k KnownEntries) -> Self {
        Self {
            known,
            unseen: known.0.keys().cloned().collect(),
            upserted: Vec::new(),
            phase: Phase::First,
        }
    }

    /// Takes in one response.
    pub fn on_page(&mut self, page: SyncPage) -> Result<SyncStep, SyncError> {
        match std::mem::replace(&mut self.phase, Phase::First) {
            Phase::First if page.revisions.is_empty() => {
                self.take_entries(page.entries);
                Ok(self.done())
            }
            Phase::First => {
                let page_size = page.revisions.len();
                self.on_revisions(page, Vec::new(), page_size)
            }
            Phase::Revisions { .. } if !page.entries.is_empty() => {
                Err(SyncError::UnexpectedEntries)
            }
            Phase::Revisions { needed, page_size } => self.on_revisions(page, needed, page_size),
            Phase::Full { .. } if !page.revisions.is_empty() => Err(SyncError::UnexpectedRevisions),
            Phase::Full { needed, page_size } => {
                self.take_entries(page.entries);
                if page.more {
                    self.phase = Phase::Full { needed, page_size };
                    return Ok(SyncStep::Receive);
                }
                Ok(self.request(needed, page_size))
            }
        }
    }

    fn on_revisions(
        &mut self,
        page: SyncPage,
        mut needed: Vec<String>,
        page_size: usize,
    ) -> Result<SyncStep, SyncError> {
        for entry in page.revisions {
            self.unseen.remove(entry.id.as_str());
            if !self.known.has(&entry.id, entry.revision, entry.created_at) {
                needed.push(entry.id);
            }
        }
        if page.more {
            self.phase = Phase::Revisions { needed, page_size };
            return Ok(SyncStep::Receive);
        }
        needed.sort_unstable();
        needed.dedup();
        Ok(self.request(needed.into_iter(), page_size))
    }

    fn request(&mut self, mut needed: std::vec::IntoIter<String>, page_size: usize) -> SyncStep {
        let ids: Vec<String> = needed.by_ref().take(page_size).collect();
        if ids.is_empty() {
            return self.done();
        }
        self.phase = Phase::Full { needed, page_size };
        SyncStep::Request(ids)
    }

    fn take_entries(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.unseen.remove(&entry.id);
            if self.known.differs(&entry) {
                self.upserted.push(entry);
            }
        }
    }

    fn done(&mut self) -> SyncStep {
        SyncStep::Done(EntryDelta {
            upserted: std::mem::take(&mut self.upserted),
            removed: std::mem::take(&mut self.unseen).into_iter().collect(),
        })
    }
}

/// The pauses between syncs: the interval, growing by half with each failure.
pub struct SyncSchedule {
    backoff: Backoff,
}

impl SyncSchedule {
    /// Syncs about every `interval`; after failures at most eight minutes, or
    /// 48 intervals, apart.
    pub fn new(interval: Duration) -> Self {
        let max = (interval * 48).min(Duration::from_secs(8 * 60));
        Self { backoff: Backoff::new(interval, max.max(interval)) }
    }

    /// Has agents that lost their servers together drift apart.
    #[must_use]
    pub fn drifting(self, seed: u64) -> Self {
        Self { backoff: self.backoff.drifting(seed) }
    }

    /// The pause after the first sync, which succeeded.
    pub fn first(&mut self) -> Duration {
        self.backoff.next().min(DEFAULT_INTERVAL)
    }

    /// The pause after a sync that succeeded; short while no SVID is held.
    pub fn succeeded(&mut self, svids_held: usize) -> Duration {
        self.backoff.reset();
        let pause = self.backoff.next();
        if svids_held == 0 { pause.min(DEFAULT_INTERVAL) } else { pause }
    }

    /// The clock jumped: what failed before it says nothing about now.
    pub fn jolted(&mut self) {
        self.backoff.reset();
    }

    /// The pause after a sync that failed.
    pub fn failed(&mut self) -> Duration {
        self.backoff.next()
    }
}

/// How many SVIDs to ask for at once: halved when a request fails, doubled
/// when one succeeds.
#[derive(Debug)]
pub struct BatchSize(usize);

impl BatchSize {
    /// Starts at the most the server takes.
    pub fn new() -> Self {
        Self(Self::MAX)
    }

    /// The current size.
    pub fn size(&self) -> usize {
        self.0
    }

    /// A request of this size was answered.
    pub fn succeeded(&mut self) {
        self.0 = (self.0 * 2).min(Self::MAX);
    }

    /// A request for `attempted` SVIDs failed.
    pub fn failed(&mut self, attempted: usize) {
        self.0 = (self.0.min(attempted) / 2).max(1);
    }

    /// The server's limit per request.
    pub const MAX: usize = 500;
}

impl Default for BatchSize {
    fn default() -> Self {
        Self::new()
    }
}

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::entry;

    fn at(id: &str, revision: i64) -> Entry {
        Entry { revision, ..entry(id, &["uid:1"]) }
    }

    fn knowing(entries: &[Entry]) -> KnownEntries {
        let mut known = KnownEntries::default();
        known.apply(&EntryDelta { upserted: entries.to_vec(), removed: Vec::new() });
        known
    }

    fn revision(entry: &Entry) -> EntryRevision {
        let (revision, created_at) = (entry.revision, entry.created_at);
        EntryRevision { id: entry.id.to_string(), revision, created_at }
    }

    fn ids(delta: &EntryDelta) -> (Vec<String>, Vec<String>) {
        let mut removed: Vec<String> = delta.removed.iter().map(ToString::to_string).collect();
        removed.sort();
        (delta.upserted.iter().map(|entry| entry.id.to_string()).collect(), removed)
    }

    fn done(step: SyncStep) -> EntryDelta {
        match step {
            SyncStep::Done(delta) => delta,
            other => panic!("not done: {other:?}"),
        }
    }

    #[test]
    fn a_full_answer_is_the_whole_truth() {
        let known = knowing(&[at("a", 1), at("b", 1), at("c", 1)]);
        let mut sync = EntrySync::new(&known);
        let page =
            SyncPage { entries: vec![at("a", 1), at("b", 2), at("d", 1)], ..Default::default() };
        let delta = done(sync.on_page(page).unwrap());
        assert_eq!(ids(&delta), (vec!["b".into(), "d".into()], vec!["c".into()]));
    }

    #[test]
    fn an_empty_answer_takes_everything_away() {
        let known = knowing(&[at("a", 1)]);
        let delta = done(EntrySync::new(&known).on_page(SyncPage::default()).unwrap());
        assert_eq!(ids(&delta), (vec![], vec!["a".into()]));
    }

    #[test]
    fn of_many_revisions_only_the_unknown_are_asked_for_page_by_page() {
        let known = knowing(&[at("a", 1), at("gone", 1)]);
        let (b, c, d) = (at("b", 1), at("c", 1), at("d", 1));
        let mut sync = EntrySync::new(&known);
        let first = SyncPage {
            revisions: vec![revision(&d), revision(&at("a", 1))],
            more: true,
            ..Default::default()
        };
        assert_eq!(sync.on_page(first), Ok(SyncStep::Receive));
        let second = SyncPage { revisions: vec![revision(&c), revision(&b)], ..Default::default() };
        assert_eq!(sync.on_page(second), Ok(SyncStep::Request(vec!["b".into(), "c".into()])));
        let part = SyncPage { entries: vec![b], more: true, ..Default::default() };
        assert_eq!(sync.on_page(part), Ok(SyncStep::Receive));
        let rest = SyncPage { entries: vec![c], ..Default::default() };
        assert_eq!(sync.on_page(rest), Ok(SyncStep::Request(vec!["d".into()])));
        let delta =
            done(sync.on_page(SyncPage { entries: vec![d], ..Default::default() }).unwrap());
        assert_eq!(ids(&delta), (vec!["b".into(), "c".into(), "d".into()], vec!["gone".into()]));
    }

    #[test]
    fn an_entry_made_anew_with_the_same_revision_is_asked_for() {
        let known = knowing(&[at("a", 1)]);
        let anew = EntryRevision { created_at: 200, ..revision(&at("a", 1)) };
        let silent = EntryRevision { created_at: 0, ..revision(&at("a", 1)) };
        let ask = |revisions| {
            EntrySync::new(&known).on_page(SyncPage { revisions, ..Default::default() })
        };
        assert_eq!(ask(vec![anew]), Ok(SyncStep::Request(vec!["a".into()])));
        assert_eq!(ask(vec![silent]), Ok(SyncStep::Done(EntryDelta::default())));
    }

    #[test]
    fn answers_to_other_questions_are_refused() {
        let known = KnownEntries::default();
        let revisions = || vec![revision(&at("a", 1))];
        let mut sync = EntrySync::new(&known);
        sync.on_page(SyncPage { revisions: revisions(), more: true, ..Default::default() })
            .unwrap();
        let page = SyncPage { entries: vec![at("a", 1)], ..Default::default() };
        assert_eq!(sync.on_page(page), Err(SyncError::UnexpectedEntries));
        let mut sync = EntrySync::new(&known);
        sync.on_page(SyncPage { revisions: revisions(), ..Default::default() }).unwrap();
        let page = SyncPage { revisions: revisions(), ..Default::default() };
        assert_eq!(sync.on_page(page), Err(SyncError::UnexpectedRevisions));
    }

    #[test]
    fn syncs_stay_brisk_until_an_svid_is_held() {
        let mut schedule = SyncSchedule::new(Duration::from_secs(60));
        assert!(schedule.first() <= Duration::from_secs(5));
        assert!(schedule.succeeded(0) <= Duration::from_secs(5));
        assert!(schedule.succeeded(1) >= Duration::from_secs(54));
    }

    #[test]
    fn failures_stretch_the_pause_to_eight_minutes_and_success_ends_that() {
        let mut schedule = SyncSchedule::new(Duration::from_secs(20));
        let longest = (0..40).map(|_| schedule.failed()).max().unwrap();
        assert!(longest > Duration::from_secs(400) && longest <= Duration::from_secs(528));
        assert!(schedule.succeeded(1) <= Duration::from_secs(22));
    }

    #[test]
    fn batches_shrink_on_failure_and_recover() {
        let mut batch = BatchSize::new();
        assert_eq!(batch.size(), 500);
        batch.failed(500);
        assert_eq!(batch.size(), 250);
        batch.failed(10);
        assert_eq!(batch.size(), 5, "what was asked for was too much already");
        (0..20).for_each(|_| batch.failed(500));
        assert_eq!(batch.size(), 1);
        (0..20).for_each(|_| batch.succeeded());
        assert_eq!(batch.size(), 500);
    }

    proptest! {
        /// However the server pages, the agent ends with what the server has.
        #[test]
        fn every_paging_leads_to_the_same_state(
            old in proptest::collection::btree_map("[a-f]", 0i64..3, 0..6),
            new in proptest::collection::btree_map("[a-f]", 0i64..3, 1..6),
            page_size in 1usize..4,
        ) {
            let entries = |map: &std::collections::BTreeMap<String, i64>| -> Vec<Entry> {
                map.iter().map(|(id, revision)| at(id, *revision)).collect()
            };
            let (old, new) = (entries(&old), entries(&new));
            let mut known = knowing(&old);
            let expected = EntryDelta::between(&known, new.clone());
            let mut sync = EntrySync::new(&known);
            let mut pages = new.chunks(page_size).peekable();
            let mut answer = std::collections::VecDeque::new();
            while let Some(page) = pages.next() {
                let revisions = page.iter().map(revision).collect();
                answer.push_back(SyncPage { revisions, more: pages.peek().is_some(), ..Default::default() });
            }
            let delta = loop {
                match sync.on_page(answer.pop_front().unwrap()).unwrap() {
                    SyncStep::Receive => {}
                    SyncStep::Request(wanted) => {
                        prop_assert!(wanted.len() <= page_size);
                        let entries = new.iter().filter(|e| wanted.iter().any(|id| **id == *e.id)).cloned().collect();
                        answer.push_back(SyncPage { entries, ..Default::default() });
                    }
                    SyncStep::Done(delta) => break delta,
                }
            };
            prop_assert_eq!(ids(&delta), ids(&expected));
            known.apply(&delta);
            prop_assert_eq!(known.len(), new.len());
        }
    }
}
