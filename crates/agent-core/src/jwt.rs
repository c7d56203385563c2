//! JWT-SVIDs: which may be served again, and one request for many askers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use steeple_spiffe::SpiffeId;
use steeple_telemetry as telemetry;
use tokio::sync::OnceCell;
use tracing::{info, warn};

use crate::entry::Entry;
use crate::lifetime::RenewalRule;

/// A signed token and its times.
#[derive(Clone)]
pub struct JwtSvid {
    /// The compact serialisation.
    pub token: Arc<str>,
    /// The key that signed it.
    pub key_id: Arc<str>,
    /// When it was issued.
    pub issued_at: SystemTime,
    /// When it ends.
    pub expires_at: SystemTime,
}

/// Where tokens come from: the server.
#[async_trait]
pub trait JwtSource: Send + Sync {
    /// Has a token signed. With `have_cached` the answer is wanted soon or not
    /// at all, since a usable token is at hand. The error is a text that may
    /// be shown to the workload.
    async fn sign(
        &self,
        entry: &Entry,
        audience: &[String],
        have_cached: bool,
    ) -> Result<JwtSvid, String>;
}

/// The tokens at hand, and those being fetched.
pub struct JwtSvids {
    source: Arc<dyn JwtSource>,
    cache: Mutex<JwtCache>,
    flights: Mutex<HashMap<JwtKey, Flight>>,
}

type Flight = Arc<OnceCell<Result<JwtSvid, String>>>;

impl JwtSvids {
    /// Keeps at most `max` tokens.
    pub fn new(source: Arc<dyn JwtSource>, max: usize) -> Self {
        let cache = Mutex::new(JwtCache::new(max));
        Self { source, cache, flights: Mutex::default() }
    }

    /// A token of `entry`'s identity for `audience`: a cached one in the first
    /// half of its life, else a new one; and the cached one for as long as it
    /// holds if no new one can be had. Many callers with one wish make one
    /// request.
    pub async fn fetch(
        &self,
        entry: &Entry,
        audience: &[String],
        now: SystemTime,
    ) -> Result<JwtSvid, String> {
        if entry.jwt_svid_include_jti {
            return self.source.sign(entry, audience, false).await;
        }
        let key = JwtKey::new(&entry.spiffe_id, audience);
        let cached = self.cache().lookup(&key);
        if let Some(cached) = &cached
            && now < cached.due
        {
            return Ok(cached.svid.clone());
        }
        let usable = cached.as_ref().filter(|cached| now < cached.svid.expires_at);
        match self.fetch_once(&key, entry, audience, usable.is_some()).await {
            Ok(svid) => Ok(svid),
            Err(error) => match (usable, cached.is_some()) {
                (Some(cached), _) => {
                    warn!(subsystem_name = "manager", spiffe_id = %entry.spiffe_id, error,
                        "Unable to renew JWT; returning cached copy");
                    Ok(cached.svid.clone())
                }
                (None, true) => Err(format!(
                    "unable to renew JWT for {:?} (err={error})",
                    entry.spiffe_id.as_str()
                )),
                (None, false) => Err(error),
            },
        }
    }

    /// Drops tokens that one of these keys signed; they were withdrawn.
    pub fn forget_keys(&self, key_ids: &HashSet<String>) -> usize {
        let call = telemetry::call(&["cache_manager", "workload", "process_tainted_jwt_svids"]);
        let removed = self.cache().forget_keys(key_ids);
        let count = removed.values().sum();
        let tainted = &["cache_manager", "tainted_jwt_svids", "workload"];
        telemetry::sample(tainted, count as f64, &[]);
        call.ok();
        for (key_id, tainted_jwt_svids) in removed {
            info!(subsystem_name = "cache_manager", jwt_authority_key_ids = %key_id, tainted_jwt_svids,
                count_jwt_svids = tainted_jwt_svids,
                "JWT-SVIDs were removed from the JWT cache because they were issued by a tainted authority");
        }
        count
    }

    /// Tokens from a time that has not come yet go, as after the clock was set back: those who
    /// check them refuse them. Gives how many.
    pub fn forget_issued_after(&self, now: SystemTime) -> usize {
        self.cache().forget_issued_after(now)
    }

    /// How many tokens are held.
    pub fn count(&self) -> usize {
        self.cache().slots.len()
    }

