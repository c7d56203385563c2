//! The order of those who wait.

use std::collections::{HashSet, VecDeque};

/// Of a new observation, what goes into the running mean of how many turns the modest take.
const SHARE_OF_NEW: f64 = 0.05;

/// Callers that wait, in the order of their turns. Every other turn is for one that had none in
/// this round or the one before, if there is such a caller: so who asks for less than its share does
/// not wait for a round of all who ask for more.
#[derive(Debug, Default)]
pub(super) struct Turns {
    modest: VecDeque<u64>,
    others: VecDeque<u64>,
    /// Whether the last turn was one of `modest`, while others waited.
    modest_had_it: bool,
    /// The part of the turns that `modest` had lately while others waited: half, in the end.
    taken: f64,
    /// Who had a turn in this round and in the one before; nobody while nobody waits.
    served: HashSet<u64>,
    served_before: HashSet<u64>,
    /// How many turns this round still has.
    left: usize,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.modest.is_empty() && self.others.is_empty()
    }

    fn len(&self) -> usize {
        self.modest.len() + self.others.len()
    }

    /// How many turns pass before the one of a caller that has so many calls waiting, and asks for
    /// another.
    pub(super) fn ahead(&self, caller: u64, waiting: usize) -> f64 {
        if waiting == 0 && self.is_modest(caller) {
            return (self.modest.len() + self.others.len().min(self.modest.len() + 1)) as f64;
        }
        let rounds = (waiting + 1) * (self.others.len() + 1);
        self.modest.len() as f64 + rounds as f64 / (1.0 - self.taken.min(0.5))
    }

    /// A caller begins to wait.
    pub(super) fn add(&mut self, caller: u64) {
        if self.is_modest(caller) {
            self.modest.push_back(caller);
        } else {
            self.others.push_back(caller);
        }
    }

    /// One goes on waiting that had its turn.
    pub(super) fn add_again(&mut self, caller: u64) {
        self.others.push_back(caller);
    }

    /// Whose turn it is.
    pub(super) fn peek(&self) -> Option<u64> {
        let turns = if self.is_for_modest() { &self.modest } else { &self.others };
        turns.front().copied()
    }

    /// As [`Self::peek`]; then it is the turn of the next.
    pub(super) fn pop(&mut self) -> Option<u64> {
        if self.left == 0 {
            self.served_before = std::mem::take(&mut self.served);
            self.left = self.len();
        }
        let modest = self.is_for_modest();
        self.modest_had_it = modest && !self.others.is_empty();
        self.taken += SHARE_OF_NEW * (f64::from(u8::from(self.modest_had_it)) - self.taken);
        let next = if modest { self.modest.pop_front() } else { self.others.pop_front() }?;
        self.left = self.left.saturating_sub(1);
        self.served.insert(next);
        Some(next)
    }

    /// A caller waits no longer.
    pub(super) fn remove(&mut self, caller: u64) {
        self.modest.retain(|turn| *turn != caller);
        self.others.retain(|turn| *turn != caller);
    }

    /// Nobody waits who could have a turn: what was is forgotten.
    pub(super) fn forget(&mut self) {
        if self.is_empty() && !(self.served.is_empty() && self.served_before.is_empty()) {
            *self = Self::default();
        }
    }

    fn is_modest(&self, caller: u64) -> bool {
        !self.served.contains(&caller) && !self.served_before.contains(&caller)
    }

    fn is_for_modest(&self) -> bool {
        !self.modest.is_empty() && (self.others.is_empty() || !self.modest_had_it)
    }
}
