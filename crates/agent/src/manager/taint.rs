//! What follows when authorities of the own trust domain are withdrawn.

use std::convert::Infallible;

use steeple_agent_api::admin::AgentStatus as _;
use steeple_agent_core::taint::{NewlyTainted, TaintSweep};
use steeple_pki::Certificate;
use steeple_pki::verify::verify_path;
use steeple_telemetry as telemetry;
use tokio::sync::{Mutex, mpsc};
use tracing::{debug, info};

use super::{Manager, SUBSYSTEM};

/// Sweeps that wait for their turn.
pub(crate) struct Sweeps {
    sender: mpsc::UnboundedSender<Vec<Certificate>>,
    receiver: Mutex<mpsc::UnboundedReceiver<Vec<Certificate>>>,
}

impl Sweeps {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver: Mutex::new(receiver) }
    }
}

impl Manager {
    pub(super) fn on_tainted(&self, news: NewlyTainted) {
        if !news.x509.is_empty() {
            let ids: Vec<&str> = news.x509.iter().map(|(id, _)| id.as_str()).collect();
            debug!(
                subsystem_name = SUBSYSTEM,
                subject_key_ids = ids.join(","),
                "New tainted X.509 authorities found"
            );
            let authorities: Vec<Certificate> =
                news.x509.into_iter().map(|(_, certificate)| certificate).collect();
            if self.credentials.rotation().is_tainted() {
                debug!(subsystem_name = SUBSYSTEM, "Agent SVID already tainted");
            } else if self.is_signed_by(&self.credentials.svid(), &authorities) {
                info!(
                    subsystem_name = SUBSYSTEM,
                    "Agent SVID is tainted by a root authority, forcing rotation"
                );
                self.credentials.taint();
            }
            // The receiver lives as long as this does.
            let _ = self.sweeps.sender.send(authorities);
        }
        if !news.jwt.is_empty() {
            let mut ids: Vec<&str> = news.jwt.iter().map(String::as_str).collect();
            ids.sort_unstable();
            debug!(
                subsystem_name = SUBSYSTEM,
                jwt_authority_key_ids = ids.join(","),
                "New tainted JWT authorities found"
            );
            self.jwt.forget_keys(&news.jwt);
        }
    }

    /// Has SVIDs of tainted authorities replaced, a batch at a time.
    pub(super) async fn sweeping_loop(&self) -> Infallible {
        let mut waiting = self.sweeps.receiver.lock().await;
        loop {
            let Some(authorities) = waiting.recv().await else { std::future::pending().await };
            self.sweep_stored(&authorities);
            let entries = self.cache.signed_entries();
            if entries.is_empty() {
                debug!(
                    subsystem_name = CACHE,
                    "No SVID entries to process for tainted X.509 authorities"
                );
                continue;
            }
            debug!(
                subsystem_name = CACHE,
                count = entries.len(),
                "Scheduled rotation for SVID entries due to tainted X.509 authorities"
            );
            let mut sweep = TaintSweep::new(entries);
            loop {
                let key = &["cache_manager", "workload", "process_tainted_x509_svids"];
                let call = telemetry::call(key);
                let batch = sweep.next_batch();
                let tainted_x509_svids = self
                    .cache
                    .discard(&batch, |identity| self.is_signed_by(&identity.chain(), &authorities));
                info!(subsystem_name = CACHE, tainted_x509_svids, "Tainted X.509 SVIDs");
                let key = &["cache_manager", "tainted_x509_svids", "workload"];
                telemetry::sample(key, tainted_x509_svids as f64, &[]);
                call.ok();
                if sweep.left() == 0 {
                    info!(subsystem_name = CACHE, "Finished processing all tainted entries");
                    break;
                }
                info!(
                    subsystem_name = CACHE,
                    count = sweep.left(),
                    "There are tainted X.509 SVIDs left to be processed"
                );
                tokio::time::sleep(TaintSweep::PAUSE).await;
            }
        }
    }

    pub(super) fn is_signed_by(&self, chain: &[Certificate], authorities: &[Certificate]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        verify_path(leaf, intermediates, authorities, self.clock.now()).is_ok()
    }
}

const CACHE: &str = "cache_manager";
