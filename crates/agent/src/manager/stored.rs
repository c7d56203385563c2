//! Having the X.509-SVIDs signed that go to SVID stores.

use std::convert::Infallible;
use std::time::Duration;

use steeple_agent_core::bundle::Bundles;
use steeple_agent_core::cache::SignedSvid;
use steeple_agent_core::entry::Entry;
use steeple_agent_core::sync::EntryDelta;
use steeple_pki::Certificate;
use steeple_runtime::Backoff;
use steeple_telemetry as telemetry;
use tracing::{debug, error, info};

use super::{Manager, SUBSYSTEM};
use crate::error::AgentError;

impl Manager {
    /// Gives both caches what concerns them. To the one that is served, entries for stores do not
    /// exist, and one that becomes such an entry is gone; the other way about as well.
    pub(super) fn apply(
        &self,
        delta: EntryDelta,
        bundles: Bundles,
        now: std::time::SystemTime,
    ) -> steeple_agent_core::cache::Applied {
        let (stored, served): (Vec<Entry>, Vec<Entry>) =
            delta.upserted.into_iter().partition(|entry| entry.store_svid);
        let without = |entries: &[Entry]| {
            let ids = entries.iter().map(|entry| entry.id.clone());
            delta.removed.iter().cloned().chain(ids).collect()
        };
        let to_store = EntryDelta { removed: without(&served), upserted: stored };
        let to_serve = EntryDelta { removed: without(&to_store.upserted), upserted: served };
        self.stored.apply(to_store, bundles.clone());
        self.cache.apply(to_serve, bundles, now)
    }

    /// Signs until nothing is wanted that the server would sign now.
    pub(super) async fn sign_all_stored(&self) -> Result<(), AgentError> {
        loop {
            let now = self.clock.now();
            let limit = self.batch().size();
            let wanted = self.stored.wanted(limit, now);
            if wanted.is_empty() {
                return Ok(());
            }
            let count = self.stored.backlog(now);
            debug!(
                subsystem_name = SUBSYSTEM,
                cache_type = CACHE,
                count,
                limit,
                "Renewing stale entries"
            );
            let attempted = wanted.len();
            let renewals = wanted.iter().filter(|it| it.current_expires_at.is_some()).count();
            if renewals > 0 {
                let key = &["cache_manager", "expiring_svids", CACHE];
                telemetry::sample(key, renewals as f64, &[]);
            }
            let call = telemetry::call(&["manager", "sync", "fetch_svids_updates"]);
            let outcome = self.mint(wanted).await;
            crate::telemetry::end(call, &outcome);
            match outcome {
                Ok(minted) => {
                    self.stored.refused(&minted.refused, self.clock.now());
                    self.stored.install(minted.signed);
                    self.batch().succeeded();
                }
                Err(error) => {
                    if error.asked_to_wait().is_none() {
                        self.batch().failed(attempted);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Waits until an SVID is wanted or due.
    pub(super) async fn stored_signing_loop(&self) -> Infallible {
        let mut patience = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
        loop {
            match self.sign_all_stored().await {
                Ok(()) => {
                    patience.reset();
                    let until_due = self.stored.next_deadline().map_or(LAST_PAUSE, |at| {
                        at.duration_since(self.clock.now()).unwrap_or_default().max(SHORTEST_SLEEP)
                    });
                    tokio::select! {
                        () = self.stored.signing_needed() => {}
                        () = tokio::time::sleep(until_due.min(LAST_PAUSE)) => {}
                    }
                }
                Err(error) => {
                    error!(subsystem_name = SUBSYSTEM, %error, "SVID sync failed");
                    tokio::time::sleep(self.heed(patience.next(), &error, None)).await;
                }
            }
        }
    }

    /// Has the SVIDs replaced that one of these authorities signed.
    pub(super) fn sweep_stored(&self, authorities: &[Certificate]) {
        let call = telemetry::call(&["cache_manager", CACHE, "process_tainted_x509_svids"]);
        let tainted = |svid: &SignedSvid| self.is_signed_by(&svid.chain, authorities);
        let tainted_x509_svids = self.stored.discard(tainted);
        let key = &["cache_manager", "expiring_svids", CACHE];
        telemetry::sample(key, tainted_x509_svids as f64, &[]);
        info!(subsystem_name = "svid_store_cache", tainted_x509_svids, "Tainted X.509 SVIDs");
        call.ok();
    }
}

const CACHE: &str = "svid_store";
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(4 * 60);
const SHORTEST_SLEEP: Duration = Duration::from_millis(500);
