//! One call: whose it is, and what is logged of it.

use std::time::Instant;

use steeple_agent_core::selectors::SelectorSet;
use steeple_peer::Peer;
use steeple_telemetry::incr;
use tonic::Status;
use tracing::error;

use super::WorkloadApi;

/// A caller whose process was attested and was alive afterwards.
pub(super) struct Call {
    pub(super) selectors: SelectorSet,
    pub(super) pid: i32,
    pub(super) method: &'static str,
    /// The agent's own health checks come too often to be logged.
    pub(super) is_agent: bool,
}

impl Call {
    /// Every failure looks the same to the caller.
    pub(super) async fn attest(
        api: &WorkloadApi,
        peer: Peer,
        method: &'static str,
    ) -> Result<Self, Status> {
        let pid = peer.pid();
        let started = Instant::now();
        let selectors = api.attestation.attest(&peer).await.map_err(|error| {
            let duration_ms = started.elapsed().as_millis();
            error!(subsystem_name = SUBSYSTEM, service = SERVICE, method, pid, duration_ms, %error,
                "Workload attestation failed");
            Status::unavailable("workload attestation failed")
        })?;
        let is_agent = api.attestation.is_own(&peer);
        if !is_agent && !api.rate_limits.allow(method, &selectors, api.clock.now()) {
            let key = &["workload_api", "rate_limit_exceeded"];
            incr(key, 1.0, &[("method", method)]);
            let text = format!("rate limit exceeded for /SpiffeWorkloadAPI/{method}");
            return Err(Status::unavailable(text));
        }
        Ok(Self { selectors, pid, method, is_agent })
    }

    /// The answer to a caller that no entry matches.
    pub(super) fn no_identity(&self, api: &WorkloadApi) -> Status {
        let (method, pid) = (self.method, self.pid);
        if !self.is_agent {
            match self.selectors.loggable(&api.log_selectors) {
                Some(selectors) => error!(
                    subsystem_name = SUBSYSTEM,
                    service = SERVICE,
                    method,
                    pid,
                    registered = false,
                    selectors,
                    "No identity issued"
                ),
                None => error!(
                    subsystem_name = SUBSYSTEM,
                    service = SERVICE,
                    method,
                    pid,
                    registered = false,
                    "No identity issued"
                ),
            }
        }
        Status::permission_denied("no identity issued")
    }
}

/// The process at the other end, as the listener found it.
pub(super) fn peer(extensions: &http::Extensions) -> Result<Peer, Status> {
    extensions
        .get::<Peer>()
        .cloned()
        .ok_or_else(|| Status::internal("the caller's process is not known"))
}

pub(super) const SERVICE: &str = "WorkloadAPI";
pub(super) const SUBSYSTEM: &str = "endpoints";
