//! The way from an entry up to the agents, for who asks why an agent has it or
//! has it not. Looks at everything there is: for operators, not for agents.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::model::{AttestedNode, Entry};

use super::{EntryRef, SERVER_PATH, Snapshot, UnixSeconds, is_expired};

/// What stands above an entry.
#[derive(Debug)]
pub struct Ancestry {
    /// Every SPIFFE ID above the entry with what it is, the nearest first.
    pub steps: Vec<Step>,
    /// The paths whose holders get the entry: through entries that have not expired.
    paths: HashSet<String>,
}

/// One SPIFFE ID above an entry, or one of the entries that have it.
#[derive(Clone, Debug)]
pub struct Step {
    /// How many steps above the entry.
    pub depth: usize,
    /// The ID.
    pub id: SpiffeId,
    /// What it is.
    pub kind: StepKind,
}

/// What a SPIFFE ID above an entry is.
#[derive(Clone, Debug)]
pub enum StepKind {
    /// An attested agent.
    Agent(Arc<AttestedNode>),
    /// An alias for the agents that have this entry's selectors.
    Alias(Arc<Entry>),
    /// The identity of another entry.
    Entry(Arc<Entry>),
    /// The server: what stands below it is an alias.
    Server,
    /// Nothing that is known.
    Nothing,
}

/// An agent's way to an entry.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The agent.
    pub node: Arc<AttestedNode>,
    /// The ID below which it has the entry: its own, or an alias.
    pub via: SpiffeId,
}

/// An agent that would have an entry if an alias asked for less.
#[derive(Clone, Debug)]
pub struct AliasMiss {
    /// The agent.
    pub agent: SpiffeId,
    /// The alias.
    pub alias: Arc<Entry>,
    /// What the agent lacks of the alias's selectors.
    pub missing: Vec<Selector>,
}

impl Snapshot {
    /// Whether this entry is indexed, as it is here.
    #[must_use]
    pub fn has_entry(&self, entry: &Entry) -> bool {
        self.entry(&entry.entry_id).is_some_and(|held| held.is(entry))
    }

    /// What stands above `entry`. An alias stands below the server, and its
    /// own ID is what its agents have.
    #[must_use]
    pub fn ancestry(&self, entry: &Arc<Entry>, now: UnixSeconds) -> Ancestry {
        let mut found = Ancestry { steps: Vec::new(), paths: HashSet::new() };
        if entry.parent_id.path() == SERVER_PATH {
            let (id, kind) = (entry.parent_id.clone(), StepKind::Server);
            found.steps.push(Step { depth: 1, id, kind });
            found.admit(entry, entry.spiffe_id.path(), now);
            return found;
        }
        let mut pending = VecDeque::from([(1, entry.parent_id.clone(), !is_expired(entry, now))]);
        let mut seen = HashSet::new();
        while let Some((depth, id, open)) = pending.pop_front() {
            if !seen.insert((id.path().to_owned(), open)) || found.steps.len() >= MAX_STEPS {
                continue;
            }
            if open {
                found.paths.insert(id.path().to_owned());
            }
            let before = found.steps.len();
            let mut step = |kind| found.steps.push(Step { depth, id: id.clone(), kind });
            if let Some(node) = self.node(&id) {
                step(StepKind::Agent(node.clone()));
            }
            for above in self.entries_of(id.path()) {
                let above = Arc::new(above.to_entry());
                if above.parent_id.path() == SERVER_PATH {
                    step(StepKind::Alias(above));
                } else {
                    step(StepKind::Entry(Arc::clone(&above)));
                    let open = open && !is_expired(&above, now);
                    pending.push_back((depth + 1, above.parent_id.clone(), open));
                }
            }
            if found.steps.len() == before {
                found.steps.push(Step { depth, id: id.clone(), kind: StepKind::Nothing });
            }
        }
        found
    }

    /// The agents that are authorised for what `ancestry` leads to, by ID.
    #[must_use]
    pub fn holders(&self, ancestry: &Ancestry, now: UnixSeconds) -> Vec<Holder> {
        let mut holders: Vec<Holder> = self
            .nodes
            .values()
            .filter_map(|node| {
                let via = self.leads_to(ancestry, &node.spiffe_id, now)?;
                Some(Holder { node: Arc::clone(node), via })
            })
            .collect();
        holders.sort_by(|a, b| a.node.spiffe_id.as_str().cmp(b.node.spiffe_id.as_str()));
        holders
    }

    /// The ID below which `agent` has it: its own, or one of its aliases.
    #[must_use]
    pub fn leads_to(
        &self,
        ancestry: &Ancestry,
        agent: &SpiffeId,
        now: UnixSeconds,
    ) -> Option<SpiffeId> {
        if ancestry.paths.contains(agent.path()) && agent.is_member_of(&self.trust_domain) {
            return Some(agent.clone());
        }
        let aliases = self.aliases_of(agent, now);
        let alias = aliases.into_iter().find(|it| ancestry.paths.contains(it.spiffe_path()))?;
        Some(alias.to_entry().spiffe_id)
    }

    /// Agents that show some of an alias's selectors and lack at most two, the
    /// nearest first: of `alias`, or of `agent` alone.
    #[must_use]
    pub fn alias_misses(
        &self,
        alias: &Arc<Entry>,
        agent: Option<&SpiffeId>,
        limit: usize,
    ) -> Vec<AliasMiss> {
        let miss = |node: &Arc<AttestedNode>| {
            let lacks = |selector: &&Selector| node.selectors.binary_search(selector).is_err();
            let missing: Vec<Selector> = alias.selectors.iter().filter(lacks).cloned().collect();
            let near = missing.len() <= 2 && missing.len() < alias.selectors.len();
            (!missing.is_empty() && (near || agent.is_some())).then(|| AliasMiss {
                agent: node.spiffe_id.clone(),
                alias: Arc::clone(alias),
                missing,
            })
        };
        let mut misses: Vec<AliasMiss> = match agent {
            Some(agent) => self.node(agent).and_then(miss).into_iter().collect(),
            None => self.nodes.values().filter_map(miss).collect(),
        };
        misses.sort_by(|a, b| {
            (a.missing.len(), a.agent.as_str()).cmp(&(b.missing.len(), b.agent.as_str()))
        });
        misses.truncate(limit);
        misses
    }

    /// Other entries for the same workloads or of the same identity, at most `limit`.
    #[must_use]
    pub fn alike(&self, entry: &Entry, limit: usize) -> Vec<Arc<Entry>> {
        let alike = |other: &Entry| {
            other.entry_id != entry.entry_id
                && other.parent_id == entry.parent_id
                && (other.spiffe_id == entry.spiffe_id
                    || other.selectors == entry.selectors
                    || (!entry.hint.is_empty() && other.hint == entry.hint))
        };
        // All are under one parent.
        self.entries()
            .filter(|other| other.parent_path() == entry.parent_id.path())
            .map(EntryRef::to_entry)
            .filter(alike)
            .take(limit)
            .map(Arc::new)
            .collect()
    }
}

impl Ancestry {
    fn admit(&mut self, entry: &Entry, path: &str, now: UnixSeconds) {
        if !is_expired(entry, now) {
            self.paths.insert(path.to_owned());
        }
    }

    /// The aliases above the entry.
    pub fn aliases(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.steps.iter().filter_map(|step| match &step.kind {
            StepKind::Alias(alias) => Some(alias),
            _ => None,
        })
    }
}

/// A chain is a few steps long; entries may be made to say otherwise.
const MAX_STEPS: usize = 256;
