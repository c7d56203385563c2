//! The cache's state and its transitions; the lock is in the parent.

mod examine;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_spiffe::Selector;
use steeple_telemetry as telemetry;
use tokio::sync::watch;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::identity::{Identity, Issuers, SignedSvid};
use super::index::{EntryIndex, GroupIndex};
use super::known_bundles::{BundleWatch, KnownBundles};
use super::memo::{Answer, Memo};
use super::update::Update;
use super::{Applied, SigningRequest, trust_domain_of};
use crate::bundle::{Bundles, CachedBundle, replace};
use crate::entry::{Entry, EntryId};
use crate::sealed::{KeptEntry, KeptSvid};
use crate::selectors::SelectorSet;
use crate::sync::EntryDelta;

pub(super) struct State {
    own: Arc<CachedBundle>,
    bundles: Bundles,
    all_bundles: watch::Sender<Arc<KnownBundles>>,
    records: HashMap<EntryId, Record>,
    entries: EntryIndex,
    groups: HashMap<SelectorSet, Group>,
    by_selector: GroupIndex,
    /// Entries to sign: without an SVID, or with one that is outdated or due.
    stale: BTreeSet<EntryId>,
    /// When each held SVID is due, and when it ends.
    due: BTreeSet<(SystemTime, EntryId)>,
    ends: BTreeSet<(SystemTime, EntryId)>,
    issuers: Issuers,
    /// Emptied by whatever changes records, identities or bundles.
    memo: Memo,
    /// What a caller gets that matches no entry.
    nobody: Arc<Update>,
    max_svids: usize,
}

struct Record {
    entry: Arc<Entry>,
    anchor: Option<Selector>,
    identity: Option<Arc<Identity>>,
    groups: HashSet<SelectorSet>,
    last_used: SystemTime,
    failures: u32,
    retry_at: SystemTime,
    /// Its SVID ended before there was another: it does not keep callers from the rest.
    lapsed: bool,
}

struct Group {
    sender: watch::Sender<Arc<Update>>,
    entries: BTreeSet<EntryId>,
    subscribers: usize,
}

/// Whether the streams of a group hear of its new update at once, or only
/// newcomers see it.
#[derive(Clone, Copy, PartialEq)]
enum Wake {
    All,
    OnlyIfIdentified,
    Nobody,
}

impl State {
    pub(super) fn new(own: Arc<CachedBundle>, max_svids: usize) -> Self {
        let nobody = Arc::new(Update::new(Vec::new(), 0, own.clone(), Vec::new()));
        let bundles = HashMap::from([(own.trust_domain().clone(), own.clone())]);
        Self {
            all_bundles: watch::Sender::new(Arc::new(KnownBundles::new(&bundles))),
            bundles,
            own,
            records: HashMap::new(),
            entries: EntryIndex::default(),
            groups: HashMap::new(),
            by_selector: GroupIndex::default(),
            stale: BTreeSet::new(),
            due: BTreeSet::new(),
            ends: BTreeSet::new(),
            issuers: Issuers::default(),
            memo: Memo::default(),
            nobody,
            max_svids,
        }
    }

    pub(super) fn apply(
        &mut self,
        delta: EntryDelta,
        bundles: Bundles,
        now: SystemTime,
    ) -> Applied {
        let mut applied = Applied::default();
        let mut affected = self.replace_bundles(bundles);
        for id in delta.removed {
            if let Some(groups) = self.remove_entry(&id) {
                applied.removed += 1;
                affected.extend(groups);
            }
        }
        for entry in delta.upserted {
            let known = self.records.contains_key(&entry.id);
            affected.extend(self.upsert_entry(entry));
            if known { applied.updated += 1 } else { applied.created += 1 }
        }
        self.evict();
        self.prefetch();
        self.expire(now);
        applied.affected = self.publish(affected, Wake::All);
        self.tell(&applied);
        applied
    }

    /// What SPIRE's cache, an LRU one, counts.
    fn tell(&self, applied: &Applied) {
        for (key, count) in [
            ("lru_cache_entry_add", applied.created),
            ("lru_cache_entry_update", applied.updated),
            ("lru_cache_entry_remove", applied.removed),
        ] {
            telemetry::incr(&[key], count as f64, &[]);
        }
        let records = self.records.len() as f64;
        telemetry::gauge(&["lru_cache_record_map_size"], records, X509);
    }

