//! Entries whose SVIDs go to an SVID store, and what each store has still to be told.
//!
//! An entry's record counts revisions: its own changes, its SVID's, and those of the bundles that
//! go with it. What was stored carries the revision that it was stored at; the difference is work
//! ([`StoreCache::jobs`]). Nothing here is ever served to a workload. As in the identity cache,
//! nothing is signed here: [`StoreCache::wanted`] says what is, [`StoreCache::install`] takes it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use steeple_spiffe::TrustDomain;
use tokio::sync::Notify;
use tracing::{debug, error};

use crate::bundle::{Bundles, CachedBundle, replace};
use crate::cache::{SignedSvid, SigningRequest};
use crate::entry::{Entry, EntryId};
use crate::sync::EntryDelta;

#[cfg(test)]
mod tests;

/// What shared code holds: every method takes a short lock and never awaits.
pub struct StoreCache {
    state: Mutex<State>,
    signing: Notify,
    storing: Notify,
}

/// What is to be done about one entry.
#[derive(Clone)]
pub struct Job {
    /// The entry.
    pub id: EntryId,
    /// What this brings the store up to.
    pub revision: u64,
    /// The entry as it was when something was stored for it at a place where it belongs no more.
    pub clear: Vec<Arc<Entry>>,
    /// What is to be stored, if anything.
    pub put: Option<Put>,
}

/// An SVID with what goes with it.
#[derive(Clone)]
pub struct Put {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Its SVID.
    pub svid: Arc<SignedSvid>,
    /// The own trust domain's bundle.
    pub bundle: Arc<CachedBundle>,
    /// Those that the entry federates with, as far as they are known; never the own one.
    pub federated: Vec<Arc<CachedBundle>>,
}

struct State {
    own: TrustDomain,
    bundles: Bundles,
    records: HashMap<EntryId, Record>,
}

struct Record {
    /// None once the entry is gone and its SVID is still to be taken from the store.
    entry: Option<Arc<Entry>>,
    svid: Option<Arc<SignedSvid>>,
    /// The SVID is one of an earlier form of the entry.
    outdated: bool,
    revision: u64,
    handled: u64,
    /// What is in the store, as far as we know.
    stored: Option<Arc<Entry>>,
    /// What may be in the store elsewhere.
    leftovers: Vec<Arc<Entry>>,
    failures: u32,
    retry_at: SystemTime,
}

impl StoreCache {
    /// Without entries, with the own trust domain's bundle.
    pub fn new(own_bundle: Arc<CachedBundle>) -> Self {
        let own = own_bundle.trust_domain().clone();
        let bundles = HashMap::from([(own.clone(), own_bundle)]);
        let state = State { own, bundles, records: HashMap::new() };
        Self { state: Mutex::new(state), signing: Notify::new(), storing: Notify::new() }
    }

    /// Takes in what a sync brought: entries for stores, and entry IDs that are none (any more).
    pub fn apply(&self, delta: EntryDelta, bundles: Bundles) {
        let mut state = self.lock();
        let own = state.own.clone();
        let changed = replace(&mut state.bundles, bundles, &own, CACHE);
        for id in delta.removed {
            state.remove(&id);
        }
        for entry in delta.upserted {
            state.upsert(entry);
        }
        state.touch(&changed);
        drop(state);
        self.signing.notify_one();
        self.storing.notify_one();
    }

    /// Up to `limit` entries to sign now, renewals that are most urgent first.
    pub fn wanted(&self, limit: usize, now: SystemTime) -> Vec<SigningRequest> {
        let state = self.lock();
        let mut stale: Vec<(&Arc<Entry>, Option<SystemTime>)> =
            state.records.values().filter_map(|it| it.wants_svid(now)).collect();
        stale.sort_by(|a, b| (a.1, &a.0.id).cmp(&(b.1, &b.0.id)));
        stale
            .into_iter()
            .take(limit)
            .map(|(entry, current_expires_at)| SigningRequest {
                entry: entry.clone(),
                current_expires_at,
            })
            .collect()
    }

