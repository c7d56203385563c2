//! Lists of members (accounts of an organization, nodes of clusters) that are kept for a while.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

/// How often a list is fetched anew for the sake of one that is not on it, before it is old.
const RETRIES: u32 = 5;

/// A list, and when it was fetched.
pub(super) struct Membership {
    state: Mutex<State>,
    ttl: Duration,
    /// Whether an empty list is as good as none.
    distrusts_empty: bool,
}

#[derive(Default)]
struct State {
    members: HashSet<String>,
    /// When the list is old; none was fetched yet before.
    until: Option<SystemTime>,
    retries: u32,
}

impl Membership {
    pub(super) fn new(ttl: Duration, distrusts_empty: bool) -> Self {
        Self { state: Mutex::default(), ttl, distrusts_empty }
    }

    /// Whether `id` is a member at `now`. A list that is old is fetched first, and one that `id`
    /// is not on a few times again. While one caller fetches, the others wait.
    pub(super) async fn contains<E>(
        &self,
        id: &str,
        now: SystemTime,
        fetch: impl Future<Output = Result<HashSet<String>, E>>,
    ) -> Result<bool, E> {
        let mut state = self.state.lock().await;
        let is_old = state.until.is_none_or(|until| now > until)
            || (self.distrusts_empty && state.members.is_empty());
        if is_old {
            state.members = fetch.await?;
            state.until = Some(now + self.ttl);
            state.retries = RETRIES;
        } else if !state.members.contains(id) && state.retries > 0 {
            state.members = fetch.await?;
            state.retries -= 1;
        }
        Ok(state.members.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_list_is_fetched_when_it_is_old_and_a_few_times_for_strangers() {
        let membership = Membership::new(Duration::from_secs(60), false);
        let start = SystemTime::UNIX_EPOCH;
        let fetched = Cell::new(0);
        let asks = async |id: &str, after: u64| {
            let fetch = async {
                fetched.set(fetched.get() + 1);
                Ok::<_, ()>(HashSet::from(["member".to_owned()]))
            };
            membership.contains(id, start + Duration::from_secs(after), fetch).await.unwrap()
        };
        assert!(asks("member", 0).await && asks("member", 60).await);
        assert_eq!(fetched.get(), 1);
        for _ in 0..10 {
            assert!(!asks("stranger", 60).await);
        }
        assert_eq!(fetched.get(), 6);
        assert!(!asks("stranger", 61).await);
        assert_eq!(fetched.get(), 7);
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_had_vouches_for_nobody() {
        let membership = Membership::new(Duration::from_secs(60), true);
        let now = SystemTime::UNIX_EPOCH;
        let failing = membership.contains("a", now, async { Err("down") }).await;
        assert_eq!(failing, Err("down"));
        let empty = async { Ok::<_, &str>(HashSet::new()) };
        assert_eq!(membership.contains("a", now, empty).await, Ok(false));
        let found = async { Ok::<_, &str>(HashSet::from(["a".to_owned()])) };
        assert_eq!(
            membership.contains("a", now, found).await,
            Ok(true),
            "empty is as good as none"
        );
    }
}
