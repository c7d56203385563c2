//! Token buckets per client address (facts SA-22, SA-23).
//!
//! A caller over the limit waits its turn, as in SPIRE, which smooths out a
//! start of many agents. What can never be granted, or not in time, is refused
//! at once: a waiting call costs memory, and a flood must not.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Which bucket a method draws from. Methods that do the same work share one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bucket {
    Attest,
    SignX509,
    SignJwt,
    SignWit,
    Publish,
    Status,
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

/// Which limits apply (SC-26, SC-27).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitSwitches {
    /// On attestation.
    pub attestation: bool,
    /// On signing.
    pub signing: bool,
}

/// Why a call is refused instead of waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("rate ({asked}) exceeds burst size ({burst})")]
    Burst { asked: u32, burst: u32 },
    #[error("rate: Wait(n={asked}) would exceed context deadline")]
    Deadline { asked: u32 },
}

/// The buckets of every client.
#[derive(Debug)]
pub(crate) struct Limits {
    attest: Option<PerAddress>,
    sign_x509: Option<PerAddress>,
    sign_jwt: Option<PerAddress>,
    sign_wit: Option<PerAddress>,
    publish: Option<PerAddress>,
    status: Option<PerAddress>,
}

impl Limits {
    pub(crate) fn new(switches: LimitSwitches, now: Instant) -> Self {
        let signing = || switches.signing.then(|| PerAddress::new(500, now));
        Self {
            attest: switches.attestation.then(|| PerAddress::new(1, now)),
            sign_x509: signing(),
            sign_jwt: signing(),
            sign_wit: signing(),
            publish: Some(PerAddress::new(500, now)),
            status: Some(PerAddress::new(10, now)),
        }
    }

    /// Takes tokens and answers how long to wait before going on.
    pub(crate) fn take(
        &self,
        bucket: Bucket,
        address: IpAddr,
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
        };
        match limit {
            Some(limit) => limit.take(address, tokens, patience.min(LONGEST_WAIT), now),
            None => Ok(Duration::ZERO),
        }
    }
}

/// One kind of limit: a bucket per address, burst = rate per second.
#[derive(Debug)]
struct PerAddress {
    rate: u32,
    buckets: Mutex<Generations>,
}

/// Buckets that nobody used for two generations are gone.
#[derive(Debug)]
struct Generations {
    current: HashMap<IpAddr, Tokens>,
    previous: HashMap<IpAddr, Tokens>,
    began: Instant,
}

/// A bucket: negative while calls wait.
#[derive(Clone, Copy, Debug)]
struct Tokens {
    amount: f64,
    at: Instant,
}

impl PerAddress {
    fn new(rate: u32, now: Instant) -> Self {
        let buckets = Generations { current: HashMap::new(), previous: HashMap::new(), began: now };
        Self { rate, buckets: Mutex::new(buckets) }
    }

    fn take(
        &self,
        address: IpAddr,
        tokens: u32,
        patience: Duration,
        now: Instant,
    ) -> Result<Duration, LimitError> {
        if tokens > self.rate {
            return Err(LimitError::Burst { asked: tokens, burst: self.rate });
        }
        let rate = f64::from(self.rate);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.bucket(address.to_canonical(), rate, now);
        let elapsed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.amount = (bucket.amount + elapsed * rate).min(rate);
        bucket.at = now.max(bucket.at);
        let left = bucket.amount - f64::from(tokens);
        let wait = Duration::from_secs_f64((-left / rate).max(0.0));
        if wait > patience {
            return Err(LimitError::Deadline { asked: tokens });
        }
        bucket.amount = left;
        Ok(wait)
    }
}

impl Generations {
    fn bucket(&mut self, address: IpAddr, full: f64, now: Instant) -> &mut Tokens {
        let known = self.current.contains_key(&address);
        let old = now.saturating_duration_since(self.began) >= GENERATION;
        if !known && (old || self.current.len() >= MOST_ADDRESSES) {
            self.previous = std::mem::take(&mut self.current);
            self.began = now;
        }
        let previous = self.previous.remove(&address);
        self.current
            .entry(address)
            .or_insert_with(|| previous.unwrap_or(Tokens { amount: full, at: now }))
    }
}

