//! The Broker API on its sockets.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use steeple_net::serve::{Limits, Router, serve};
use steeple_net::tls::{LocalTlsIncoming, ServerTls, TlsIncoming, TlsLimits};
use steeple_net::unix::{UnixIncoming, UntrackedIncoming};
use steeple_runtime::{Tasks, Watcher};
use tokio::net::TcpListener;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;
use tracing::info;

use super::{BrokerApi, BrokerService, SECURITY_HEADER, connection};
use crate::caller;
use crate::endpoint::with_reflection;
use crate::measured::Measured;

/// Where brokers connect: one of these at least.
pub struct BrokerListeners {
    /// On this machine.
    pub unix: Option<UnixIncoming>,
    /// From elsewhere too.
    pub tcp: Option<TcpListener>,
}

/// The Broker API, bound and not yet serving.
pub struct BrokerEndpoint {
    listeners: BrokerListeners,
    tls: ServerTls,
    router: Router,
}

impl BrokerEndpoint {
    /// On `listeners`, with whom `tls` shakes hands.
    pub fn new(listeners: BrokerListeners, tls: ServerTls, api: Arc<BrokerApi>) -> Self {
        if let Some(unix) = &listeners.unix {
            let address = unix.path().display();
            info!(network = "unix", %address, "Starting SPIFFE Broker Endpoint");
        }
        if let Some(address) = listeners.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()) {
            info!(network = "tcp", %address, "Starting SPIFFE Broker Endpoint");
        }
        let router = Router::new().add_service(BrokerService(api));
        let router = with_reflection(router, &["spiffe.broker.API"]);
        Self { listeners, tls, router }
    }

    /// Serves until the drain is signalled and the open calls have ended.
    pub async fn serve(self, tasks: Tasks, drain: Watcher) {
        let service = Measured::new(Guarded(self.router));
        let mut signal = drain.clone();
        let announce = async {
            signal.signalled().await;
            info!("Stopping SPIFFE Broker Endpoint");
        };
        let local = async {
            let Some(unix) = self.listeners.unix else { return };
            let (incoming, limits) = (UntrackedIncoming::from(unix), TlsLimits::default());
            let incoming = LocalTlsIncoming::new(incoming, &self.tls, limits, tasks.clone());
            serve(incoming, service.clone(), limits_of(&Limits::unix()), drain.clone()).await;
        };
        let remote = async {
            let Some(tcp) = self.listeners.tcp else { return };
            let incoming = TlsIncoming::new(tcp, &self.tls, TlsLimits::default(), tasks.clone());
            // Streams may last for months here as well; who is gone is found out.
            let limits = Limits { max_connection_age: None, ..Limits::tcp() };
            serve(incoming, service.clone(), limits_of(&limits), drain.clone()).await;
        };
        tokio::join!(announce, local, remote);
        info!("SPIFFE Broker Endpoint has stopped");
    }
}

/// A broker has a stream for each of its workloads, all on one connection.
fn limits_of(limits: &Limits) -> Limits {
    Limits {
        max_connections: 1024,
        max_concurrent_streams: 131_072,
        drain_grace: Duration::from_secs(5),
        ..limits.clone()
    }
}

/// Keeps reflection to the local socket and to callers that send the header.
#[derive(Clone)]
struct Guarded(Router);

impl Service<http::Request<Body>> for Guarded {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if let Err(status) = may_reflect(&request) {
            return Box::pin(async move { Ok(status.into_http()) });
        }
        Box::pin(self.0.call(request))
    }
}

fn may_reflect(request: &http::Request<Body>) -> Result<(), Status> {
    let path = request.uri().path();
    let reflection =
        ["/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];
    if !reflection.iter().any(|prefix| path.starts_with(prefix)) {
        return Ok(());
    }
    match connection(request.extensions()) {
        Some((false, _)) => caller::require_header(request.headers(), SECURITY_HEADER),
        Some((true, _)) => {
            Err(Status::permission_denied("server reflection is only available over Unix sockets"))
        }
        None => Err(Status::internal("no peer information available")),
    }
}
