//! `grpc.health.v1.Health` on the Unix socket: can the server give out its bundle?

use std::pin::Pin;

use futures_util::stream::Stream;
use steeple_server_core::bundles::{BundleError, Bundles};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::call::{Call, log_call};

/// The Health service.
pub(crate) struct HealthService {
    pub(crate) bundles: Bundles,
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let call = Call::of(&request)?;
        call.operator()?;
        if !request.get_ref().service.is_empty() {
            let status = Status::invalid_argument("per-service health is not supported");
            return Err(call.refuse(status));
        }
        let reason = match self.bundles.own(call.now()).await {
            Ok(_bundle) => None,
            Err(BundleError::NotFound) => Some("bundle is missing"),
            Err(_error) => Some("unable to fetch bundle"),
        };
        let status = match reason {
            None => ServingStatus::Serving,
            Some(reason) => {
                log_call!(warn, call, { reason, }, "Health check failed");
                ServingStatus::NotServing
            }
        };
        Ok(Response::new(HealthCheckResponse { status: status as i32 }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Call::of(&request)?.operator()?;
        // As in SPIRE, which has no other answer either.
        Err(Status::unimplemented("method Watch not implemented"))
    }
}
