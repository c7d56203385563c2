//! The two sockets and what is on them.

mod faces;
mod fair;
mod health;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steeple_net::serve::{Limits, Router, serve};
use steeple_net::unix::UnixIncoming;
use steeple_proto::spire::agent::debug::v1::debug_server::DebugServer;
use steeple_proto::spire::api::agent::logger::v1::logger_server::LoggerServer;
use steeple_proto::steeple::agent::explain::v1::explain_server::ExplainServer;
use steeple_runtime::{Watcher, rlimit};
use tonic::server::NamedService as _;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::{v1, v1alpha};
use tracing::info;

use self::faces::Faces;
use self::fair::FairIncoming;
use self::health::Listless;
use crate::admin::{DebugService, LoggerService};
use crate::delegated::{DelegatedApi, DelegatedService, DelegationService};
use crate::explain::ExplainService;
use crate::health::HealthService;
use crate::measured::Measured;
use crate::reflection::ReflectionService;
use crate::sds::{SdsApi, SdsService};
use crate::workload::{RestService, WorkloadApi, WorkloadService};

/// A bound socket with its services, not yet serving.
pub struct Endpoint {
    incoming: UnixIncoming,
    router: Router,
    /// For requests in HTTP/1.1, if those are answered.
    rest: Option<RestService>,
    /// What is served, as the public socket's lines of log name it.
    apis: Option<&'static str>,
}

impl Endpoint {
    /// The public socket: any process may connect. Without `api` (the Workload
    /// API is switched off) and without `sds`, health and reflection remain.
    pub fn workload(
        incoming: UnixIncoming,
        api: Option<Arc<WorkloadApi>>,
        sds: Option<Arc<SdsApi>>,
    ) -> Self {
        let path = incoming.path();
        let own_socket: Option<PathBuf> = api.is_some().then(|| path.to_owned());
        let apis = match (&api, &sds) {
            (Some(_), Some(_)) => "Workload and SDS APIs",
            (None, Some(_)) => "SDS API",
            (Some(_), None) => "Workload API",
            (None, None) => "no APIs",
        };
        let mut rest = None;
        let mut router =
            Router::new().add_service(Listless(HealthServer::new(HealthService::new(own_socket))));
        let mut services = vec!["grpc.health.v1.Health"];
        if let Some(api) = api {
            let speaks_http = api.http;
            let service = WorkloadService::new(api);
            rest = speaks_http.then(|| RestService::new(service.clone()));
            router = router.add_service(service);
            services.push("SpiffeWorkloadAPI");
        }
        if let Some(sds) = sds {
            router = router.add_service(SdsService::new(sds));
            services.push(SdsService::NAME);
        }
        let router = with_reflection(router, &services);
        info!(subsystem_name = "endpoints", address = %path.display(), network = "unix", apis,
            "Starting agent APIs");
        Self { incoming, router, rest, apis: Some(apis) }
    }

    /// The operator's socket.
    pub fn admin(
        incoming: UnixIncoming,
        debug: DebugService,
        logger: LoggerService,
        delegated: Arc<DelegatedApi>,
    ) -> Self {
        let router = Router::new()
            .add_service(DebugServer::new(debug))
            .add_service(DelegatedService::new(delegated.clone()))
            .add_service(DelegationService::new(delegated))
            .add_service(LoggerServer::new(logger));
        info!(address = %incoming.path().display(), network = "unix", "Starting Admin APIs");
        Self { incoming, router, rest: None, apis: None }
    }

    /// Explains to operators, too.
    #[must_use]
    pub fn explaining(mut self, explain: ExplainService) -> Self {
        self.router = self.router.add_service(ExplainServer::new(explain));
        self
    }

    /// Serves until the drain is signalled and the open calls have ended.
    pub async fn serve(self, drain: Watcher) {
        let (apis, address) = (self.apis, self.incoming.path().display().to_string());
        let mut signal = drain.clone();
        let mut limits = limits();
        if apis.is_none() {
            // A delegate has a stream for each of its workloads, all on one connection.
            limits.max_concurrent_streams = MAX_DELEGATED_STREAMS;
        }
        let incoming = FairIncoming::new(self.incoming, limits.max_connections);
        let announce = async {
            signal.signalled().await;
            match apis {
                Some(apis) => info!(subsystem_name = "endpoints", apis, "Stopping agent APIs"),
                None => info!(address, network = "unix", "Stopping Admin APIs"),
            }
        };
        limits.http1 = self.rest.is_some();
        let service = Faces { grpc: Measured::new(self.router), rest: self.rest };
        tokio::join!(announce, serve(incoming, service, limits, drain));
        if apis.is_none() {
            info!(address, network = "unix", "Admin APIs have stopped");
        }
    }
}

/// Open requests on one connection to the admin socket.
const MAX_DELEGATED_STREAMS: u32 = 131_072;

/// As many connections as there are file descriptors for.
fn limits() -> Limits {
    let limits = Limits { drain_grace: Duration::from_secs(5), ..Limits::unix() };
    let room = match rlimit::raise_open_files() {
        Some(files) => usize::try_from(files / FILES_PER_CONNECTION).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    Limits { max_connections: limits.max_connections.min(room).max(1), ..limits }
}

/// The socket, the caller's pidfd, and one to spare for what attesting it
/// opens.
const FILES_PER_CONNECTION: u64 = 3;

pub(crate) fn with_reflection(router: Router, services: &[&str]) -> Router {
    let reflection = ReflectionService::new(services, &DESCRIPTORS);
    router
        .add_service(v1::server_reflection_server::ServerReflectionServer::new(reflection.clone()))
        .add_service(v1alpha::server_reflection_server::ServerReflectionServer::new(reflection))
}

/// What the services are described by.
pub(crate) static DESCRIPTORS: [&[u8]; 2] =
    [steeple_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
