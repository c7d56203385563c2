//! The tokens themselves: the least recently used goes first, and the busy ones are known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_spiffe::SpiffeId;
use steeple_telemetry as telemetry;

use super::{HotToken, JwtSvid, MAX_CACHED_TOKEN};
use crate::entry::Entry;
use crate::lifetime::RenewalRule;
use crate::sealed::KeptToken;

/// What part of its life before it is due a token is renewed that is asked for again and again.
const AHEAD: f64 = 0.1;
/// While an attempt to renew failed so lately, nobody waits for another who has a token.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);
/// Between attempts to renew ahead of time.
const RETRY: Duration = Duration::from_secs(10);
/// Withdrawn keys that are remembered; a trust domain has a handful of keys.
const MAX_CONDEMNED: usize = 1000;

/// An identity and an audience, whose order does not matter.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct JwtKey {
    spiffe_id: SpiffeId,
    audience: Arc<[String]>,
}

impl JwtKey {
    pub(super) fn new(spiffe_id: &SpiffeId, audience: &[String]) -> Self {
        let mut audience = audience.to_vec();
        audience.sort_unstable();
        Self { spiffe_id: spiffe_id.clone(), audience: audience.into() }
    }
}

/// Tokens by key, the least recently used first to go.
pub(super) struct JwtCache {
    slots: HashMap<JwtKey, Slot>,
    by_use: BTreeMap<u64, JwtKey>,
    uses: u64,
    max: usize,
    /// Keys that were withdrawn: what they sign is not kept, should a late answer bring it.
    condemned: HashSet<String>,
}

#[derive(Clone)]
pub(super) struct Slot {
    pub(super) svid: JwtSvid,
    pub(super) due: SystemTime,
    /// When to renew it if it is asked for again.
    ahead: SystemTime,
    entry: Arc<Entry>,
    used: u64,
    pub(super) asked_again: bool,
    /// When an attempt to renew it began that failed.
    failed: Option<SystemTime>,
}

impl Slot {
    /// Whether a server is known to be away, or to refuse.
    pub(super) fn failed_lately(&self, now: SystemTime) -> bool {
        self.failed.is_some_and(|failed| within(failed, now, FAILURE_MEMORY))
    }

    /// When to renew it though nobody waits for it.
    fn hot_at(&self) -> Option<SystemTime> {
        let after_failure = self.failed.map(|failed| failed + RETRY);
        self.asked_again.then(|| after_failure.map_or(self.ahead, |at| at.max(self.ahead)))
    }
}

/// Whether `now` is at most `span` after `then`; the clock may have gone back.
fn within(then: SystemTime, now: SystemTime, span: Duration) -> bool {
    now.duration_since(then).is_ok_and(|since| since < span)
}

impl JwtCache {
    pub(super) fn new(max: usize) -> Self {
        let condemned = HashSet::new();
        Self { slots: HashMap::new(), by_use: BTreeMap::new(), uses: 0, max, condemned }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The token as it was before somebody asked for it again.
    pub(super) fn lookup(&mut self, key: &JwtKey) -> Option<Slot> {
        let slot = self.slots.get_mut(key)?;
        self.by_use.remove(&slot.used);
        self.uses += 1;
        slot.used = self.uses;
        self.by_use.insert(self.uses, key.clone());
        let found = slot.clone();
        slot.asked_again = true;
        Some(found)
    }

    /// A token too large to be a sensible one is not kept: the count bounds
    /// the cache's memory only while its members are small.
    pub(super) fn store(&mut self, key: JwtKey, entry: &Arc<Entry>, svid: JwtSvid, dice: f64) {
        self.remove(&key);
        if self.max == 0
            || svid.token.len() > MAX_CACHED_TOKEN
            || self.condemned.contains(&*svid.key_id)
        {
            return;
        }
        while self.slots.len() >= self.max
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.slots.remove(&oldest);
        }
        self.uses += 1;
        let due = RenewalRule::default().due(svid.issued_at, svid.expires_at, dice);
        let lifetime = svid.expires_at.duration_since(svid.issued_at).unwrap_or_default();
        let ahead = due.checked_sub(lifetime.mul_f64(AHEAD)).unwrap_or(due);
        self.by_use.insert(self.uses, key.clone());
        let slot = Slot {
            svid,
            due,
            ahead,
            entry: entry.clone(),
            used: self.uses,
            asked_again: false,
            failed: None,
        };
        self.slots.insert(key, slot);
        telemetry::gauge(&["jwt_svid_cache_size"], self.slots.len() as f64, &[]);
    }

    fn remove(&mut self, key: &JwtKey) {
        if let Some(slot) = self.slots.remove(key) {
            self.by_use.remove(&slot.used);
        }
    }

    pub(super) fn failed(&mut self, key: &JwtKey, now: SystemTime) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.failed = Some(now);
        }
    }

    pub(super) fn hot(&self, now: SystemTime) -> Vec<HotToken> {
        let due =
            |slot: &Slot| slot.hot_at().is_some_and(|at| at <= now) && now < slot.svid.expires_at;
        self.slots
            .iter()
            .filter(|(_, slot)| due(slot))
            .map(|(key, slot)| HotToken {
                entry: slot.entry.clone(),
                audience: key.audience.clone(),
            })
            .collect()
    }

    pub(super) fn next_hot(&self, now: SystemTime) -> Option<SystemTime> {
        let alive = self.slots.values().filter(|slot| now < slot.svid.expires_at);
        alive.filter_map(Slot::hot_at).min()
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = KeptToken> {
        self.slots.iter().map(|(key, slot)| KeptToken {
            entry: slot.entry.id.clone(),
            audience: key.audience.to_vec(),
            svid: slot.svid.clone(),
        })
    }

    pub(super) fn forget_issued_after(&mut self, now: SystemTime) -> usize {
        let early: Vec<JwtKey> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.svid.issued_at > now)
            .map(|(key, _)| key.clone())
            .collect();
        early.iter().for_each(|key| self.remove(key));
        early.len()
    }

    pub(super) fn forget_keys(&mut self, key_ids: &HashSet<String>) -> BTreeMap<Arc<str>, usize> {
        let room = MAX_CONDEMNED.saturating_sub(self.condemned.len());
        self.condemned.extend(key_ids.iter().take(room).cloned());
        let condemned: Vec<(JwtKey, Arc<str>)> = self
            .slots
            .iter()
            .filter(|(_, slot)| key_ids.contains(slot.svid.key_id.as_ref()))
            .map(|(key, slot)| (key.clone(), slot.svid.key_id.clone()))
            .collect();
        let mut removed = BTreeMap::new();
        for (key, key_id) in condemned {
            self.remove(&key);
            *removed.entry(key_id).or_default() += 1;
        }
        removed
    }
}
