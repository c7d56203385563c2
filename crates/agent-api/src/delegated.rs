//! The delegated identity API: SVIDs of other workloads, for callers that the configuration
//! trusts with them.
//!
//! Each call is attested (`turnstile`) and each message is sent only while the caller's
//! authorisation stands (`authority`). Messages are the cache's frames (ADR 4). `watch` is our
//! own method beside SPIRE's: many workloads on one stream, by difference.

mod authority;
mod streams;
mod turnstile;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use steeple_agent_core::attest::{Named, WorkloadAttestation};
use steeple_agent_core::cache::IdentityCache;
use steeple_agent_core::jwt::JwtSvids;
use steeple_agent_core::selectors::SelectorSet;
use steeple_peer::Exit;
use steeple_proto::spire::api::agent::delegatedidentity::v1 as proto;
use steeple_proto::spire::api::types;
use steeple_runtime::{Clock, Watcher, rlimit};
use steeple_spiffe::{Selector, SpiffeId};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;
use tracing::{debug, error};

use self::authority::Delegate;
use self::turnstile::Turnstile;
use crate::caller;
use crate::share::{Budget, Held, Share, Shares};
use crate::streaming;

/// What the delegated identity API answers from.
pub struct DelegatedApi {
    cache: Arc<IdentityCache>,
    jwt: Arc<JwtSvids>,
    attestation: Arc<WorkloadAttestation>,
    turnstile: Turnstile,
    authorized: HashSet<SpiffeId>,
    clock: Arc<dyn Clock>,
    drain: Watcher,
    open: Shares,
    /// Processes that streams hold on to, each with two file descriptors.
    held: Shares,
    selectors: Budget,
}

impl DelegatedApi {
    /// Serves the delegates in `authorized`.
    pub fn new(
        cache: Arc<IdentityCache>,
        jwt: Arc<JwtSvids>,
        attestation: Arc<WorkloadAttestation>,
        authorized: HashSet<SpiffeId>,
        clock: Arc<dyn Clock>,
        drain: Watcher,
    ) -> Self {
        let files = rlimit::raise_open_files().unwrap_or(u64::MAX);
        let max_held = usize::try_from(files / 8).unwrap_or(usize::MAX).clamp(1, MAX_HELD);
        Self {
            cache,
            jwt,
            turnstile: Turnstile::new(attestation.clone()),
            attestation,
            authorized,
            clock,
            drain,
            open: Shares::new(MAX_OPEN),
            held: Shares::new(max_held),
            selectors: Budget::new(MAX_SELECTORS),
        }
    }
}

/// A call: which method, by which process.
#[derive(Clone, Copy)]
struct Call {
    service: &'static str,
    method: &'static str,
    pid: i32,
    uid: u32,
}

/// Whose SVIDs are asked for.
struct Subject {
    selectors: SelectorSet,
    /// The end of the process, if it is one.
    exit: Option<Exit>,
    _held: (Held, Option<Share>),
}

