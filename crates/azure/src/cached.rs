//! Something that is fetched, kept for a while, and fetched again; never by two at once, and not
//! in a storm while it cannot be had.

use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::web::CloudError;

/// How long nobody asks again after asking failed, with nothing in hand.
const RETRY_EMPTY: Duration = Duration::from_secs(3);
/// How long nobody asks again after asking failed, with something older in hand.
const RETRY_STALE: Duration = Duration::from_secs(30);

/// What was fetched and how long it is good.
pub(crate) struct Fetched<T> {
    /// The thing.
    pub(crate) value: T,
    /// When it is fetched anew.
    pub(crate) fresh: Duration,
    /// Until when it is used though it cannot be fetched anew; no less than `fresh`.
    pub(crate) usable: Duration,
}

/// See the module.
pub(crate) struct Cached<T>(Mutex<State<T>>);

struct State<T> {
    kept: Option<Kept<T>>,
    failed: Option<(SystemTime, CloudError)>,
}

struct Kept<T> {
    value: T,
    at: SystemTime,
    fresh: Duration,
    usable: Duration,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Mutex::new(State { kept: None, failed: None }))
    }
}

/// How far a clock may be set back without anybody noticing.
const JITTER: Duration = Duration::from_mins(1);

/// How long ago `then` is; a clock that was set back makes it forever.
fn age(now: SystemTime, then: SystemTime) -> Duration {
    match now.duration_since(then) {
        Ok(age) => age,
        Err(ahead) if ahead.duration() < JITTER => Duration::ZERO,
        Err(_) => Duration::MAX,
    }
}

impl<T: Clone> Cached<T> {
    /// What is in hand, or what `fetch` gives.
    ///
    /// # Errors
    /// When there is nothing in hand and it cannot be fetched, or could not a moment ago.
    pub(crate) async fn get(
        &self,
        now: SystemTime,
        fetch: impl AsyncFnOnce() -> Result<Fetched<T>, CloudError>,
    ) -> Result<T, CloudError> {
        self.newer(now, Duration::MAX, fetch).await
    }

    /// As [`Cached::get`], but what is in hand and not younger than `oldest` is fetched anew.
    ///
    /// # Errors
    /// As [`Cached::get`].
    pub(crate) async fn newer(
        &self,
        now: SystemTime,
        oldest: Duration,
        fetch: impl AsyncFnOnce() -> Result<Fetched<T>, CloudError>,
    ) -> Result<T, CloudError> {
        let asked = Instant::now();
        let mut state = self.0.lock().await;
        // Whoever waited for another's failure is told of it, and does not repeat it.
        let now = now + asked.elapsed();
        let in_hand = state.kept.as_ref().map(|it| (age(now, it.at), it));
        if let Some((age, kept)) = in_hand
            && age < kept.fresh
            && age < oldest
        {
            return Ok(kept.value.clone());
        }
        let stale = in_hand.filter(|(age, kept)| *age < kept.usable);
        let stale = stale.map(|(_, kept)| kept.value.clone());
        let pause = if stale.is_some() { RETRY_STALE } else { RETRY_EMPTY };
        if let Some((at, error)) = &state.failed
            && age(now, *at) < pause
        {
            return stale.ok_or_else(|| error.clone());
        }
        let began = Instant::now();
        match fetch().await {
            Ok(Fetched { value, fresh, usable }) => {
                state.kept = Some(Kept { value: value.clone(), at: now, fresh, usable });
                state.failed = None;
                Ok(value)
            }
            Err(error) => {
                tracing::warn!(error = %error, "Unable to refresh what is kept of Azure");
                state.failed = Some((now + began.elapsed(), error.clone()));
                stale.ok_or(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    fn good(value: u32) -> Result<Fetched<u32>, CloudError> {
        let seconds = Duration::from_secs;
        Ok(Fetched { value, fresh: seconds(100), usable: seconds(1000) })
    }

    fn bad() -> Result<Fetched<u32>, CloudError> {
        Err(CloudError::answer("away"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_hand_is_used_while_it_is_fresh() {
        let cached = Cached::default();
        assert_eq!(cached.get(at(0), async || good(1)).await.unwrap(), 1);
        assert_eq!(cached.get(at(99), async || good(2)).await.unwrap(), 1);
        assert_eq!(cached.get(at(100), async || good(3)).await.unwrap(), 3);
        assert_eq!(
            cached.newer(at(110), Duration::from_secs(20), async || good(4)).await.unwrap(),
            3
        );
        assert_eq!(
            cached.newer(at(120), Duration::from_secs(20), async || good(5)).await.unwrap(),
            5
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_bridged_for_a_while_and_not_tried_again_at_once() {
        let cached = Cached::default();
        assert!(cached.get(at(0), async || bad()).await.is_err());
        assert!(cached.get(at(2), async || good(1)).await.is_err());
        assert_eq!(cached.get(at(3), async || good(1)).await.unwrap(), 1);
        assert_eq!(cached.get(at(200), async || bad()).await.unwrap(), 1);
        assert_eq!(cached.get(at(229), async || good(2)).await.unwrap(), 1);
        assert_eq!(cached.get(at(230), async || good(2)).await.unwrap(), 2);
        assert_eq!(cached.get(at(1229), async || bad()).await.unwrap(), 2);
        assert!(cached.get(at(1230), async || bad()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_failure_does_not_repeat_it() {
        let cached = Cached::default();
        let asked = AtomicUsize::new(0);
        let slow = async || {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(10)).await;
            bad()
        };
        let late = async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            cached.get(at(9), slow).await
        };
        let (first, second, late) =
            tokio::join!(cached.get(at(0), slow), cached.get(at(0), slow), late);
        assert!(first.is_err() && second.is_err() && late.is_err());
        assert_eq!(asked.into_inner(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_back_makes_nothing_good_for_ever() {
        let cached = Cached::default();
        cached.get(at(1000), async || good(1)).await.unwrap();
        assert_eq!(cached.get(at(900), async || good(2)).await.unwrap(), 2);
        assert!(cached.get(at(500), async || bad()).await.is_err());
    }
}
