//! The server's health: four checks, and the HTTP listener that tells of them.
//!
//! Checks run every second until all is well, then once a minute; requests are
//! answered from the last results (facts SB-12..SB-17).

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use steeple_ca::{CaManager, Credentials, MAX_ROTATION_FAILURES};
use steeple_config::HealthChecks;
use steeple_proto::spire::api::server::bundle::v1::GetBundleRequest;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_runtime::{Clock, Tasks, Watcher};
use steeple_store::Store;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::ServerError;

const SUBSYSTEM: &str = "health";
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const STEADY_INTERVAL: Duration = Duration::from_secs(60);
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 64;

/// What is checked.
pub(crate) struct Health {
    pub(crate) credentials: Credentials,
    pub(crate) manager: CaManager,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) socket: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    results: Mutex<[Option<String>; 4]>,
}

/// The names of the checks, in the order of a JSON object's sorted keys.
const NAMES: [&str; 4] = ["catalog.datastore", "server", "server.ca", "server.ca.rotator"];

/// Under which key a check tells its error.
const DETAILS: [&str; 4] =
    ["list_bundle_err", "get_bundle_err", "sign_x509_svid_err", "rotation_err"];

impl Health {
    /// Nothing was checked yet, which counts as well.
    pub(crate) fn new(
        credentials: Credentials,
        manager: CaManager,
        store: Arc<dyn Store>,
        socket: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let results = Mutex::default();
        Arc::new(Self { credentials, manager, store, socket, clock, results })
    }

    /// Keeps the results fresh until the drain begins.
    pub(crate) async fn watch(self: Arc<Self>, mut drain: Watcher) {
        tracing::debug!(subsystem_name = SUBSYSTEM, "Initializing health checkers");
        let mut failing: [Option<(Instant, u32)>; 4] = [None; 4];
        let mut steady = false;
        loop {
            let results = self.check().await;
            for (at, error) in results.iter().enumerate() {
                tell(NAMES[at], error.as_deref(), &mut failing[at]);
            }
            steady |= results.iter().all(Option::is_none);
            *self.results.lock().unwrap_or_else(PoisonError::into_inner) = results;
            let pause = if steady { STEADY_INTERVAL } else { FIRST_INTERVAL };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = drain.signalled() => break,
            }
        }
        tracing::debug!(subsystem_name = SUBSYSTEM, "Finishing health checker");
    }

    async fn check(&self) -> [Option<String>; 4] {
        let datastore = async { self.store.list_bundles(None).await.map(drop).map_err(text) };
        let bundle = async { self.get_bundle().await };
        let sign = async { self.credentials.check(self.clock.now()).await.map_err(text) };
        let rotation = match self.manager.rotation_failures() > MAX_ROTATION_FAILURES {
            true => Some("rotations exceed the threshold number of failures".to_owned()),
            false => None,
        };
        let (datastore, bundle, sign) =
            tokio::join!(in_time(datastore), in_time(bundle), in_time(sign));
        [datastore, bundle, sign, rotation]
    }

    /// As any local caller would: over the socket.
    async fn get_bundle(&self) -> Result<(), String> {
        let channel = steeple_net::channel::unix(&self.socket);
        let answer = BundleClient::new(channel).get_bundle(GetBundleRequest::default()).await;
        answer.map(drop).map_err(|status| {
            format!("unable to fetch bundle: {:?}: {}", status.code(), status.message())
        })
    }

    fn answer(&self, path: &str, checks: &HealthChecks) -> Response<Full<Bytes>> {
        if path != checks.live_path && path != checks.ready_path {
            let text = "404 page not found\n".to_owned();
            return response(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", text);
        }
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut details = serde_json::Map::new();
        for (at, error) in results.iter().enumerate() {
            let error = error.as_ref().map(|error| (DETAILS[at].to_owned(), error.clone().into()));
            let object: serde_json::Map<_, _> = error.into_iter().collect();
            details.insert(NAMES[at].to_owned(), object.into());
        }
        let status = match results.iter().all(Option::is_none) {
            true => StatusCode::OK,
            false => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let body = format!("{}\n", serde_json::Value::from(details));
        response(status, "application/json", body)
    }
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

async fn in_time(check: impl Future<Output = Result<(), String>>) -> Option<String> {
    match timeout(CHECK_TIMEOUT, check).await {
        Ok(result) => result.err(),
        Err(_elapsed) => Some("context deadline exceeded".to_owned()),
    }
}

/// Logs what a check found, with upstream's lines.
fn tell(check: &str, error: Option<&str>, failing: &mut Option<(Instant, u32)>) {
    match (error, failing.take()) {
        (None, None) => {}
        (None, Some((since, failures))) => tracing::info!(
            subsystem_name = SUBSYSTEM,
            check,
            failures,
            duration = since.elapsed().as_secs_f64(),
            "Health check recovered"
        ),
        (Some(error), since) => {
            tracing::error!(
                subsystem_name = SUBSYSTEM,
                check,
                error = "subsystem is not live or ready",
                details = error,
                "Health check has failed"
            );
            let (since, failures) = since.unwrap_or_else(|| (Instant::now(), 0));
            *failing = Some((since, failures + 1));
        }
    }
}

/// Opens the HTTP listener.
pub(crate) async fn bind(checks: &HealthChecks) -> Result<TcpListener, ServerError> {
    let host = checks.bind_address.trim_matches(['[', ']']);
    let address = if host.contains(':') {
        format!("[{host}]:{}", checks.bind_port)
    } else {
        format!("{host}:{}", checks.bind_port)
    };
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|source| ServerError::Health { address: address.clone(), source })?;
    tracing::info!(subsystem_name = SUBSYSTEM, address, "Serving health checks");
    Ok(listener)
}

/// Answers until the drain begins.
pub(crate) async fn listen(
    health: Arc<Health>,
    listener: TcpListener,
    checks: HealthChecks,
    tasks: Tasks,
    mut drain: Watcher,
) {
    let (checks, slots) = (Arc::new(checks), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.signalled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (health, checks) = (Arc::clone(&health), Arc::clone(&checks));
        tasks.spawn_isolated("health_connection", async move {
            serve(stream, health, checks).await;
            drop(slot);
        });
    }
}

/// One request per connection: nobody holds a slot by saying nothing.
async fn serve(stream: TcpStream, health: Arc<Health>, checks: Arc<HealthChecks>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = health.answer(request.uri().path(), &checks);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off is of no interest.
    let _ = timeout(2 * HEADER_TIMEOUT, connection).await;
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
