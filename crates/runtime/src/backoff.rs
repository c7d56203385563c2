//! Exponential back-off with jitter, with SPIRE's figures.

use std::time::Duration;

/// How much longer each wait is than the one before.
const MULTIPLIER: f64 = 1.5;
/// How far a wait may stray from its nominal length, either way.
const JITTER: f64 = 0.10;
/// How much of that is the same every time, for those who are to drift apart.
const STEADY: f64 = 0.7;
/// The cap of the waits when none is given, as a multiple of the first.
const DEFAULT_MAX_MULTIPLE: u32 = 24;

/// A sequence of waits: `interval`, ×1.5 each time, never above `max`, each ±10 %.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    current: Duration,
    rng: fastrand::Rng,
    /// Where in `0.0..1.0` this one stands among its kind, if it is to keep its place.
    place: Option<f64>,
}

impl Backoff {
    /// Starts at `interval` and grows to `max`.
    pub fn new(interval: Duration, max: Duration) -> Self {
        Self::with_rng(interval, max, fastrand::Rng::new())
    }

    /// Starts at `interval` and grows to 24 times that.
    pub fn with_default_max(interval: Duration) -> Self {
        Self::new(interval, interval.saturating_mul(DEFAULT_MAX_MULTIPLE))
    }

    /// As [`Backoff::new`], with a random source of the caller's, so that a test can repeat it.
    pub fn with_rng(interval: Duration, max: Duration, rng: fastrand::Rng) -> Self {
        Self { initial: interval, max, current: interval, rng, place: None }
    }

    /// Keeps most of the jitter the same for a `seed`: of many who began at the same moment each
    /// drifts away from the others, the further the longer it lasts, where chance alone would keep
    /// them together.
    #[must_use]
    pub fn drifting(mut self, seed: u64) -> Self {
        self.place = Some((seed >> 11) as f64 / (1u64 << 53) as f64);
        self
    }

    /// How long to wait before the next attempt.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is no iterator")]
    pub fn next(&mut self) -> Duration {
        let chance = self.rng.f64();
        let jitter = match self.place {
            Some(place) => STEADY * place + (1.0 - STEADY) * chance,
            None => chance,
        };
        let spread = 1.0 + JITTER * (2.0 * jitter - 1.0);
        let wait = self.current.mul_f64(spread);
        self.current = if self.current >= self.max.div_f64(MULTIPLIER) {
            self.max
        } else {
            self.current.mul_f64(MULTIPLIER)
        };
        wait
    }

    /// Begins anew at the first interval.
    pub fn reset(&mut self) {
        self.current = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nominal(millis: u64, wait: Duration) -> bool {
        let nominal = Duration::from_millis(millis);
        nominal.mul_f64(0.9) <= wait && wait <= nominal.mul_f64(1.1)
    }

    #[test]
    fn grows_by_half_up_to_the_cap_and_starts_again_after_a_reset() {
        let mut backoff = Backoff::with_default_max(Duration::from_millis(6400));
        for millis in [6400, 9600, 14400, 21600, 32400, 48600, 72900, 109_350, 153_600, 153_600] {
            let wait = backoff.next();
            assert!(nominal(millis, wait), "{wait:?} is not about {millis}ms");
        }
        backoff.reset();
        assert!(nominal(6400, backoff.next()));
    }

    #[test]
    fn a_fleet_drifts_apart_within_the_usual_jitter() {
        let until = |seed: u64| {
            let second = Duration::from_secs(1);
            let mut backoff = Backoff::new(second, second).drifting(seed);
            (0..100).map(|_| backoff.next()).sum::<Duration>().as_secs_f64()
        };
        let (first, last) = (until(0), until(u64::MAX));
        assert!((90.0..95.0).contains(&first), "{first}");
        assert!((105.0..110.0).contains(&last), "{last}");
    }

    #[test]
    fn waits_of_many_clients_differ() {
        let mut waits: Vec<_> = (0..100)
            .map(|seed| {
                let rng = fastrand::Rng::with_seed(seed);
                Backoff::with_rng(Duration::from_secs(5), Duration::from_secs(60), rng).next()
            })
            .collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 90, "only {} different waits", waits.len());
    }
}