    /// Gives the groups that see a bundle that changed.
    fn replace_bundles(&mut self, bundles: Bundles) -> HashSet<SelectorSet> {
        let own_domain = trust_domain_of(&self.own).clone();
        let changed = replace(&mut self.bundles, bundles, &own_domain, CACHE);
        if !changed.is_empty() {
            self.memo.clear();
            self.all_bundles.send_replace(Arc::new(KnownBundles::new(&self.bundles)));
        }
        if changed.contains(&own_domain) {
            self.own = self.bundles[&own_domain].clone();
            self.nobody = Arc::new(Update::new(Vec::new(), 0, self.own.clone(), Vec::new()));
            return self.groups.keys().cloned().collect();
        }
        self.records
            .values()
            .filter(|record| record.entry.federates_with.iter().any(|td| changed.contains(td)))
            .flat_map(|record| record.groups.iter().cloned())
            .collect()
    }

    fn remove_entry(&mut self, id: &EntryId) -> Option<HashSet<SelectorSet>> {
        self.memo.clear();
        self.drop_identity(id);
        self.stale.remove(id);
        let record = self.records.remove(id)?;
        debug!(subsystem_name = CACHE, entry = %id, spiffe_id = %record.entry.spiffe_id, "Entry removed");
        if let Some(anchor) = &record.anchor {
            self.entries.remove(id, anchor);
        }
        for group in &record.groups {
            if let Some(group) = self.groups.get_mut(group) {
                group.entries.remove(id);
            }
        }
        Some(record.groups)
    }

    /// Gives every group that the entry reached before or reaches now.
    fn upsert_entry(&mut self, entry: Entry) -> HashSet<SelectorSet> {
        self.memo.clear();
        let id = entry.id.clone();
        let reached = self.by_selector.reached_by(&entry.selectors);
        for group in &reached {
            if let Some(group) = self.groups.get_mut(group) {
                group.entries.insert(id.clone());
            }
        }
        let entry = Arc::new(entry);
        let Some(record) = self.records.get_mut(&id) else {
            debug!(subsystem_name = CACHE, entry = %id, spiffe_id = %entry.spiffe_id,
                selectors_added = entry.selectors.len(), "Entry created");
            let anchor = self.entries.insert(&id, &entry.selectors);
            if !reached.is_empty() {
                self.stale.insert(id.clone());
            }
            self.records.insert(id, Record::new(entry, anchor, reached.clone()));
            return reached;
        };
        debug!(subsystem_name = CACHE, entry = %id, spiffe_id = %entry.spiffe_id, "Entry updated");
        if record.entry.selectors != entry.selectors {
            if let Some(anchor) = &record.anchor {
                self.entries.remove(&id, anchor);
            }
            record.anchor = self.entries.insert(&id, &entry.selectors);
        }
        record.entry = entry;
        record.failures = 0;
        record.retry_at = SystemTime::UNIX_EPOCH;
        let before = std::mem::replace(&mut record.groups, reached.clone());
        if record.identity.is_some() || !reached.is_empty() {
            self.stale.insert(id.clone());
        }
        for left in before.difference(&reached) {
            if let Some(group) = self.groups.get_mut(left) {
                group.entries.remove(&id);
            }
        }
        before.into_iter().chain(reached).collect()
    }

    /// SVIDs beyond the limit go, those unused for longest first; never one
    /// that a stream has.
    fn evict(&mut self) {
        let Some(excess) = self.ends.len().checked_sub(self.max_svids).filter(|n| *n > 0) else {
            return;
        };
        let mut unused: Vec<(SystemTime, EntryId)> = self
            .records
            .iter()
            .filter(|(_, record)| record.identity.is_some() && record.groups.is_empty())
            .map(|(id, record)| (record.last_used, id.clone()))
            .collect();
        unused.sort_unstable();
        for (_, id) in unused.into_iter().take(excess) {
            debug!(subsystem_name = CACHE, record_id = %id, "Removing SVID record");
            self.drop_identity(&id);
            self.stale.remove(&id);
        }
    }

    /// Entries that nobody asked for yet are signed while there is room.
    fn prefetch(&mut self) {
        let pending = self.stale.iter().filter(|id| self.is_unsigned(id)).count();
        let mut room = self.max_svids.saturating_sub(self.ends.len() + pending);
        if room == 0 || self.ends.len() + pending >= self.records.len() {
            return;
        }
        for (id, record) in &self.records {
            if room == 0 {
                break;
            }
            let wanted = record.identity.is_none() && !record.entry.disable_x509_svid_prefetch;
            if wanted && self.stale.insert(id.clone()) {
                room -= 1;
            }
        }
    }

    fn is_unsigned(&self, id: &EntryId) -> bool {
        self.records.get(id).is_some_and(|record| record.identity.is_none())
    }

