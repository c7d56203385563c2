//! Envoy's Secret Discovery Service, version 3.
//!
//! Envoy asks by name, over one stream for each of its secrets, and hears of
//! every change. `secrets` knows what a name stands for and writes it;
//! `state_of_the_world` and `delta` keep the two protocols' books;
//! `session` is the loop behind both. A stream that waits holds its place in
//! the group of its caller and the names that it asked for, no buffer: what is
//! sent are the PEM bytes that the cache has once (ADR 4).
//!
//! No entry means no error here: such a caller may have its trust domain's
//! bundle, as with SPIRE.

mod delta;
mod message;
mod requests;
mod secrets;
mod session;
mod state_of_the_world;
mod text;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use steeple_agent_core::cache::IdentityCache;
use steeple_proto::envoy::service::discovery::v3::DiscoveryRequest;
use steeple_runtime::{Clock, Watcher};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;
use tracing::{debug, error};

pub use self::secrets::SdsNames;

use self::delta::Delta;
use self::message::Message;
use self::requests::{Requests, is_grpc, not_grpc};
use self::secrets::NodeFacts;
use self::session::{Protocol, Session};
use self::state_of_the_world::StateOfTheWorld;
use self::text::Names;
use crate::caller::{self, ApiName, Caller, Callers, SUBSYSTEM};
use crate::share::{Share, Shares};

/// What SDS answers from.
pub struct SdsApi {
    /// Who gets which identity.
    pub cache: Arc<IdentityCache>,
    /// Who is calling.
    pub callers: Arc<Callers>,
    /// Under which names, and how.
    pub names: SdsNames,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ends the streams when the agent stops.
    pub drain: Watcher,
}

/// [`SdsApi`] as an HTTP service.
#[derive(Clone)]
pub struct SdsService {
    api: Arc<SdsApi>,
    open: Shares,
}

impl SdsService {
    /// Serves this.
    pub fn new(api: Arc<SdsApi>) -> Self {
        Self { api, open: Shares::new(MAX_OPEN) }
    }
}

impl NamedService for SdsService {
    const NAME: &'static str = API.service;
}

impl Service<http::Request<Body>> for SdsService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let api = self.api.clone();
        let share = caller::peer(request.extensions()).and_then(|peer| {
            let share = self.open.take(peer.uid());
            share.ok_or_else(|| Status::unavailable("too many calls of this user are open"))
        });
        Box::pin(async move {
            if !is_grpc(request.headers()) {
                return Ok(not_grpc());
            }
            let answer = match share {
                Ok(share) => api.route(request, share).await,
                Err(status) => Err(status),
            };
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

impl SdsApi {
    async fn route(
        self: Arc<Self>,
        request: http::Request<Body>,
        share: Share,
    ) -> Result<http::Response<Body>, Status> {
        match request.uri().path().rsplit('/').next().unwrap_or_default() {
            "StreamSecrets" => {
                self.stream("StreamSecrets", StateOfTheWorld::new, request, share).await
            }
            "DeltaSecrets" => self.stream("DeltaSecrets", Delta::new, request, share).await,
            "FetchSecrets" => self.fetch(request, share).await,
            other => {
                let other: String = other.escape_default().take(64).collect();
                let text = format!("unknown method {other} for service {}", API.service);
                Err(Status::unimplemented(text))
            }
        }
    }

    async fn stream<P: Protocol>(
        self: Arc<Self>,
        method: &'static str,
        protocol: fn(Arc<SdsApi>, Scribe) -> P,
        request: http::Request<Body>,
        share: Share,
    ) -> Result<http::Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let caller = self.callers.attest(&API, caller::peer(&parts.extensions)?, method).await?;
        let scribe = Scribe { method, pid: caller.pid };
        let session = Session {
            subscription: self.cache.subscribe(caller.selectors, self.clock.now()),
            drain: self.drain.clone(),
            answered: false,
            protocol: protocol(self, scribe),
            requests: Requests::new(body, MAX_REQUEST),
            update: None,
            scribe,
            _share: share,
        };
        Ok(session.response())
    }

    async fn fetch(
        &self,
        request: http::Request<Body>,
        share: Share,
    ) -> Result<http::Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let mut requests = Requests::<DiscoveryRequest>::new(body, MAX_REQUEST);
        let request = tokio::time::timeout(REQUEST_TIME, requests.next())
            .await
            .map_err(|_| Status::deadline_exceeded("the request did not come in time"))?
            .map_err(of_unary)?
            .ok_or_else(|| Status::internal("the call has no request"))?;
        let caller =
            self.callers.attest(&API, caller::peer(&parts.extensions)?, "FetchSecrets").await?;
        let scribe = Scribe { method: "FetchSecrets", pid: caller.pid };
        let message = self.fetched(&caller, request, scribe).await?;
        drop(share);
        Ok(session::unary(message))
    }

    async fn fetched(
        &self,
        caller: &Caller,
        request: DiscoveryRequest,
        scribe: Scribe,
    ) -> Result<Message, Status> {
        let names = checked(request.resource_names)?;
        let mut subscription = self.cache.subscribe(caller.selectors.clone(), self.clock.now());
        // An SVID that nobody has asked for before takes a moment to be signed.
        let update = match tokio::time::timeout(SIGNING_TIME, subscription.ready()).await {
            Ok(update) => update,
            Err(_) => subscription.current(),
        };
        let form = self.names.form(request.node.as_ref().map(NodeFacts::of));
        let resources = self.names.resources(&names, form, &update).inspect_err(|status| {
            scribe.error_about(Some(&names), "Error building fetch secrets response", status);
        })?;
        let (method, pid, count) = (scribe.method, scribe.pid, resources.len());
        debug!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid,
            resource_names = %Names(&names), count, "Sending FetchSecrets response");
        Ok(state_of_the_world::answer("", &type_url(request.type_url)?, "", resources))
    }
}

