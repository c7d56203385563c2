//! Metrics of every call on the agent's sockets.

use std::convert::Infallible;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use steeple_agent_core::cache::Update;
use steeple_net::outcome;
use steeple_peer::Peer;
use steeple_telemetry::rpc;
use steeple_telemetry::{gauge, incr, measure};
use tonic::body::Body;
use tower_service::Service;

/// A service whose calls are counted and timed.
#[derive(Clone)]
pub(crate) struct Measured<S> {
    inner: S,
    own_pid: i32,
}

impl<S> Measured<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, own_pid: i32::try_from(std::process::id()).unwrap_or(0) }
    }
}

impl<S> Service<Request<Body>> for Measured<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let known = known(request.uri().path());
        // The agent's own look at its health counts for nothing.
        let own = request.extensions().get::<Peer>().is_some_and(|it| it.pid() == self.own_pid);
        let Some(api) = known.filter(|_| !own) else {
            return Box::pin(self.inner.call(request));
        };
        let traceparent = request.headers().get("traceparent").and_then(|it| it.to_str().ok());
        let rpc = rpc::call(request.uri().path(), traceparent);
        if !rpc.is_recorded() {
            return Box::pin(self.inner.call(request));
        }
        let open = api.map(Open::new);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = rpc.scope(answer).await?;
            Ok(outcome::watch(response, move |code| {
                drop(open);
                rpc.status(outcome::code_name(code));
            }))
        })
    }
}

/// An API whose open calls are counted as connections, as SPIRE has it.
struct Api {
    connection: [&'static str; 2],
    connections: [&'static str; 2],
    open: AtomicI64,
}

macro_rules! api {
    ($static:ident, $name:literal) => {
        static $static: Api = Api {
            connection: [$name, "connection"],
            connections: [$name, "connections"],
            open: AtomicI64::new(0),
        };
    };
}

api!(WORKLOAD, "workload_api");
api!(SDS, "sds_api");
api!(DEBUG, "debug_api");
api!(LOGGER, "logger_api");
api!(DELEGATED, "delegated_identity_api");

/// A call that is open.
struct Open(&'static Api);

impl Open {
    fn new(api: &'static Api) -> Self {
        incr(&api.connection, 1.0, &[]);
        let open = api.open.fetch_add(1, Ordering::Relaxed) + 1;
        gauge(&api.connections, open as f64, &[]);
        Self(api)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open = self.0.open.fetch_sub(1, Ordering::Relaxed) - 1;
        gauge(&self.0.connections, open as f64, &[]);
    }
}

/// Whether a path is that of a method which exists here, and of which API:
/// what a caller makes up must not become a metric.
fn known(path: &str) -> Option<Option<&'static Api>> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (api, methods): (_, &[&str]) = match service {
        "SpiffeWorkloadAPI" => (
            Some(&WORKLOAD),
            &[
                "FetchX509SVID",
                "FetchX509Bundles",
                "FetchJWTSVID",
                "FetchJWTBundles",
                "ValidateJWTSVID",
                "FetchWITSVID",
                "FetchWITBundles",
            ],
        ),
        "envoy.service.secret.v3.SecretDiscoveryService" => {
            (Some(&SDS), &["DeltaSecrets", "StreamSecrets", "FetchSecrets"])
        }
        "spire.agent.debug.v1.Debug" => (Some(&DEBUG), &["GetInfo"]),
        "spire.api.agent.logger.v1.Logger" => {
            (Some(&LOGGER), &["GetLogger", "SetLogLevel", "ResetLogLevel"])
        }
        "spire.api.agent.delegatedidentity.v1.DelegatedIdentity" => (
            Some(&DELEGATED),
            &[
                "SubscribeToX509SVIDs",
                "SubscribeToX509Bundles",
                "FetchJWTSVIDs",
                "SubscribeToJWTBundles",
            ],
        ),
        "steeple.agent.delegation.v1.Delegation" => (Some(&DELEGATED), &["WatchX509SVIDs"]),
        "spiffe.broker.API" => (
            None,
            &[
                "SubscribeToX509SVID",
                "SubscribeToX509Bundles",
                "FetchJWTSVID",
                "SubscribeToJWTBundles",
            ],
        ),
        "steeple.agent.explain.v1.Explain" => (None, &["ExplainWorkload"]),
        "grpc.health.v1.Health" => (None, &["Check", "List", "Watch"]),
        "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
            (None, &["ServerReflectionInfo"])
        }
        _ => return None,
    };
    methods.contains(&method).then_some(api)
}

/// How long the first SVID of a stream took, said once, under the name that SPIRE has for delegates
/// and brokers.
pub(crate) fn note_first(first_svid: &mut Option<Instant>, update: &Update) {
    if update.has_identity()
        && let Some(started) = first_svid.take()
    {
        let key =
            &["delegated_identity_api", "subscribe_x509_svids", "first_update", "elapsed_time"];
        measure(key, started, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::known;

    #[test]
    fn only_what_exists_is_named() {
        assert!(known("/SpiffeWorkloadAPI/FetchX509SVID").is_some_and(|api| api.is_some()));
        assert!(known("/grpc.health.v1.Health/Check").is_some_and(|api| api.is_none()));
        for made_up in
            ["", "/", "/SpiffeWorkloadAPI/Fetch", "/a/b", "SpiffeWorkloadAPI/FetchX509SVID"]
        {
            assert!(known(made_up).is_none(), "{made_up:?}");
        }
    }
}
