//! What changes of entries and nodes touched, for those who tell agents of it (ADR 12).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::model::{AttestedNode, Entry};
use tokio::sync::Notify;

use super::snapshot::SERVER_PATH;

/// With more of a kind, everything counts as touched: nobody may have taken it for long.
const MOST: usize = 10_000;

/// Where to look for agents whose authorised entries, or standing, may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Anybody's may have.
    pub(crate) everything: bool,
    /// Paths of the parents, old and new, of entries that came, changed or went.
    pub(crate) parents: HashSet<Arc<str>>,
    /// The selectors, old and new, of aliases that did.
    pub(crate) aliases: HashSet<Arc<[Selector]>>,
    /// Paths of agents that did themselves.
    pub(crate) agents: HashSet<Arc<str>>,
}

impl Touched {
    pub(super) fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// An entry came, changed or went.
    pub(crate) fn entry(&mut self, before: Option<&Entry>, after: Option<&Entry>) {
        // The feed may tell of one change twice.
        if before == after {
            return;
        }
        for entry in [before, after].into_iter().flatten() {
            if entry.parent_id.path() == SERVER_PATH {
                self.aliases.insert(entry.selectors.clone().into());
            } else {
                self.parents.insert(entry.parent_id.path().into());
            }
        }
        self.bound();
    }

    /// A node came, changed or went; renewals of an SVID are of no interest.
    pub(crate) fn node(
        &mut self,
        id: &SpiffeId,
        before: Option<&AttestedNode>,
        after: Option<&AttestedNode>,
        now: i64,
    ) {
        let same = match (before, after) {
            (Some(before), Some(after)) => {
                let banned = |node: &AttestedNode| node.serial_number.is_empty();
                let lives = |node: &AttestedNode| node.expires_at > now;
                banned(before) == banned(after)
                    && lives(before) == lives(after)
                    && before.selectors == after.selectors
            }
            (before, after) => before.is_none() && after.is_none(),
        };
        if !same {
            self.agents.insert(id.path().into());
            self.bound();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn merge(&mut self, other: Self) {
        if self.everything || other.everything {
            *self = Self::everything();
            return;
        }
        if self.is_empty() {
            *self = other;
            return;
        }
        self.parents.extend(other.parents);
        self.aliases.extend(other.aliases);
        self.agents.extend(other.agents);
        self.bound();
    }

    fn bound(&mut self) {
        let most = self.parents.len().max(self.aliases.len()).max(self.agents.len());
        if self.everything || most > MOST {
            *self = Self::everything();
        }
    }
}

/// Collects what is touched until somebody takes it.
#[derive(Default)]
pub(super) struct TouchedLog {
    /// With the edition of the snapshot that shows all of it.
    collected: Mutex<(Touched, u64)>,
    more: Notify,
}

impl TouchedLog {
    pub(super) fn add(&self, touched: Touched, edition: u64) {
        if touched.is_empty() {
            return;
        }
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        collected.0.merge(touched);
        collected.1 = edition;
        drop(collected);
        self.more.notify_one();
    }

    pub(super) async fn take(&self) -> (Touched, u64) {
        loop {
            let taken =
                std::mem::take(&mut *self.collected.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.0.is_empty() {
                return taken;
            }
            self.more.notified().await;
        }
    }
}
