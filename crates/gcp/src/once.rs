//! A value that many wait for and one fetches.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

/// How long a failure is everybody's answer, so that a server that hangs is asked by one at a time
/// and nobody waits for more than one of its answers.
const FAILURE: Duration = Duration::from_secs(3);
/// How soon a value that is good yet may be fetched again.
const AGAIN: Duration = Duration::from_secs(60);

/// A value, good until some time, or the failure to get it.
pub(crate) struct Once<T> {
    state: Mutex<State<T>>,
}

enum State<T> {
    Nothing,
    Good { value: Arc<T>, fetched: SystemTime, until: SystemTime },
    Failed { reason: String, until: SystemTime },
}

impl<T> Once<T> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State::Nothing) }
    }

    /// The value; fetched if there is none that is good at `now`.
    pub(crate) async fn get(
        &self,
        now: SystemTime,
        fetch: impl Future<Output = Result<(T, SystemTime), String>>,
    ) -> Result<Arc<T>, String> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Good { value, until, .. } if now < *until => return Ok(Arc::clone(value)),
            State::Failed { reason, until } if now < *until => return Err(reason.clone()),
            _ => {}
        }
        state.fill(now, fetch.await)
    }

    /// A value that is newer than `old`, if it is time to ask for one.
    pub(crate) async fn newer(
        &self,
        old: &Arc<T>,
        now: SystemTime,
        fetch: impl Future<Output = Result<(T, SystemTime), String>>,
    ) -> Option<Arc<T>> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Good { value, .. } if !Arc::ptr_eq(value, old) => {
                return Some(Arc::clone(value));
            }
            State::Good { fetched, .. } if now < *fetched + AGAIN => return None,
            State::Failed { until, .. } if now < *until => return None,
            _ => {}
        }
        match fetch.await {
            Ok(fetched) => state.fill(now, Ok(fetched)).ok(),
            Err(_) => {
                // What there is goes on being good.
                if let State::Good { fetched, .. } = &mut *state {
                    *fetched = now;
                }
                None
            }
        }
    }

    /// Forgets the value, if it is this one.
    pub(crate) async fn forget(&self, old: &Arc<T>) {
        let mut state = self.state.lock().await;
        if matches!(&*state, State::Good { value, .. } if Arc::ptr_eq(value, old)) {
            *state = State::Nothing;
        }
    }
}

impl<T> State<T> {
    fn fill(
        &mut self,
        now: SystemTime,
        fetched: Result<(T, SystemTime), String>,
    ) -> Result<Arc<T>, String> {
        match fetched {
            Ok((value, until)) => {
                let value = Arc::new(value);
                *self = Self::Good { value: Arc::clone(&value), fetched: now, until };
                Ok(value)
            }
            Err(reason) => {
                *self = Self::Failed { reason: reason.clone(), until: now + FAILURE };
                Err(reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    async fn good(value: u32) -> Result<(u32, SystemTime), String> {
        Ok((value, at(1000)))
    }

    async fn bad() -> Result<(u32, SystemTime), String> {
        Err("no".to_owned())
    }

    #[tokio::test]
    async fn a_value_is_kept_for_its_time_and_a_failure_for_a_moment() {
        let once = Once::new();
        assert_eq!(once.get(at(0), bad()).await, Err("no".to_owned()));
        assert_eq!(once.get(at(1), good(1)).await, Err("no".to_owned()), "asked too soon");
        assert_eq!(*once.get(at(10), good(2)).await.unwrap(), 2);
        assert_eq!(*once.get(at(999), good(3)).await.unwrap(), 2);
        assert_eq!(*once.get(at(1000), good(4)).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn a_newer_value_is_asked_for_once_a_minute_at_most() {
        let once = Once::new();
        let first = once.get(at(0), good(1)).await.unwrap();
        assert_eq!(once.newer(&first, at(30), good(2)).await, None);
        assert_eq!(once.newer(&first, at(61), bad()).await, None);
        assert_eq!(*once.get(at(62), bad()).await.unwrap(), 1, "the old one is good yet");
        assert_eq!(once.newer(&first, at(100), good(3)).await, None, "a failure counts, too");
        let second = once.newer(&first, at(200), good(4)).await.unwrap();
        assert_eq!(*second, 4);
        assert_eq!(*once.newer(&first, at(200), bad()).await.unwrap(), 4, "somebody else asked");
        once.forget(&first).await;
        assert_eq!(*once.get(at(201), good(5)).await.unwrap(), 4);
        once.forget(&second).await;
        assert_eq!(*once.get(at(202), good(6)).await.unwrap(), 6);
    }
}
