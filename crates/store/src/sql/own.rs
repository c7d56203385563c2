//! What this process committed to a SQLite file: kept for a while, so that the index need not read
//! back what was known when it was written.
//!
//! Each commit is kept with the database's marks before it, taken with the write lock held, and
//! after it. Where the second has counted one transaction more than the first, nobody else has
//! committed in between; and where a commit begins at the mark at which the one before it ended,
//! nobody has committed between the two. Whoever knew the state at one of these marks knows by the
//! commits from there on what the database holds after the last one, whichever processes write.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::feed::{Cursor, Mark, OwnChange, OwnCommits, Revision};

/// So many changes are kept: far more than come about between two looks of who follows them.
const KEPT: usize = 512;

/// A commit, of which everything is known that it did to entries and agents.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) before: Mark,
    pub(super) after: Mark,
    /// Whether something was written for certain.
    pub(super) wrote: bool,
    /// What became of agents, each with an event.
    pub(super) agents: Vec<OwnChange>,
    /// The last of these events: its id, and what [`Cursor::mark`] has of it.
    pub(super) last_event: Option<(i64, String)>,
}

/// Commits one behind the other, without anybody else's between.
#[derive(Debug, Default)]
pub(super) struct Own(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    commits: VecDeque<Commit>,
    /// The sizes of all of them.
    size: usize,
}

impl Own {
    /// Adds what was just committed; `None` where not all of it is known. To be called before
    /// anybody is told of the commit.
    pub(super) fn add(&self, commit: Option<Commit>) {
        // Nothing was written, if only because everybody was refused.
        if commit.as_ref().is_some_and(|it| it.after == it.before && !it.wrote) {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // If it wrote nothing, what is counted is somebody else's commit.
        let commit =
            commit.filter(|commit| commit.wrote && commit.after.is_next_to(&commit.before));
        let Some(commit) = commit else {
            *kept = Kept::default();
            return;
        };
        if kept.commits.back().is_some_and(|last| last.after != commit.before) {
            *kept = Kept::default();
        }
        kept.size += commit.size();
        kept.commits.push_back(commit);
        while kept.size > KEPT
            && let Some(first) = kept.commits.pop_front()
        {
            kept.size -= first.size();
        }
    }

    /// The commits after a state that is known; none if there is none, or others have committed
    /// between.
    pub(super) fn since(&self, revision: &Revision, mark: Mark) -> Option<OwnCommits> {
        let commits = &self.0.lock().unwrap_or_else(PoisonError::into_inner).commits;
        // Those that are asked for are the last ones.
        let from = commits.iter().rposition(|commit| commit.before == mark)?;
        let mut own = OwnCommits { revision: revision.clone(), mark, agents: Vec::new() };
        for commit in commits.range(from..) {
            if let Some((last, what)) = &commit.last_event {
                let cursor = &mut own.revision.nodes;
                let events = i64::try_from(commit.agents.len()).ok()?;
                // It would be another database.
                if cursor.id.checked_add(events) != Some(*last) {
                    return None;
                }
                *cursor = Cursor { id: *last, mark: what.clone(), ..cursor.clone() };
            }
            own.agents.extend(commit.agents.iter().cloned());
            own.mark = commit.after;
        }
        Some(own)
    }
}

impl Commit {
    fn size(&self) -> usize {
        1 + self.agents.len()
    }
}

impl Mark {
    /// Whether one transaction was committed between another mark and this one: there is a count
    /// of them in the header (<https://www.sqlite.org/walformat.html>, section 2.1).
    fn is_next_to(&self, before: &Self) -> bool {
        let count = |mark: &Self| mark.0[8..12].try_into().map(u32::from_ne_bytes);
        match (count(before), count(self)) {
            (Ok(before), Ok(after)) => before.wrapping_add(1) == after,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe::SpiffeId;

    use super::*;

    fn mark(count: u32, rest: u8) -> Mark {
        let mut mark = [rest; crate::feed::MARK_LEN];
        mark[8..12].copy_from_slice(&count.to_ne_bytes());
        Mark(mark)
    }

    fn at(id: i64) -> Revision {
        let nodes = Cursor { id, ..Cursor::default() };
        Revision { entries: Cursor::default(), nodes }
    }

    fn commit(before: Mark, after: Mark, event: i64) -> Option<Commit> {
        let spiffe_id = SpiffeId::parse("spiffe://example.org/a").unwrap();
        let serial_number = event.to_string();
        let agents = vec![OwnChange::Renewed { spiffe_id, serial_number, expires_at: 0 }];
        Some(Commit {
            before,
            after,
            wrote: true,
            agents,
            last_event: Some((event, format!("t {event}"))),
        })
    }

    fn events(own: Option<OwnCommits>) -> Option<(usize, i64)> {
        own.map(|own| (own.agents.len(), own.revision.nodes.id))
    }

    #[test]
    fn commits_without_others_between_are_followed_from_each_of_their_marks() {
        let own = Own::default();
        for count in 1..4 {
            own.add(commit(mark(count, 0), mark(count + 1, 0), i64::from(count)));
        }
        assert_eq!(events(own.since(&at(0), mark(1, 0))), Some((3, 3)));
        let last = own.since(&at(2), mark(3, 0)).unwrap();
        assert_eq!((last.mark, last.revision.nodes.mark.as_str()), (mark(4, 0), "t 3"));
        assert!(own.since(&at(3), mark(4, 0)).is_none(), "there is nothing after the last one");
        assert!(own.since(&at(9), mark(3, 0)).is_none(), "the event is not the next one");
        assert!(own.since(&at(0), mark(1, 7)).is_none(), "nobody was there");
    }

    #[test]
    fn whoever_else_committed_ends_what_can_be_followed() {
        let own = Own::default();
        own.add(commit(mark(1, 0), mark(2, 0), 1));
        own.add(commit(mark(3, 0), mark(4, 0), 3));
        assert!(own.since(&at(0), mark(1, 0)).is_none());
        assert_eq!(events(own.since(&at(2), mark(3, 0))), Some((1, 3)));
        let nothing = |before, after| {
            let some = commit(before, after, 0).unwrap();
            Some(Commit { wrote: false, agents: Vec::new(), last_event: None, ..some })
        };
        own.add(nothing(mark(4, 0), mark(4, 0)));
        assert_eq!(events(own.since(&at(2), mark(3, 0))), Some((1, 3)), "nothing was written");
        own.add(commit(mark(4, 0), mark(6, 0), 4));
        assert!(own.since(&at(2), mark(3, 0)).is_none(), "somebody came before the second mark");
        own.add(commit(mark(6, 0), mark(7, 0), 6));
        assert!(own.since(&at(5), mark(6, 0)).is_some());
        own.add(nothing(mark(7, 0), mark(8, 0)));
        assert!(own.since(&at(5), mark(6, 0)).is_none(), "that was somebody else's");
        own.add(commit(mark(u32::MAX, 0), mark(0, 0), 9));
        assert_eq!(events(own.since(&at(8), mark(u32::MAX, 0))), Some((1, 9)));
        own.add(None);
        assert!(own.since(&at(8), mark(u32::MAX, 0)).is_none(), "not all of it is known");
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let own = Own::default();
        let all = u32::try_from(KEPT).unwrap();
        for count in 0..all {
            own.add(commit(mark(count, 0), mark(count + 1, 0), i64::from(count) + 1));
        }
        assert!(own.since(&at(0), mark(0, 0)).is_none());
        assert!(own.since(&at(i64::from(all) - 1), mark(all - 1, 0)).is_some());
        assert!(own.0.lock().unwrap().size <= KEPT);
    }
}
