//! Daemons that hang: who asks one waits for the deadline, and everybody behind waits with him. So
//! a daemon that did not answer is asked by one at a time until it does; the others learn at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// More hanging daemons than this are not remembered; each user may have one.
const MAX_REMEMBERED: usize = 1024;

/// Which daemons hang, by their address.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Whether somebody is asking it right now.
    hanging: Mutex<HashMap<String, bool>>,
}

/// The right to ask a daemon. Dropped without a word, it tells nothing new about the daemon.
pub(crate) struct Turn<'a> {
    owner: &'a Patience,
    host: &'a str,
    probes: bool,
}

impl Patience {
    /// A turn with the daemon at `host`; none while it hangs and another is trying.
    pub(crate) fn turn<'a>(&'a self, host: &'a str) -> Option<Turn<'a>> {
        let mut hanging = self.lock();
        let probes = match hanging.get_mut(host) {
            None => false,
            Some(true) => return None,
            Some(asked) => {
                *asked = true;
                true
            }
        };
        Some(Turn { owner: self, host, probes })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.hanging.lock().expect("no code panics while it holds the list")
    }
}

impl Turn<'_> {
    /// The daemon answered, be it with an error.
    pub(crate) fn answered(self) {
        self.owner.lock().remove(self.host);
    }

    /// The daemon did not answer.
    pub(crate) fn hung(mut self) {
        self.probes = false;
        let mut hanging = self.owner.lock();
        if hanging.len() < MAX_REMEMBERED || hanging.contains_key(self.host) {
            hanging.insert(self.host.to_owned(), false);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.probes
            && let Some(asked) = self.owner.lock().get_mut(self.host)
        {
            *asked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_hangs_is_asked_by_one_at_a_time() {
        let patience = Patience::default();
        let (first, second) = (patience.turn("a").unwrap(), patience.turn("a").unwrap());
        first.hung();
        let probe = patience.turn("a").unwrap();
        assert!(patience.turn("a").is_none());
        assert!(patience.turn("b").is_some());
        drop(probe);
        patience.turn("a").unwrap().hung();
        let probe = patience.turn("a").unwrap();
        assert!(patience.turn("a").is_none());
        probe.answered();
        let turns = (patience.turn("a"), patience.turn("a"));
        assert!(turns.0.is_some() && turns.1.is_some());
        second.answered();
    }

    #[test]
    fn the_list_does_not_grow_for_ever() {
        let patience = Patience::default();
        for number in 0..2 * MAX_REMEMBERED {
            patience.turn(&number.to_string()).unwrap().hung();
        }
        assert_eq!(patience.lock().len(), MAX_REMEMBERED);
    }
}
