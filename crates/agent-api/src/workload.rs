//! The SPIFFE Workload API.
//!
//! Streams do not go through tonic's encoder: their messages exist as bytes
//! already (ADR 4), so the service is written as the HTTP service that tonic's
//! generated code would be, with [`stream`] as the body of streaming answers
//! and tonic's own codec for the two unary methods.

mod call;
mod claims;
mod stream;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Limited};
use steeple_agent_core::attest::WorkloadAttestation;
use steeple_agent_core::cache::{IdentityCache, Update};
use steeple_agent_core::jwt::JwtSvids;
use steeple_agent_core::wire::Frame;
use steeple_pki::PublicKey;
use steeple_pki::jwt::{JwtError, JwtKeySource, LEEWAY};
use steeple_proto::workload as proto;
use steeple_runtime::{Clock, Watcher};
use steeple_spiffe::{SpiffeId, TrustDomain};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;
use tracing::{debug, error, warn};

use self::call::Call;
use crate::rate_limit::RateLimits;
use crate::share::{Share, Shares};

/// What the Workload API answers from.
pub struct WorkloadApi {
    /// Who gets which identity.
    pub cache: Arc<IdentityCache>,
    /// Tokens.
    pub jwt: Arc<JwtSvids>,
    /// Who is calling.
    pub attestation: Arc<WorkloadAttestation>,
    /// The agent's trust domain.
    pub trust_domain: TrustDomain,
    /// Unregistered callers may have the own trust domain's bundles.
    pub allow_unauthenticated_verifiers: bool,
    /// Claims of foreign tokens that callers get beside the standard three.
    pub allowed_foreign_jwt_claims: HashSet<String>,
    /// Selector prefixes that a log may show.
    pub log_selectors: Vec<String>,
    /// Calls per second for callers with the same selectors.
    pub rate_limits: RateLimits,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ends the streams when the agent stops.
    pub drain: Watcher,
}

/// [`WorkloadApi`] as an HTTP service.
#[derive(Clone)]
pub struct WorkloadService {
    api: Arc<WorkloadApi>,
    open_streams: Shares,
    open_unary: Shares,
}

impl WorkloadService {
    /// Serves this.
    pub fn new(api: Arc<WorkloadApi>) -> Self {
        let (open_streams, open_unary) =
            (Shares::new(MAX_OPEN_STREAMS), Shares::new(MAX_OPEN_UNARY));
        Self { api, open_streams, open_unary }
    }
}

