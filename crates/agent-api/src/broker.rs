//! The SPIFFE Broker API: SVIDs of workloads, for brokers that the configuration trusts with them.
//!
//! A broker is known by its X.509-SVID (`admission`), on a Unix socket as over TCP, and names
//! workloads by references, of the types that it may use on that transport (`policy`).

mod admission;
mod endpoint;
mod policy;
mod streams;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use prost::Message as _;
use steeple_agent_core::attest::{ReferenceError, WorkloadAttestation};
use steeple_agent_core::cache::IdentityCache;
use steeple_agent_core::entry::duplicate_hints;
use steeple_agent_core::jwt::JwtSvids;
use steeple_agent_core::selectors::SelectorSet;
use steeple_net::tls::{LocalTlsPeer, TlsPeer};
use steeple_plugin::WorkloadReference;
use steeple_proto::spiffe::broker as proto;
use steeple_runtime::{Clock, Watcher};
use steeple_spiffe::SpiffeId;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower_service::Service;
use tracing::{debug, error, warn};

pub use self::admission::BrokerAdmission;
pub use self::endpoint::{BrokerEndpoint, BrokerListeners};
pub use self::policy::{BrokerPolicies, ReferencePolicy};
use crate::caller;
use crate::share::{Share, Shares};
use crate::streaming;

/// What the Broker API answers from.
pub struct BrokerApi {
    cache: Arc<IdentityCache>,
    jwt: Arc<JwtSvids>,
    attestation: Arc<WorkloadAttestation>,
    policies: BrokerPolicies,
    clock: Arc<dyn Clock>,
    drain: Watcher,
    open: Shares,
}

impl BrokerApi {
    /// Serves the brokers that `policies` names.
    pub fn new(
        cache: Arc<IdentityCache>,
        jwt: Arc<JwtSvids>,
        attestation: Arc<WorkloadAttestation>,
        policies: BrokerPolicies,
        clock: Arc<dyn Clock>,
        drain: Watcher,
    ) -> Self {
        Self { cache, jwt, attestation, policies, clock, drain, open: Shares::new(MAX_OPEN) }
    }
}

/// A call: which method, by which broker, on which transport.
#[derive(Clone)]
struct Call {
    method: &'static str,
    broker: SpiffeId,
    over_tcp: bool,
}

/// Whether a connection came over TCP, and the certificates that its client showed.
pub(super) fn connection(extensions: &http::Extensions) -> Option<(bool, &TlsPeer)> {
    let local = extensions.get::<LocalTlsPeer>().map(|peer| (false, &peer.0));
    local.or_else(|| extensions.get::<TlsPeer>().map(|peer| (true, peer)))
}

