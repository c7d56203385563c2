//! `grpc.health.v1`: the agent asks itself for what a workload would.

use std::path::{Path, PathBuf};

use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_proto::workload::{X509BundlesRequest, X509svidRequest};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};
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

/// The first answer of a workload's SVID stream, over the socket at `path`.
///
/// # Errors
/// The status that the stream ended with.
pub async fn fetch_x509_svid(path: &Path) -> Result<(), Status> {
    let request = with_header(X509svidRequest {});
    let stream = client(path).fetch_x509svid(request).await?;
    first_of(stream.into_inner()).await
}

/// The first answer of a verifier's bundle stream, likewise.
///
/// # Errors
/// The status that the stream ended with.
pub async fn fetch_x509_bundles(path: &Path) -> Result<(), Status> {
    let request = with_header(X509BundlesRequest {});
    let stream = client(path).fetch_x509_bundles(request).await?;
    first_of(stream.into_inner()).await
}

fn client(path: &Path) -> SpiffeWorkloadApiClient<steeple_net::channel::Channel> {
    SpiffeWorkloadApiClient::new(steeple_net::channel::unix(path))
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

async fn first_of<T>(mut stream: Streaming<T>) -> Result<(), Status> {
    match stream.message().await? {
        Some(_) => Ok(()),
        None => Err(Status::unavailable("the stream ended without an answer")),
    }
}
