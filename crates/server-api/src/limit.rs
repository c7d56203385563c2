//! Token buckets per caller (facts SA-22, SA-23; ADR 9).
//!
//! A caller over the limit waits its turn, as in SPIRE, which smooths out a
//! start of many agents. What can never be granted, or not in time, is refused
//! at once, with a hint when to come again: a waiting call costs memory, and a
//! flood must not.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use steeple_net::status::{retry_info, with_details};
use steeple_spiffe::SpiffeId;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::status::Answer;

/// Which bucket a method draws from. Methods that do the same work share one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bucket {
    Attest,
    SignX509,
    SignJwt,
    SignWit,
    Publish,
    Status,
    Admin,
    Bundle,
    Sync,
}

/// What a call costs. The text completes "rejecting request due to …".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Toll {
    Free,
    /// One token, before the request is even read.
    PerCall(Bucket, &'static str),
    /// A token per item of the request, taken by the handler.
    PerItem(Bucket, &'static str),
}

/// How much each caller may ask for, a second; 0 is without limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimits {
    /// Attestations (SC-26).
    pub attestation: u32,
    /// Signatures, of each kind of SVID (SC-27).
    pub signing: u32,
    /// Keys that downstream servers publish.
    pub publish: u32,
    /// Agents' reports of their status.
    pub post_status: u32,
    /// Calls that administer the server.
    pub admin: u32,
    /// Reads of bundles.
    pub bundle: u32,
    /// Reads of the entries that an agent is authorised for.
    pub sync: u32,
    /// By what callers are told apart.
    pub by: LimitBy,
}

/// By what callers are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LimitBy {
    /// By address, as SPIRE does; an IPv6 address by its /64.
    #[default]
    Address,
    /// By SPIFFE ID; by address those who showed none.
    SpiffeId,
}

/// Why a call is refused instead of waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("rate ({asked}) exceeds burst size ({burst})")]
    Burst { asked: u32, burst: u32 },
    #[error("rate: Wait(n={asked}) would exceed context deadline")]
    Deadline { asked: u32, wait: Duration },
}

/// A refusal, as the caller gets it.
#[derive(Debug, thiserror::Error)]
#[error("rejecting request due to {what}")]
pub(crate) struct LimitRefusal {
    pub(crate) what: &'static str,
    #[source]
    pub(crate) reason: LimitError,
}

impl Answer for LimitRefusal {
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }

    fn status(&self) -> Status {
        match self.reason {
            // Asking again is of no use.
            LimitError::Burst { .. } => Status::new(self.code(), self.text()),
            LimitError::Deadline { wait, .. } => retry_later(self.text(), wait),
        }
    }
}

/// A refusal that says when to come again: to programs in `google.rpc.RetryInfo`, to gRPC clients
/// that know no details in a `retry-after` trailer, in seconds.
pub(crate) fn retry_later(text: impl Into<String>, wait: Duration) -> Status {
    let mut status = with_details(Code::ResourceExhausted, text, vec![retry_info(wait)]);
    status.metadata_mut().insert("retry-after", MetadataValue::from(whole_seconds(wait)));
    status
}

/// What `retry-after` says of a wait.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The buckets of every caller.
#[derive(Debug)]
pub(crate) struct Limits {
    by: LimitBy,
    attest: Option<PerCaller>,
    sign_x509: Option<PerCaller>,
    sign_jwt: Option<PerCaller>,
    sign_wit: Option<PerCaller>,
    publish: Option<PerCaller>,
    status: Option<PerCaller>,
    admin: Option<PerCaller>,
    bundle: Option<PerCaller>,
    sync: Option<PerCaller>,
}

impl Limits {
    pub(crate) fn new(rates: RateLimits, now: Instant) -> Self {
        let of = |rate: u32| (rate > 0).then(|| PerCaller::new(rate, now));
        Self {
            by: rates.by,
            attest: of(rates.attestation),
            sign_x509: of(rates.signing),
            sign_jwt: of(rates.signing),
            sign_wit: of(rates.signing),
            publish: of(rates.publish),
            status: of(rates.post_status),
            admin: of(rates.admin),
            bundle: of(rates.bundle),
            sync: of(rates.sync),
        }
    }

