//! Learning what the agent is authorised for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_agent_core::bundle::{Bundles, CachedBundle};
use steeple_agent_core::entry::Entry;
use steeple_agent_core::node::Refusal;
use steeple_agent_core::sync::{EntryDelta, KnownEntries, SyncSchedule};
use steeple_pki::Bundle;
use steeple_pki::x509::Certificate;
use steeple_spiffe::TrustDomain;
use steeple_telemetry as telemetry;
use tracing::{error, info, warn};

use super::{Manager, SUBSYSTEM, SyncState};
use crate::error::AgentError;

/// A clock that goes back by more was set back; by less, it is being kept right.
const CLOCK_STEP: Duration = Duration::from_secs(10);

impl Manager {
    /// One sync: entries by difference, bundles, and what follows from both.
    pub(crate) async fn synchronize(&self) -> Result<(), AgentError> {
        let known = self.state().known.clone();
        let call = telemetry::call(&["manager", "sync", "fetch_entries_updates"]);
        let fetched = self.fetch(&known).await;
        crate::telemetry::end(call, &fetched);
        let (delta, bundles) = fetched?;
        let bundles_total = bundles.len();
        let (new, stale): (Vec<_>, Vec<_>) =
            delta.upserted.iter().partition(|entry| !known.contains(&entry.id));
        telemetry::gauge(&["sync_entries_missing"], new.len() as f64, &[]);
        telemetry::gauge(&["sync_entries_stale"], stale.len() as f64, &[]);
        if !stale.is_empty() {
            telemetry::sample(&["cache_manager", "outdated_svids"], stale.len() as f64, &[]);
        }
        telemetry::gauge(&["sync_entries_dropped"], delta.removed.len() as f64, &[]);
        self.use_bundles(&bundles);
        let now = self.clock.now();
        let served = {
            let mut state = self.state();
            state.known.apply(&delta);
            state.remember(&delta);
            without_stored(delta)
        };
        self.cache.apply(served, cached(bundles), now);
        self.credentials.synced(now);
        telemetry::gauge(&["sync_bundles_total"], bundles_total as f64, &[]);
        telemetry::gauge(&["sync_entries_total"], self.state().known.len() as f64, &[]);
        Ok(())
    }

    async fn fetch(&self, known: &KnownEntries) -> Result<(EntryDelta, Vec<Bundle>), AgentError> {
        let delta = self.server.sync_entries(known, self.settings.incremental_sync).await?;
        let federated = self.state().federated_after(&delta);
        let bundles = self.server.bundles(federated).await?;
        Ok((delta, bundles))
    }

    /// The own bundle is what the server is recognised by, also after a
    /// restart; what it declares tainted is dealt with.
    fn use_bundles(&self, bundles: &[Bundle]) {
        let own = &self.attestation.trust_domain;
        let Some(bundle) = bundles.iter().find(|bundle| bundle.trust_domain == *own) else {
            return;
        };
        let authorities: Vec<_> = bundle.certificates().cloned().collect();
        if authorities.is_empty() {
            warn!(
                subsystem_name = SUBSYSTEM,
                "The server's bundle has no X.509 authorities; keeping the last one"
            );
            return;
        }
        let held: Vec<_> = self.cache.own_bundle().bundle().certificates().cloned().collect();
        if held != authorities {
            self.data.store_bundle(authorities.clone());
            self.roots.set(authorities);
        }
        let news = self.state().taint.observe(bundle);
        self.on_tainted(news);
    }

    /// Syncs for as long as the server has this agent; gives why it has not.
    pub(super) async fn sync_loop(&self, schedule: &mut SyncSchedule) -> AgentError {
        let mut pause = schedule.first();
        let mut seen = self.clock.now();
        loop {
            tokio::time::sleep(pause).await;
            let now = self.clock.now();
            if now + CLOCK_STEP < seen {
                self.clock_was_set_back(now);
            }
            seen = now;
            pause = match self.synchronize().await {
                Ok(()) => {
                    self.contact_restored();
                    schedule.succeeded(self.cache.count_x509_svids())
                }
                Err(error) if error.refusal() == Refusal::UnknownAuthority => {
                    if let Some(fatal) = self.on_unknown_authority(error) {
                        return fatal;
                    }
                    schedule.succeeded(0)
                }
                Err(error) => {
                    error!(subsystem_name = SUBSYSTEM, %error, "Synchronize failed");
                    if error.refusal() != Refusal::Transient {
                        return error;
                    }
                    schedule.failed()
                }
            };
        }
    }

