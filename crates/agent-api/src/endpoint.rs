//! The two sockets and what is on them.

mod fair;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use steeple_net::serve::{Limits, Router, serve};
use steeple_net::unix::{BindError, UnixIncoming, bind};
use steeple_proto::spire::agent::debug::v1::debug_server::DebugServer;
use steeple_proto::spire::api::agent::logger::v1::logger_server::LoggerServer;
use steeple_runtime::{Watcher, rlimit};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::{v1, v1alpha};
use tracing::info;

use self::fair::FairIncoming;
use crate::admin::{DebugService, LoggerService};
use crate::health::HealthService;
use crate::measured::Measured;
use crate::reflection::ReflectionService;
use crate::workload::{WorkloadApi, WorkloadService};

/// A bound socket with its services, not yet serving.
pub struct Endpoint {
    incoming: UnixIncoming,
    router: Router,
    /// What is served, as the public socket's lines of log name it.
    apis: Option<&'static str>,
}

impl Endpoint {
    /// The public socket: any process may connect. Without `api` (the Workload
    /// API is switched off) health and reflection remain.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn workload(path: &Path, api: Option<Arc<WorkloadApi>>) -> Result<Self, BindError> {
        let incoming = bind(path, 0o777, 0o755)?;
        let own_socket: Option<PathBuf> = api.is_some().then(|| path.to_owned());
        let apis = if api.is_some() { "Workload API" } else { "no APIs" };
        let mut router =
            Router::new().add_service(HealthServer::new(HealthService::new(own_socket)));
        let mut services = vec!["grpc.health.v1.Health"];
        if let Some(api) = api {
            router = router.add_service(WorkloadService::new(api));
            services.push("SpiffeWorkloadAPI");
        }
        let router = with_reflection(router, &services);
        info!(subsystem_name = "endpoints", address = %path.display(), network = "unix", apis,
            "Starting agent APIs");
        Ok(Self { incoming, router, apis: Some(apis) })
    }

    /// The operator's socket.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn admin(
        path: &Path,
        debug: DebugService,
        logger: LoggerService,
    ) -> Result<Self, BindError> {
        let incoming = bind(path, 0o770, 0o755)?;
        let router = Router::new()
            .add_service(DebugServer::new(debug))
            .add_service(LoggerServer::new(logger));
        info!(address = %path.display(), network = "unix", "Starting Admin APIs");
        Ok(Self { incoming, router, apis: None })
    }

    /// Serves until the drain is signalled and the open calls have ended.
    pub async fn serve(self, drain: Watcher) {
        let (apis, address) = (self.apis, self.incoming.path().display().to_string());
        let mut signal = drain.clone();
        let limits = limits();
        let incoming = FairIncoming::new(self.incoming, limits.max_connections.div_ceil(2));
        let announce = async {
            signal.signalled().await;
            match apis {
                Some(apis) => info!(subsystem_name = "endpoints", apis, "Stopping agent APIs"),
                None => info!(address, network = "unix", "Stopping Admin APIs"),
            }
        };
        tokio::join!(announce, serve(incoming, Measured::new(self.router), limits, drain));
        if apis.is_none() {
            info!(address, network = "unix", "Admin APIs have stopped");
        }
    }
}

/// As many connections as there are file descriptors for.
fn limits() -> Limits {
    let limits = Limits { drain_grace: Duration::from_secs(5), ..Limits::unix() };
    let room = match rlimit::raise_open_files() {
        Some(files) => usize::try_from(files / FILES_PER_CONNECTION).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    Limits { max_connections: limits.max_connections.min(room).max(1), ..limits }
}

/// The socket, the caller's pidfd and its directory in `/proc`, and one to
/// spare for what attesting it opens.
const FILES_PER_CONNECTION: u64 = 4;

fn with_reflection(router: Router, services: &[&str]) -> Router {
    let descriptors = [steeple_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let reflection = ReflectionService::new(services, &descriptors)
        .expect("descriptors generated with the code are well-formed");
    router
        .add_service(v1::server_reflection_server::ServerReflectionServer::new(reflection.clone()))
        .add_service(v1alpha::server_reflection_server::ServerReflectionServer::new(reflection))
}