    pub(super) fn wanted(&mut self, limit: usize, now: SystemTime) -> Vec<SigningRequest> {
        while let Some((due, _)) = self.due.first()
            && *due <= now
            && let Some((_, id)) = self.due.pop_first()
        {
            self.stale.insert(id);
        }
        let mut ready: Vec<(u8, SystemTime, &Record)> = self
            .stale
            .iter()
            .filter_map(|id| self.records.get(id))
            .filter(|record| record.retry_at <= now)
            .map(|record| match &record.identity {
                None if !record.groups.is_empty() => (0, SystemTime::UNIX_EPOCH, record),
                Some(identity) => (1, identity.expires_at(), record),
                None => (2, SystemTime::UNIX_EPOCH, record),
            })
            .collect();
        ready.sort_by_key(|(class, deadline, _)| (*class, *deadline));
        ready
            .into_iter()
            .take(limit)
            .map(|(_, _, record)| SigningRequest {
                entry: record.entry.clone(),
                current_expires_at: record.identity.as_ref().map(|held| held.expires_at()),
            })
            .collect()
    }

    pub(super) fn backlog(&self, now: SystemTime) -> usize {
        let ready = |id: &&EntryId| self.records.get(*id).is_some_and(|r| r.retry_at <= now);
        self.stale.iter().filter(ready).count()
    }

    pub(super) fn install(&mut self, signed: Vec<(Arc<Entry>, SignedSvid)>) -> Vec<SelectorSet> {
        let mut affected = HashSet::new();
        self.memo.clear();
        for (asked, svid) in signed {
            let id = asked.id.clone();
            self.drop_identity(&id);
            let Some(record) = self.records.get_mut(&id) else {
                debug!(subsystem_name = CACHE, entry_id = %id, "Entry not found");
                continue;
            };
            if *asked == *record.entry {
                self.stale.remove(&id);
            }
            let identity = Arc::new(Identity::new(asked, &svid, &mut self.issuers));
            self.due.insert((identity.due(), id.clone()));
            self.ends.insert((identity.expires_at(), id.clone()));
            debug!(subsystem_name = CACHE, entry = %id, spiffe_id = %record.entry.spiffe_id, "SVID updated");
            record.identity = Some(identity);
            record.lapsed = false;
            record.failures = 0;
            affected.extend(record.groups.iter().cloned());
        }
        self.publish(affected, Wake::All)
    }

