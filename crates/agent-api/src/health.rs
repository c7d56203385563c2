//! `grpc.health.v1`: the agent asks itself for what a workload would.

use std::path::PathBuf;

use steeple_proto::workload::X509svidRequest;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tracing::{error, warn};

/// Answers from a call to the agent's own socket.
pub struct HealthService {
    socket: Option<PathBuf>,
}

impl HealthService {
    /// Asks over this socket; with none (the Workload API is off) the service
    /// answers for itself.
    pub fn new(socket: Option<PathBuf>) -> Self {
        Self { socket }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = futures_util::stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            error!(
                subsystem_name = "endpoints",
                service = "Health",
                method = "Check",
                "Invalid argument: per-service health is not supported"
            );
            return Err(Status::invalid_argument("per-service health is not supported"));
        }
        let mut status = ServingStatus::Serving;
        if let Some(socket) = &self.socket
            && let Err(error) = fetch_x509_svid(socket).await
            && error.code() != Code::PermissionDenied
        {
            warn!(subsystem_name = "endpoints", service = "Health", method = "Check", error = %error.message(),
                reason = "unable to fetch X.509 context from Workload API", "Health check failed");
            status = ServingStatus::NotServing;
        }
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("method Watch not implemented"))
    }
}

/// The first answer of a workload's stream, over the socket at `path`.
pub async fn fetch_x509_svid(path: &std::path::Path) -> Result<(), Status> {
    let mut client = SpiffeWorkloadApiClient::new(steeple_net::channel::unix(path));
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("ASCII"));
    let mut stream = client.fetch_x509svid(request).await?.into_inner();
    match stream.message().await? {
        Some(_) => Ok(()),
        None => Err(Status::unavailable("the stream ended without an answer")),
    }
}