    /// What was issued in a time that is yet to come again is replaced: nobody would accept it.
    fn clock_was_set_back(&self, now: SystemTime) {
        let early = |leaf: &Certificate| leaf.not_before() > now;
        let x509_svids = self
            .cache
            .discard(&self.cache.signed_entries(), |held| held.chain().first().is_some_and(early));
        let jwt_svids = self.jwt.forget_issued_after(now);
        warn!(
            subsystem_name = SUBSYSTEM,
            x509_svids, jwt_svids, "The clock was set back; replacing SVIDs that are not valid yet"
        );
    }

    /// Either the server is an impostor or its authority was replaced while
    /// this agent was away. Gives the error to stop with, if it is to stop.
    pub(crate) fn on_unknown_authority(&self, error: AgentError) -> Option<AgentError> {
        if !self.settings.rebootstrap {
            info!(subsystem_name = SUBSYSTEM, %error, "Synchronize failed, non-recoverable error");
            return Some(AgentError::Sync(Box::new(error)));
        }
        let now = self.clock.now();
        let started = self.data.read().bootstrap_start_time.unwrap_or(now);
        let waited = now.duration_since(started).unwrap_or_default();
        let changed = if waited < self.settings.rebootstrap_delay {
            let time_left =
                steeple_runtime::duration::format_go(self.settings.rebootstrap_delay - waited);
            info!(
                subsystem_name = SUBSYSTEM,
                time_left, "Trust Bundle and Server don't agree, ignoring for now"
            );
            self.data.update(|data| data.bootstrap_start_time = Some(started))
        } else {
            warn!(
                subsystem_name = SUBSYSTEM,
                "Trust Bundle and Server don't agree, rebootstrapping"
            );
            self.data.update(|data| {
                data.bundle.clear();
                data.svid.clear();
                data.bootstrap_start_time = Some(now);
                data.connection_attempts = 0;
            })
        };
        match changed {
            Err(error) => Some(error),
            Ok(()) if waited < self.settings.rebootstrap_delay => None,
            Ok(()) => Some(AgentError::Rebootstrap),
        }
    }

    /// Ends a period of disagreement that was being waited out.
    fn contact_restored(&self) {
        if self.data.read().bootstrap_start_time.is_some()
            && let Err(error) = self.data.update(|data| data.bootstrap_start_time = None)
        {
            warn!(subsystem_name = SUBSYSTEM, %error, "Could not store bootstrap state");
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, SyncState> {
        self.state.lock().expect("no code panics while it holds the sync state")
    }
}

impl SyncState {
    /// Every trust domain that some entry federates with, once `delta` holds.
    fn federated_after(&self, delta: &EntryDelta) -> BTreeSet<TrustDomain> {
        let replaced = |id: &str| {
            delta.removed.iter().any(|gone| **gone == *id)
                || delta.upserted.iter().any(|entry| *entry.id == *id)
        };
        let kept = self.federated.iter().filter(|(id, _)| !replaced(id)).flat_map(|(_, tds)| tds);
        let new = delta.upserted.iter().flat_map(|entry| &entry.federates_with);
        kept.chain(new).cloned().collect()
    }

    fn remember(&mut self, delta: &EntryDelta) {
        for id in &delta.removed {
            self.federated.remove(id);
        }
        for entry in &delta.upserted {
            if entry.federates_with.is_empty() {
                self.federated.remove(&entry.id);
            } else {
                self.federated.insert(entry.id.clone(), entry.federates_with.clone());
            }
        }
    }
}

/// Entries for SVID stores are known but never served: to the cache they do
/// not exist, and one that becomes such an entry is gone.
fn without_stored(delta: EntryDelta) -> EntryDelta {
    let (stored, served): (Vec<Entry>, Vec<Entry>) =
        delta.upserted.into_iter().partition(|entry| entry.store_svid);
    let removed = delta.removed.into_iter().chain(stored.into_iter().map(|entry| entry.id));
    EntryDelta { upserted: served, removed: removed.collect() }
}

fn cached(bundles: Vec<Bundle>) -> Bundles {
    bundles
        .into_iter()
        .map(|bundle| (bundle.trust_domain.clone(), Arc::new(CachedBundle::new(bundle))))
        .collect()
}
