//! What was found for callers lately, while nothing that it rests on has changed.
//!
//! A caller that comes again and again, as one does that fetches an SVID and leaves, would have
//! its entries looked up and its message written each time.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::update::Update;
use crate::entry::{Entry, EntryId};
use crate::selectors::SelectorSet;

/// Answers by what was asked. Whoever changes an entry, an SVID or a bundle clears it.
#[derive(Default)]
pub(super) struct Memo {
    answers: HashMap<SelectorSet, Answer>,
    weight: usize,
}

/// What one set of selectors is entitled to.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) ids: Arc<BTreeSet<EntryId>>,
    pub(super) entries: Arc<[Arc<Entry>]>,
    /// Put together for the first who wants it.
    pub(super) update: Option<Arc<Update>>,
}

impl Memo {
    pub(super) fn get(&self, selectors: &SelectorSet) -> Option<&Answer> {
        self.answers.get(selectors)
    }

    /// Remembers an answer, if need be instead of all others, and not if it is a large one.
    pub(super) fn insert(&mut self, selectors: &SelectorSet, answer: &Answer) {
        // A message says about as much of each entry.
        let weight = 1 + answer.ids.len();
        if weight > MOST / 4 {
            return;
        }
        if self.weight + weight > MOST {
            self.clear();
        }
        if self.answers.insert(selectors.clone(), answer.clone()).is_none() {
            self.weight += weight;
        }
    }

    pub(super) fn clear(&mut self) {
        self.answers.clear();
        self.weight = 0;
    }
}

/// The entries in all answers that are remembered: about a megabyte.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use steeple_spiffe::Selector;

    use super::*;

    fn answer(entries: usize) -> Answer {
        let ids = (0..entries).map(|number| number.to_string().into()).collect();
        Answer { ids: Arc::new(ids), entries: Arc::new([]), update: None }
    }

    fn caller(number: usize) -> SelectorSet {
        [Selector::new("unix", &format!("uid:{number}"))].into_iter().collect()
    }

    #[test]
    fn what_is_remembered_is_bounded_and_never_large() {
        let mut memo = Memo::default();
        memo.insert(&caller(0), &answer(MOST / 4));
        assert!(memo.get(&caller(0)).is_none());
        for number in 0..10 * MOST {
            memo.insert(&caller(number), &answer(number % 7));
            assert!(memo.get(&caller(number)).is_some());
            let held: usize = memo.answers.values().map(|it| 1 + it.ids.len()).sum();
            assert_eq!(held, memo.weight);
            assert!(held <= MOST);
        }
        memo.clear();
        assert!(memo.get(&caller(0)).is_none());
    }

    #[test]
    fn an_answer_to_the_same_question_takes_the_others_place() {
        let mut memo = Memo::default();
        for _ in 0..2 * MOST {
            memo.insert(&caller(1), &answer(3));
        }
        memo.insert(&caller(2), &answer(3));
        assert!(memo.get(&caller(1)).is_some());
    }
}
