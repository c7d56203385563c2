//! JWT-SVIDs: which may be served again, one request for many askers, and new ones before anybody
//! asks for those that are asked for again and again.

mod cache;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use steeple_telemetry as telemetry;
use tokio::sync::{Notify, OnceCell};
use tracing::{debug, info, warn};

use crate::entry::Entry;
use crate::lifetime::expired;
use crate::sealed::KeptToken;

use self::cache::{JwtCache, JwtKey};

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
    changed: Notify,
    version: AtomicU64,
}

/// A token that is asked for again and again, and due soon.
pub struct HotToken {
    /// The entry that it was signed for.
    pub entry: Arc<Entry>,
    /// The audience.
    pub audience: Arc<[String]>,
}

type Flight = Arc<OnceCell<Result<JwtSvid, String>>>;

impl JwtSvids {
    /// Keeps at most `max` tokens.
    pub fn new(source: Arc<dyn JwtSource>, max: usize) -> Self {
        Self {
            source,
            cache: Mutex::new(JwtCache::new(max)),
            flights: Mutex::default(),
            changed: Notify::new(),
            version: AtomicU64::new(0),
        }
    }

    /// A token of `entry`'s identity for `audience`: a cached one in the first
    /// half of its life, else a new one; and the cached one for as long as it
    /// holds if no new one can be had. Many callers with one wish make one
    /// request, and while a server is known to be away none of them waits for
    /// it that has a token to go on with.
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
        if cached.as_ref().is_some_and(|cached| !cached.asked_again) {
            self.changed.notify_one();
        }
        if let Some(cached) = &cached
            && now < cached.due
        {
            return Ok(cached.svid.clone());
        }
        let usable = cached.as_ref().filter(|cached| now < cached.svid.expires_at);
        if let Some(cached) = usable
            && cached.failed_lately(now)
        {
            return Ok(cached.svid.clone());
        }
        match self.fetch_once(&key, entry, audience, usable.is_some()).await {
            Ok(svid) => Ok(svid),
            Err(error) => match (usable, cached.is_some()) {
                (Some(cached), _) => {
                    self.cache().failed(&key, now);
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

    /// Tokens that are to be renewed before somebody asks: those that were asked for again since
    /// they came, shortly before half their life is over.
    pub fn hot(&self, now: SystemTime) -> Vec<HotToken> {
        self.cache().hot(now)
    }

    /// When [`Self::hot`] has something to tell by itself.
    pub fn next_hot(&self, now: SystemTime) -> Option<SystemTime> {
        self.cache().next_hot(now)
    }

    /// Completes when [`Self::next_hot`] may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Has a token renewed that is still good; gives whether that succeeded.
    pub async fn refresh(&self, hot: &HotToken, now: SystemTime) -> bool {
        let key = JwtKey::new(&hot.entry.spiffe_id, &hot.audience);
        let outcome = self.fetch_once(&key, &hot.entry, &hot.audience, true).await;
        if let Err(error) = &outcome {
            debug!(subsystem_name = "manager", spiffe_id = %hot.entry.spiffe_id, error,
                "Unable to renew JWT ahead of time");
            self.cache().failed(&key, now);
        }
        outcome.is_ok()
    }

    /// Grows with each change of what is held.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// What is held and still good, to be kept on disk.
    pub fn kept(&self, now: SystemTime) -> Vec<KeptToken> {
        let good = |token: &KeptToken| !expired(token.svid.expires_at, now);
        self.cache().tokens().filter(good).collect()
    }

    /// Takes in a token that was kept.
    pub fn restore(&self, entry: &Arc<Entry>, audience: &[String], svid: JwtSvid) {
        self.cache().store(JwtKey::new(&entry.spiffe_id, audience), entry, svid, fastrand::f64());
    }

    /// How many tokens are held.
    pub fn count(&self) -> usize {
        self.cache().len()
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
                    let entry = Arc::new(entry.clone());
                    self.cache().store(key.clone(), &entry, svid.clone(), fastrand::f64());
                    self.version.fetch_add(1, Ordering::Relaxed);
                    self.changed.notify_one();
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

/// Longer tokens are served and not kept: the count bounds the cache's memory
/// only while its members are small.
const MAX_CACHED_TOKEN: usize = 16 * 1024;

/// The default of `jwt_svid_cache_hit_timeout`: how long to wait for a new
/// token when a cached one would do.
pub const DEFAULT_CACHE_HIT_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
