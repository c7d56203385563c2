//! Services by name, with grpc-go's words for what is not there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::ServiceExt;
use tower::util::{BoxCloneSyncService, MapResponse};
use tower_service::Service;

type Inner = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// How much of a path that a peer chose an error repeats.
const MAX_ECHO: usize = 100;

/// A set of gRPC services, itself a service. Cheap to clone.
///
/// Unknown services and methods are answered `UNIMPLEMENTED` in grpc-go's words.
#[derive(Clone, Default)]
pub struct Router {
    services: Arc<BTreeMap<&'static str, Inner>>,
}

impl Router {
    /// A router without services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service, such as a generated server.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Arc::make_mut(&mut self.services).insert(S::NAME, BoxCloneSyncService::new(service));
        self
    }

    /// The full names of the services, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.services.keys().copied()
    }
}

impl Service<Request<Body>> for Router {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        Ready<Result<Response<Body>, Infallible>>,
        futures_util::future::BoxFuture<'static, Result<Response<Body>, Infallible>>,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let refuse =
            |message: String| Either::Left(ready(Ok(Status::unimplemented(message).into_http())));
        let Some((service, _)) = path.strip_prefix('/').and_then(|it| it.rsplit_once('/')) else {
            return refuse(format!("malformed method name: {:?}", cap(path)));
        };
        let Some(inner) = self.services.get(service) else {
            return refuse(format!("unknown service {}", cap(service)));
        };
        // The texts are made when they are needed; a copy of the path costs next to nothing.
        let uri = request.uri().clone();
        let name_method = move |mut response: Response<Body>| {
            name_unknown_method(response.headers_mut(), uri.path());
            response
        };
        let inner: MapResponse<Inner, _> = inner.clone().map_response(name_method);
        Either::Right(Box::pin(inner.oneshot(request)))
    }
}

/// Generated servers answer a method that they do not know with a bare status.
fn name_unknown_method(headers: &mut HeaderMap, path: &str) {
    let unimplemented = headers
        .get(Status::GRPC_STATUS)
        .is_some_and(|it| it == HeaderValue::from(Code::Unimplemented as u16));
    if !unimplemented || headers.contains_key(Status::GRPC_MESSAGE) {
        return;
    }
    if let Some((service, method)) = path.trim_start_matches('/').rsplit_once('/') {
        let text = format!("unknown method {} for service {service}", cap(method));
        // Fails for a name that no header can hold, which no HTTP path holds either.
        let _ = Status::unimplemented(text).add_header(headers);
    }
}

fn cap(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}
