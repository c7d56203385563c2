//! Workloads that somebody else asks about: a delegate by process id, a broker by a reference.

use futures_util::future::join_all;
use steeple_peer::{Peer, PeerGone};
use steeple_plugin::{Code, PluginError, WorkloadReference};
use steeple_spiffe::{Selector, SpiffeId};
use steeple_telemetry as telemetry;
use tracing::{debug, error};

use super::asked::Asked;
use super::{AttestError, SUBSYSTEM, WorkloadAttestation};
use crate::selectors::SelectorSet;

/// Why a reference leads to no workload.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// No attestor knows this type of reference.
    #[error("no workload attestor handled reference")]
    Unhandled,
    /// All attestors that know it failed; what the first said, and what all did.
    #[error("{message}")]
    Failed {
        /// Of the first failure.
        code: Code,
        /// Every failure, a line each.
        message: String,
    },
    /// The process that was referred to ended meanwhile, or cannot be told from another.
    #[error("could not verify existence of the referenced process: {0}")]
    Gone(String),
    /// Too many attestations were waiting for too long.
    #[error("too many workload attestations are waiting")]
    Overloaded,
}

impl From<PeerGone> for ReferenceError {
    fn from(gone: PeerGone) -> Self {
        Self::Gone(gone.to_string())
    }
}

/// A process that somebody named by its id, held so that no other can take its place.
pub struct Named {
    /// What all attestors found together.
    pub selectors: SelectorSet,
    /// The hold on it.
    pub process: Peer,
}

impl WorkloadAttestation {
    /// The selectors of the process that a delegate of user `asker` names. It is held from before
    /// the first attestor is asked.
    pub async fn attest_named(&self, pid: i32, asker: u32) -> Result<Named, AttestError> {
        let _turn = self.turn(asker).await?;
        let held = Peer::by_pid(pid);
        let selectors = self.ask_all(pid, asker).await?;
        let process = held.map_err(|error| AttestError::AllFailed(error.to_string()))?;
        process.is_alive()?;
        debug!(subsystem_name = SUBSYSTEM, pid, selectors = %selectors, "PID attested to have selectors");
        Ok(Named { selectors, process })
    }

    /// The selectors of the workload that `broker` refers to: what all attestors found together
    /// that know this type of reference. Of a reference to a process, `pid` is which.
    pub async fn attest_reference(
        &self,
        reference: &WorkloadReference,
        pid: Option<i32>,
        broker: &SpiffeId,
    ) -> Result<SelectorSet, ReferenceError> {
        let _turn = self.turn(BROKERS).await.map_err(|_| ReferenceError::Overloaded)?;
        let held = pid.map(Peer::by_pid);
        let call = telemetry::call(&["workload_api", "workload_attestation"]);
        let answer = self.ask_each_about(reference, pid, broker).await;
        if let Ok(selectors) = &answer {
            let count = selectors.len() as f64;
            telemetry::sample(&["workload_api", "discovered_selectors"], count, &[]);
        }
        call.outcome(&answer);
        let selectors = answer?;
        match held {
            Some(Ok(process)) => process.is_alive()?,
            Some(Err(error)) => return Err(ReferenceError::Gone(error.to_string())),
            None => {}
        }
        debug!(subsystem_name = SUBSYSTEM, reference_type = shown(reference), selectors = %selectors,
            "Reference attested to have selectors");
        Ok(selectors)
    }

    async fn ask_each_about(
        &self,
        reference: &WorkloadReference,
        pid: Option<i32>,
        broker: &SpiffeId,
    ) -> Result<SelectorSet, ReferenceError> {
        let asked = self.attestors.iter().map(|it| self.ask_about(it, reference, pid, broker));
        let answers = join_all(asked).await;
        let mut selectors = Vec::new();
        let mut failures: Vec<(Code, String)> = Vec::new();
        let mut known = 0_usize;
        for (attestor, answer) in self.attestors.iter().zip(answers) {
            let (name, reference_type) = (attestor.name(), shown(reference));
            match answer {
                Ok(found) => {
                    known += 1;
                    selectors.extend(found);
                }
                Err(failure) if failure.code == Code::Unimplemented => {
                    debug!(
                        subsystem_name = SUBSYSTEM,
                        reference_type,
                        error = as_rpc(&failure),
                        "workload attestor {name:?} does not support reference attestation"
                    );
                }
                Err(failure) => {
                    let text = as_rpc(&failure);
                    error!(
                        subsystem_name = SUBSYSTEM,
                        reference_type,
                        error = text,
                        "workload attestor {name:?} failed"
                    );
                    let text = format!("workload attestor {name:?} failed: {text}");
                    failures.push((failure.code, text));
                }
            }
        }
        let texts: Vec<&str> = failures.iter().map(|(_, text)| text.as_str()).collect();
        let message = texts.join("\n");
        match failures.first() {
            Some((code, _)) if known == 0 => {
                return Err(ReferenceError::Failed { code: *code, message });
            }
            Some(_) => {
                error!(
                    subsystem_name = SUBSYSTEM,
                    error = message,
                    "Failed to collect all selectors"
                );
            }
            None if known == 0 => return Err(ReferenceError::Unhandled),
            None => {}
        }
        Ok(SelectorSet::new(selectors))
    }

    /// A plugin that knows no references may still know processes.
    async fn ask_about(
        &self,
        attestor: &Asked,
        reference: &WorkloadReference,
        pid: Option<i32>,
        broker: &SpiffeId,
    ) -> Result<Vec<Selector>, PluginError> {
        let call = telemetry::call(&["workload_api", "workload_attestor"])
            .with("attestor", attestor.name().to_owned());
        let asking = async {
            match (attestor.attest_reference(reference, Some(broker)).await, pid) {
                (Err(error), Some(pid)) if error.code == Code::Unimplemented => {
                    attestor.attest(pid).await
                }
                (answer, _) => answer,
            }
        };
        let answer = attestor.in_time(pid, BROKERS, asking).await;
        match &answer {
            // Not to know a type of reference is no failure.
            Err(failure) if failure.code == Code::Unimplemented => call.ok(),
            Err(failure) => call.status(failure.code.name()),
            Ok(_) => call.ok(),
        }
        answer
    }
}

/// The type of a reference for a log, whatever a broker made of it.
fn shown(reference: &WorkloadReference) -> &str {
    let text = reference.type_url.as_str();
    let end = text.char_indices().nth(MAX_SHOWN).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

/// A plugin's error as SPIRE prints it, whose plugins answer with a status.
fn as_rpc(error: &PluginError) -> String {
    format!("rpc error: code = {} desc = {}", error.code.name(), error.message)
}

/// The turn of brokers, which have no user id: no process has this one.
const BROKERS: u32 = u32::MAX;
const MAX_SHOWN: usize = 200;

#[cfg(test)]
mod tests;