impl NamedService for WorkloadService {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

impl Service<http::Request<Body>> for WorkloadService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let api = self.api.clone();
        let share = call::peer(request.extensions()).and_then(|peer| {
            let open = match request.uri().path() {
                "/SpiffeWorkloadAPI/FetchJWTSVID" | "/SpiffeWorkloadAPI/ValidateJWTSVID" => {
                    &self.open_unary
                }
                _ => &self.open_streams,
            };
            let share = open.take(peer.uid());
            share.ok_or_else(|| Status::unavailable("too many calls of this user are open"))
        });
        Box::pin(async move {
            let answer = match share {
                Ok(share) => api.route(request, share).await,
                Err(status) => Err(status),
            };
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

/// A kind of stream: how an update is shown to its caller.
struct StreamKind {
    method: &'static str,
    render: fn(&Update) -> &Frame,
    /// Callers without identity may have it if the configuration says so.
    open_to_verifiers: bool,
}

const X509_SVIDS: StreamKind =
    StreamKind { method: "FetchX509SVID", render: Update::x509_svids, open_to_verifiers: false };
const X509_BUNDLES: StreamKind = StreamKind {
    method: "FetchX509Bundles",
    render: Update::x509_bundles,
    open_to_verifiers: true,
};
const JWT_BUNDLES: StreamKind =
    StreamKind { method: "FetchJWTBundles", render: Update::jwt_bundles, open_to_verifiers: true };

impl WorkloadApi {
    /// The one place through which every call comes: first the header that
    /// keeps browsers and proxies from being tricked into calling, then the
    /// method.
    async fn route(
        self: Arc<Self>,
        request: http::Request<Body>,
        share: Share,
    ) -> Result<http::Response<Body>, Status> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        let known = match method {
            "FetchX509SVID" => Method::Stream(&X509_SVIDS),
            "FetchX509Bundles" => Method::Stream(&X509_BUNDLES),
            "FetchJWTBundles" => Method::Stream(&JWT_BUNDLES),
            "FetchJWTSVID" => Method::FetchJwtSvid,
            "ValidateJWTSVID" => Method::ValidateJwtSvid,
            "FetchWITSVID" => Method::Not("fetching WIT-SVIDs is not implemented"),
            "FetchWITBundles" => Method::Not("fetching WIT bundles is not implemented"),
            other => {
                let other: String = other.escape_default().take(64).collect();
                let text = format!("unknown method {other} for service SpiffeWorkloadAPI");
                return Err(Status::unimplemented(text));
            }
        };
        require_security_header(request.headers())?;
        match known {
            Method::Stream(kind) => self.stream(kind, request, share).await,
            Method::FetchJwtSvid => {
                let peer = call::peer(request.extensions())?;
                let handler = tower::service_fn(move |request: Request<proto::JwtsvidRequest>| {
                    let (api, peer) = (self.clone(), peer.clone());
                    async move { api.fetch_jwt_svid(peer, request.into_inner()).await }
                });
                Ok(unary().unary(handler, request).await)
            }
            Method::ValidateJwtSvid => {
                let peer = call::peer(request.extensions())?;
                let handler =
                    tower::service_fn(move |request: Request<proto::ValidateJwtsvidRequest>| {
                        let (api, peer) = (self.clone(), peer.clone());
                        async move { api.validate_jwt_svid(peer, request.into_inner()).await }
                    });
                Ok(unary().unary(handler, request).await)
            }
            Method::Not(text) => Err(Status::unimplemented(text)),
        }
    }

    /// Attests the caller, waits until all its identities are there, and hands
    /// it a stream of updates.
    async fn stream(
        self: Arc<Self>,
        kind: &'static StreamKind,
        request: http::Request<Body>,
        share: Share,
    ) -> Result<http::Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        // The requests of all streams are empty; what else is sent is not kept.
        if Limited::new(body, MAX_STREAM_REQUEST).collect().await.is_err() {
            return Err(Status::resource_exhausted("request is too large"));
        }
        let caller = Call::attest(&self, call::peer(&parts.extensions)?, kind.method).await?;
        let mut subscription = self.cache.subscribe(caller.selectors.clone(), self.clock.now());
        let mut drain = self.drain.clone();
        let update = tokio::select! {
            update = subscription.ready() => update,
            () = drain.signalled() => return Err(stream::stopping()),
        };
        let first = stream::show(&self, kind, &caller, &update)?;
        let stream = stream::Stream { api: self, kind, caller, subscription, drain, _share: share };
        Ok(stream::response(stream, first))
    }

    async fn fetch_jwt_svid(
        &self,
        peer: steeple_peer::Peer,
        request: proto::JwtsvidRequest,
    ) -> Result<Response<proto::JwtsvidResponse>, Status> {
        let pid = peer.pid();
        let (service, method) = (call::SERVICE, "FetchJWTSVID");
        if request.audience.is_empty() {
            error!(
                subsystem_name = call::SUBSYSTEM,
                service, method, pid, "Missing required audience parameter"
            );
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if !request.spiffe_id.is_empty()
            && let Err(error) = SpiffeId::parse(&request.spiffe_id)
        {
            let spiffe_id: String = request.spiffe_id.chars().take(MAX_ECHO).collect();
            error!(subsystem_name = call::SUBSYSTEM, service, method, pid, spiffe_id, %error,
                "Invalid requested SPIFFE ID");
            return Err(Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}")));
        }
        let caller = Call::attest(self, peer, method).await?;
        let mut entries = self.cache.matching(&caller.selectors);
        let hidden = steeple_agent_core::entry::duplicate_hints(entries.iter().map(Arc::as_ref));
        for position in hidden.into_iter().rev() {
            let entry = entries.remove(position);
            warn!(subsystem_name = call::SUBSYSTEM, service, method, pid, entry_id = %entry.id,
                hint = %entry.hint, "Ignoring entry with duplicate hint");
        }
        let mut svids = Vec::new();
        for entry in entries {
            if !request.spiffe_id.is_empty() && request.spiffe_id != entry.spiffe_id.as_str() {
                continue;
            }
            let now = self.clock.now();
            let svid = self.jwt.fetch(&entry, &request.audience, now).await.map_err(|error| {
                error!(subsystem_name = call::SUBSYSTEM, service, method, pid, registered = true,
                    spiffe_id = %entry.spiffe_id, error, "Could not fetch JWT-SVID");
                Status::unavailable(format!("could not fetch JWT-SVID: {error}"))
            })?;
            let ttl = svid.expires_at.duration_since(now).unwrap_or_default().as_secs_f64();
            debug!(subsystem_name = call::SUBSYSTEM, service, method, pid, registered = true,
                spiffe_id = %entry.spiffe_id, ttl, "Fetched JWT SVID");
            svids.push(proto::Jwtsvid {
                spiffe_id: entry.spiffe_id.to_string(),
                svid: svid.token.to_string(),
                hint: entry.hint.clone(),
            });
        }
        if svids.is_empty() {
            return Err(caller.no_identity(self));
        }
        Ok(Response::new(proto::JwtsvidResponse { svids }))
    }

    async fn validate_jwt_svid(
        &self,
        peer: steeple_peer::Peer,
        request: proto::ValidateJwtsvidRequest,
    ) -> Result<Response<proto::ValidateJwtsvidResponse>, Status> {
        let pid = peer.pid();
        let (service, method) = (call::SERVICE, "ValidateJWTSVID");
        for (given, name) in [(&request.audience, "audience"), (&request.svid, "svid")] {
            if given.is_empty() {
                error!(
                    subsystem_name = call::SUBSYSTEM,
                    service, method, pid, "Missing required {name} parameter"
                );
                return Err(Status::invalid_argument(format!("{name} must be specified")));
            }
        }
        let caller = Call::attest(self, peer, method).await?;
        let update = self.cache.snapshot(&caller.selectors);
        let keys = VisibleKeys(&update);
        let now = self.clock.now();
        let valid =
            steeple_pki::jwt::verify_svid(&request.svid, &keys, &request.audience, now, LEEWAY)
                .map_err(|error| {
                    let audience: String = request.audience.chars().take(MAX_ECHO).collect();
                    warn!(subsystem_name = call::SUBSYSTEM, service, method, pid, audience, %error,
                    "Failed to validate JWT");
                    Status::invalid_argument(error.to_string())
                })?;
        debug!(subsystem_name = call::SUBSYSTEM, service, method, pid, spiffe_id = %valid.spiffe_id,
            "Successfully validated JWT");
        let foreign = !valid.spiffe_id.is_member_of(&self.trust_domain);
        let allowed = foreign.then_some(&self.allowed_foreign_jwt_claims);
        Ok(Response::new(proto::ValidateJwtsvidResponse {
            spiffe_id: valid.spiffe_id.to_string(),
            claims: Some(claims::shown(valid.claims, allowed)),
        }))
    }
}

enum Method {
    Stream(&'static StreamKind),
    FetchJwtSvid,
    ValidateJwtSvid,
    Not(&'static str),
}

/// The JWT keys of the bundles that a caller may see.
struct VisibleKeys<'u>(&'u Update);

impl JwtKeySource for VisibleKeys<'_> {
    fn jwt_key(&self, trust_domain: &TrustDomain, key_id: &str) -> Result<PublicKey, JwtError> {
        let bundle = std::iter::once(self.0.bundle())
            .chain(self.0.federated())
            .find(|bundle| bundle.trust_domain() == trust_domain)
            .ok_or_else(|| JwtError::UnknownTrustDomain(trust_domain.clone()))?;
        let authority = bundle.bundle().find_jwt_authority(key_id);
        authority.map(|authority| authority.public_key.clone()).ok_or_else(|| {
            let key_id = key_id.chars().take(MAX_ECHO).collect();
            JwtError::UnknownKey { key_id, trust_domain: trust_domain.clone() }
        })
    }
}

fn unary<Encode, Decode>() -> Grpc<ProstCodec<Encode, Decode>>
where
    Encode: prost::Message + 'static,
    Decode: prost::Message + Default + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_REQUEST)
}

fn require_security_header(headers: &http::HeaderMap) -> Result<(), Status> {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

const SECURITY_HEADER: &str = "workload.spiffe.io";
/// What a caller may send in one message.
const MAX_REQUEST: usize = 256 * 1024;
/// What a caller may send to open a stream: an empty message.
const MAX_STREAM_REQUEST: usize = 4 * 1024;
/// How many streams one user's processes may have open at once. Each costs a
/// few kilobytes for as long as its caller likes.
const MAX_OPEN_STREAMS: usize = 16_384;
/// How many of the other calls, which may cost [`MAX_REQUEST`] each.
const MAX_OPEN_UNARY: usize = 1024;
/// How much of a key id an error repeats.
const MAX_ECHO: usize = 64;
