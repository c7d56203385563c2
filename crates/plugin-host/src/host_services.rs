//! What the host offers plugins: the server's identity, who has attested, and metrics.
//!
//! Served on a socket of each plugin's own, in a directory that only this user can enter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use steeple_net::serve::{Limits, Router, serve};
use steeple_net::unix::{self, UntrackedIncoming};
use steeple_pki::x509::Certificate;
use steeple_plugin::HostServices;
use steeple_plugin_sdk::wire;
use steeple_proto::spire::hostservice::common::metrics::v1 as metrics;
use steeple_proto::spire::hostservice::server::agentstore::v1 as agents;
use steeple_proto::spire::hostservice::server::identityprovider::v1 as identity;
use steeple_runtime::{Tasks, drain};
use tempfile::TempDir;
use tonic::{Request, Response, Status};

use crate::error::LaunchError;
use crate::spec::Side;

const METRICS: &str = "spire.hostservice.common.metrics.v1.Metrics";
const IDENTITY: &str = "spire.hostservice.server.identityprovider.v1.IdentityProvider";
const AGENTS: &str = "spire.hostservice.server.agentstore.v1.AgentStore";

/// The most parts of a metric's key, and labels of a metric, that are taken.
const MAX_PARTS: usize = 16;

/// The longest part of a key, or name or value of a label, that is taken.
const MAX_PART: usize = 128;

/// How many agents are remembered that a plugin asked about.
const MAX_ASKED: usize = 4096;

/// The host's services on the wire.
#[derive(Clone)]
pub(crate) struct Offer(HostServices, Asked);

/// Agents of which a plugin was told that they have not attested: it has its reasons to ask.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<VecDeque<String>>>);

impl Asked {
    /// Whether the plugin goes on to attest this agent because it has not attested.
    pub(crate) fn contains(&self, agent_id: &str) -> bool {
        self.ids().iter().any(|it| it == agent_id)
    }

    fn note(&self, agent_id: &str, attested: bool) {
        let mut ids = self.ids();
        ids.retain(|it| it != agent_id);
        // What is no SPIFFE ID may be of any length.
        if !attested && agent_id.len() <= 2048 {
            ids.truncate(MAX_ASKED - 1);
            ids.push_front(agent_id.to_owned());
        }
    }

