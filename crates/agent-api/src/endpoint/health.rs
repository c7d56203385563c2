//! The one method of the health service that is not there, in SPIRE's words.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;

use crate::health::HealthService;

/// The health service with an answer for `List`, which the generated one does not know.
#[derive(Clone)]
pub(super) struct Listless(pub(super) HealthServer<HealthService>);

impl NamedService for Listless {
    const NAME: &'static str = <HealthServer<HealthService> as NamedService>::NAME;
}

impl Service<Request<Body>> for Listless {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() == "/grpc.health.v1.Health/List" {
            let status = Status::unimplemented("method List not implemented");
            return Box::pin(async move { Ok(status.into_http()) });
        }
        Box::pin(self.0.call(request))
    }
}
