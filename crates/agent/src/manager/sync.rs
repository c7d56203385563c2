//! Learning what the agent is authorised for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use steeple_agent_core::bundle::{Bundles, CachedBundle};
use steeple_agent_core::node::Refusal;
use steeple_agent_core::push::breather;
use steeple_agent_core::sync::{EntryDelta, KnownEntries, SyncSchedule};
use steeple_pki::Bundle;
use steeple_spiffe::TrustDomain;
use steeple_telemetry as telemetry;
use tracing::{error, info, warn};

use super::{Manager, SUBSYSTEM, SyncState};
use crate::error::AgentError;

/// After a hint whose sync brought no entries: every server follows the others within 250 ms.
const SECOND_LOOK: Duration = Duration::from_millis(300);

impl Manager {
    /// One sync, and a note of how it went.
    pub(crate) async fn synchronize(&self) -> Result<(), AgentError> {
        let outcome = self.sync_once().await;
        self.book.ended(outcome.as_ref().copied(), self.clock.now());
        outcome
    }

    /// Entries by difference, bundles, and what follows from both.
    async fn sync_once(&self) -> Result<(), AgentError> {
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
        let learned = {
            let mut state = self.state();
            state.known.apply(&delta);
            state.remember(&delta);
            self.book.learned(&delta);
            delta
        };
        self.apply(learned, cached(bundles), now);
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
        let (mut pause, mut breath) = (schedule.first(), Duration::ZERO);
        let mut overloaded = Duration::ZERO;
        let mut jolts = self.jolts.subscribe();
        loop {
            let hinted = self.wait_for_turn(breath.max(overloaded), pause).await;
            overloaded = Duration::ZERO;
            let before = self.state().known.changes();
            if jolts.has_changed().unwrap_or_default() {
                jolts.mark_unchanged();
                schedule.jolted();
            }
            let begun = Instant::now();
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
                    let pause = self.heed(schedule.failed(), &error, None);
                    // Then a hint that there is news has to wait, too.
                    overloaded = error.asked_to_wait().map_or(Duration::ZERO, |_| pause);
                    pause
                }
            };
            breath = breather(begun.elapsed());
            // The server that hinted may be ahead of the one that answered.
            if hinted && overloaded.is_zero() && self.state().known.changes() == before {
                pause = pause.min(SECOND_LOOK);
            }
        }
    }

    /// Until the next sync is due, or (`true`) the server hints at news; not before `breath`.
    async fn wait_for_turn(&self, breath: Duration, pause: Duration) -> bool {
        let breath = breath.min(pause);
        tokio::time::sleep(breath).await;
        tokio::select! {
            () = self.hints.notified() => true,
            () = tokio::time::sleep(pause - breath) => false,
        }
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

    /// Takes entries that were kept for synced ones.
    pub(super) fn remember(&self, delta: &EntryDelta) {
        let mut state = self.state();
        state.known.apply(delta);
        state.remember(delta);
        self.book.learned(delta);
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

fn cached(bundles: Vec<Bundle>) -> Bundles {
    bundles
        .into_iter()
        .map(|bundle| (bundle.trust_domain.clone(), Arc::new(CachedBundle::new(bundle))))
        .collect()
}
