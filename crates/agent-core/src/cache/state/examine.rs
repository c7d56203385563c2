//! What an operator asks about: looks at every entry, and changes nothing.

use std::time::SystemTime;

use super::State;
use crate::explain::{Examination, Matched, Missed};
use crate::selectors::SelectorSet;

impl State {
    pub(in super::super) fn examine(&self, shown: &SelectorSet, limit: usize) -> Examination {
        let matched = self.entries.matching(shown).into_iter().filter_map(|id| {
            let record = self.records.get(&id)?;
            let domains = record.entry.federates_with.iter();
            Some(Matched {
                entry: record.entry.clone(),
                identity: record.identity.clone(),
                failures: record.failures,
                retry_at: record.retry_at.max(SystemTime::UNIX_EPOCH),
                missing_bundles: domains
                    .filter(|domain| !self.bundles.contains_key(*domain))
                    .cloned()
                    .collect(),
            })
        });
        let matched = matched.collect();
        let missed = self.records.values().filter_map(|record| Missed::of(&record.entry, shown));
        Examination { matched, missed: Missed::nearest(missed, limit) }
    }
}