    async fn fetch_once(
        &self,
        key: &JwtKey,
        entry: &Entry,
        audience: &[String],
        have_cached: bool,
    ) -> Result<JwtSvid, String> {
        let flight = self.flights().entry(key.clone()).or_default().clone();
        let boarded = Boarded { tokens: self, key, flight };
        boarded
            .flight
            .get_or_init(|| async {
                let result = self.source.sign(entry, audience, have_cached).await;
                if let Ok(svid) = &result {
                    self.cache().store(key.clone(), svid.clone(), fastrand::f64());
                }
                result
            })
            .await
            .clone()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, JwtCache> {
        self.cache.lock().expect("no code panics while it holds the token cache")
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<JwtKey, Flight>> {
        self.flights.lock().expect("no code panics while it holds the list of flights")
    }
}

/// A caller's seat on a flight. A flight that landed is forgotten, as is one
/// whose last caller left (hung up) before it did.
struct Boarded<'t> {
    tokens: &'t JwtSvids,
    key: &'t JwtKey,
    flight: Flight,
}

impl Drop for Boarded<'_> {
    fn drop(&mut self) {
        let mut flights = self.tokens.flights();
        let ours = flights.get(self.key).is_some_and(|held| Arc::ptr_eq(held, &self.flight));
        let alone = Arc::strong_count(&self.flight) <= 2;
        if ours && (alone || self.flight.initialized()) {
            flights.remove(self.key);
        }
    }
}

/// An identity and an audience, whose order does not matter.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct JwtKey {
    spiffe_id: SpiffeId,
    audience: Arc<[String]>,
}

impl JwtKey {
    fn new(spiffe_id: &SpiffeId, audience: &[String]) -> Self {
        let mut audience = audience.to_vec();
        audience.sort_unstable();
        Self { spiffe_id: spiffe_id.clone(), audience: audience.into() }
    }
}

/// Tokens by key, the least recently used first to go.
struct JwtCache {
    slots: HashMap<JwtKey, Slot>,
    by_use: BTreeMap<u64, JwtKey>,
    uses: u64,
    max: usize,
}

#[derive(Clone)]
struct Slot {
    svid: JwtSvid,
    due: SystemTime,
    used: u64,
}

impl JwtCache {
    fn new(max: usize) -> Self {
        Self { slots: HashMap::new(), by_use: BTreeMap::new(), uses: 0, max }
    }

    fn lookup(&mut self, key: &JwtKey) -> Option<Slot> {
        let slot = self.slots.get_mut(key)?;
        self.by_use.remove(&slot.used);
        self.uses += 1;
        slot.used = self.uses;
        self.by_use.insert(self.uses, key.clone());
        Some(slot.clone())
    }

    /// A token too large to be a sensible one is not kept: the count bounds
    /// the cache's memory only while its members are small.
    fn store(&mut self, key: JwtKey, svid: JwtSvid, dice: f64) {
        self.remove(&key);
        if self.max == 0 || svid.token.len() > MAX_CACHED_TOKEN {
            return;
        }
        while self.slots.len() >= self.max
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.slots.remove(&oldest);
        }
        self.uses += 1;
        let due = RenewalRule::default().due(svid.issued_at, svid.expires_at, dice);
        self.by_use.insert(self.uses, key.clone());
        self.slots.insert(key, Slot { svid, due, used: self.uses });
        telemetry::gauge(&["jwt_svid_cache_size"], self.slots.len() as f64, &[]);
    }

    fn remove(&mut self, key: &JwtKey) {
        if let Some(slot) = self.slots.remove(key) {
            self.by_use.remove(&slot.used);
        }
    }

    fn forget_issued_after(&mut self, now: SystemTime) -> usize {
        let early: Vec<JwtKey> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.svid.issued_at > now)
            .map(|(key, _)| key.clone())
            .collect();
        early.iter().for_each(|key| self.remove(key));
        early.len()
    }

    fn forget_keys(&mut self, key_ids: &HashSet<String>) -> BTreeMap<Arc<str>, usize> {
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

const MAX_CACHED_TOKEN: usize = 16 * 1024;

/// The default of `jwt_svid_cache_hit_timeout`: how long to wait for a new
/// token when a cached one would do.
pub const DEFAULT_CACHE_HIT_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
