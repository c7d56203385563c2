//! The server's gRPC APIs: adapters over the use cases, behind one stack.
//!
//! Not here: what the calls do (`steeple-server-core`), sockets and TLS
//! (`steeple-net`). This crate and `net` alone know gRPC statuses here.
//!
//! Invariant: no handler runs without a row in [`table`] that lets its caller
//! in; every error becomes a status in [`status`].
//!
//! Start at `stack.rs` for what happens before a handler, at `entry.rs` for
//! what handlers look like.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod agent;
mod audit;
mod authority;
mod bundle;
mod call;
mod convert;
mod debug;
mod entry;
mod explain;
mod federation;
mod health;
mod judge;
mod limit;
mod load;
mod logger;
mod name;
mod push;
mod refusal;
mod stack;
mod status;
mod svid;
mod table;
mod tap;
mod token;
mod turns;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};
use steeple_federation::Refresher;
use steeple_net::serve::Router;
use steeple_proto::spire::api::server::agent::v1::agent_server::AgentServer;
use steeple_proto::spire::api::server::bundle::v1::bundle_server::BundleServer;
use steeple_proto::spire::api::server::debug::v1::debug_server::DebugServer;
use steeple_proto::spire::api::server::localauthority::v1::local_authority_server::LocalAuthorityServer;
use steeple_proto::spire::api::server::logger::v1::logger_server::LoggerServer;
use steeple_proto::spire::api::server::svid::v1::svid_server::SvidServer;
use steeple_proto::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomainServer;
use steeple_proto::steeple::server::explain::v1::explain_server::ExplainServer;
use steeple_proto::steeple::server::jointoken::v1::join_token_server::JoinTokenServer;
use steeple_runtime::Clock;
use steeple_runtime::log::LogHandle;
use steeple_server_core::ServerSvid;
use steeple_server_core::access::Gatekeeper;
use steeple_server_core::agents::Agents;
use steeple_server_core::authorities::Authorities;
use steeple_server_core::bundles::Bundles;
use steeple_server_core::entries::Entries;
use steeple_server_core::explain::Explainer;
use steeple_server_core::explain::agent::AgentExplainer;
use steeple_server_core::federation::Federation;
use steeple_server_core::push::Push;
use steeple_server_core::svids::Svids;
use steeple_server_core::tokens::Tokens;
use steeple_spiffe::TrustDomain;
use steeple_store::Store;
use tokio::sync::{Mutex, watch};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;

pub use limit::{LimitBy, RateLimits};
pub use load::{Class, ClassLimits, LoadLimits};

use crate::agent::AgentService;
use crate::agent::attest::Attestations;
use crate::audit::Audit;
use crate::authority::AuthorityService;
use crate::bundle::BundleService;
use crate::debug::DebugService;
use crate::entry::PreparedService;
use crate::explain::ExplainService;
use crate::federation::FederationService;
use crate::health::HealthService;
use crate::judge::Judge;
use crate::limit::Limits;
use crate::load::Load;
use crate::logger::LoggerService;
use crate::push::PushService;
use crate::stack::{Gate, Stack};
use crate::svid::SvidService;
use crate::token::TokenService;
use crate::turns::Turns;

/// Requests may be compressed so, as they may for SPIRE; answers are not. What a message unpacks
/// to is bounded by the limit on messages.
const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// What the APIs are adapters of.
pub struct Parts {
    /// The trust domain served.
    pub trust_domain: TrustDomain,
    /// The use cases.
    pub entries: Entries,
    /// Who gets an entry, and why.
    pub explainer: Explainer,
    /// Explains how agents stand, and who was refused.
    pub agent_explainer: AgentExplainer,
    /// The use cases.
    pub agents: Agents,
    /// The use cases.
    pub tokens: Tokens,
    /// The use cases.
    pub svids: Svids,
    /// The use cases.
    pub bundles: Bundles,
    /// The use cases.
    pub authorities: Authorities,
    /// The use cases.
    pub federation: Federation,
    /// Who follows other trust domains' bundles.
    pub refresher: Refresher,
    /// Who may do what.
    pub gatekeeper: Gatekeeper,
    /// For the counts of Debug.
    pub store: Arc<dyn Store>,
    /// For Logger.
    pub log: LogHandle,
    /// The server's SVID, for Debug.
    pub svid: watch::Receiver<ServerSvid>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where agents are told that it is worth asking; none, and they poll.
    pub push: Option<Push>,
    /// An operator's own authorisation policy, in place of the built-in rules.
    pub policy: Option<steeple_policy::Engine>,
    /// How much each caller may ask for.
    pub limits: RateLimits,
    /// How much is worked on at once.
    pub load: LoadLimits,
    /// Whether a record is written of each call.
    pub audit: bool,
}

/// The services, ready to be served on the two listeners.
pub struct Apis<L, R> {
    /// For the Unix socket: all of them, callers are local.
    pub local: L,
    /// For TCP: callers are who their certificates say.
    pub remote: R,
}

/// A gRPC service as [`steeple_net::serve::serve`] takes it.
pub trait GrpcService:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
}

impl<S> GrpcService for S
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
}

/// Puts the services together, each listener's behind the same stack.
#[must_use]
pub fn apis(parts: Parts) -> Apis<impl GrpcService, impl GrpcService> {
    let now = Instant::now();
    let bundles = parts.bundles.clone();
    let shared = Router::new()
        .add_service(
            AgentServer::new(AgentService {
                agents: Arc::new(parts.agents),
                attestations: Attestations::default(),
            })
            .accept_compressed(GZIP),
        )
        .add_service(
            BundleServer::new(BundleService { bundles: bundles.clone() }).accept_compressed(GZIP),
        )
        .add_service(PreparedService::new(parts.entries))
        .add_service(
            ExplainServer::new(ExplainService {
                explainer: parts.explainer,
                agents: parts.agent_explainer,
            })
            .accept_compressed(GZIP),
        )
        .add_service(
            JoinTokenServer::new(TokenService { tokens: parts.tokens }).accept_compressed(GZIP),
        )
        .add_service(
            SvidServer::new(SvidService { svids: Arc::new(parts.svids) }).accept_compressed(GZIP),
        )
        .add_service(
            TrustDomainServer::new(FederationService {
                federation: parts.federation,
                refresher: parts.refresher,
            })
            .accept_compressed(GZIP),
        )
        .add_service(
            LocalAuthorityServer::new(AuthorityService {
                authorities: Arc::new(parts.authorities),
            })
            .accept_compressed(GZIP),
        );
    let shared = match parts.push {
        Some(push) => shared.add_service(PushService { push }),
        None => shared,
    };
    let local = shared
        .clone()
        .add_service(LoggerServer::new(LoggerService { log: parts.log }).accept_compressed(GZIP))
        .add_service(
            HealthServer::new(HealthService { bundles: bundles.clone() }).accept_compressed(GZIP),
        )
        .add_service(
            DebugServer::new(DebugService {
                store: parts.store,
                bundles: bundles.clone(),
                svid: parts.svid,
                started: now,
                recent: Mutex::new(None),
            })
            .accept_compressed(GZIP),
        );
    let stack = Arc::new(Stack {
        trust_domain: parts.trust_domain,
        gatekeeper: parts.gatekeeper,
        judge: parts.policy.map(Judge::new),
        bundles,
        limits: Arc::new(Limits::new(parts.limits, now)),
        load: Load::new(parts.load),
        turns: Turns::default(),
        audit: Audit::new(parts.audit),
        clock: parts.clock,
    });
    Apis {
        local: Gate::new(Arc::clone(&stack), true, local),
        remote: Gate::new(stack, false, shared),
    }
}