/// The longest that a call may wait for tokens: a rack of agents behind one address that start
/// together, at one attestation a second, all get their turn.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// No shorter than the longest wait, so that no debt is forgotten.
const GENERATION: Duration = LONGEST_WAIT;

/// Addresses per generation, however many a flood comes from.
const MOST_ADDRESSES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    const MINUTE: Duration = Duration::from_secs(60);

    fn limits(now: Instant) -> Limits {
        Limits::new(LimitSwitches { attestation: true, signing: true }, now)
    }

    fn wait(limits: &Limits, address: IpAddr, now: Instant) -> Duration {
        limits.take(Bucket::Attest, address, 1, MINUTE, now).unwrap()
    }

    #[test]
    fn the_second_attestation_of_an_address_waits_a_second() {
        let start = Instant::now();
        let limits = limits(start);
        assert_eq!(wait(&limits, A, start), Duration::ZERO);
        assert_eq!(wait(&limits, A, start), Duration::from_secs(1));
        assert_eq!(wait(&limits, A, start), Duration::from_secs(2));
        assert_eq!(wait(&limits, B, start), Duration::ZERO, "another address waited too");
        assert_eq!(wait(&limits, A, start + Duration::from_secs(3)), Duration::ZERO);
    }

    #[test]
    fn what_cannot_be_granted_in_time_is_refused_and_takes_nothing() {
        let start = Instant::now();
        let limits = limits(start);
        wait(&limits, A, start);
        let impatient = Duration::from_millis(500);
        let refused = limits.take(Bucket::Attest, A, 1, impatient, start).unwrap_err();
        assert_eq!(refused.to_string(), "rate: Wait(n=1) would exceed context deadline");
        assert_eq!(wait(&limits, A, start), Duration::from_secs(1));
    }

    #[test]
    fn more_than_the_burst_is_never_granted() {
        let start = Instant::now();
        let limits = limits(start);
        let refused = limits.take(Bucket::SignX509, A, 501, MINUTE, start).unwrap_err();
        assert_eq!(refused.to_string(), "rate (501) exceeds burst size (500)");
        assert_eq!(limits.take(Bucket::SignX509, A, 500, MINUTE, start), Ok(Duration::ZERO));
    }

    #[test]
    fn a_limit_that_is_switched_off_lets_everything_through() {
        let start = Instant::now();
        let limits = Limits::new(LimitSwitches { attestation: false, signing: false }, start);
        for _ in 0..10 {
            assert_eq!(wait(&limits, A, start), Duration::ZERO);
        }
        assert_eq!(limits.take(Bucket::SignJwt, A, 10_000, MINUTE, start), Ok(Duration::ZERO));
        assert!(limits.take(Bucket::Status, A, 11, MINUTE, start).is_err(), "has no switch");
    }

    #[test]
    fn a_waiting_queue_is_bounded_and_idle_buckets_are_forgotten() {
        let start = Instant::now();
        let limit = PerAddress::new(1, start);
        let granted = (0..200).filter(|_| limit.take(A, 1, LONGEST_WAIT, start).is_ok()).count();
        assert_eq!(granted, 121);
        let mut later = start;
        for address in [B, B] {
            later += GENERATION;
            limit.take(address, 1, LONGEST_WAIT, later).unwrap();
            later += GENERATION;
            limit.take(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1, LONGEST_WAIT, later).unwrap();
        }
        let buckets = limit.buckets.lock().unwrap();
        assert!(!buckets.current.contains_key(&A) && !buckets.previous.contains_key(&A));
    }

    #[test]
    fn a_flood_of_addresses_does_not_grow_the_map_without_end() {
        let start = Instant::now();
        let limit = PerAddress::new(1, start);
        for number in 0..200_000u32 {
            let address = IpAddr::V4(std::net::Ipv4Addr::from(number));
            limit.take(address, 1, LONGEST_WAIT, start).unwrap();
        }
        let buckets = limit.buckets.lock().unwrap();
        assert!(buckets.current.len() + buckets.previous.len() <= 2 * MOST_ADDRESSES);
    }
}