impl DelegatedApi {
    async fn route(
        self: Arc<Self>,
        method: &str,
        request: http::Request<Body>,
        share: Share,
    ) -> Result<http::Response<Body>, Status> {
        let peer = caller::peer(request.extensions())?;
        let (pid, uid) = (peer.pid(), peer.uid());
        let call = |method| Call { service: "DelegatedIdentity", method, pid, uid };
        let body = request.into_body();
        match method {
            "SubscribeToX509SVIDs" => {
                let call = call("SubscribeToX509SVIDs");
                let started = std::time::Instant::now();
                let request: proto::SubscribeToX509sviDsRequest = streaming::message(body).await?;
                let delegate = self.authorize(call, &peer).await?;
                let subject = self.subject(call, request.pid, &request.selectors).await?;
                drop(request);
                streams::x509_svids(self, call, delegate, subject, started, share).await
            }
            "SubscribeToX509Bundles" => {
                let call = call("SubscribeToX509Bundles");
                let _: proto::SubscribeToX509BundlesRequest = streaming::message(body).await?;
                let delegate = self.authorize(call, &peer).await?;
                Ok(streams::bundles(self, call, delegate, |all| all.delegated_x509(), share))
            }
            "SubscribeToJWTBundles" => {
                let call = call("SubscribeToJWTBundles");
                let _: proto::SubscribeToJwtBundlesRequest = streaming::message(body).await?;
                let delegate = self.authorize(call, &peer).await?;
                Ok(streams::bundles(self, call, delegate, |all| all.jwt(), share))
            }
            "FetchJWTSVIDs" => {
                let call = call("FetchJWTSVIDs");
                let request: proto::FetchJwtsviDsRequest = streaming::message(body).await?;
                let svids = self.fetch_jwt_svids(call, &peer, request).await?;
                Ok(streaming::unary(&proto::FetchJwtsviDsResponse { svids }))
            }
            other => {
                let other: String = other.escape_default().take(64).collect();
                let service = DelegatedService::NAME;
                Err(Status::unimplemented(format!("unknown method {other} for service {service}")))
            }
        }
    }

    async fn fetch_jwt_svids(
        &self,
        call: Call,
        peer: &steeple_peer::Peer,
        request: proto::FetchJwtsviDsRequest,
    ) -> Result<Vec<types::Jwtsvid>, Status> {
        let Call { service, method, pid, .. } = call;
        if request.audience.is_empty() {
            error!(service, method, pid, "Missing required audience parameter");
            return Err(Status::invalid_argument("audience must be specified"));
        }
        self.authorize(call, peer).await?;
        let subject = self.subject(call, request.pid, &request.selectors).await?;
        let mut svids = Vec::new();
        for entry in self.cache.matching(&subject.selectors) {
            if entry.admin || entry.downstream {
                continue;
            }
            let now = self.clock.now();
            let svid = self.jwt.fetch(&entry, &request.audience, now).await.map_err(|error| {
                error!(service, method, pid, spiffe_id = %entry.spiffe_id, error,
                    "Could not fetch JWT-SVID");
                Status::unavailable(format!("could not fetch JWT-SVID: {error}"))
            })?;
            let ttl = svid.expires_at.duration_since(now).unwrap_or_default().as_secs_f64();
            debug!(service, method, pid, spiffe_id = %entry.spiffe_id, ttl, "Fetched JWT SVID");
            svids.push(types::Jwtsvid {
                token: svid.token.to_string(),
                id: Some(types::Spiffeid {
                    trust_domain: entry.spiffe_id.trust_domain_name().to_owned(),
                    path: entry.spiffe_id.path().to_owned(),
                }),
                expires_at: seconds(svid.expires_at),
                issued_at: seconds(svid.issued_at),
                hint: entry.hint.clone(),
            });
        }
        if svids.is_empty() {
            error!(service, method, pid, "No identity issued");
            return Err(Status::permission_denied("no identity issued"));
        }
        Ok(svids)
    }

    /// Lets a caller pass whose entry names it as a delegate.
    async fn authorize(&self, call: Call, peer: &steeple_peer::Peer) -> Result<Delegate, Status> {
        let selectors = self.turnstile.attest(peer).await.map_err(|error| {
            let Call { service, method, pid, .. } = call;
            error!(service, method, pid, %error, "Workload attestation failed");
            attestation_failed()
        })?;
        Delegate::new(self, call, selectors)
    }

