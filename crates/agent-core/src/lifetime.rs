//! When an SVID is due for renewal.
//!
//! An SVID is renewed when what is left of it is half its lifetime, give or
//! take a tenth of that half, so that a fleet started together does not renew
//! together. With an availability target it is renewed once only the target
//! and up to ten minutes are left, if the lifetime leaves twelve hours besides.

use std::time::{Duration, Instant, SystemTime};

/// How early SVIDs are renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenewalRule {
    /// The time an SVID must outlive an outage (`availability_target`).
    pub availability_target: Option<Duration>,
}

impl RenewalRule {
    /// The moment at which an SVID that holds from `begin` to `end` is due.
    /// `dice` in `0.0..1.0` places it inside the window; roll it once per SVID.
    pub fn due(&self, begin: SystemTime, end: SystemTime, dice: f64) -> SystemTime {
        let lifetime = end.duration_since(begin).unwrap_or_default();
        let dice = dice.clamp(0.0, 1.0);
        let half = lifetime.mul_f64(0.45 + 0.1 * dice);
        let remaining = match self.availability_target {
            Some(target) if !Self::too_short(lifetime, target) => {
                half.max(target + AVAILABILITY_JITTER.mul_f64(dice))
            }
            _ => half,
        };
        end - remaining.min(lifetime)
    }

    /// Whether an SVID of that lifetime cannot honour the availability target,
    /// so that half its lifetime decides after all.
    pub fn falls_back(&self, lifetime: Duration) -> bool {
        self.availability_target.is_some_and(|target| Self::too_short(lifetime, target))
    }

    fn too_short(lifetime: Duration, target: Duration) -> bool {
        lifetime.saturating_sub(target) <= GRACE
    }
}

/// Where in `0.0..1.0` an agent places its renewals: mostly where it always does, by a `seed` of
/// its own, so that agents that began together drift apart with each renewal, and part by `chance`.
pub fn steady_dice(seed: u64, chance: f64) -> f64 {
    let place = (seed >> 11) as f64 / (1u64 << 53) as f64;
    STEADY * place + (1.0 - STEADY) * chance.clamp(0.0, 1.0)
}

/// How long to wait after a failure: as long as one's own back-off says, and at least as long as
/// the server `asked` for. It is not believed without bounds: an agent waits for five minutes at
/// most, and for no more than half of what is `left` of an SVID that depends on it.
pub fn heed(own: Duration, asked: Option<Duration>, left: Option<Duration>) -> Duration {
    let bound = left.map_or(LONGEST_HEED, |left| LONGEST_HEED.min(left / 2));
    own.max(asked.unwrap_or_default().min(bound))
}

/// What an overloaded server said last about asking it again: until then it is left alone, whoever
/// wants something of it.
#[derive(Debug, Default)]
pub struct Appointment<E> {
    kept: Option<(Instant, E)>,
}

impl<E> Appointment<E> {
    /// It refused a call at `now`, with this error, and `asked` for so much time.
    pub fn make(&mut self, asked: Duration, now: Instant, error: E) {
        self.kept = Some((now + heed(Duration::ZERO, Some(asked), None), error));
    }

    /// How long it is to be left alone from `now` on, and the error of who asked last; none if it
    /// may be asked.
    pub fn left(&self, now: Instant) -> Option<(Duration, &E)> {
        let (until, error) = self.kept.as_ref()?;
        let left = until.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some((left, error))
    }
}

/// Whether something that holds until `end` is over, one second early so that
/// the server's clock need not agree to the second.
pub fn expired(end: SystemTime, now: SystemTime) -> bool {
    now + Duration::from_secs(1) >= end
}