    pub(super) fn refused(&mut self, entries: &[EntryId], now: SystemTime) {
        for id in entries {
            if let Some(record) = self.records.get_mut(id) {
                let patience = FIRST_RETRY.saturating_mul(1 << record.failures.min(16));
                record.failures += 1;
                record.retry_at = now + patience.min(LAST_RETRY);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<SystemTime> {
        let due = self.due.first().map(|(at, _)| *at);
        let end = self.ends.first().map(|(at, _)| *at);
        let retry = self
            .stale
            .iter()
            .filter_map(|id| self.records.get(id))
            .map(|record| record.retry_at)
            .filter(|at| *at > SystemTime::UNIX_EPOCH)
            .min();
        [due, end, retry].into_iter().flatten().min()
    }

    pub(super) fn expire(&mut self, now: SystemTime) -> usize {
        let mut affected = HashSet::new();
        let mut count = 0;
        while let Some((end, id)) = self.ends.first().cloned()
            && end <= now
        {
            count += 1;
            affected.extend(self.forget_identity(&id));
            self.memo.clear();
            if let Some(record) = self.records.get_mut(&id) {
                record.lapsed = true;
            }
        }
        self.publish(affected, Wake::OnlyIfIdentified);
        count
    }

    pub(super) fn discard(
        &mut self,
        candidates: &[EntryId],
        condemns: impl Fn(&Identity) -> bool,
    ) -> usize {
        let condemned: Vec<EntryId> = candidates
            .iter()
            .filter(|id| {
                let held = self.records.get(*id).and_then(|record| record.identity.as_ref());
                held.is_some_and(|identity| condemns(identity))
            })
            .cloned()
            .collect();
        let affected = condemned.iter().flat_map(|id| self.forget_identity(id)).collect();
        self.publish(affected, Wake::Nobody);
        condemned.len()
    }

    /// Drops the SVID and wants a new one; gives the groups that lose it.
    fn forget_identity(&mut self, id: &EntryId) -> HashSet<SelectorSet> {
        self.drop_identity(id);
        let Some(record) = self.records.get(id) else { return HashSet::new() };
        if !record.groups.is_empty() || !record.entry.disable_x509_svid_prefetch {
            self.stale.insert(id.clone());
        }
        record.groups.clone()
    }

    fn drop_identity(&mut self, id: &EntryId) {
        let identity = self.records.get_mut(id).and_then(|record| record.identity.take());
        if let Some(identity) = identity {
            self.memo.clear();
            self.due.remove(&(identity.due(), id.clone()));
            self.ends.remove(&(identity.expires_at(), id.clone()));
        }
    }

    pub(super) fn signed_entries(&self) -> Vec<EntryId> {
        self.ends.iter().map(|(_, id)| id.clone()).collect()
    }

    /// Gives the channel and whether an SVID is wanted because of this caller.
    pub(super) fn subscribe(
        &mut self,
        selectors: &SelectorSet,
        now: SystemTime,
    ) -> (watch::Receiver<Arc<Update>>, bool) {
        if let Some(group) = self.groups.get_mut(selectors) {
            group.subscribers += 1;
            let (receiver, entries) = (group.sender.subscribe(), group.entries.clone());
            self.touch(&entries, now);
            return (receiver, false);
        }
        let (ids, update) = self.update_of(selectors);
        let entries = BTreeSet::clone(&ids);
        let mut wanting = false;
        for id in &entries {
            let record = self.records.get_mut(id).expect("the index names only known entries");
            record.groups.insert(selectors.clone());
            if record.identity.is_none() {
                wanting = true;
                self.stale.insert(id.clone());
            }
        }
        self.touch(&entries, now);
        let (sender, receiver) = watch::channel(update);
        self.by_selector.insert(selectors);
        self.groups.insert(selectors.clone(), Group { sender, entries, subscribers: 1 });
        (receiver, wanting)
    }

    fn touch(&mut self, entries: &BTreeSet<EntryId>, now: SystemTime) {
        for id in entries {
            if let Some(record) = self.records.get_mut(id) {
                record.last_used = now;
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, selectors: &SelectorSet) {
        let Some(group) = self.groups.get_mut(selectors) else { return };
        group.subscribers -= 1;
        if group.subscribers > 0 {
            return;
        }
        self.by_selector.remove(selectors);
        let Some(group) = self.groups.remove(selectors) else { return };
        for id in &group.entries {
            if let Some(record) = self.records.get_mut(id) {
                record.groups.remove(selectors);
            }
        }
    }

    pub(super) fn snapshot(&mut self, selectors: &SelectorSet) -> Arc<Update> {
        match self.groups.get(selectors) {
            Some(group) => group.sender.borrow().clone(),
            None => self.update_of(selectors).1,
        }
    }

    pub(super) fn matching(&mut self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        self.answer(selectors).entries.to_vec()
    }

    /// What these selectors match, found now or since the last change.
    fn answer(&mut self, selectors: &SelectorSet) -> Answer {
        if let Some(answer) = self.memo.get(selectors) {
            return answer.clone();
        }
        let ids = self.entries.matching(selectors);
        let records = ids.iter().filter_map(|id| self.records.get(id));
        let entries = records.map(|record| record.entry.clone()).collect();
        let answer = Answer { ids: Arc::new(ids), entries, update: None };
        self.memo.insert(selectors, &answer);
        answer
    }

    /// As [`Self::answer`], with the update for a caller that is in no group yet.
    fn update_of(&mut self, selectors: &SelectorSet) -> (Arc<BTreeSet<EntryId>>, Arc<Update>) {
        let mut answer = self.answer(selectors);
        if let Some(update) = answer.update {
            return (answer.ids, update);
        }
        let update = self.shared_update(&answer.ids);
        // Each time that an update lacks a bundle, that is said.
        let mut domains = answer.entries.iter().flat_map(|entry| &entry.federates_with);
        if domains.all(|domain| self.bundles.contains_key(domain)) {
            answer.update = Some(update.clone());
            self.memo.insert(selectors, &answer);
        }
        (answer.ids, update)
    }

    /// What would be found without what is remembered.
    #[cfg(test)]
    pub(super) fn find(&mut self, selectors: &SelectorSet) -> Arc<Update> {
        self.memo.clear();
        self.update_of(selectors).1
    }

    pub(super) fn bundles(&self) -> &Bundles {
        &self.bundles
    }

    pub(super) fn watch_bundles(&self) -> BundleWatch {
        BundleWatch(self.all_bundles.subscribe())
    }

    pub(super) fn own_bundle(&self) -> Arc<CachedBundle> {
        self.own.clone()
    }

    pub(super) fn has(&self, entry: &Entry) -> bool {
        let known = self.records.get(&entry.id);
        known.is_some_and(|record| record.entry.spiffe_id == entry.spiffe_id)
    }

    /// Every entry and what is held for it, the ones in use first.
    pub(super) fn kept(&self) -> Vec<Held> {
        let mut records: Vec<&Record> = self.records.values().collect();
        records.sort_by_key(|record| (record.groups.is_empty(), Reverse(record.last_used)));
        let held = |record: &Record| Held {
            entry: record.entry.clone(),
            identity: record.identity.clone(),
        };
        records.into_iter().map(held).collect()
    }

    pub(super) fn count_svids(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn count_entries(&self) -> usize {
        self.records.len()
    }

    pub(super) fn count_groups(&self) -> usize {
        self.groups.len()
    }

    #[cfg(test)]
    pub(super) fn is_without_groups(&self) -> bool {
        self.groups.is_empty() && self.records.values().all(|record| record.groups.is_empty())
    }

    /// Rebuilds what the groups see, once for each distinct set of entries.
    fn publish(&self, affected: HashSet<SelectorSet>, wake: Wake) -> Vec<SelectorSet> {
        let mut built: HashMap<&BTreeSet<EntryId>, Arc<Update>> = HashMap::new();
        let mut woken = Vec::with_capacity(affected.len());
        for selectors in affected {
            let Some(group) = self.groups.get(&selectors) else { continue };
            let update =
                built.entry(&group.entries).or_insert_with(|| self.build(&group.entries)).clone();
            let wakes = match wake {
                Wake::All => true,
                Wake::OnlyIfIdentified => update.has_identity(),
                Wake::Nobody => false,
            };
            group.sender.send_if_modified(|seen| {
                *seen = update;
                wakes
            });
            if wakes {
                woken.push(selectors);
            }
        }
        woken
    }

    /// The update of a group with the same entries, or a new one.
    fn shared_update(&self, entries: &BTreeSet<EntryId>) -> Arc<Update> {
        let Some(first) = entries.first() else { return self.nobody.clone() };
        let neighbours = self.records.get(first).into_iter().flat_map(|record| &record.groups);
        neighbours
            .filter_map(|selectors| self.groups.get(selectors))
            .find(|group| group.entries == *entries)
            .map_or_else(|| self.build(entries), |group| group.sender.borrow().clone())
    }

    fn build(&self, entries: &BTreeSet<EntryId>) -> Arc<Update> {
        if entries.is_empty() {
            return self.nobody.clone();
        }
        let records = || entries.iter().filter_map(|id| self.records.get(id));
        let identities: Vec<_> = records().filter_map(|record| record.identity.clone()).collect();
        let awaited = records().any(|record| record.identity.is_none() && !record.lapsed);
        let expected =
            if awaited || identities.is_empty() { entries.len() } else { identities.len() };
        let mut federated = Vec::new();
        for record in records() {
            for domain in &record.entry.federates_with {
                match self.bundles.get(domain) {
                    Some(bundle) if domain != trust_domain_of(&self.own) => {
                        federated.push(bundle.clone());
                    }
                    Some(_) => {}
                    None => warn!(subsystem_name = CACHE, entry_id = %record.entry.id,
                        spiffe_id = %record.entry.spiffe_id, federated_bundle = %domain.id_string(),
                        "Federated bundle contents missing"),
                }
            }
        }
        federated.sort_by(|a, b| a.trust_domain().cmp(b.trust_domain()));
        federated.dedup_by(|a, b| Arc::ptr_eq(a, b));
        Arc::new(Update::new(identities, expected, self.own.clone(), federated))
    }
}

/// An entry and what is held for it, to be kept.
pub(super) struct Held {
    entry: Arc<Entry>,
    identity: Option<Arc<Identity>>,
}

impl Held {
    /// Parses the chain, which is not to be done under the lock.
    pub(super) fn keep(self) -> KeptEntry {
        let svid = |identity: Arc<Identity>| KeptSvid {
            chain: identity.chain(),
            key_pkcs8: Zeroizing::new(identity.key_pkcs8().to_vec()),
            // One that was signed for the entry as it was before is due at once.
            due: if *self.entry == *identity.entry() {
                identity.due()
            } else {
                SystemTime::UNIX_EPOCH
            },
        };
        let svid = self.identity.map(svid);
        KeptEntry { entry: self.entry, svid }
    }
}

impl Record {
    fn new(entry: Arc<Entry>, anchor: Option<Selector>, groups: HashSet<SelectorSet>) -> Self {
        Self {
            entry,
            anchor,
            identity: None,
            groups,
            last_used: SystemTime::UNIX_EPOCH,
            failures: 0,
            retry_at: SystemTime::UNIX_EPOCH,
            lapsed: false,
        }
    }
}

const CACHE: &str = "cache_manager";
const X509: &[telemetry::Label<'static>] = &[("svid_type", "X509")];
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(4 * 60);