/// Who a line of log is about.
#[derive(Clone, Copy)]
struct Scribe {
    method: &'static str,
    pid: i32,
}

impl Scribe {
    fn error(&self, what: &'static str, status: &Status) {
        self.error_about(None, what, status);
    }

    fn error_about(&self, names: Option<&[Box<str>]>, what: &'static str, status: &Status) {
        let (method, pid) = (self.method, self.pid);
        let code = steeple_net::outcome::code_name(status.code());
        let error = format!("rpc error: code = {code} desc = {}", status.message());
        let resource_names = names.map(|names| tracing::field::display(Names(names)));
        error!(
            subsystem_name = SUBSYSTEM,
            service = API.logged,
            method,
            pid,
            resource_names,
            error,
            "{what}"
        );
    }
}

/// The names of a request, if they are few and short enough to be kept.
fn checked(names: Vec<String>) -> Result<Vec<Box<str>>, Status> {
    let bytes: usize = names.iter().map(String::len).sum();
    if names.len() > MAX_NAMES || bytes > MAX_NAME_BYTES {
        return Err(too_many());
    }
    Ok(names.into_iter().map(String::into_boxed_str).collect())
}

/// grpc-go has other words for the one request of a call.
fn of_unary(status: Status) -> Status {
    match status.message().strip_prefix("grpc: failed to unmarshal the received message: ") {
        Some(why) => Status::internal(format!("grpc: error unmarshalling request: {why}")),
        None => status,
    }
}

fn too_many() -> Status {
    Status::invalid_argument(format!(
        "too many resource names: at most {MAX_NAMES} of {MAX_NAME_BYTES} bytes in all"
    ))
}

/// The type that is asked for, which answers repeat.
fn type_url(url: String) -> Result<Box<str>, Status> {
    if url.len() > MAX_TYPE_URL {
        return Err(Status::invalid_argument("the type URL is too long"));
    }
    Ok(url.into_boxed_str())
}

const API: ApiName =
    ApiName { service: "envoy.service.secret.v3.SecretDiscoveryService", logged: "SDS.v3" };
/// What a caller may send in one message. Envoys send a list of all that they
/// were built with.
const MAX_REQUEST: usize = 256 * 1024;
/// How many names a stream may ask for, and how long they may be together;
/// Envoy asks for one.
const MAX_NAMES: usize = 512;
const MAX_NAME_BYTES: usize = 32 * 1024;
const MAX_TYPE_URL: usize = 256;
/// How many calls one user's processes may have open at once.
const MAX_OPEN: usize = 16_384;
/// How long the one request of a call may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long such a call waits for an SVID.
const SIGNING_TIME: Duration = Duration::from_secs(3);
