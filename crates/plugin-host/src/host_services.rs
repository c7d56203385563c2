//! What the host offers plugins: the server's identity, who has attested, and metrics.
//!
//! Served on a socket of each plugin's own, in a directory that only this user can enter.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use steeple_net::serve::{Limits, Router, serve};
use steeple_net::unix::{self, UntrackedIncoming};
use steeple_pki::x509::Certificate;
use steeple_pki::{Bundle, PrivateKey};
use steeple_plugin::PluginError;
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

/// The server's identity, as a plugin gets it.
pub struct X509Identity {
    /// The leaf first.
    pub chain: Vec<Certificate>,
    /// The leaf's key.
    pub key: Arc<PrivateKey>,
    /// The bundle of the trust domain.
    pub bundle: Bundle,
}

/// Knows the server's identity.
#[async_trait]
pub trait IdentitySource: Send + Sync {
    /// The identity now.
    ///
    /// # Errors
    /// When it cannot be had.
    async fn x509_identity(&self) -> Result<X509Identity, PluginError>;
}

/// Knows who has attested.
#[async_trait]
pub trait AgentLookup: Send + Sync {
    /// Whether the agent with this SPIFFE ID has attested.
    ///
    /// # Errors
    /// When it cannot be found out.
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError>;
}

/// What the host offers. Plugins are loaded before the parts that it rests on stand; a plugin
/// that asks too early is told so.
#[derive(Clone, Default)]
pub struct HostServices {
    identity: Arc<OnceLock<Arc<dyn IdentitySource>>>,
    agents: Arc<OnceLock<Arc<dyn AgentLookup>>>,
}

impl HostServices {
    /// What rests on nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, plugins can ask who has attested. Only the first call counts.
    pub fn provide_agents(&self, agents: Arc<dyn AgentLookup>) {
        let _ = self.agents.set(agents);
    }

    /// From now on, plugins can have the server's identity. Only the first call counts.
    pub fn provide_identity(&self, identity: Arc<dyn IdentitySource>) {
        let _ = self.identity.set(identity);
    }

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
        let limits = Limits { max_connections: 64, drain_grace: Duration::ZERO, ..Limits::unix() };
        let serving =
            serve(UntrackedIncoming::from(incoming), services.router(side), limits, watcher);
        tasks.spawn_isolated("plugin_host_services", serving);
        let path = path.to_str().ok_or_else(|| LaunchError::Host("odd temporary path".into()))?;
        Ok(Self { path: path.to_owned(), _drain: drain, _directory: directory })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

#[tonic::async_trait]
impl identity::identity_provider_server::IdentityProvider for HostServices {
    async fn fetch_x509_identity(
        &self,
        _: Request<identity::FetchX509IdentityRequest>,
    ) -> Result<Response<identity::FetchX509IdentityResponse>, Status> {
        let source = self.identity.get().ok_or_else(|| {
            Status::failed_precondition("IdentityProvider host service has not been initialized")
        })?;
        let found = source.x509_identity().await.map_err(|error| wire::status(&error))?;
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
impl agents::agent_store_server::AgentStore for HostServices {
    async fn get_agent_info(
        &self,
        request: Request<agents::GetAgentInfoRequest>,
    ) -> Result<Response<agents::GetAgentInfoResponse>, Status> {
        let lookup = self.agents.get().ok_or_else(|| {
            Status::failed_precondition("AgentStore host service has not been initialized")
        })?;
        let agent_id = request.into_inner().agent_id;
        let attested = lookup.is_attested(&agent_id).await.map_err(|error| wire::status(&error))?;
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
        let services = HostServices::new();
        let request = Request::new(identity::FetchX509IdentityRequest {});
        let status = services.fetch_x509_identity(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.message(), "IdentityProvider host service has not been initialized");
        let request = Request::new(agents::GetAgentInfoRequest::default());
        let status = services.get_agent_info(request).await.unwrap_err();
        assert_eq!(status.message(), "AgentStore host service has not been initialized");
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