    fn ids(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offer {
    /// The names of the services, as they are advertised.
    pub(crate) fn names(side: Side) -> Vec<String> {
        let names: &[&str] = match side {
            Side::Agent => &[METRICS],
            Side::Server => &[IDENTITY, AGENTS, METRICS],
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn router(&self, side: Side) -> Router {
        let router =
            Router::new().add_service(metrics::metrics_server::MetricsServer::new(Metrics));
        match side {
            Side::Agent => router,
            Side::Server => router
                .add_service(identity::identity_provider_server::IdentityProviderServer::new(
                    self.clone(),
                ))
                .add_service(agents::agent_store_server::AgentStoreServer::new(self.clone())),
        }
    }
}

/// A listening socket; dropped, it stops listening.
pub(crate) struct HostSocket {
    path: String,
    asked: Asked,
    _drain: drain::Drain,
    _directory: TempDir,
}

impl HostSocket {
    pub(crate) fn open(
        services: &HostServices,
        side: Side,
        tasks: &Tasks,
    ) -> Result<Self, LaunchError> {
        let failed = |error: &dyn std::error::Error| LaunchError::Host(error.to_string());
        // Made for this user only.
        let directory =
            tempfile::Builder::new().prefix("plugin").tempdir().map_err(|error| failed(&error))?;
        let path = directory.path().join("host");
        let incoming = unix::bind(&path, 0o600, 0o700).map_err(|error| failed(&error))?;
        let (drain, watcher) = drain::channel();
        let asked = Asked::default();
        let limits = Limits { max_connections: 64, drain_grace: Duration::ZERO, ..Limits::unix() };
        let serving = serve(
            UntrackedIncoming::from(incoming),
            Offer(services.clone(), asked.clone()).router(side),
            limits,
            watcher,
        );
        tasks.spawn_isolated("plugin_host_services", serving);
        let path = path.to_str().ok_or_else(|| LaunchError::Host("odd temporary path".into()))?;
        Ok(Self { path: path.to_owned(), asked, _drain: drain, _directory: directory })
    }

    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

#[tonic::async_trait]
impl identity::identity_provider_server::IdentityProvider for Offer {
    async fn fetch_x509_identity(
        &self,
        _: Request<identity::FetchX509IdentityRequest>,
    ) -> Result<Response<identity::FetchX509IdentityResponse>, Status> {
        let found = self.0.x509_identity().await.map_err(|error| wire::status(&error))?;
        let key = found.key.to_pkcs8_der();
        Ok(Response::new(identity::FetchX509IdentityResponse {
            identity: Some(identity::X509Identity {
                cert_chain: found.chain.iter().map(Certificate::der_bytes).collect(),
                private_key: Bytes::copy_from_slice(&key),
            }),
            bundle: Some(wire::bundle_out(&found.bundle)),
        }))
    }
}

#[tonic::async_trait]
impl agents::agent_store_server::AgentStore for Offer {
    async fn get_agent_info(
        &self,
        request: Request<agents::GetAgentInfoRequest>,
    ) -> Result<Response<agents::GetAgentInfoResponse>, Status> {
        let agent_id = request.into_inner().agent_id;
        let attested = self.0.is_attested(&agent_id).await.map_err(|error| wire::status(&error))?;
        self.1.note(&agent_id, attested);
        if !attested {
            return Err(Status::not_found("no such agent"));
        }
        let info = Some(agents::AgentInfo { agent_id });
        Ok(Response::new(agents::GetAgentInfoResponse { info }))
    }
}

/// Puts plugins' metrics beside ours.
struct Metrics;

type Recorded = Result<Response<()>, Status>;

#[tonic::async_trait]
impl metrics::metrics_server::Metrics for Metrics {
    async fn set_gauge(&self, request: Request<metrics::SetGaugeRequest>) -> Recorded {
        let request = request.into_inner();
        with(&request.key, &request.labels, |key, labels| {
            steeple_telemetry::gauge(key, request.val.into(), labels);
        })
    }

    async fn emit_key(&self, request: Request<metrics::EmitKeyRequest>) -> Recorded {
        let request = request.into_inner();
        with(&request.key, &[], |key, labels| {
            steeple_telemetry::sample(key, request.val.into(), labels);
        })
    }

    async fn incr_counter(&self, request: Request<metrics::IncrCounterRequest>) -> Recorded {
        let request = request.into_inner();
        with(&request.key, &request.labels, |key, labels| {
            steeple_telemetry::incr(key, request.val.into(), labels);
        })
    }

    async fn add_sample(&self, request: Request<metrics::AddSampleRequest>) -> Recorded {
        let request = request.into_inner();
        with(&request.key, &request.labels, |key, labels| {
            steeple_telemetry::sample(key, request.val.into(), labels);
        })
    }

    async fn measure_since(&self, request: Request<metrics::MeasureSinceRequest>) -> Recorded {
        let request = request.into_inner();
        let start = started(request.time, SystemTime::now(), Instant::now());
        with(&request.key, &request.labels, |key, labels| {
            steeple_telemetry::measure(key, start, labels);
        })
    }
}

/// The moment that Unix time `nanos` was; now, when that is to come or out of reach.
fn started(nanos: i64, now: SystemTime, instant: Instant) -> Instant {
    let since = Duration::from_nanos(nanos.max(0).unsigned_abs());
    let elapsed = now.duration_since(UNIX_EPOCH + since).unwrap_or_default();
    instant.checked_sub(elapsed).unwrap_or(instant)
}

fn with(
    key: &[String],
    labels: &[metrics::Label],
    record: impl FnOnce(&[&str], &[(&str, &str)]),
) -> Recorded {
    let long = |text: &String| text.len() > MAX_PART;
    let too_much = key.len() > MAX_PARTS
        || labels.len() > MAX_PARTS
        || key.iter().any(long)
        || labels.iter().any(|label| long(&label.name) || long(&label.value));
    if too_much {
        return Err(Status::invalid_argument("the metric's key or labels are too large"));
    }
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    let labels: Vec<(&str, &str)> =
        labels.iter().map(|label| (label.name.as_str(), label.value.as_str())).collect();
    record(&key, &labels);
    Ok(Response::new(()))
}

#[cfg(test)]
mod tests {
    use agents::agent_store_server::AgentStore as _;
    use identity::identity_provider_server::IdentityProvider as _;

    use super::*;

    #[tokio::test]
    async fn a_plugin_that_asks_too_early_is_told_so() {
        let services = Offer(HostServices::new(), Asked::default());
        let request = Request::new(identity::FetchX509IdentityRequest {});
        let status = services.fetch_x509_identity(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.message(), "IdentityProvider host service has not been initialized");
        let request = Request::new(agents::GetAgentInfoRequest::default());
        let status = services.get_agent_info(request).await.unwrap_err();
        assert_eq!(status.message(), "AgentStore host service has not been initialized");
    }

    #[test]
    fn what_a_plugin_was_told_last_of_an_agent_is_remembered_for_a_bounded_number() {
        let asked = Asked::default();
        asked.note("a", false);
        asked.note("b", true);
        assert!(asked.contains("a") && !asked.contains("b"));
        asked.note("a", true);
        assert!(!asked.contains("a"));
        (0..2 * MAX_ASKED).for_each(|number| asked.note(&number.to_string(), false));
        assert_eq!(asked.ids().len(), MAX_ASKED);
        assert!(asked.contains(&(2 * MAX_ASKED - 1).to_string()));
    }

    #[test]
    fn metrics_of_any_length_are_not_taken() {
        let long = vec!["x".repeat(MAX_PART + 1)];
        assert!(with(&long, &[], |_, _| {}).is_err());
        assert!(with(&vec!["x".to_owned(); MAX_PARTS + 1], &[], |_, _| {}).is_err());
        assert!(with(&["x".to_owned()], &[], |key, _| assert_eq!(key, ["x"])).is_ok());
    }

    #[test]
    fn a_measurement_from_the_future_is_of_now() {
        let (now, instant) = (UNIX_EPOCH + Duration::from_secs(100), Instant::now());
        assert_eq!(started(200_000_000_000, now, instant), instant);
        let second_ago = started(99_000_000_000, now, instant);
        assert_eq!(instant - second_ago, Duration::from_secs(1));
        assert_eq!(started(i64::MIN, now, instant), started(0, now, instant));
    }
}