const STEADY: f64 = 0.7;
const LONGEST_HEED: Duration = Duration::from_secs(5 * 60);
const GRACE: Duration = Duration::from_secs(12 * 60 * 60);
const AVAILABILITY_JITTER: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOON: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn due_at_half_life_give_or_take_a_tenth() {
        let rule = RenewalRule::default();
        let minutes =
            |dice| rule.due(NOON, NOON + HOUR, dice).duration_since(NOON).unwrap().as_secs() / 60;
        assert_eq!(minutes(0.5), 30);
        assert_eq!(minutes(0.0), 33);
        assert_eq!(minutes(1.0), 27);
    }

    #[test]
    fn an_availability_target_brings_renewal_forward() {
        let rule = RenewalRule { availability_target: Some(24 * HOUR) };
        let left = |lifetime: Duration| {
            let end = NOON + lifetime;
            end.duration_since(rule.due(NOON, end, 0.5)).unwrap()
        };
        assert_eq!(left(40 * HOUR), 24 * HOUR + Duration::from_secs(300));
        assert_eq!(left(100 * HOUR), 50 * HOUR, "half the life comes first");
    }

    #[test]
    fn a_lifetime_too_short_for_the_target_falls_back() {
        let rule = RenewalRule { availability_target: Some(24 * HOUR) };
        assert!(rule.falls_back(36 * HOUR));
        assert!(!rule.falls_back(36 * HOUR + Duration::from_secs(1)));
        assert!(!RenewalRule::default().falls_back(HOUR));
        assert_eq!(rule.due(NOON, NOON + HOUR, 0.5), NOON + HOUR / 2);
    }

    #[test]
    fn a_fleet_that_began_together_drifts_apart() {
        let rule = RenewalRule::default();
        let after = |seed: u64, renewals: u32| {
            (0..renewals).fold(NOON, |at, _| rule.due(at, at + HOUR, steady_dice(seed, 0.5)))
        };
        let apart = |renewals| after(0, renewals).duration_since(after(u64::MAX, renewals));
        let minutes = |renewals| apart(renewals).unwrap().as_secs_f64() / 60.0;
        assert!((4.0..4.5).contains(&minutes(1)), "{}", minutes(1));
        assert!(minutes(7) > 29.0, "{}", minutes(7));
        for (seed, chance) in [(0, 0.0), (0, 1.0), (u64::MAX, 0.0), (u64::MAX, 1.0)] {
            assert!((0.0..=1.0).contains(&steady_dice(seed, chance)));
        }
    }

    #[test]
    fn a_server_is_heeded_within_bounds() {
        let second = Duration::from_secs(1);
        assert_eq!(heed(5 * second, None, None), 5 * second);
        assert_eq!(heed(5 * second, Some(30 * second), None), 30 * second);
        assert_eq!(heed(50 * second, Some(30 * second), None), 50 * second);
        assert_eq!(heed(second, Some(HOUR), None), 300 * second);
        assert_eq!(heed(second, Some(HOUR), Some(100 * second)), 50 * second);
        assert_eq!(heed(second, Some(HOUR), Some(Duration::ZERO)), second);
    }

    #[test]
    fn a_server_is_left_alone_until_it_may_be_asked_and_for_five_minutes_at_most() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let mut appointment = Appointment::default();
        assert_eq!(appointment.left(now), None);
        appointment.make(3 * second, now, "busy");
        assert_eq!(appointment.left(now + second), Some((2 * second, &"busy")));
        assert_eq!(appointment.left(now + 3 * second), None);
        appointment.make(HOUR, now + 4 * second, "busier");
        assert_eq!(appointment.left(now + 4 * second), Some((300 * second, &"busier")));
    }

    #[test]
    fn expiry_is_seen_one_second_early() {
        assert!(!expired(NOON + Duration::from_secs(2), NOON));
        assert!(expired(NOON + Duration::from_secs(1), NOON));
    }

    proptest! {
        #[test]
        fn always_due_within_the_lifetime(life in 0u64..10_000_000, target in proptest::option::of(86_400u64..1_000_000), dice in 0.0f64..1.0) {
            let rule = RenewalRule { availability_target: target.map(Duration::from_secs) };
            let end = NOON + Duration::from_secs(life);
            let due = rule.due(NOON, end, dice);
            prop_assert!(due >= NOON && due <= end);
        }
    }
}
