//! The loops of a running agent: learn what it is authorised for, have SVIDs
//! signed, keep its own identity fresh.
//!
//! Each loop performs what the core decides and sleeps until the core has
//! something to decide. They end together: at a drain, or when one meets an
//! error that means the agent's identity is gone.

pub(crate) mod rotator;
mod signer;
mod sync;
pub(crate) mod taint;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steeple_agent_core::cache::IdentityCache;
use steeple_agent_core::entry::EntryId;
use steeple_agent_core::jwt::JwtSvids;
use steeple_agent_core::lifetime::RenewalRule;
use steeple_agent_core::node::Refusal;
use steeple_agent_core::sync::{BatchSize, KnownEntries, SyncSchedule};
use steeple_agent_core::taint::TaintWatch;
use steeple_net::tls::Roots;
use steeple_pki::KeyType;
use steeple_runtime::{Clock, VERSION, Watcher};
use steeple_spiffe::TrustDomain;
use tracing::{error, info, warn};

use crate::attestation::NodeAttestation;
use crate::credentials::Credentials;
use crate::data::DataFile;
use crate::error::AgentError;
use crate::server::ServerClient;

/// Everything the loops work on.
pub(crate) struct Manager {
    pub(crate) attestation: NodeAttestation,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) server: Arc<ServerClient>,
    pub(crate) roots: Roots,
    pub(crate) data: Arc<DataFile>,
    pub(crate) cache: Arc<IdentityCache>,
    pub(crate) jwt: Arc<JwtSvids>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    pub(crate) state: Mutex<SyncState>,
    pub(crate) batch: Mutex<BatchSize>,
    pub(crate) sweeps: taint::Sweeps,
}

/// What the configuration says about the loops.
pub(crate) struct Settings {
    pub(crate) sync_interval: Duration,
    pub(crate) incremental_sync: bool,
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
                    self.data.delete_svid();
                }
                Refusal::Banned => {
                    error!(subsystem_name = SUBSYSTEM, %error, "Agent is banned: removing SVID and shutting down");
                    self.data.delete_svid();
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

    /// Runs the loops until the drain is signalled or the identity is lost.
    pub(crate) async fn run(&self, drain: Watcher) -> Result<(), AgentError> {
        let mut schedule = SyncSchedule::new(self.settings.sync_interval);
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
                never = self.sweeping_loop() => match never {},
            };
            match ended.refusal() {
                Refusal::Reattest => {
                    warn!(subsystem_name = SUBSYSTEM, error = %ended, "Agent needs to re-attest; will attempt to re-attest");
                    if let Err(error) = self.reattest_if_allowed().await {
                        error!(subsystem_name = SUBSYSTEM, %error, "Agent failed re-attestation; removing SVID and shutting down");
                        self.data.delete_svid();
                        return Err(ended);
                    }
                }
                Refusal::Banned => {
                    warn!(subsystem_name = SUBSYSTEM, error = %ended, "Agent is banned: removing SVID and shutting down");
                    self.data.delete_svid();
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
