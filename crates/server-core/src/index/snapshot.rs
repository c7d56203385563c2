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

use std::collections::{HashMap, HashSet};
use std::hash::RandomState;
use std::sync::Arc;

use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::EntryBatch;
use steeple_store::model::{AttestedNode, Entry};
use steeple_telemetry::gauge;

use super::pages::{Handle, Pages};
use super::record::{self, EntryRef};
use super::shards::Shards;
use super::tables::{self, Table};
pub use ancestry::{AliasMiss, Ancestry, Holder, Step, StepKind};

pub(crate) const SERVER_PATH: &str = "/spire/server";

/// Seconds since the epoch.
type UnixSeconds = i64;

/// The authorised entries of every agent, at one revision.
#[derive(Clone)]
pub struct Snapshot {
    trust_domain: TrustDomain,
    /// Each that is shown has one more than the one before it.
    pub(crate) edition: u64,
    /// Every entry of this trust domain.
    pages: Pages,
    /// All of them, by entry id.
    by_id: Table,
    /// The entries that are not aliases, by the path of their parent.
    children: Table,
    /// Entries by the path of their SPIFFE ID: the way from a parent up to agents.
    by_path: Table,
    /// Those that grant API rights, likewise.
    privileged: Table,
    /// Aliases, each under one of its selectors: whoever has them all has it.
    aliases: Shards<Selector, Arc<Vec<Handle>>>,
    /// Attested nodes by path.
    nodes: Shards<Arc<str>, Arc<AttestedNode>>,
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
        let hasher = RandomState::new();
        let table = |key| Table::new(key, hasher.clone());
        Self {
            trust_domain,
            edition: 0,
            pages: Pages::new(),
            by_id: table(tables::by_id),
            children: table(tables::by_parent_path),
            by_path: table(tables::by_spiffe_path),
            privileged: table(tables::by_spiffe_path),
            aliases: Shards::new(),
            nodes: Shards::new(),
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
            (["entry", "entries_by_entryid_cache", "count"], self.pages.len()),
            (["entry", "skipped_entry_event_ids", "count"], 0),
        ] {
            gauge(&key, count as f64, &[]);
        }
    }

    /// Sets, replaces or (with `None`) removes the entry of an id.
    pub fn put_entry(&mut self, entry_id: &str, entry: Option<&Entry>) {
        let held = self.by_id.get_one(&self.pages, entry_id.as_bytes());
        if let Some(handle) = held {
            self.unlink(handle);
        }
        let entry = entry.filter(|entry| self.is_ours(entry));
        match (held, entry) {
            (None, None) => {}
            (Some(handle), None) => {
                self.by_id.remove(&self.pages, handle);
                self.pages.remove(handle);
            }
            (Some(handle), Some(entry)) => {
                self.pages.replace(handle, &record::of(entry));
                self.link(handle);
            }
            (None, Some(entry)) => {
                let handle = self.pages.insert(&record::of(entry));
                self.by_id.insert(&self.pages, handle);
                self.link(handle);
            }
        }
    }

    /// Puts entries that [`Self::link_all`] has to file before anybody finds them.
    pub(super) fn put_unlinked(&mut self, entries: &EntryBatch) {
        let mut record = Vec::new();
        let home = self.trust_domain.as_str();
        for entry in entries.iter() {
            // As `is_ours`.
            if entry.parent_id().0 == home && entry.spiffe_id().0 == home {
                record::write(entry, &mut record);
                self.pages.insert(&record);
            }
        }
    }

    /// Files everything that was put unlinked, where nothing was linked before.
    pub(super) fn link_all(&mut self) {
        loop {
            self.fill_tables();
            // No database lets an id be there twice. If one does, what was read last counts.
            let repeated = self.by_id.superseded();
            if repeated.is_empty() {
                break;
            }
            for handle in repeated {
                self.pages.remove(handle);
            }
        }
        let mut rare: Vec<Handle> = self
            .pages
            .iter()
            .filter(|(_, entry)| entry.admin() || entry.downstream() || entry.is_alias())
            .map(|(handle, _)| handle)
            .collect();
        rare.sort_unstable_by_key(|handle| self.pages.get(*handle).id());
        for handle in rare {
            self.link_rare(handle);
        }
    }

    /// Fills the tables that have a place for most entries, on two processors.
    fn fill_tables(&mut self) {
        let Self { pages, by_id, children, by_path, .. } = self;
        let pages = &*pages;
        std::thread::scope(|threads| {
            threads.spawn(|| {
                by_id.fill(pages, |_| true);
                by_path.fill(pages, |_| true);
            });
            children.fill(pages, |entry| !entry.is_alias());
        });
    }

    /// Sets, replaces or (with `None`) removes an attested node.
    pub fn put_node(&mut self, agent: &SpiffeId, node: Option<AttestedNode>) {
        match node {
            Some(mut node) if agent.is_member_of(&self.trust_domain) => {
                // They are, from a datastore; what looks for aliases relies on it.
                if !node.selectors.is_sorted_by(|a, b| a < b) {
                    node.selectors.sort_unstable();
                    node.selectors.dedup();
                }
                self.nodes.insert(agent.path().into(), Arc::new(node));
            }
            _ => {
                self.nodes.remove(agent.path());
            }
        }
    }

    /// Every entry that the agent may have, sorted by entry id within a parent.
    #[must_use]
    pub fn authorized(&self, agent: &SpiffeId, now: UnixSeconds) -> Vec<EntryRef<'_>> {
        let handles = self.authorized_handles(agent, now);
        handles.into_iter().map(|handle| self.pages.get(handle)).collect()
    }

    /// As [`Self::authorized`], for who keeps the snapshot itself.
    pub(super) fn authorized_handles(&self, agent: &SpiffeId, now: UnixSeconds) -> Vec<Handle> {
        let mut found = Vec::new();
        self.crawl(agent, now, |handle, _| {
            found.push(handle);
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
            self.crawl(agent, now, |_, entry| {
                if entry_ids.contains(entry.entry_id()) && add(&mut found, entry) {
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
        let group = self.privileged.get(&self.pages, holder.path().as_bytes());
        for entry in group.iter().map(|handle| self.pages.get(handle)) {
            if !entry.is_expired(now) {
                granted.admin |= entry.admin();
                granted.downstream |= entry.downstream();
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
    pub fn entry(&self, entry_id: &str) -> Option<EntryRef<'_>> {
        let handle = self.by_id.get_one(&self.pages, entry_id.as_bytes())?;
        Some(self.pages.get(handle))
    }

    /// The entries whose SPIFFE ID has this path, expired ones too.
    pub(crate) fn entries_of(&self, path: &str) -> impl Iterator<Item = EntryRef<'_>> {
        let group = self.by_path.get(&self.pages, path.as_bytes());
        group.iter().map(|handle| self.pages.get(handle))
    }

    /// Every entry, in no order. Costs as much as there is.
    pub(crate) fn entries(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.pages.iter().map(|(_, entry)| entry)
    }

    /// How many entries are indexed.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.pages.len()
    }

    /// What the entries take of memory, in bytes, with all that finds them. Without nodes.
    #[must_use]
    pub fn entry_bytes(&self) -> usize {
        let tables = [&self.by_id, &self.children, &self.by_path, &self.privileged];
        self.pages.heap_bytes() + tables.map(Table::heap_bytes).iter().sum::<usize>()
    }

    /// What stands in a place.
    pub(super) fn get(&self, handle: Handle) -> EntryRef<'_> {
        self.pages.get(handle)
    }

    /// A row of another trust domain does not exist here.
    fn is_ours(&self, entry: &Entry) -> bool {
        entry.parent_id.is_member_of(&self.trust_domain)
            && entry.spiffe_id.is_member_of(&self.trust_domain)
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
        let aliases: HashSet<&[u8]> = self
            .aliases_of(agent, now)
            .into_iter()
            .map(|alias| alias.heads().spiffe_path)
            .collect();
        for id in entry_ids {
            let Some(entry) = self.entry(id) else { continue };
            let parent = entry.heads().parent_path;
            if entry.is_expired(now) || entry.is_alias() {
                continue;
            }
            if parent == agent.path().as_bytes() || aliases.contains(parent) {
                add(found, entry);
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
        mut visit: impl FnMut(Handle, EntryRef<'a>) -> bool,
    ) {
        if !agent.is_member_of(&self.trust_domain) {
            return;
        }
        let mut seen: HashSet<&[u8]> = HashSet::new();
        let mut pending: Vec<&[u8]> = self
            .aliases_of(agent, now)
            .into_iter()
            .map(|alias| alias.heads().spiffe_path)
            .collect();
        pending.push(agent.path().as_bytes());
        while let Some(parent) = pending.pop() {
            let children = self.children.get(&self.pages, parent);
            if children.is_none() || !seen.insert(parent) {
                continue;
            }
            for handle in children.iter() {
                let entry = self.pages.get(handle);
                if entry.is_expired(now) {
                    continue;
                }
                if !visit(handle, entry) {
                    return;
                }
                pending.push(entry.heads().spiffe_path);
            }
        }
    }

    /// The aliases of a node that is attested and whose SVID has not expired.
    fn aliases_of(&self, agent: &SpiffeId, now: UnixSeconds) -> Vec<EntryRef<'_>> {
        let Some(node) = self.node(agent).filter(|node| node.expires_at > now) else {
            return Vec::new();
        };
        let has = |(kind, value): (&[u8], &[u8])| {
            let held =
                |it: &Selector| (it.kind.as_bytes(), it.value.as_bytes()).cmp(&(kind, value));
            node.selectors.binary_search_by(held).is_ok()
        };
        node.selectors
            .iter()
            .filter_map(|selector| self.aliases.get(selector))
            .flat_map(|list| list.iter())
            .map(|handle| self.pages.get(*handle))
            .filter(|alias| !alias.is_expired(now) && alias.selectors().all(has))
            .collect()
    }

    /// Files an entry by all but its id.
    fn link(&mut self, handle: Handle) {
        self.by_path.insert(&self.pages, handle);
        if !self.pages.get(handle).is_alias() {
            self.children.insert(&self.pages, handle);
        }
        self.link_rare(handle);
    }

    /// Files an entry where few are.
    fn link_rare(&mut self, handle: Handle) {
        let entry = self.pages.get(handle);
        if entry.admin() || entry.downstream() {
            self.privileged.insert(&self.pages, handle);
        }
        if entry.is_alias()
            && let Some(key) = self.rarest_selector(entry)
        {
            let list = self.aliases.entry_mut(&key, Arc::default);
            Arc::make_mut(list).push(handle);
        }
    }

    fn unlink(&mut self, handle: Handle) {
        self.by_path.remove(&self.pages, handle);
        let entry = self.pages.get(handle);
        if entry.admin() || entry.downstream() {
            self.privileged.remove(&self.pages, handle);
        }
        if !entry.is_alias() {
            self.children.remove(&self.pages, handle);
            return;
        }
        for selector in selectors_of(entry) {
            let list = self.aliases.get(&selector);
            if list.is_some_and(|list| list.contains(&handle)) {
                self.aliases.edit(&selector, |list| {
                    let list = Arc::make_mut(list);
                    list.retain(|held| *held != handle);
                    !list.is_empty()
                });
            }
        }
    }

    /// Of an alias's selectors, the one that the fewest other aliases are
    /// filed under: one cluster-wide selector must not collect them all.
    fn rarest_selector(&self, alias: EntryRef<'_>) -> Option<Selector> {
        let holders = |selector: &Selector| self.aliases.get(selector).map_or(0, |list| list.len());
        selectors_of(alias).min_by_key(holders)
    }
}

fn selectors_of(entry: EntryRef<'_>) -> impl Iterator<Item = Selector> {
    entry.to_entry().selectors.into_iter()
}

/// Adds an entry unless it is there.
fn add(found: &mut HashMap<String, Arc<Entry>>, entry: EntryRef<'_>) -> bool {
    if found.contains_key(entry.entry_id()) {
        return false;
    }
    let entry = entry.to_entry();
    found.insert(entry.entry_id.clone(), Arc::new(entry)).is_none()
}

fn is_expired(entry: &Entry, now: UnixSeconds) -> bool {
    entry.expires_at != 0 && entry.expires_at <= now
}

#[cfg(test)]
mod tests;
