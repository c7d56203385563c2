//! Who is told next when a change touches a fleet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::Flags;

/// Agents that wait for their turn, and what they will be told.
#[derive(Default)]
pub(super) struct Queue {
    order: VecDeque<Arc<str>>,
    pending: HashMap<Arc<str>, Flags>,
}

impl Queue {
    /// Adds agents in random order; those that wait already keep their place.
    pub(super) fn extend(&mut self, agents: HashSet<Arc<str>>, news: Flags) {
        let mut new = Vec::new();
        for agent in agents {
            match self.pending.get_mut(&agent) {
                Some(flags) => *flags |= news,
                None => {
                    self.pending.insert(Arc::clone(&agent), news);
                    new.push(agent);
                }
            }
        }
        fastrand::shuffle(&mut new);
        self.order.extend(new);
    }

    /// Takes what an agent waits for, out of turn.
    pub(super) fn take(&mut self, agent: &str) -> Flags {
        self.pending.remove(agent).unwrap_or(0)
    }

    /// The next agents, at most `most`.
    pub(super) fn next(&mut self, most: usize) -> Vec<(Arc<str>, Flags)> {
        let mut batch = Vec::with_capacity(most.min(self.pending.len()));
        while batch.len() < most {
            let Some(agent) = self.order.pop_front() else { break };
            // It may have been taken out of turn.
            if let Some(news) = self.pending.remove(&agent) {
                batch.push((agent, news));
            }
        }
        if self.pending.is_empty() {
            self.order.clear();
        }
        batch
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<u32>) -> HashSet<Arc<str>> {
        range.map(|number| number.to_string().into()).collect()
    }

    #[test]
    fn each_has_one_turn_with_all_that_came_up_until_then() {
        let mut queue = Queue::default();
        queue.extend(names(0..100), 1);
        queue.extend(names(50..150), 2);
        assert_eq!(queue.take("60"), 3);
        assert_eq!(queue.take("60"), 0);
        let mut told = HashMap::new();
        while !queue.is_empty() {
            let batch = queue.next(20);
            assert!(!batch.is_empty() && batch.len() <= 20);
            for (agent, news) in batch {
                assert!(told.insert(agent.parse::<u32>().unwrap(), news).is_none());
            }
        }
        assert_eq!(told.len(), 149);
        assert_eq!((told[&0], told[&50], told[&149]), (1, 3, 2));
        assert!(queue.order.is_empty());
    }

    #[test]
    fn an_agent_that_was_taken_and_waits_again_has_one_turn() {
        let mut queue = Queue::default();
        queue.extend(names(0..3), 1);
        queue.take("1");
        queue.extend(names(1..2), 2);
        let told: Vec<_> = queue.next(10);
        assert_eq!(told.len(), 3);
        assert!(queue.next(10).is_empty());
    }
}
