//! Keeping the agent's own SVID fresh.

use std::time::Duration;

use steeple_agent_core::lifetime::{RenewalRule, heed};
use steeple_agent_core::node::{KeySlot, ROTATION_INTERVAL, Refusal};
use steeple_pki::{Certificate, KeyType};
use steeple_runtime::Backoff;
use steeple_telemetry::call;
use tracing::{debug, error, info};

use super::{Manager, NO_WAY_BACK, SUBSYSTEM};
use crate::attestation::{FirstTrust, agent_csr};
use crate::credentials::AgentSvid;
use crate::error::AgentError;
use crate::telemetry;

impl Manager {
    /// Looks at the SVID every few seconds; gives why it could not be kept.
    pub(super) async fn rotation_loop(&self) -> AgentError {
        let seed = steeple_pki::digest::seed(&self.credentials.id());
        let mut pauses = Backoff::with_default_max(ROTATION_INTERVAL).drifting(seed);
        let mut jolts = self.jolts.subscribe();
        loop {
            let mut asked = None;
            let rotation = self.credentials.rotation();
            if rotation.is_due(self.clock.now()) {
                let what = if self.credentials.reattestable() {
                    "reattest agent"
                } else {
                    "rotate agent SVID"
                };
                match self.rotate().await {
                    Ok(()) => pauses.reset(),
                    Err(error) => {
                        error!(subsystem_name = SUBSYSTEM, %error, "Could not {what}");
                        asked = error.asked_to_wait();
                        if rotation.has_ended(self.clock.now()) {
                            if !self.credentials.reattestable() {
                                error!(subsystem_name = SUBSYSTEM, "{NO_WAY_BACK}");
                            }
                            // With an offline cache only a server's word ends it.
                            let outage = error.is_outage()
                                || (error.is_local() && !self.server.is_reachable().await);
                            if self.offline.is_none() || !outage {
                                return AgentError::Expired { what, source: Box::new(error) };
                            }
                        } else if matches!(error.refusal(), Refusal::Reattest | Refusal::Banned) {
                            return error;
                        }
                    }
                }
            } else {
                pauses.reset();
            }
            // No later than it is due, for SVIDs that live for seconds.
            let until_due = self.credentials.rotation().until_due(self.clock.now());
            let pause = pauses.next().min(until_due.max(SHORTEST_SLEEP));
            let left = self.credentials.left(self.clock.now());
            if Self::nap(&mut jolts, heed(pause, asked, Some(left))).await {
                pauses.reset();
            }
        }
    }

    /// A new attestation where the method allows it.
    pub(super) async fn reattest_if_allowed(&self) -> Result<(), AgentError> {
        if !self.credentials.reattestable() {
            return Err(AgentError::NotReattestable);
        }
        let _upkeep = self.upkeep.lock().await;
        self.reattest().await
    }

    async fn rotate(&self) -> Result<(), AgentError> {
        let _upkeep = self.upkeep.lock().await;
        let ended = self.credentials.rotation().has_ended(self.clock.now());
        // Nobody renews what has ended; with an offline cache this may be a start.
        if self.credentials.reattestable() || (ended && self.offline.is_some()) {
            return self.reattest().await;
        }
        let call = call(&["agent_svid", "rotate"]);
        let outcome = self.renew().await;
        telemetry::end(call, &outcome);
        outcome
    }

    async fn renew(&self) -> Result<(), AgentError> {
        let paused = self.server.pause().await;
        debug!(subsystem_name = SUBSYSTEM, "Rotating agent SVID");
        let slot = KeySlot::beside(Some(&self.credentials.key_id()));
        let key = self.attestation.key_manager.generate_key(slot.id(), KeyType::EcP256).await?;
        let csr = agent_csr(&key).await?;
        let chain: Vec<Certificate> = self.server.renew_agent(&paused, csr).await?;
        if chain[0].public_key() != key.public_key() {
            return Err(AgentError::Answer("the renewed SVID is not for this agent's key".into()));
        }
        let svid = AgentSvid { chain, key, key_id: slot.id().to_owned(), reattestable: false };
        info!(subsystem_name = SUBSYSTEM, spiffe_id = svid.id(), "Successfully rotated agent SVID");
        self.credentials.replace(svid, &self.data);
        Ok(())
    }

    async fn reattest(&self) -> Result<(), AgentError> {
        let call = call(&["node", "attest"]);
        let outcome = self.attest_anew().await;
        telemetry::end(call, &outcome);
        outcome
    }

    async fn attest_anew(&self) -> Result<(), AgentError> {
        let paused = self.server.pause().await;
        debug!(subsystem_name = SUBSYSTEM, "Reattesting node");
        let slot = KeySlot::beside(Some(&self.credentials.key_id()));
        let own = self.cache.own_bundle();
        let authorities = own.bundle().certificates().cloned().collect();
        let trust = FirstTrust::Bundle(authorities);
        let (svid, _) = self.attestation.attest(slot, trust).await?;
        info!(subsystem_name = SUBSYSTEM, spiffe_id = svid.id(), "Successfully reattested node");
        self.credentials.replace(svid, &self.data);
        drop(paused);
        Ok(())
    }
}

/// The rule for the agent's own SVID and the workloads' alike.
pub(crate) fn renewal_rule(config: &steeple_config::AgentConfig) -> RenewalRule {
    RenewalRule { availability_target: config.availability_target }
}

const SHORTEST_SLEEP: Duration = Duration::from_millis(200);