impl BrokerApi {
    async fn route(
        self: Arc<Self>,
        request: http::Request<Body>,
        share: Share,
    ) -> Result<http::Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        let method = match path.rsplit('/').next().unwrap_or_default() {
            "SubscribeToX509SVID" => "SubscribeToX509SVID",
            "SubscribeToX509Bundles" => "SubscribeToX509Bundles",
            "FetchJWTSVID" => "FetchJWTSVID",
            "SubscribeToJWTBundles" => "SubscribeToJWTBundles",
            other => {
                let other: String = other.escape_default().take(64).collect();
                let service = BrokerService::NAME;
                return Err(Status::unimplemented(format!(
                    "unknown method {other} for service {service}"
                )));
            }
        };
        caller::require_header(request.headers(), SECURITY_HEADER)?;
        let call = self.call(method, request.extensions())?;
        let body = request.into_body();
        match method {
            "SubscribeToX509SVID" => {
                let started = std::time::Instant::now();
                let request: proto::SubscribeToX509svidRequest = streaming::message(body).await?;
                let selectors = self.workload(&call, request.reference).await?;
                streams::x509_svids(self, call, selectors, started, share).await
            }
            "SubscribeToX509Bundles" => {
                let request: proto::SubscribeToX509BundlesRequest =
                    streaming::message(body).await?;
                self.workload(&call, request.reference).await?;
                Ok(streams::bundles(&self, |all| all.x509(), share))
            }
            "SubscribeToJWTBundles" => {
                let request: proto::SubscribeToJwtBundlesRequest = streaming::message(body).await?;
                self.workload(&call, request.reference).await?;
                Ok(streams::bundles(&self, |all| all.jwt(), share))
            }
            _ => {
                let request: proto::FetchJwtsvidRequest = streaming::message(body).await?;
                let svids = self.fetch_jwt_svids(&call, request).await?;
                Ok(streaming::unary(&proto::FetchJwtsvidResponse { svids }))
            }
        }
    }

    /// The broker, as its certificate names it; the handshake has verified that.
    fn call(&self, method: &'static str, extensions: &http::Extensions) -> Result<Call, Status> {
        let unknown = || Status::unauthenticated("unable to determine caller identity");
        let (over_tcp, peer) = connection(extensions).ok_or_else(unknown)?;
        let leaf = peer.chain().ok().and_then(|chain| chain.first()).ok_or_else(unknown)?;
        let [uri] = leaf.uri_sans() else { return Err(unknown()) };
        let broker = SpiffeId::parse(uri).map_err(|error| {
            Status::unauthenticated(format!("invalid caller SPIFFE ID: {error}"))
        })?;
        Ok(Call { method, broker, over_tcp })
    }

    /// The selectors of the workload that a broker names, if it may name it so.
    async fn workload(
        &self,
        call: &Call,
        reference: Option<proto::WorkloadReference>,
    ) -> Result<SelectorSet, Status> {
        let reference = reference.and_then(|it| it.reference).unwrap_or_default();
        self.policies.allow(&call.broker, &reference.type_url, call.over_tcp)?;
        let reference = WorkloadReference { type_url: reference.type_url, value: reference.value };
        let pid = pid_of(&reference);
        let attested = self.attestation.attest_reference(&reference, pid, &call.broker).await;
        attested.map_err(|error| {
            error!(service = SERVICE, method = call.method, broker_peer = %call.broker, %error,
                "Workload attestation failed");
            match error {
                ReferenceError::Unhandled => Status::unimplemented(error.to_string()),
                ReferenceError::Failed { code, message } => {
                    Status::new(Code::from_i32(code.number()), message)
                }
                ReferenceError::Gone(_) => Status::not_found(error.to_string()),
                ReferenceError::Overloaded => Status::unavailable(error.to_string()),
            }
        })
    }

    async fn fetch_jwt_svids(
        &self,
        call: &Call,
        request: proto::FetchJwtsvidRequest,
    ) -> Result<Vec<proto::Jwtsvid>, Status> {
        let Call { method, broker, .. } = call;
        if request.audience.is_empty() {
            error!(service = SERVICE, method, "Missing required audience parameter");
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let selectors = self.workload(call, request.reference).await?;
        let mut entries = self.cache.matching(&selectors);
        for position in duplicate_hints(entries.iter().map(Arc::as_ref)).into_iter().rev() {
            let entry = entries.remove(position);
            warn!(service = SERVICE, method, broker_peer = %broker, entry_id = %entry.id,
                hint = %entry.hint, "Ignoring entry with duplicate hint");
        }
        let mut svids = Vec::new();
        for entry in entries {
            if entry.admin || entry.downstream {
                continue;
            }
            let now = self.clock.now();
            let svid = self.jwt.fetch(&entry, &request.audience, now).await.map_err(|error| {
                error!(service = SERVICE, method, broker_peer = %broker, spiffe_id = %entry.spiffe_id, error,
                    "Could not fetch JWT-SVID");
                Status::unavailable(format!("could not fetch JWT-SVID: {error}"))
            })?;
            let ttl = svid.expires_at.duration_since(now).unwrap_or_default().as_secs_f64();
            debug!(service = SERVICE, method, broker_peer = %broker, spiffe_id = %entry.spiffe_id, ttl,
                "Fetched JWT SVID");
            svids.push(proto::Jwtsvid {
                spiffe_id: entry.spiffe_id.to_string(),
                svid: svid.token.to_string(),
                hint: entry.hint.clone(),
            });
        }
        if svids.is_empty() {
            error!(service = SERVICE, method, broker_peer = %broker, "No identity issued");
            return Err(Status::permission_denied("no identity issued"));
        }
        Ok(svids)
    }
}

/// The process that the reference is about, if it is about one.
fn pid_of(reference: &WorkloadReference) -> Option<i32> {
    let is_pid = reference.type_url == PID_REFERENCE;
    let decoded = is_pid.then(|| proto::WorkloadPidReference::decode(reference.value.as_slice()));
    decoded?.ok().map(|reference| reference.pid)
}

/// [`BrokerApi`] as an HTTP service.
#[derive(Clone)]
pub(crate) struct BrokerService(pub(crate) Arc<BrokerApi>);

impl NamedService for BrokerService {
    const NAME: &'static str = "spiffe.broker.API";
}

impl Service<http::Request<Body>> for BrokerService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            let answer = match api.open.take(BROKERS) {
                Some(share) => api.route(request, share).await,
                None => Err(Status::unavailable("too many calls of brokers are open")),
            };
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

/// The `service` field of log lines.
const SERVICE: &str = "spiffe.broker.API";
const SECURITY_HEADER: &str = "broker.spiffe.io";
const PID_REFERENCE: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";
/// Brokers share what they may hold open.
const BROKERS: u32 = 0;
const MAX_OPEN: usize = 131_072;
