//! The change feed's types: a snapshot, a place in the history, and what came after it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use steeple_spiffe::SpiffeId;

use crate::batch::EntryBatch;
use crate::model::{AttestedNode, Entry};

/// A place in the database's history. Opaque; only good for [`crate::Store::changes_since`] of
/// the database it came from, and recognised as foreign there if that database was replaced.
#[derive(Clone, PartialEq, Eq)]
pub struct Revision {
    pub(crate) entries: Cursor,
    pub(crate) nodes: Cursor,
}

/// What was seen of one event table.
#[derive(Clone, Default)]
pub(crate) struct Cursor {
    /// The newest event's id; 0 = none yet.
    pub(crate) id: i64,
    /// What the newest event's row said, to tell it from another event of the same id in a
    /// database that was restored from a copy. Empty = unknown (the row had been pruned already).
    pub(crate) mark: String,
    /// Where ids need not become visible in their order: up to here nothing new can appear.
    pub(crate) floor: i64,
    /// And of the ids above it, those that were seen.
    pub(crate) seen: Arc<BTreeSet<i64>>,
}

impl PartialEq for Cursor {
    /// The same place, however much each still remembers of what lies behind it.
    fn eq(&self, other: &Self) -> bool {
        let above = self.floor.max(other.floor) + 1;
        (self.id, &self.mark) == (other.id, &other.mark)
            && self.seen.range(above..).eq(other.seen.range(above..))
    }
}

impl Eq for Cursor {}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({}, {})", self.entries.id, self.nodes.id)
    }
}

/// The length of a [`Mark`], in bytes.
pub(crate) const MARK_LEN: usize = 48;

/// The state of a database at one moment, to be compared with another: as long as two are equal,
/// nobody has committed anything in between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(pub(crate) [u8; MARK_LEN]);

/// Everything that the authorised-entry index is made of, read in one transaction.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The place in the history at which the snapshot is true.
    pub revision: Revision,
    /// All entries, oldest first.
    pub entries: Vec<Entry>,
    /// All agents with their selectors, oldest first.
    pub nodes: Vec<AttestedNode>,
}

/// A part of a [`Snapshot`], oldest first.
#[derive(Clone, Debug)]
pub enum SnapshotPage {
    /// Some of the entries.
    Entries(EntryBatch),
    /// Some of the agents with their selectors.
    Nodes(Vec<AttestedNode>),
}

/// What a server committed itself, one commit behind the other, with nobody else's between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnCommits {
    /// Where to go on from.
    pub revision: Revision,
    /// The database's mark after the last of them.
    pub mark: Mark,
    /// What became of agents, in this order. Nothing became of entries.
    pub agents: Vec<OwnChange>,
}

/// What became of an agent by a commit of our own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnChange {
    /// All of it, as it stands after that.
    Agent(AttestedNode),
    /// It has another SVID, which it has not used yet.
    Renewed {
        /// The agent's id.
        spiffe_id: SpiffeId,
        /// See [`AttestedNode::new_serial_number`].
        serial_number: String,
        /// See [`AttestedNode::new_expires_at`], in seconds since the epoch.
        expires_at: i64,
    },
}

/// What `changes_since` answers.
#[derive(Clone, Debug)]
pub enum Since {
    /// Everything that changed, nothing skipped.
    Changes(Changes),
    /// The history between then and now is no longer known: take a new snapshot.
    ResnapshotNeeded(ResnapshotReason),
}

/// Why only a new snapshot helps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResnapshotReason {
    /// Events after the revision have been pruned before they were read.
    #[error("events were pruned before they were read")]
    Pruned,
    /// The database is older than the revision, or another one: replaced or restored.
    #[error("the database was replaced or restored")]
    Replaced,
    /// An event in the middle is missing, so that what it said is unknown.
    #[error("an event is missing")]
    Gap,
    /// So much happened since that a snapshot is the faster way.
    #[error("too many events to read one by one")]
    TooMany,
}

/// What changed after a revision, and the revision this leads to.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Where to go on from.
    pub revision: Revision,
    /// Entries that were touched, each once, with what they are *now*.
    pub entries: Vec<EntryChange>,
    /// Agents that were touched, each once, with what they are *now*.
    pub nodes: Vec<NodeChange>,
}

impl Changes {
    /// Nothing was touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.nodes.is_empty()
    }
}

/// An entry that was touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryChange {
    /// The entry's id.
    pub entry_id: String,
    /// The entry as it stands; `None` = it is gone.
    pub entry: Option<Entry>,
}

/// An agent that was touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeChange {
    /// The agent's id.
    pub spiffe_id: SpiffeId,
    /// The agent as it stands; `None` = it is gone.
    pub node: Option<AttestedNode>,
}