    /// Takes tokens and answers how long to wait before going on.
    pub(crate) fn take(
        &self,
        bucket: Bucket,
        address: IpAddr,
        id: Option<&SpiffeId>,
        tokens: u32,
        patience: Duration,
        now: Instant,
    ) -> Result<Duration, LimitError> {
        let limit = match bucket {
            Bucket::Attest => &self.attest,
            Bucket::SignX509 => &self.sign_x509,
            Bucket::SignJwt => &self.sign_jwt,
            Bucket::SignWit => &self.sign_wit,
            Bucket::Publish => &self.publish,
            Bucket::Status => &self.status,
            Bucket::Admin => &self.admin,
            Bucket::Bundle => &self.bundle,
            Bucket::Sync => &self.sync,
        };
        let Some(limit) = limit else { return Ok(Duration::ZERO) };
        let patience = patience.min(LONGEST_WAIT);
        match id.filter(|_| self.by == LimitBy::SpiffeId) {
            Some(id) => limit.take(id.as_str(), tokens, patience, now),
            None => limit.take(site(address), tokens, patience, now),
        }
    }
}

/// What counts as one address: of IPv6 the /64, all of which one host has.
pub(crate) fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// One kind of limit: a bucket per caller, burst = rate per second.
#[derive(Debug)]
struct PerCaller {
    rate: u32,
    keys: [RandomState; 2],
    buckets: Mutex<Generations>,
}

/// A caller by 128 bits of a keyed hash, so that all cost the same and none can choose whose
/// bucket it has.
type Key = [u64; 2];

/// Buckets that nobody used for two generations are gone.
#[derive(Debug)]
struct Generations {
    current: HashMap<Key, Tokens>,
    previous: HashMap<Key, Tokens>,
    began: Instant,
}

/// A bucket: negative while calls wait.
#[derive(Clone, Copy, Debug)]
struct Tokens {
    amount: f64,
    at: Instant,
}

impl PerCaller {
    fn new(rate: u32, now: Instant) -> Self {
        let buckets = Generations { current: HashMap::new(), previous: HashMap::new(), began: now };
        let keys = [RandomState::new(), RandomState::new()];
        Self { rate, keys, buckets: Mutex::new(buckets) }
    }

    fn take(
        &self,
        caller: impl std::hash::Hash,
        tokens: u32,
        patience: Duration,
        now: Instant,
    ) -> Result<Duration, LimitError> {
        if tokens > self.rate {
            return Err(LimitError::Burst { asked: tokens, burst: self.rate });
        }
        let rate = f64::from(self.rate);
        let key = self.keys.each_ref().map(|key| key.hash_one(&caller));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.bucket(key, rate, now);
        let elapsed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.amount = (bucket.amount + elapsed * rate).min(rate);
        bucket.at = now.max(bucket.at);
        let left = bucket.amount - f64::from(tokens);
        let wait = Duration::from_secs_f64((-left / rate).max(0.0));
        if wait > patience {
            return Err(LimitError::Deadline { asked: tokens, wait });
        }
        bucket.amount = left;
        Ok(wait)
    }
}

impl Generations {
    fn bucket(&mut self, caller: Key, full: f64, now: Instant) -> &mut Tokens {
        let known = self.current.contains_key(&caller);
        let old = now.saturating_duration_since(self.began) >= GENERATION;
        if !known && (old || self.current.len() >= MOST_CALLERS) {
            self.previous = std::mem::take(&mut self.current);
            self.began = now;
        }
        let previous = self.previous.remove(&caller);
        self.current
            .entry(caller)
            .or_insert_with(|| previous.unwrap_or(Tokens { amount: full, at: now }))
    }
}

/// The longest that a call may wait for tokens: a rack of agents behind one address that start
/// together, at one attestation a second, all get their turn.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// No shorter than the longest wait, so that no debt is forgotten.
const GENERATION: Duration = LONGEST_WAIT;

/// Callers per generation, however many a flood comes from.
const MOST_CALLERS: usize = 65_536;

#[cfg(test)]
mod tests;