    /// How many entries are waiting to be signed.
    pub fn backlog(&self, now: SystemTime) -> usize {
        self.lock().records.values().filter(|it| it.wants_svid(now).is_some()).count()
    }

    /// Takes in signed SVIDs for entries asked for by [`Self::wanted`].
    pub fn install(&self, signed: Vec<(Arc<Entry>, SignedSvid)>) {
        let mut state = self.lock();
        for (asked, svid) in signed {
            let Some(record) = state.records.get_mut(&asked.id) else {
                error!(subsystem_name = CACHE, entry_id = %asked.id, "Entry not found");
                continue;
            };
            let Some(entry) = &record.entry else { continue };
            debug!(subsystem_name = CACHE, entry = %entry.id, spiffe_id = %entry.spiffe_id, "SVID updated");
            record.outdated = **entry != *asked;
            record.svid = Some(Arc::new(svid));
            record.revision += 1;
            record.failures = 0;
        }
        drop(state);
        self.storing.notify_one();
    }

    /// The server would not sign these; each is asked for again later.
    pub fn refused(&self, entries: &[EntryId], now: SystemTime) {
        let mut state = self.lock();
        for id in entries {
            if let Some(record) = state.records.get_mut(id) {
                let patience = FIRST_RETRY.saturating_mul(1 << record.failures.min(16));
                record.failures += 1;
                record.retry_at = now + patience.min(LAST_RETRY);
            }
        }
    }

    /// SVIDs that `condemns` names are signed anew, and not stored until then. Gives how many.
    pub fn discard(&self, condemns: impl Fn(&SignedSvid) -> bool) -> usize {
        let mut state = self.lock();
        let mut discarded = 0;
        for record in state.records.values_mut() {
            if record.svid.as_ref().is_some_and(|svid| condemns(svid)) {
                record.svid = None;
                discarded += 1;
            }
        }
        drop(state);
        self.signing.notify_one();
        discarded
    }

    /// Completes when an SVID is wanted.
    pub async fn signing_needed(&self) {
        self.signing.notified().await;
    }

    /// Completes when there is something new to store.
    pub async fn storing_needed(&self) {
        self.storing.notified().await;
    }

    /// When [`Self::wanted`] has something to say by itself.
    pub fn next_deadline(&self) -> Option<SystemTime> {
        self.lock().records.values().filter_map(Record::next_deadline).min()
    }

    /// What is to be stored and taken away now, by entry ID.
    pub fn jobs(&self) -> Vec<Job> {
        let state = self.lock();
        let mut jobs: Vec<Job> = state.records.iter().filter_map(|it| state.job(it)).collect();
        jobs.sort_by(|a, b| a.id.cmp(&b.id));
        jobs
    }

    /// What was stored for `entry` is in its store no more.
    pub fn cleared(&self, id: &EntryId, entry: &Arc<Entry>) {
        let mut state = self.lock();
        let Some(record) = state.records.get_mut(id) else { return };
        record.leftovers.retain(|it| !Arc::ptr_eq(it, entry));
        if record.entry.is_none() && record.leftovers.is_empty() {
            state.records.remove(id);
            debug!(subsystem_name = CACHE, entry = %id, spiffe_id = %entry.spiffe_id, "Entry removed");
        }
    }

    /// A job's SVID was stored.
    pub fn stored(&self, id: &EntryId, put: &Put, revision: u64) {
        let mut state = self.lock();
        let Some(record) = state.records.get_mut(id) else { return };
        record.handled = revision;
        record.stored = Some(put.entry.clone());
        let gone = match &record.entry {
            // Removed, or moved, while it was being stored.
            None => true,
            Some(entry) => entry.selectors != put.entry.selectors,
        };
        let known = record.leftovers.iter().any(|it| it.selectors == put.entry.selectors);
        if gone && !known {
            record.leftovers.push(put.entry.clone());
        }
    }

