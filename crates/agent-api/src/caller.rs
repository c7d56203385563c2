//! Who calls: what every attested API does with a caller before it answers.

use std::sync::Arc;
use std::time::Instant;

use steeple_agent_core::attest::WorkloadAttestation;
use steeple_agent_core::selectors::SelectorSet;
use steeple_peer::Peer;
use steeple_runtime::Clock;
use steeple_telemetry::incr;
use tonic::Status;
use tracing::{debug, error};

use crate::rate_limit::RateLimits;

/// The one turnstile of the public socket's APIs.
pub struct Callers {
    /// Who is calling.
    pub attestation: Arc<WorkloadAttestation>,
    /// Calls per second for callers with the same selectors.
    pub rate_limits: RateLimits,
    /// Selector prefixes that a log may show.
    pub log_selectors: Vec<String>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// An API as paths and as log lines name it.
pub(crate) struct ApiName {
    /// The full name of the gRPC service.
    pub(crate) service: &'static str,
    /// The `service` field of its lines.
    pub(crate) logged: &'static str,
}

/// A caller whose process was attested and was alive afterwards.
pub(crate) struct Caller {
    pub(crate) selectors: SelectorSet,
    pub(crate) pid: i32,
    pub(crate) method: &'static str,
    /// The agent's own health checks come too often to be logged.
    pub(crate) is_agent: bool,
    api: &'static ApiName,
}

impl Callers {
    /// Every failure looks the same to the caller.
    pub(crate) async fn attest(
        &self,
        api: &'static ApiName,
        peer: Peer,
        method: &'static str,
    ) -> Result<Caller, Status> {
        let pid = peer.pid();
        let started = Instant::now();
        let selectors = self.attestation.attest(&peer).await.map_err(|error| {
            let duration_ms = started.elapsed().as_millis();
            error!(subsystem_name = SUBSYSTEM, service = api.logged, method, pid, duration_ms,
                %error, "Workload attestation failed");
            Status::unavailable("workload attestation failed")
        })?;
        let is_agent = self.attestation.is_own(&peer);
        if !is_agent && !self.rate_limits.allow(method, &selectors, self.clock.now()) {
            let full_method = format!("/{}/{method}", api.service);
            let key = &["workload_api", "rate_limit_exceeded"];
            incr(key, 1.0, &[("method", &full_method)]);
            return Err(Status::unavailable(format!("rate limit exceeded for {full_method}")));
        }
        Ok(Caller { selectors, pid, method, is_agent, api })
    }

    /// The answer to a caller that no entry matches.
    pub(crate) fn no_identity(&self, caller: &Caller) -> Status {
        let (service, method, pid) = (caller.api.logged, caller.method, caller.pid);
        if !caller.is_agent {
            match caller.selectors.loggable(&self.log_selectors) {
                Some(selectors) => error!(
                    subsystem_name = SUBSYSTEM,
                    service,
                    method,
                    pid,
                    registered = false,
                    selectors,
                    "No identity issued"
                ),
                None => error!(
                    subsystem_name = SUBSYSTEM,
                    service,
                    method,
                    pid,
                    registered = false,
                    "No identity issued"
                ),
            }
        }
        if !caller.is_agent {
            debug!(
                subsystem_name = SUBSYSTEM,
                pid, "For the reason, run spire-agent explain -pid {pid}"
            );
        }
        Status::permission_denied("no identity issued")
    }
}

/// What keeps a browser or a proxy from being tricked into calling: the header `name`, once, and
/// `true`.
pub(crate) fn require_header(headers: &http::HeaderMap, name: &str) -> Result<(), Status> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

/// The process at the other end, as the listener found it.
pub(crate) fn peer(extensions: &http::Extensions) -> Result<Peer, Status> {
    extensions
        .get::<Peer>()
        .cloned()
        .ok_or_else(|| Status::internal("the caller's process is not known"))
}

pub(crate) const SUBSYSTEM: &str = "endpoints";
