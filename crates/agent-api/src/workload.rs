//! The SPIFFE Workload API.
//!
//! Streams do not go through tonic's encoder: their messages exist as bytes
//! already (ADR 4), so the service is written as the HTTP service that tonic's
//! generated code would be, with `stream` as the body of streaming answers
//! and tonic's own codec for the two unary methods.

mod claims;
mod jwt;
mod rest;
mod stream;
mod wit;

pub(crate) use self::rest::RestService;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Limited};
use steeple_agent_core::cache::{IdentityCache, Update};
use steeple_agent_core::entry::{Entry, duplicate_hints};
use steeple_agent_core::jwt::JwtSvids;
use steeple_agent_core::wire::Frame;
use steeple_agent_core::wit::WitSvids;
use steeple_peer::Peer;
use steeple_proto::workload as proto;
use steeple_runtime::{Clock, Watcher};
use steeple_spiffe::TrustDomain;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;
use tracing::warn;

use self::stream::Stream;
use crate::caller::{self, ApiName, Caller, Callers, SUBSYSTEM};
use crate::share::{Share, Shares};
use crate::streaming;

/// What the Workload API answers from.
pub struct WorkloadApi {
    /// Who gets which identity.
    pub cache: Arc<IdentityCache>,
    /// Tokens.
    pub jwt: Arc<JwtSvids>,
    /// WIT-SVIDs, if they are served.
    pub wit: Option<Arc<WitSvids>>,
    /// Who is calling.
    pub callers: Arc<Callers>,
    /// The agent's trust domain.
    pub trust_domain: TrustDomain,
    /// Unregistered callers may have the own trust domain's bundles.
    pub allow_unauthenticated_verifiers: bool,
    /// Claims of foreign tokens that callers get beside the standard three.
    pub allowed_foreign_jwt_claims: HashSet<String>,
    /// Answers HTTP/1.1 with JSON, too.
    pub http: bool,
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
        let share = caller::peer(request.extensions()).and_then(|peer| {
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
const WIT_BUNDLES: StreamKind =
    StreamKind { method: "FetchWITBundles", render: Update::wit_bundles, open_to_verifiers: true };

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
            "FetchWITSVID" if self.wit.is_some() => Method::FetchWitSvid,
            "FetchWITBundles" if self.wit.is_some() => Method::Stream(&WIT_BUNDLES),
            "FetchWITSVID" => Method::Not("fetching WIT-SVIDs is not implemented"),
            "FetchWITBundles" => Method::Not("fetching WIT bundles is not implemented"),
            other => {
                let other: String = other.escape_default().take(64).collect();
                let text = format!("unknown method {other} for service SpiffeWorkloadAPI");
                return Err(Status::unimplemented(text));
            }
        };
        caller::require_header(request.headers(), SECURITY_HEADER)?;
        match known {
            Method::Stream(kind) => self.stream(kind, request, share).await,
            Method::FetchJwtSvid => {
                let peer = caller::peer(request.extensions())?;
                let handler = tower::service_fn(move |request: Request<proto::JwtsvidRequest>| {
                    let (api, peer) = (self.clone(), peer.clone());
                    async move { api.fetch_jwt_svid(peer, request.into_inner()).await }
                });
                Ok(unary().unary(handler, request).await)
            }
            Method::ValidateJwtSvid => {
                let peer = caller::peer(request.extensions())?;
                let handler =
                    tower::service_fn(move |request: Request<proto::ValidateJwtsvidRequest>| {
                        let (api, peer) = (self.clone(), peer.clone());
                        async move { api.validate_jwt_svid(peer, request.into_inner()).await }
                    });
                Ok(unary().unary(handler, request).await)
            }
            Method::FetchWitSvid => {
                let peer = caller::peer(request.extensions())?;
                let request: proto::WitsvidRequest =
                    streaming::message(request.into_body()).await?;
                let (stream, first) = self.open_wit(peer, request.spiffe_id, share).await?;
                Ok(streaming::streamed(first, stream))
            }
            Method::Not(text) => {
                check_empty::<proto::WitsvidRequest>(request.into_body()).await?;
                Err(Status::unimplemented(text))
            }
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
        check_empty::<()>(body).await?;
        let (stream, first) = self.open(kind, caller::peer(&parts.extensions)?, share).await?;
        Ok(streaming::streamed(first, stream))
    }

    /// The stream and its first message.
    async fn open(
        self: Arc<Self>,
        kind: &'static StreamKind,
        peer: Peer,
        share: Share,
    ) -> Result<(Stream, Frame), Status> {
        let caller = self.callers.attest(&API, peer, kind.method).await?;
        let mut subscription = self.cache.subscribe(caller.selectors.clone(), self.clock.now());
        let mut drain = self.drain.clone();
        // A caller that comes while the agent stops, or hands over, is answered if that takes no
        // wait; its stream ends after that.
        let update = tokio::select! {
            biased;
            update = subscription.ready() => update,
            () = drain.signalled() => return Err(streaming::stopping()),
        };
        let first = stream::show(&self, kind, &caller, &update)?;
        Ok((Stream { api: self, kind, caller, subscription, drain, _share: share }, first))
    }

    /// The entries that match; of several with one hint only the oldest.
    fn entries_of(&self, caller: &Caller) -> Vec<Arc<Entry>> {
        let (service, method, pid) = (API.logged, caller.method, caller.pid);
        let (entries, hidden) = self.entries_and_hidden(caller);
        for entry in hidden {
            warn!(subsystem_name = SUBSYSTEM, service, method, pid, entry_id = %entry.id,
                hint = %entry.hint, "Ignoring entry with duplicate hint");
        }
        entries
    }

    /// As [`Self::entries_of`], without a word; and those that are left out.
    fn entries_and_hidden(&self, caller: &Caller) -> (Vec<Arc<Entry>>, Vec<Arc<Entry>>) {
        let mut entries = self.cache.matching(&caller.selectors);
        let hidden = duplicate_hints(entries.iter().map(Arc::as_ref));
        let hidden = hidden.into_iter().rev().map(|position| entries.remove(position)).collect();
        (entries, hidden)
    }
}

enum Method {
    Stream(&'static StreamKind),
    FetchJwtSvid,
    ValidateJwtSvid,
    FetchWitSvid,
    Not(&'static str),
}

fn unary<Encode, Decode>() -> Grpc<ProstCodec<Encode, Decode>>
where
    Encode: prost::Message + 'static,
    Decode: prost::Message + Default + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_REQUEST)
}

/// The requests of streams are empty; what else is sent must be a message all
/// the same, and is not kept.
async fn check_empty<M: prost::Message + Default>(body: Body) -> Result<(), Status> {
    let body = Limited::new(body, MAX_STREAM_REQUEST).collect().await;
    let body = body.map_err(|_| Status::resource_exhausted("request is too large"))?.to_bytes();
    let is_compressed = body.first() == Some(&1);
    match M::decode(body.slice(body.len().min(GRPC_PREFIX)..)) {
        Ok(_) => Ok(()),
        Err(_) if is_compressed => Ok(()),
        Err(error) => Err(streaming::unreadable(&error)),
    }
}

const API: ApiName = ApiName { service: "SpiffeWorkloadAPI", logged: "WorkloadAPI" };
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// What a caller may send in one message.
const MAX_REQUEST: usize = 256 * 1024;
/// Before each message: whether it is compressed, and its length.
const GRPC_PREFIX: usize = 5;
/// What a caller may send to open a stream: an empty message.
const MAX_STREAM_REQUEST: usize = 4 * 1024;
/// How many streams one user's processes may have open at once. Each costs a
/// few kilobytes for as long as its caller likes.
const MAX_OPEN_STREAMS: usize = 16_384;
/// How many of the other calls, which may cost [`MAX_REQUEST`] each.
const MAX_OPEN_UNARY: usize = 1024;
/// How much of a key id an error repeats.
const MAX_ECHO: usize = 64;
