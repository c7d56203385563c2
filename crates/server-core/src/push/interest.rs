//! Which of the agents that listen a change touches (ADR 12).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use steeple_spiffe::{Selector, SpiffeId, TrustDomain};

use crate::index::{EntryRef, SERVER_PATH, Snapshot, Touched};

/// The agents that listen, by path and by the selectors of their nodes.
#[derive(Default)]
pub(super) struct Interest {
    agents: HashMap<Arc<str>, Arc<[Selector]>>,
    by_selector: HashMap<Selector, HashSet<Arc<str>>>,
}

impl Interest {
    /// An agent listens, or its node has changed.
    pub(super) fn put(&mut self, agent: &SpiffeId, snapshot: &Snapshot) {
        self.remove(agent.path());
        let path: Arc<str> = agent.path().into();
        let selectors: Arc<[Selector]> =
            snapshot.node(agent).map(|node| node.selectors.as_slice().into()).unwrap_or_default();
        for selector in selectors.iter() {
            self.by_selector.entry(selector.clone()).or_default().insert(Arc::clone(&path));
        }
        self.agents.insert(path, selectors);
    }

    /// An agent listens no more.
    pub(super) fn remove(&mut self, path: &str) {
        let Some(selectors) = self.agents.remove(path) else { return };
        for selector in selectors.iter() {
            if let Some(holders) = self.by_selector.get_mut(selector) {
                holders.remove(path);
                if holders.is_empty() {
                    self.by_selector.remove(selector);
                }
            }
        }
    }

    /// Every agent that listens.
    pub(super) fn everybody(&self) -> HashSet<Arc<str>> {
        self.agents.keys().cloned().collect()
    }

    /// The agents that a change touches: all whose authorised entries differ from before it, and
    /// hardly any other. `snapshot` is of after the change.
    pub(super) fn touched(&self, snapshot: &Snapshot, touched: &Touched) -> HashSet<Arc<str>> {
        if touched.everything {
            return self.everybody();
        }
        let mut found = HashSet::new();
        for agent in &touched.agents {
            self.find(agent, &mut found);
        }
        for selectors in &touched.aliases {
            self.holders(selectors, &mut found);
        }
        self.climb(snapshot, touched.parents.iter().map(AsRef::as_ref), &mut found);
        found
    }

    /// The agents with an entry that federates with one of these trust domains.
    pub(super) fn federating(
        &self,
        snapshot: &Snapshot,
        domains: &HashSet<TrustDomain>,
    ) -> HashSet<Arc<str>> {
        let mut found = HashSet::new();
        if self.agents.is_empty() || domains.is_empty() {
            return found;
        }
        let domains: HashSet<&str> = domains.iter().map(TrustDomain::as_str).collect();
        let federates =
            |entry: &EntryRef<'_>| entry.federates_with().any(|with| domains.contains(with));
        let parents: HashSet<&str> =
            snapshot.entries().filter(federates).map(EntryRef::parent_path).collect();
        self.climb(snapshot, parents.into_iter(), &mut found);
        found
    }

    /// From the parents of entries up to the agents that may have those entries.
    fn climb<'a>(
        &self,
        snapshot: &'a Snapshot,
        parents: impl Iterator<Item = &'a str>,
        found: &mut HashSet<Arc<str>>,
    ) {
        let mut pending: Vec<&str> = parents.collect();
        let mut seen: HashSet<&str> = HashSet::new();
        let mut aliases: HashSet<Vec<Selector>> = HashSet::new();
        while let Some(path) = pending.pop() {
            if !seen.insert(path) {
                continue;
            }
            self.find(path, found);
            for entry in snapshot.entries_of(path) {
                let parent = entry.parent_path();
                if parent != SERVER_PATH {
                    pending.push(parent);
                    continue;
                }
                let selectors = entry.to_entry().selectors;
                if !aliases.contains(&selectors) {
                    self.holders(&selectors, found);
                    aliases.insert(selectors);
                }
            }
            if found.len() == self.agents.len() {
                return;
            }
        }
    }

    fn find(&self, path: &str, found: &mut HashSet<Arc<str>>) {
        if let Some((path, _)) = self.agents.get_key_value(path) {
            found.insert(Arc::clone(path));
        }
    }

    /// The agents that have all of these selectors.
    fn holders(&self, selectors: &[Selector], found: &mut HashSet<Arc<str>>) {
        let by_rarity = |selector| self.by_selector.get(selector).map_or(0, HashSet::len);
        let Some(rarest) = selectors.iter().min_by_key(|selector| by_rarity(selector)) else {
            return;
        };
        let Some(candidates) = self.by_selector.get(rarest) else { return };
        let has_all = |path: &&Arc<str>| {
            let held = &self.agents[*path];
            selectors.iter().all(|selector| held.contains(selector))
        };
        found.extend(candidates.iter().filter(has_all).cloned());
    }
}

#[cfg(test)]
mod tests;
