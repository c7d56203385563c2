//! The identity cache: entries, their SVIDs, and who waits for them.
//!
//! Callers with the same selectors share a *group*: one watch channel, one
//! [`Update`]. Groups that happen to match the same entries share the update
//! itself. A change rebuilds exactly the updates that it touches and wakes
//! exactly their groups; everything else is left alone.
//!
//! The cache signs nothing. It says what is wanted ([`IdentityCache::wanted`],
//! [`IdentityCache::signing_needed`]) and takes in what was signed
//! ([`IdentityCache::install`]).

mod identity;
mod index;
mod known_bundles;
mod memo;
mod state;
mod update;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use steeple_spiffe::TrustDomain;
use tokio::sync::{Notify, watch};

use crate::bundle::{Bundles, CachedBundle};
use crate::entry::{Entry, EntryId};
use crate::explain::Examination;
use crate::sealed::KeptEntry;
use crate::selectors::SelectorSet;
use crate::sync::EntryDelta;

pub use self::identity::{Identity, Pem, SignedSvid};
pub use self::known_bundles::{BundleWatch, KnownBundles};
use self::state::{Held, State};
pub use self::update::Update;

/// What shared code holds: every method takes a short lock and never awaits.
pub struct IdentityCache {
    state: Mutex<State>,
    signing: Notify,
    changes: AtomicU64,
    removals: AtomicU64,
    /// The last attempt at signing left something unsigned.
    stalled: AtomicBool,
}

/// What one application of news changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries that were not known before.
    pub created: usize,
    /// Known entries that differ.
    pub updated: usize,
    /// Entries that are gone.
    pub removed: usize,
    /// The groups of callers that were given a new update, in no order.
    pub affected: Vec<SelectorSet>,
}

/// An entry whose X.509-SVID is wanted.
#[derive(Clone)]
pub struct SigningRequest {
    /// The entry as it was when this was asked.
    pub entry: Arc<Entry>,
    /// The expiry of the SVID that is to be replaced.
    pub current_expires_at: Option<SystemTime>,
}

