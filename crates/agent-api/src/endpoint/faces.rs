//! gRPC and, where it is wanted, HTTP/1.1 on one socket.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response, Version};
use tonic::body::Body;
use tower_service::Service;

use crate::workload::RestService;

/// Takes each request to who speaks its version.
#[derive(Clone)]
pub(super) struct Faces<G> {
    pub(super) grpc: G,
    pub(super) rest: Option<RestService>,
}

impl<G> Service<Request<Body>> for Faces<G>
where
    G: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future = BoxFuture<'static, Result<Response<Body>, Infallible>>,
        >,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.grpc.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match &mut self.rest {
            Some(rest) if request.version() < Version::HTTP_2 => rest.call(request),
            _ => self.grpc.call(request),
        }
    }
}
