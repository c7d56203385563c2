//! What each agent is authorised for, at one revision of the datastore.
//!
//! A snapshot is immutable once published. The next one is a clone that shares
//! every part which the changes do not touch (see [`super::shards`]), so the
//! cost of a change does not grow with the number of entries.
//!
//! The rules (facts ER-19..ER-23): an agent gets the entries whose parent is
//! the agent, the entries under those entries' SPIFFE IDs and so on down, and
//! the same for each of its aliases. An alias is an entry with the parent
//! `/spire/server` whose selectors the node all has; it is not delivered
//! itself. Rows of another trust domain do not exist here. An expired entry is
//! passed over, and so is what hangs below it alone.

mod ancestry;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::model::{AttestedNode, Entry};
use steeple_telemetry::gauge;

use super::entry_list::EntryList;
use super::shards::Shards;
pub use ancestry::{AliasMiss, Ancestry, Holder, Step, StepKind};

pub(crate) const SERVER_PATH: &str = "/spire/server";

/// Seconds since the epoch.
type UnixSeconds = i64;

/// The authorised entries of every agent, at one revision.
#[derive(Clone)]
pub struct Snapshot {
    trust_domain: TrustDomain,
    /// Every entry of this trust domain, by entry id.
    entries: Shards<Arc<str>, Arc<Entry>>,
    /// The entries that are not aliases, by the path of their parent.
    children: Shards<Arc<str>, Arc<EntryList>>,
    /// Aliases, each under one of its selectors: whoever has them all has it.
    aliases: Shards<Selector, Arc<Vec<Arc<Entry>>>>,
    /// Attested nodes by path.
    nodes: Shards<Arc<str>, Arc<AttestedNode>>,
    /// Entries that grant API rights, by the path of their SPIFFE ID.
    privileged: Shards<Arc<str>, Arc<Vec<Arc<Entry>>>>,
    /// Entries by a hash of the path of their SPIFFE ID: the way from a parent up to agents.
    by_id: Shards<u64, Held>,
    hasher: RandomState,
}

/// The entries of one SPIFFE ID: mostly one.
#[derive(Clone)]
enum Held {
    One(Arc<Entry>),
    Many(Arc<EntryList>),
}

/// The API rights that registration entries give the holder of a SPIFFE ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Privileges {
    /// Some entry of the ID has `admin`.
    pub admin: bool,
    /// Some entry of the ID has `downstream`.
    pub downstream: bool,
}

