//! Who is calling: every workload attestor is asked about the caller's
//! process, side by side, and the caller must still be alive afterwards.
//!
//! A caller that asks again and again may not starve the others, nor an
//! attestor that hangs: each attestor has its own turnstile, where only so many
//! are asked about at once, and of those only a share for any one user.

mod asked;
mod examine;
mod reference;
mod turnstile;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use steeple_peer::{Peer, PeerGone};
use steeple_plugin::WorkloadAttestor;
use steeple_telemetry as telemetry;
use tracing::{debug, error};

use self::asked::Asked;
pub use self::examine::Examined;
pub use self::reference::{Named, ReferenceError};
use self::turnstile::{Turn, Turnstile};
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
    /// Processes that one attestor looks at at once.
    pub running: usize,
    /// Of those, for one user id.
    pub running_per_uid: usize,
    /// How long one attestor may take.
    pub attestor_deadline: Duration,
    /// How long a caller waits for its turn.
    pub queue_deadline: Duration,
    /// Callers of one user id that are attested or wait for it.
    pub waiting_per_uid: usize,
}

impl Default for AttestLimits {
    fn default() -> Self {
        Self {
            running: 64,
            running_per_uid: 16,
            attestor_deadline: Duration::from_secs(30),
            queue_deadline: Duration::from_secs(30),
            waiting_per_uid: 2_048,
        }
    }
}

/// The workload attestors and the turnstile before them.
pub struct WorkloadAttestation {
    attestors: Vec<Asked>,
    limits: AttestLimits,
    entrance: Turnstile,
    own_pid: i32,
}

impl WorkloadAttestation {
    /// `own_pid` is this process, whose own health checks are not logged.
    pub fn new(
        attestors: Vec<Arc<dyn WorkloadAttestor>>,
        limits: AttestLimits,
        own_pid: i32,
    ) -> Self {
        let attestors = attestors.into_iter().map(|it| Asked::new(it, limits)).collect();
        let entrance = Turnstile::new(limits.waiting_per_uid * 8, limits.waiting_per_uid);
        Self { attestors, limits, entrance, own_pid }
    }

    /// The caller's selectors: what all attestors found together. One that
    /// fails is logged and left out, unless all fail.
    pub async fn attest(&self, peer: &Peer) -> Result<SelectorSet, AttestError> {
        let _turn = self.turn(peer.uid()).await?;
        let selectors = self.ask_all(peer.pid(), peer.uid()).await?;
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

    async fn ask_all(&self, pid: i32, uid: u32) -> Result<SelectorSet, AttestError> {
        let call = telemetry::call(&["workload_api", "workload_attestation"]);
        let answer = self.ask_each(pid, uid).await;
        if let Ok(selectors) = &answer {
            let count = selectors.len() as f64;
            telemetry::sample(&["workload_api", "discovered_selectors"], count, &[]);
        }
        call.outcome(&answer);
        answer
    }

    async fn ask_each(&self, pid: i32, uid: u32) -> Result<SelectorSet, AttestError> {
        let mut selectors = Vec::new();
        let mut failures = Vec::new();
        let asked = self.attestors.iter().map(|attestor| attestor.about(pid, uid));
        let answers = join_all(asked).await;
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

    /// A place among the callers of this user.
    async fn turn(&self, uid: u32) -> Result<Turn<'_>, AttestError> {
        let turn = tokio::time::timeout(self.limits.queue_deadline, self.entrance.pass(uid)).await;
        turn.map_err(|_| AttestError::Overloaded)
    }
}

const SUBSYSTEM: &str = "workload_attestor";

#[cfg(test)]
mod tests;