    /// The workload of a request: selectors that the delegate answers for, or a process.
    async fn subject(
        &self,
        call: Call,
        target: i32,
        selectors: &[types::Selector],
    ) -> Result<Subject, Status> {
        let Call { service, method, pid, uid } = call;
        if selectors.is_empty() == (target == 0) {
            let text = "must provide either selectors or non-zero PID, but not both";
            error!(service, method, pid, "Invalid argument; {text}");
            return Err(Status::invalid_argument(text));
        }
        if target == 0 {
            let held = self.selectors.take(selectors.len()).ok_or_else(|| {
                Status::resource_exhausted("too many selectors are subscribed to")
            })?;
            let selectors = parsed(selectors).map_err(|error| {
                error!(
                    service,
                    method, pid, error, "Invalid argument; could not parse provided selectors"
                );
                Status::invalid_argument("could not parse provided selectors")
            })?;
            return Ok(Subject { selectors, exit: None, _held: (held, None) });
        }
        let share = self.held.take(uid).ok_or_else(|| {
            Status::resource_exhausted("too many processes of this delegate are held")
        })?;
        let named = self.attestation.attest_named(target, uid).await;
        let failed = |error: &dyn std::fmt::Display| {
            error!(service, method, pid, %error, "Workload attestation failed");
            attestation_failed()
        };
        let Named { selectors, process } = named.map_err(|error| failed(&error))?;
        let exit = process.exit().map_err(|error| failed(&error))?;
        let held = self.selectors.take(selectors.len()).unwrap_or_default();
        Ok(Subject { selectors, exit, _held: (held, Some(share)) })
    }
}

fn attestation_failed() -> Status {
    Status::unavailable("workload attestation failed")
}

fn parsed(selectors: &[types::Selector]) -> Result<SelectorSet, &'static str> {
    let parsed = selectors.iter().map(|it| match (it.r#type.as_str(), it.value.as_str()) {
        ("", _) => Err("missing selector type"),
        (kind, _) if kind.contains(':') => Err("selector type contains ':'"),
        (_, "") => Err("missing selector value"),
        (kind, value) => Ok(Selector::new(kind, value)),
    });
    parsed.collect()
}

fn seconds(at: std::time::SystemTime) -> i64 {
    let since = at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// [`DelegatedApi`] as an HTTP service: SPIRE's.
#[derive(Clone)]
pub struct DelegatedService(Arc<DelegatedApi>);

/// [`DelegatedApi`] as an HTTP service: ours.
#[derive(Clone)]
pub struct DelegationService(Arc<DelegatedApi>);

impl DelegatedService {
    /// Serves this.
    pub fn new(api: Arc<DelegatedApi>) -> Self {
        Self(api)
    }
}

impl DelegationService {
    /// Serves this.
    pub fn new(api: Arc<DelegatedApi>) -> Self {
        Self(api)
    }
}

impl NamedService for DelegatedService {
    const NAME: &'static str = "spire.api.agent.delegatedidentity.v1.DelegatedIdentity";
}

impl NamedService for DelegationService {
    const NAME: &'static str = "steeple.agent.delegation.v1.Delegation";
}

/// One more open call of the caller's user.
fn admit(api: &DelegatedApi, request: &http::Request<Body>) -> Result<Share, Status> {
    let peer = caller::peer(request.extensions())?;
    let share = api.open.take(peer.uid());
    share.ok_or_else(|| Status::unavailable("too many calls of this user are open"))
}

macro_rules! service {
    ($service:ty, |$api:ident, $method:ident, $request:ident, $share:ident| $answer:expr) => {
        impl Service<http::Request<Body>> for $service {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, $request: http::Request<Body>) -> Self::Future {
                let $api = self.0.clone();
                Box::pin(async move {
                    let $share = match admit(&$api, &$request) {
                        Ok(share) => share,
                        Err(status) => return Ok(status.into_http()),
                    };
                    let path = $request.uri().path().to_owned();
                    let $method = path.rsplit('/').next().unwrap_or_default();
                    Ok($answer.await.unwrap_or_else(Status::into_http))
                })
            }
        }
    };
}

service!(DelegatedService, |api, method, request, share| api.route(method, request, share));
service!(DelegationService, |api, method, request, share| watch::route(
    api, method, request, share
));

/// How many calls one user's processes may have open at once.
pub(crate) const MAX_OPEN: usize = 131_072;
/// How many processes one user's streams may hold on to, with file descriptors enough.
const MAX_HELD: usize = 16_384;
/// How many selectors all streams together may be subscribed to.
const MAX_SELECTORS: usize = 1_000_000;