    /// How many entries are known, for the operator.
    pub fn count(&self) -> usize {
        self.lock().records.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the store cache")
    }
}

impl State {
    fn remove(&mut self, id: &EntryId) {
        let Some(record) = self.records.get_mut(id) else { return };
        let Some(entry) = record.entry.take() else { return };
        debug!(subsystem_name = CACHE, entry = %id, spiffe_id = %entry.spiffe_id, "Entry marked to be removed");
        record.svid = None;
        record.revision += 1;
        // Also if it was never stored: half of a failed attempt may be there.
        let last = record.stored.take().filter(|stored| stored.selectors != entry.selectors);
        record.leftovers.extend(last);
        record.leftovers.push(entry);
    }

    fn upsert(&mut self, entry: Entry) {
        let entry = Arc::new(entry);
        let (id, spiffe_id) = (entry.id.clone(), entry.spiffe_id.clone());
        let Some(record) = self.records.get_mut(&id) else {
            debug!(subsystem_name = CACHE, entry = %id, %spiffe_id, "Entry created");
            self.records.insert(id, Record::new(entry));
            return;
        };
        debug!(subsystem_name = CACHE, entry = %id, %spiffe_id, "Entry updated");
        if let Some(stored) = record.stored.take_if(|stored| stored.selectors != entry.selectors) {
            record.leftovers.push(stored);
        }
        // Come back before it was taken away, or moved back.
        record.leftovers.retain(|it| it.selectors != entry.selectors);
        record.entry = Some(entry);
        record.outdated = true;
        record.revision += 1;
        record.failures = 0;
        record.retry_at = SystemTime::UNIX_EPOCH;
    }

    /// The entries that show one of these bundles are to be stored anew.
    fn touch(&mut self, changed: &HashSet<TrustDomain>) {
        let all = changed.contains(&self.own);
        for record in self.records.values_mut() {
            let Some(entry) = &record.entry else { continue };
            if all || entry.federates_with.iter().any(|domain| changed.contains(domain)) {
                record.revision += 1;
            }
        }
    }

    fn job(&self, (id, record): (&EntryId, &Record)) -> Option<Job> {
        let put = record.entry.as_ref().zip(record.svid.as_ref());
        let put = put.filter(|_| record.revision > record.handled).map(|(entry, svid)| Put {
            entry: entry.clone(),
            svid: svid.clone(),
            bundle: self.bundles[&self.own].clone(),
            federated: entry
                .federates_with
                .iter()
                .filter(|domain| **domain != self.own)
                .filter_map(|domain| self.bundles.get(domain).cloned())
                .collect(),
        });
        if put.is_none() && record.leftovers.is_empty() {
            return None;
        }
        let (revision, clear) = (record.revision, record.leftovers.clone());
        Some(Job { id: id.clone(), revision, clear, put })
    }
}

impl Record {
    fn new(entry: Arc<Entry>) -> Self {
        Self {
            entry: Some(entry),
            svid: None,
            outdated: false,
            revision: 1,
            handled: 0,
            stored: None,
            leftovers: Vec::new(),
            failures: 0,
            retry_at: SystemTime::UNIX_EPOCH,
        }
    }

    /// The entry and the expiry of what is to be replaced, if an SVID is wanted now.
    fn wants_svid(&self, now: SystemTime) -> Option<(&Arc<Entry>, Option<SystemTime>)> {
        let entry = self.entry.as_ref()?;
        let wanted = match &self.svid {
            None => true,
            Some(svid) => self.outdated || svid.due <= now,
        };
        (wanted && self.retry_at <= now)
            .then(|| (entry, self.svid.as_ref().and_then(|svid| svid.expires_at())))
    }

    fn next_deadline(&self) -> Option<SystemTime> {
        self.entry.as_ref()?;
        match &self.svid {
            Some(svid) if !self.outdated => Some(svid.due.max(self.retry_at)),
            _ => Some(self.retry_at),
        }
    }
}

const CACHE: &str = "svid_store_cache";
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(4 * 60);