impl IdentityCache {
    /// An empty cache that knows its own trust domain's bundle. At most about
    /// `max_x509_svids` SVIDs are held (those in use are held in any case).
    pub fn new(own_bundle: Arc<CachedBundle>, max_x509_svids: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(own_bundle, max_x509_svids)),
            signing: Notify::new(),
            changes: AtomicU64::new(0),
            removals: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
        })
    }

    /// Takes in what a sync brought. The own trust domain's bundle stays even
    /// when `bundles` lacks it: without it the server cannot be recognised.
    pub fn apply(&self, delta: EntryDelta, bundles: Bundles, now: SystemTime) -> Applied {
        let applied = self.lock().apply(delta, bundles, now);
        self.count(applied.created + applied.updated + applied.removed, applied.removed);
        self.signing.notify_one();
        applied
    }

    /// Takes in whether an attempt at signing signed all that it was for.
    pub fn attempted(&self, signed_all: bool) {
        self.stalled.store(!signed_all, Ordering::Relaxed);
    }

    /// Up to `limit` entries to sign now: callers that wait come first, then
    /// renewals by urgency, then what is only prefetched.
    pub fn wanted(&self, limit: usize, now: SystemTime) -> Vec<SigningRequest> {
        self.lock().wanted(limit, now)
    }

    /// How many entries are waiting to be signed.
    pub fn backlog(&self, now: SystemTime) -> usize {
        self.lock().backlog(now)
    }

    /// Takes in signed SVIDs for entries asked for by [`Self::wanted`] and
    /// tells which groups got a new update.
    pub fn install(&self, signed: Vec<(Arc<Entry>, SignedSvid)>) -> Vec<SelectorSet> {
        self.count(signed.len(), 0);
        self.lock().install(signed)
    }

    /// The server would not sign these; each is asked for again later, with
    /// growing patience, without holding up the others.
    pub fn refused(&self, entries: &[EntryId], now: SystemTime) {
        self.lock().refused(entries, now);
    }

    /// Completes when a caller waits for an SVID or entries changed.
    pub async fn signing_needed(&self) {
        self.signing.notified().await;
    }

    /// When [`Self::expire`] or [`Self::wanted`] has something to do by itself.
    pub fn next_deadline(&self) -> Option<SystemTime> {
        self.lock().next_deadline()
    }

    /// Stops serving SVIDs whose time is over.
    pub fn expire(&self, now: SystemTime) -> usize {
        self.lock().expire(now)
    }

    /// The entries whose SVID `condemns` names leave the cache and are signed
    /// anew; streams keep what they have until then. Only `candidates` are
    /// looked at.
    pub fn discard(&self, candidates: &[EntryId], condemns: impl Fn(&Identity) -> bool) -> usize {
        let discarded = self.lock().discard(candidates, condemns);
        self.count(discarded, discarded);
        if discarded > 0 {
            self.signing.notify_one();
        }
        discarded
    }

    /// Has the signer look again, as after the clock was set.
    pub fn nudge(&self) {
        self.signing.notify_one();
    }

    /// How often entries or SVIDs changed, and how often something was taken away.
    pub fn versions(&self) -> (u64, u64) {
        (self.changes.load(Ordering::Relaxed), self.removals.load(Ordering::Relaxed))
    }

    /// All entries with their SVIDs, to be kept on disk; the ones in use first.
    pub fn kept(&self) -> Vec<KeptEntry> {
        let held = self.lock().kept();
        held.into_iter().map(Held::keep).collect()
    }

    /// Whether this entry is known and still grants the same identity.
    pub fn has(&self, entry: &Entry) -> bool {
        self.lock().has(entry)
    }

    /// The entries that have an SVID.
    pub fn signed_entries(&self) -> Vec<EntryId> {
        self.lock().signed_entries()
    }

    /// A watch on what `selectors` are entitled to.
    pub fn subscribe(self: &Arc<Self>, selectors: SelectorSet, now: SystemTime) -> Subscription {
        let (updates, wanting) = self.lock().subscribe(&selectors, now);
        if wanting {
            self.signing.notify_one();
        }
        Subscription { updates, selectors, cache: Arc::clone(self) }
    }

    /// What `selectors` are entitled to now, without a subscription.
    pub fn snapshot(&self, selectors: &SelectorSet) -> Arc<Update> {
        self.lock().snapshot(selectors)
    }

    /// The entries that `selectors` match, in ascending order of entry ID.
    pub fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        self.lock().matching(selectors)
    }

    /// What is known about `selectors`, for an operator: looks at every entry.
    /// At most `limit` of those that nearly match are told.
    pub fn examine(&self, selectors: &SelectorSet, limit: usize) -> Examination {
        self.lock().examine(selectors, limit)
    }

    /// Every bundle.
    pub fn bundles(&self) -> Bundles {
        self.lock().bundles().clone()
    }

    /// A watch on every bundle.
    pub fn watch_bundles(&self) -> BundleWatch {
        self.lock().watch_bundles()
    }

    /// The own trust domain's bundle.
    pub fn own_bundle(&self) -> Arc<CachedBundle> {
        self.lock().own_bundle()
    }

    /// How many X.509-SVIDs are held.
    pub fn count_x509_svids(&self) -> usize {
        self.lock().count_svids()
    }

    /// How many entries are known.
    pub fn count_entries(&self) -> usize {
        self.lock().count_entries()
    }

    /// How many distinct sets of selectors are subscribed.
    pub fn count_groups(&self) -> usize {
        self.lock().count_groups()
    }

    fn count(&self, changed: usize, removed: usize) {
        self.changes.fetch_add(changed as u64, Ordering::Relaxed);
        self.removals.fetch_add(removed as u64, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the identity cache")
    }
}

/// How long SVIDs that are still to be signed are waited for where there are others. Callers of
/// the command line give up after a second.
const PATIENCE: Duration = Duration::from_millis(500);

/// A caller's place in a group; leaving it frees the group with its last one.
pub struct Subscription {
    updates: watch::Receiver<Arc<Update>>,
    selectors: SelectorSet,
    cache: Arc<IdentityCache>,
}

impl Subscription {
    /// The current update, marked as seen.
    pub fn current(&mut self) -> Arc<Update> {
        self.updates.borrow_and_update().clone()
    }

    /// Waits until every entry that matches has its SVID: the first thing a
    /// new stream may send. Where there is an SVID already and signing fails,
    /// as during an outage, the others are not waited for longer than a moment:
    /// an entry that no server signs for takes nothing from those that have
    /// their SVIDs.
    pub async fn ready(&mut self) -> Arc<Update> {
        loop {
            let update = self.current();
            if update.is_complete() {
                return update;
            }
            if !update.has_identity() {
                self.changed().await;
            } else if tokio::time::timeout(PATIENCE, self.changed()).await.is_err()
                && self.cache.stalled.load(Ordering::Relaxed)
            {
                return update;
            }
        }
    }

    /// Waits for an update that was not seen.
    pub async fn changed(&mut self) -> Arc<Update> {
        if self.updates.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.current()
    }

    /// The selectors subscribed with.
    pub fn selectors(&self) -> &SelectorSet {
        &self.selectors
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.cache.lock().unsubscribe(&self.selectors);
    }
}

/// The own trust domain of a bundle map's owner, for logs.
pub(crate) fn trust_domain_of(bundle: &CachedBundle) -> &TrustDomain {
    bundle.trust_domain()
}
