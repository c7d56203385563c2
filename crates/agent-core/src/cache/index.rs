//! Which entries match a set of selectors, and which groups an entry reaches.

use std::collections::{BTreeSet, HashMap, HashSet};

use steeple_spiffe::Selector;

use crate::entry::EntryId;
use crate::selectors::SelectorSet;

/// Entries filed under one of their selectors each. An entry that matches a
/// caller has *all* its selectors among the caller's, so that looking under
/// every selector of the caller finds it; filing it under its rarest selector
/// keeps the candidates few.
#[derive(Default)]
pub(super) struct EntryIndex(HashMap<Selector, HashMap<EntryId, SelectorSet>>);

impl EntryIndex {
    pub(super) fn insert(&mut self, id: &EntryId, selectors: &SelectorSet) -> Option<Selector> {
        let anchor = selectors
            .iter()
            .min_by_key(|selector| self.0.get(*selector).map_or(0, HashMap::len))?
            .clone();
        self.0.entry(anchor.clone()).or_default().insert(id.clone(), selectors.clone());
        Some(anchor)
    }

    pub(super) fn remove(&mut self, id: &EntryId, anchor: &Selector) {
        if let Some(filed) = self.0.get_mut(anchor) {
            filed.remove(id);
            if filed.is_empty() {
                self.0.remove(anchor);
            }
        }
    }

    pub(super) fn matching(&self, caller: &SelectorSet) -> BTreeSet<EntryId> {
        caller
            .iter()
            .filter_map(|selector| self.0.get(selector))
            .flatten()
            .filter(|(_, wanted)| caller.contains_all(wanted))
            .map(|(id, _)| id.clone())
            .collect()
    }
}

/// Groups filed under each of their selectors, since an entry may name any.
#[derive(Default)]
pub(super) struct GroupIndex(HashMap<Selector, HashSet<SelectorSet>>);

impl GroupIndex {
    pub(super) fn insert(&mut self, group: &SelectorSet) {
        for selector in group.iter() {
            self.0.entry(selector.clone()).or_default().insert(group.clone());
        }
    }

    pub(super) fn remove(&mut self, group: &SelectorSet) {
        for selector in group.iter() {
            if let Some(filed) = self.0.get_mut(selector) {
                filed.remove(group);
                if filed.is_empty() {
                    self.0.remove(selector);
                }
            }
        }
    }

    /// The groups whose selectors include all of `wanted`; none for an entry
    /// without selectors, which matches nobody.
    pub(super) fn reached_by(&self, wanted: &SelectorSet) -> HashSet<SelectorSet> {
        let fewest = wanted
            .iter()
            .map(|selector| self.0.get(selector))
            .min_by_key(|filed| filed.map_or(0, HashSet::len));
        match fewest {
            Some(Some(filed)) => {
                filed.iter().filter(|group| group.contains_all(wanted)).cloned().collect()
            }
            _ => HashSet::new(),
        }
    }
}