impl Snapshot {
    /// A snapshot with nothing in it.
    #[must_use]
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            entries: Shards::new(),
            children: Shards::new(),
            aliases: Shards::new(),
            nodes: Shards::new(),
            privileged: Shards::new(),
            by_id: Shards::new(),
            hasher: RandomState::new(),
        }
    }

    /// Its sizes, under the names of SPIRE's caches.
    pub(super) fn tell(&self) {
        if !steeple_telemetry::is_enabled() {
            return;
        }
        let aliases = self.aliases.len();
        for (key, count) in [
            (["node", "agents_by_id_cache", "count"], self.nodes.len()),
            (["node", "agents_by_expiresat_cache", "count"], self.nodes.len()),
            (["node", "skipped_node_event_ids", "count"], 0),
            (["entry", "nodealiases_by_entryid_cache", "count"], aliases),
            (["entry", "nodealiases_by_selector_cache", "count"], aliases),
            (["entry", "entries_by_entryid_cache", "count"], self.entries.len()),
            (["entry", "skipped_entry_event_ids", "count"], 0),
        ] {
            gauge(&key, count as f64, &[]);
        }
    }

    /// Sets, replaces or (with `None`) removes the entry of an id.
    pub fn put_entry(&mut self, entry_id: &str, entry: Option<Entry>) {
        if let Some(old) = self.entries.remove(entry_id) {
            self.unlink(&old);
        }
        let Some(entry) = entry else { return };
        if !entry.parent_id.is_member_of(&self.trust_domain)
            || !entry.spiffe_id.is_member_of(&self.trust_domain)
        {
            return;
        }
        let entry = Arc::new(entry);
        self.entries.insert(entry_id.into(), Arc::clone(&entry));
        self.link(entry);
    }

    /// Sets, replaces or (with `None`) removes an attested node.
    pub fn put_node(&mut self, agent: &SpiffeId, node: Option<AttestedNode>) {
        match node {
            Some(node) if agent.is_member_of(&self.trust_domain) => {
                self.nodes.insert(agent.path().into(), Arc::new(node));
            }
            _ => {
                self.nodes.remove(agent.path());
            }
        }
    }

    /// Every entry that the agent may have, sorted by entry id within a parent.
    #[must_use]
    pub fn authorized(&self, agent: &SpiffeId, now: UnixSeconds) -> Vec<Arc<Entry>> {
        let mut found = Vec::new();
        self.crawl(agent, now, |entry| {
            found.push(Arc::clone(entry));
            true
        });
        found
    }

    /// Of the asked entry ids, those that the agent may have.
    #[must_use]
    pub fn authorized_among(
        &self,
        agent: &SpiffeId,
        entry_ids: &HashSet<&str>,
        now: UnixSeconds,
    ) -> HashMap<String, Arc<Entry>> {
        let mut found = HashMap::with_capacity(entry_ids.len().min(1024));
        let mut wanted = self.directly_authorized(agent, entry_ids, now, &mut found);
        if wanted > 0 {
            self.crawl(agent, now, |entry| {
                if entry_ids.contains(entry.entry_id.as_str())
                    && found.insert(entry.entry_id.clone(), Arc::clone(entry)).is_none()
                {
                    wanted -= 1;
                }
                wanted > 0
            });
        }
        found
    }

    /// What the registration entries of a SPIFFE ID allow its holder.
    #[must_use]
    pub fn privileges(&self, holder: &SpiffeId, now: UnixSeconds) -> Privileges {
        let mut granted = Privileges::default();
        if !holder.is_member_of(&self.trust_domain) {
            return granted;
        }
        for entry in self.privileged.get(holder.path()).into_iter().flat_map(|list| list.iter()) {
            if !is_expired(entry, now) {
                granted.admin |= entry.admin;
                granted.downstream |= entry.downstream;
            }
        }
        granted
    }

    /// The attested node of an agent ID, as of this snapshot.
    #[must_use]
    pub fn node(&self, agent: &SpiffeId) -> Option<&Arc<AttestedNode>> {
        if agent.is_member_of(&self.trust_domain) { self.nodes.get(agent.path()) } else { None }
    }

    /// The trust domain served.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The entry of an id.
    #[must_use]
    pub fn entry(&self, entry_id: &str) -> Option<&Arc<Entry>> {
        self.entries.get(entry_id)
    }

    /// The entries whose SPIFFE ID has this path, expired ones too.
    pub(crate) fn entries_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> {
        let held = self.by_id.get(&self.hasher.hash_one(path));
        let (one, many) = match held {
            None => (None, None),
            Some(Held::One(entry)) => (Some(entry), None),
            Some(Held::Many(list)) => (None, Some(list.iter())),
        };
        one.into_iter()
            .chain(many.into_iter().flatten())
            .filter(move |entry| entry.spiffe_id.path() == path)
    }

    /// Every entry, in no order. Costs as much as there is.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// How many entries are indexed.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// The common case without a walk: the entry's parent is the agent itself
    /// or one of its aliases. Returns how many of the existing ids are left.
    fn directly_authorized(
        &self,
        agent: &SpiffeId,
        entry_ids: &HashSet<&str>,
        now: UnixSeconds,
        found: &mut HashMap<String, Arc<Entry>>,
    ) -> usize {
        let mut left = 0;
        let aliases: HashSet<&str> =
            self.aliases_of(agent, now).into_iter().map(|alias| alias.spiffe_id.path()).collect();
        for id in entry_ids {
            let Some(entry) = self.entries.get(*id) else { continue };
            let parent = entry.parent_id.path();
            if is_expired(entry, now) || parent == SERVER_PATH {
                continue;
            }
            if parent == agent.path() || aliases.contains(parent) {
                found.insert(entry.entry_id.clone(), Arc::clone(entry));
            } else {
                left += 1;
            }
        }
        left
    }

    /// Visits each authorised entry once, until `visit` answers false.
    fn crawl<'a>(
        &'a self,
        agent: &'a SpiffeId,
        now: UnixSeconds,
        mut visit: impl FnMut(&'a Arc<Entry>) -> bool,
    ) {
        if !agent.is_member_of(&self.trust_domain) {
            return;
        }
        let mut seen: HashSet<&str> = HashSet::new();
        let mut pending: Vec<&str> =
            self.aliases_of(agent, now).into_iter().map(|alias| alias.spiffe_id.path()).collect();
        pending.push(agent.path());
        while let Some(parent) = pending.pop() {
            let Some(children) = self.children.get(parent) else { continue };
            if !seen.insert(parent) {
                continue;
            }
            for entry in children.iter().filter(|entry| !is_expired(entry, now)) {
                if !visit(entry) {
                    return;
                }
                pending.push(entry.spiffe_id.path());
            }
        }
    }

    /// The aliases of a node that is attested and whose SVID has not expired.
    fn aliases_of(&self, agent: &SpiffeId, now: UnixSeconds) -> Vec<&Arc<Entry>> {
        let Some(node) = self.node(agent).filter(|node| node.expires_at > now) else {
            return Vec::new();
        };
        let held: HashSet<&Selector> = node.selectors.iter().collect();
        held.iter()
            .filter_map(|selector| self.aliases.get(*selector))
            .flat_map(|list| list.iter())
            .filter(|alias| !is_expired(alias, now))
            .filter(|alias| alias.selectors.iter().all(|selector| held.contains(selector)))
            .collect()
    }

    fn link(&mut self, entry: Arc<Entry>) {
        let key = self.hasher.hash_one(entry.spiffe_id.path());
        if self.by_id.get(&key).is_some() {
            self.by_id.edit(&key, |held| held.add(&entry));
        } else {
            self.by_id.insert(key, Held::One(Arc::clone(&entry)));
        }
        if entry.admin || entry.downstream {
            let path: Arc<str> = entry.spiffe_id.path().into();
            let list = self.privileged.entry_mut(&path, Arc::default);
            Arc::make_mut(list).push(Arc::clone(&entry));
        }
        if entry.parent_id.path() == SERVER_PATH {
            if let Some(key) = self.rarest_selector(&entry) {
                let list = self.aliases.entry_mut(&key, Arc::default);
                Arc::make_mut(list).push(entry);
            }
            return;
        }
        let parent: Arc<str> = entry.parent_id.path().into();
        let list = self.children.entry_mut(&parent, Arc::default);
        Arc::make_mut(list).insert(entry);
    }

    fn unlink(&mut self, entry: &Arc<Entry>) {
        let key = self.hasher.hash_one(entry.spiffe_id.path());
        self.by_id.edit(&key, |held| held.remove(&entry.entry_id));
        if entry.admin || entry.downstream {
            drop_from(&mut self.privileged, entry.spiffe_id.path(), &entry.entry_id);
        }
        if entry.parent_id.path() == SERVER_PATH {
            for selector in &entry.selectors {
                drop_from(&mut self.aliases, selector, &entry.entry_id);
            }
            return;
        }
        self.children.edit(entry.parent_id.path(), |list| {
            let list = Arc::make_mut(list);
            list.remove(&entry.entry_id);
            !list.is_empty()
        });
    }

    /// Of an alias's selectors, the one that the fewest other aliases are
    /// filed under: one cluster-wide selector must not collect them all.
    fn rarest_selector(&self, alias: &Entry) -> Option<Selector> {
        alias
            .selectors
            .iter()
            .min_by_key(|selector| self.aliases.get(*selector).map_or(0, |list| list.len()))
            .cloned()
    }
}

