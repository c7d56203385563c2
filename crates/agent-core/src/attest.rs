//! Who is calling: every workload attestor is asked about the caller's
//! process, side by side, and the caller must still be alive afterwards.
//!
//! A caller that asks again and again may not starve the others: only so many
//! attestations run at once, and of those only a share for any one user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use steeple_peer::{Peer, PeerGone};
use steeple_plugin::{PluginError, WorkloadAttestor};
use steeple_spiffe::Selector;
use steeple_telemetry as telemetry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, error};

use crate::selectors::SelectorSet;

/// Why a caller stays unknown. The caller itself learns only that it does.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// Every attestor failed.
    #[error("{0}")]
    AllFailed(String),
    /// The process ended, or its id now means another.
    #[error("could not verify existence of the original caller: {0}")]
    CallerGone(#[from] PeerGone),
    /// Too many attestations were waiting for too long.
    #[error("too many workload attestations are waiting")]
    Overloaded,
}

/// How much attesting may go on at once.
#[derive(Clone, Copy, Debug)]
pub struct AttestLimits {
    /// Attestations running at once.
    pub running: usize,
    /// Of those, for one user id.
    pub running_per_uid: usize,
    /// How long one attestor may take.
    pub attestor_deadline: Duration,
    /// How long a caller waits for its turn.
    pub queue_deadline: Duration,
}

impl Default for AttestLimits {
    fn default() -> Self {
        Self {
            running: 64,
            running_per_uid: 16,
            attestor_deadline: Duration::from_secs(30),
            queue_deadline: Duration::from_secs(30),
        }
    }
}

/// The workload attestors and the turnstile before them.
pub struct WorkloadAttestation {
    attestors: Vec<Arc<dyn WorkloadAttestor>>,
    limits: AttestLimits,
    running: Arc<Semaphore>,
    per_uid: Mutex<HashMap<u32, Arc<Semaphore>>>,
    own_pid: i32,
}

impl WorkloadAttestation {
    /// `own_pid` is this process, whose own health checks are not logged.
    pub fn new(
        attestors: Vec<Arc<dyn WorkloadAttestor>>,
        limits: AttestLimits,
        own_pid: i32,
    ) -> Self {
        let running = Arc::new(Semaphore::new(limits.running));
        Self { attestors, limits, running, per_uid: Mutex::default(), own_pid }
    }

    /// The caller's selectors: what all attestors found together. One that
    /// fails is logged and left out, unless all fail.
    pub async fn attest(&self, peer: &Peer) -> Result<SelectorSet, AttestError> {
        let _turn = self.turn(peer.uid()).await?;
        let selectors = self.ask_all(peer.pid()).await?;
        peer.is_alive()?;
        if !self.is_own(peer) {
            debug!(subsystem_name = SUBSYSTEM, pid = peer.pid(), selectors = %selectors,
                "PID attested to have selectors");
        }
        Ok(selectors)
    }

    /// Whether the caller is this very process.
    pub fn is_own(&self, peer: &Peer) -> bool {
        peer.pid() == self.own_pid
    }

    async fn ask_all(&self, pid: i32) -> Result<SelectorSet, AttestError> {
        let call = telemetry::call(&["workload_api", "workload_attestation"]);
        let answer = self.ask_each(pid).await;
        if let Ok(selectors) = &answer {
            let count = selectors.len() as f64;
            telemetry::sample(&["workload_api", "discovered_selectors"], count, &[]);
        }
        call.outcome(&answer);
        answer
    }

    async fn ask_each(&self, pid: i32) -> Result<SelectorSet, AttestError> {
        let mut selectors = Vec::new();
        let mut failures = Vec::new();
        let answers = join_all(self.attestors.iter().map(|attestor| self.ask(attestor, pid))).await;
        for (attestor, answer) in self.attestors.iter().zip(answers) {
            match answer {
                Ok(found) => selectors.extend(found),
                Err(failure) => {
                    let name = attestor.name();
                    error!(subsystem_name = SUBSYSTEM, pid, error = %failure.message,
                        "workload attestor {name:?} failed");
                    failures
                        .push(format!("workload attestor {name:?} failed: {}", failure.message));
                }
            }
        }
        if failures.len() == self.attestors.len() && !failures.is_empty() {
            return Err(AttestError::AllFailed(failures.join("\n")));
        }
        if !failures.is_empty() {
            error!(
                subsystem_name = SUBSYSTEM,
                error = failures.join("\n"),
                "Failed to collect all selectors"
            );
        }
        Ok(SelectorSet::new(selectors))
    }

    async fn ask(
        &self,
        attestor: &Arc<dyn WorkloadAttestor>,
        pid: i32,
    ) -> Result<Vec<Selector>, PluginError> {
        let deadline = self.limits.attestor_deadline;
        let call = telemetry::call(&["workload_api", "workload_attestor"])
            .with("attestor", attestor.name().to_owned());
        let answer = match tokio::time::timeout(deadline, attestor.attest(pid)).await {
            Ok(answer) => answer,
            Err(_) => Err(PluginError {
                code: steeple_plugin::Code::DeadlineExceeded,
                message: format!("no answer within {} seconds", deadline.as_secs()),
            }),
        };
        call.status(answer.as_ref().map_or_else(|failure| failure.code.name(), |_| "OK"));
        answer
    }

    /// A turn of the user's share first, so that a user's own queue, not the
    /// common one, holds the excess of its calls.
    async fn turn(&self, uid: u32) -> Result<Turn<'_>, AttestError> {
        let mut turn = Turn { permits: None, share: Some(self.share(uid)), uid, owner: self };
        let waiting = async {
            let own = turn.share.clone()?.acquire_owned().await.ok()?;
            let common = self.running.clone().acquire_owned().await.ok()?;
            Some((own, common))
        };
        let permits = tokio::time::timeout(self.limits.queue_deadline, waiting).await;
        turn.permits = permits.ok().flatten();
        if turn.permits.is_none() {
            return Err(AttestError::Overloaded);
        }
        Ok(turn)
    }

    fn share(&self, uid: u32) -> Arc<Semaphore> {
        let mut shares = self.shares();
        shares
            .entry(uid)
            .or_insert_with(|| Arc::new(Semaphore::new(self.limits.running_per_uid)))
            .clone()
    }

    fn shares(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<Semaphore>>> {
        self.per_uid.lock().expect("no code panics while it holds the shares")
    }
}

/// A running attestation; a user's share is forgotten with its last one.
struct Turn<'a> {
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    share: Option<Arc<Semaphore>>,
    uid: u32,
    owner: &'a WorkloadAttestation,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut shares = self.owner.shares();
        self.permits = None;
        self.share = None;
        if shares.get(&self.uid).is_some_and(|share| Arc::strong_count(share) == 1) {
            shares.remove(&self.uid);
        }
    }
}

const SUBSYSTEM: &str = "workload_attestor";

#[cfg(test)]
mod tests;
