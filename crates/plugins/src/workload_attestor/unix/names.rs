//! Names of users and groups, from the system's user database.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::unistd::{Gid, Group, Uid, User};
use steeple_runtime::Clock;

use super::cache::Cache;

/// How long an answer holds, so that a flood of callers is not a flood of lookups, which may go
/// over the network. A change shows within this time.
const LIFETIME: Duration = Duration::from_secs(5);
const CAPACITY: usize = 1024;

/// An answer and when it was given; no name is an answer too.
type Answer = (Option<Arc<str>>, SystemTime);

pub(super) struct Names {
    clock: Arc<dyn Clock>,
    users: Mutex<Cache<u32, Answer>>,
    groups: Mutex<Cache<u32, Answer>>,
}

impl Names {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let cache = || Mutex::new(Cache::new(CAPACITY));
        Self { clock, users: cache(), groups: cache() }
    }

    /// The name of user `uid`, if the system knows one. Blocks.
    pub(super) fn user(&self, uid: u32) -> Option<Arc<str>> {
        self.answer(&self.users, uid, || {
            let user = User::from_uid(Uid::from_raw(uid)).ok()?;
            Some(user.map(|user| user.name.into()))
        })
    }

    /// The name of group `gid`, if the system knows one. Blocks.
    pub(super) fn group(&self, gid: u32) -> Option<Arc<str>> {
        self.answer(&self.groups, gid, || {
            let group = Group::from_gid(Gid::from_raw(gid)).ok()?;
            Some(group.map(|group| group.name.into()))
        })
    }

    /// From `cache`, or by `look_up`, which gives nothing when it failed; that is not kept.
    fn answer(
        &self,
        cache: &Mutex<Cache<u32, Answer>>,
        id: u32,
        look_up: impl FnOnce() -> Option<Option<Arc<str>>>,
    ) -> Option<Arc<str>> {
        let now = self.clock.now();
        let fresh = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age < LIFETIME);
        {
            let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((name, at)) = cache.get(&id)
                && fresh(*at)
            {
                return name.clone();
            }
        }
        let name = look_up()?;
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(id, (name.clone(), now));
        name
    }
}

#[cfg(test)]
mod tests {
    use steeple_runtime::ManualClock;

    use super::*;

    #[test]
    fn names_are_those_of_the_system() {
        let names = Names::new(Arc::new(ManualClock::default()));
        assert_eq!(names.user(0).as_deref(), Some("root"));
        assert_eq!(names.group(0).as_deref(), Some("root"));
        assert_eq!(names.user(u32::MAX - 7), None);
    }

    #[test]
    fn an_answer_holds_for_its_lifetime_and_a_failure_not_at_all() {
        let clock = ManualClock::default();
        let names = Names::new(Arc::new(clock.clone()));
        let ask = |answer: Option<Option<&str>>| {
            names.answer(&names.users, 1, || answer.map(|name| name.map(Arc::from)))
        };
        assert_eq!(ask(None), None);
        assert_eq!(ask(Some(Some("first"))).as_deref(), Some("first"));
        clock.advance(LIFETIME - Duration::from_millis(1));
        assert_eq!(ask(Some(Some("second"))).as_deref(), Some("first"));
        clock.advance(Duration::from_millis(1));
        assert_eq!(ask(Some(None)), None);
        assert_eq!(ask(Some(Some("third"))), None, "that there is no name is an answer");
        clock.set(SystemTime::UNIX_EPOCH);
        assert_eq!(ask(Some(Some("third"))).as_deref(), Some("third"), "the clock was set back");
    }
}
