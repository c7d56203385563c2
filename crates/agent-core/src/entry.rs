//! The part of a registration entry that an agent needs.

use std::sync::Arc;

use steeple_spiffe::{SpiffeId, TrustDomain};

use crate::selectors::SelectorSet;

/// An entry's identifier on the server; ordered as text, which decides the
/// order in which a workload sees its identities.
pub type EntryId = Arc<str>;

/// One entry that this agent is authorised for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The server's identifier of the entry.
    pub id: EntryId,
    /// The identity that it grants.
    pub spiffe_id: SpiffeId,
    /// What a workload must show, all of it.
    pub selectors: SelectorSet,
    /// Trust domains whose bundles the workload also gets.
    pub federates_with: Vec<TrustDomain>,
    /// The operator's hint to the workload about this identity; may be empty.
    pub hint: String,
    /// Rises with each change of the entry.
    pub revision: i64,
    /// Seconds since the epoch; tells a re-created entry from an updated one.
    pub created_at: i64,
    /// Its SVID administers the server; nobody gets it on the workload's behalf.
    pub admin: bool,
    /// Its SVID is a downstream server's; nobody gets it on the workload's behalf.
    pub downstream: bool,
    /// Its SVID goes to an SVID store and is never served to a workload.
    pub store_svid: bool,
    /// Its SVID is minted only once a workload asks.
    pub disable_x509_svid_prefetch: bool,
    /// Every JWT-SVID carries its own `jti`, so none may be served twice.
    pub jwt_svid_include_jti: bool,
}

/// Of entries that share a hint only the oldest is served (by creation, then
/// by entry ID). Gives the positions to leave out, ascending.
pub fn duplicate_hints<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> Vec<usize> {
    let mut kept: std::collections::HashMap<&str, (usize, &Entry)> = Default::default();
    let mut dropped = Vec::new();
    for (position, entry) in entries.into_iter().enumerate() {
        if entry.hint.is_empty() {
            continue;
        }
        let rank = |entry: &Entry| (entry.created_at, entry.id.clone());
        match kept.get(entry.hint.as_str()) {
            Some((_, elder)) if rank(elder) <= rank(entry) => dropped.push(position),
            Some((younger, _)) => {
                dropped.push(*younger);
                kept.insert(&entry.hint, (position, entry));
            }
            None => {
                kept.insert(&entry.hint, (position, entry));
            }
        }
    }
    dropped.sort_unstable();
    dropped
}

#[cfg(test)]
pub(crate) mod tests {
    use steeple_spiffe::Selector;

    use super::*;

    /// An entry of `example.org` for tests: `id`, path `/id`, unix selectors.
    pub(crate) fn entry(id: &str, selectors: &[&str]) -> Entry {
        Entry {
            id: id.into(),
            spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/{id}")).unwrap(),
            selectors: selectors.iter().map(|value| Selector::new("unix", value)).collect(),
            federates_with: Vec::new(),
            hint: String::new(),
            revision: 0,
            created_at: 100,
            admin: false,
            downstream: false,
            store_svid: false,
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        }
    }

    fn hinted(id: &str, hint: &str, created_at: i64) -> Entry {
        Entry { hint: hint.into(), created_at, ..entry(id, &["uid:1"]) }
    }

    #[test]
    fn the_oldest_entry_keeps_a_shared_hint() {
        let entries =
            [hinted("a", "internal", 20), hinted("b", "internal", 10), hinted("c", "internal", 15)];
        assert_eq!(duplicate_hints(&entries), [0, 2]);
    }

    #[test]
    fn equal_age_is_settled_by_entry_id_and_empty_hints_never_clash() {
        let entries =
            [hinted("b", "x", 10), hinted("a", "x", 10), hinted("c", "", 1), hinted("d", "", 1)];
        assert_eq!(duplicate_hints(&entries), [0]);
    }
}
