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
pub(super) type Answer = (Option<Arc<str>>, SystemTime);

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

    /// The name of user `uid`, if the system knows one; nothing when it does not answer. Blocks.
    pub(super) fn user(&self, uid: u32) -> Option<Answer> {
        self.answer(&self.users, uid, || {
            let user = User::from_uid(Uid::from_raw(uid)).ok()?;
            Some(user.map(|user| user.name.into()))
        })
    }

    /// The name of group `gid`, by the same rules. Blocks.
    pub(super) fn group(&self, gid: u32) -> Option<Answer> {
        self.answer(&self.groups, gid, || {
            let group = Group::from_gid(Gid::from_raw(gid)).ok()?;
            Some(group.map(|group| group.name.into()))
        })
    }

    /// The time by which answers age.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Whether what was answered `at` that time still holds.
    pub(super) fn holds(&self, at: SystemTime) -> bool {
        self.now().duration_since(at).is_ok_and(|age| age < LIFETIME)
    }

    /// From `cache`, or by `look_up`, which gives nothing when it failed; that is not kept.
    fn answer(
        &self,
        cache: &Mutex<Cache<u32, Answer>>,
        id: u32,
        look_up: impl FnOnce() -> Option<Option<Arc<str>>>,
    ) -> Option<Answer> {
        let now = self.clock.now();
        {
            let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = cache.get(&id)
                && self.holds(answer.1)
            {
                return Some(answer.clone());
            }
        }
        let answer = (look_up()?, now);
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(id, answer.clone());
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use steeple_runtime::ManualClock;

    use super::*;

    #[test]
    fn names_are_those_of_the_system() {
        let names = Names::new(Arc::new(ManualClock::default()));
        let name = |answer: Option<Answer>| answer.unwrap().0;
        assert_eq!(name(names.user(0)).as_deref(), Some("root"));
        assert_eq!(name(names.group(0)).as_deref(), Some("root"));
        assert_eq!(name(names.user(u32::MAX - 7)), None);
    }

    #[test]
    fn an_answer_holds_for_its_lifetime_and_a_failure_not_at_all() {
        let clock = ManualClock::default();
        let names = Names::new(Arc::new(clock.clone()));
        let ask = |answer: Option<Option<&str>>| {
            let answer = names.answer(&names.users, 1, || answer.map(|name| name.map(Arc::from)));
            answer.and_then(|(name, _)| name)
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