impl Held {
    fn add(&mut self, entry: &Arc<Entry>) -> bool {
        match self {
            Self::One(first) => {
                let mut list = EntryList::default();
                list.insert(Arc::clone(first));
                list.insert(Arc::clone(entry));
                *self = Self::Many(Arc::new(list));
            }
            Self::Many(list) => Arc::make_mut(list).insert(Arc::clone(entry)),
        }
        true
    }

    /// Whether some are left.
    fn remove(&mut self, entry_id: &str) -> bool {
        match self {
            Self::One(entry) => entry.entry_id != entry_id,
            Self::Many(list) => {
                let list = Arc::make_mut(list);
                list.remove(entry_id);
                !list.is_empty()
            }
        }
    }
}

/// Takes an entry out of a list of a map, if it is in there.
fn drop_from<K, Q>(map: &mut Shards<K, Arc<Vec<Arc<Entry>>>>, key: &Q, entry_id: &str)
where
    K: std::hash::Hash + Eq + Clone + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if map.get(key).is_some_and(|list| list.iter().any(|held| held.entry_id == entry_id)) {
        map.edit(key, |list| {
            let list = Arc::make_mut(list);
            list.retain(|held| held.entry_id != entry_id);
            !list.is_empty()
        });
    }
}

fn is_expired(entry: &Entry, now: UnixSeconds) -> bool {
    entry.expires_at != 0 && entry.expires_at <= now
}

#[cfg(test)]
mod tests;
