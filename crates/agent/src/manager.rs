//! The loops of a running agent: learn what it is authorised for, have SVIDs
//! signed, keep its own identity fresh.
//!
//! Each loop performs what the core decides and sleeps until the core has
//! something to decide. They end together: at a drain, or when one meets an
//! error that means the agent's identity is gone.

mod clock;
mod offline;
mod push;
pub(crate) mod rotator;
mod signer;
mod stored;
mod sync;
pub(crate) mod taint;
mod tokens;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use steeple_agent_core::cache::IdentityCache;
use steeple_agent_core::entry::EntryId;
use steeple_agent_core::explain::SyncBook;
use steeple_agent_core::jwt::JwtSvids;
use steeple_agent_core::lifetime::{RenewalRule, heed};
use steeple_agent_core::node::Refusal;
use steeple_agent_core::svid_store::StoreCache;
use steeple_agent_core::sync::{BatchSize, KnownEntries, SyncSchedule};
use steeple_agent_core::taint::TaintWatch;
use steeple_net::tls::Roots;
use steeple_pki::KeyType;
use steeple_runtime::{Clock, VERSION, Watcher};
use steeple_spiffe::TrustDomain;
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use crate::attestation::NodeAttestation;
use crate::credentials::Credentials;
use crate::data::DataFile;
use crate::error::AgentError;
use crate::offline::OfflineCache;
use crate::server::ServerClient;
use crate::svid_store::StoreService;

/// Everything the loops work on.
pub(crate) struct Manager {
    pub(crate) attestation: NodeAttestation,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) server: Arc<ServerClient>,
    pub(crate) roots: Roots,
    pub(crate) data: Arc<DataFile>,
    pub(crate) cache: Arc<IdentityCache>,
    /// The entries whose SVIDs go to SVID stores.
    pub(crate) stored: Arc<StoreCache>,
    pub(crate) store_service: StoreService,
    pub(crate) jwt: Arc<JwtSvids>,
    /// How the last contact to the server went, for who asks.
    pub(crate) book: Arc<SyncBook>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    pub(crate) state: Mutex<SyncState>,
    pub(crate) batch: Mutex<BatchSize>,
    pub(crate) sweeps: taint::Sweeps,
    /// Wakes the sync: the server says that there is news.
    pub(crate) hints: Notify,
    /// Counts the jumps of the clock, for the loops.
    pub(crate) jolts: watch::Sender<u64>,
    /// What is kept on disk for a start without a server.
    pub(crate) offline: Option<Arc<OfflineCache>>,
    /// Whether no server has answered since the start.
    pub(crate) offline_since_start: AtomicBool,
    /// Whether the data directory is ours; whoever is about to change keys in it holds this.
    pub(crate) upkeep: tokio::sync::Mutex<bool>,
}

/// What the configuration says about the loops.
pub(crate) struct Settings {
    pub(crate) sync_interval: Duration,
    pub(crate) incremental_sync: bool,
    /// Whether to ask the server to tell of changes.
    pub(crate) push: bool,
    pub(crate) workload_key_type: KeyType,
    pub(crate) renewal: RenewalRule,
    /// An unknown authority is waited out and then bootstrapped anew.
    pub(crate) rebootstrap: bool,
    pub(crate) rebootstrap_delay: Duration,
}

/// What the last sync left behind; only the sync loop changes it.
#[derive(Default)]
pub(crate) struct SyncState {
    known: KnownEntries,
    federated: HashMap<EntryId, Vec<TrustDomain>>,
    taint: TaintWatch,
}

impl Manager {
    /// The first contact of a run: report, sync, sign what is there. When the
    /// server will have no more of this identity, it goes.
    pub(crate) async fn initialize(&self) -> Result<(), AgentError> {
        if let Err(error) = self.server.post_status(VERSION).await {
            error!(subsystem_name = SUBSYSTEM, agent_version = VERSION, %error, "Failed to post agent status");
        }
        let outcome = match self.synchronize().await {
            Ok(()) => self.sign_first().await,
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            match error.refusal() {
                Refusal::Reattest => {
                    error!(subsystem_name = SUBSYSTEM, %error, "Agent needs to re-attest: removing SVID and shutting down");
                    self.forget_identity().await;
                }
                Refusal::Banned => {
                    error!(subsystem_name = SUBSYSTEM, %error, "Agent is banned: removing SVID and shutting down");
                    self.forget_identity().await;
                }
                Refusal::Transient | Refusal::UnknownAuthority => {}
            }
        }
        outcome
    }

    /// What cannot be signed now is signed later, by the loop; meanwhile those
    /// whose SVID is there need not wait.
    async fn sign_first(&self) -> Result<(), AgentError> {
        match self.sign_all().await {
            Err(error) if error.refusal() == Refusal::Transient => {
                error!(subsystem_name = SUBSYSTEM, %error, "SVID sync failed");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// How long to wait after a failure: one's own back-off, and what an overloaded server asks
    /// for; not beyond half of what is left of the agent's SVID, or of one that ends at `soonest`.
    fn heed(&self, own: Duration, error: &AgentError, soonest: Option<SystemTime>) -> Duration {
        let now = self.clock.now();
        let left = self.credentials.left(now);
        let left = match soonest {
            Some(soonest) => left.min(soonest.duration_since(now).unwrap_or_default()),
            None => left,
        };
        heed(own, error.asked_to_wait(), Some(left))
    }

    /// Runs the loops until the drain is signalled or the identity is lost.
    pub(crate) async fn run(&self, drain: Watcher) -> Result<(), AgentError> {
        let seed = steeple_pki::digest::seed(&self.credentials.id());
        let mut schedule = SyncSchedule::new(self.settings.sync_interval).drifting(seed);
        loop {
            let mut stop = drain.clone();
            let ended = tokio::select! {
                () = stop.signalled() => {
                    info!(subsystem_name = SUBSYSTEM, "Cache manager stopped");
                    return Ok(());
                }
                error = self.sync_loop(&mut schedule) => error,
                error = self.rotation_loop() => error,
                never = self.signing_loop() => match never {},
                never = self.stored_signing_loop() => match never {},
                never = self.store_service.work() => match never {},
                never = self.sweeping_loop() => match never {},
                never = self.push_loop() => match never {},
                never = self.clock_loop() => match never {},
                never = self.token_loop() => match never {},
            };
            match ended.refusal() {
                Refusal::Reattest => {
                    warn!(subsystem_name = SUBSYSTEM, error = %ended, "Agent needs to re-attest; will attempt to re-attest");
                    if let Err(error) = self.reattest_if_allowed().await {
                        if matches!(error, AgentError::NotReattestable) {
                            error!(subsystem_name = SUBSYSTEM, "{NO_WAY_BACK}");
                        }
                        error!(subsystem_name = SUBSYSTEM, %error, "Agent failed re-attestation; removing SVID and shutting down");
                        self.forget_identity().await;
                        return Err(ended);
                    }
                }
                Refusal::Banned => {
                    warn!(subsystem_name = SUBSYSTEM, error = %ended, "Agent is banned: removing SVID and shutting down");
                    self.forget_identity().await;
                    return Err(ended);
                }
                Refusal::Transient | Refusal::UnknownAuthority => {
                    error!(subsystem_name = SUBSYSTEM, error = %ended, "Cache manager crashed");
                    return Err(ended);
                }
            }
        }
    }
}

pub(crate) const SUBSYSTEM: &str = "manager";
/// What an operator has to know who wonders why an agent stopped.
const NO_WAY_BACK: &str = "The server does not take this agent's SVID any more (it may have expired while the machine slept), and the node attestor does not attest a node twice: it takes a new join token to come back";
