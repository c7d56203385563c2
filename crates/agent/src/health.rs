//! The HTTP health listener: `/live` and `/ready`.
//!
//! The agent is ready when its own Workload API answers. It asks every second
//! until that is so, then once a minute; requests are answered from the last
//! result.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use steeple_config::HealthChecks;
use steeple_runtime::{Tasks, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, error, info, warn};

use crate::error::AgentError;

/// What the listener answers from.
pub(crate) struct Health {
    socket: Option<PathBuf>,
    started: AtomicBool,
    available: AtomicBool,
}

impl Health {
    /// Asks over `socket`; with none (the Workload API is off) the agent is
    /// healthy once it has started.
    pub(crate) fn new(socket: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { socket, started: false.into(), available: false.into() })
    }

    /// The sockets are being served.
    pub(crate) fn started(&self) {
        self.started.store(true, Ordering::SeqCst);
    }

    /// Until the sockets are served, but no longer than `limit`.
    pub(crate) async fn wait_until_started(&self, limit: Duration) {
        let waiting = async {
            while !self.has_started() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = tokio::time::timeout(limit, waiting).await;
    }

    fn has_started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }

    fn is_ready(&self) -> bool {
        self.available.load(Ordering::SeqCst)
    }

    fn is_live(&self) -> bool {
        !self.has_started() || self.is_ready()
    }

    async fn check(&self) {
        let available = match &self.socket {
            None => self.has_started(),
            Some(socket) => {
                let answer = tokio::time::timeout(
                    CHECK_TIMEOUT,
                    steeple_agent_api::health::fetch_x509_bundles(socket),
                );
                match answer.await {
                    Ok(Err(status)) => status.code() != tonic::Code::Unavailable,
                    Ok(Ok(())) => true,
                    Err(_) => false,
                }
            }
        };
        self.available.store(available, Ordering::SeqCst);
    }

    /// Keeps the result fresh until the drain is signalled.
    pub(crate) async fn watch(self: Arc<Self>, mut drain: Watcher) {
        debug!(subsystem_name = SUBSYSTEM, "Initializing health checkers");
        let mut failing_since: Option<Instant> = None;
        let mut failures = 0u32;
        loop {
            self.check().await;
            match (self.is_ready(), failing_since) {
                (true, Some(since)) => {
                    info!(
                        subsystem_name = SUBSYSTEM,
                        check = "agent",
                        failures,
                        duration = since.elapsed().as_secs_f64(),
                        "Health check recovered"
                    );
                    (failing_since, failures) = (None, 0);
                }
                (true, None) => {}
                (false, since) => {
                    failures += 1;
                    let reason = if self.is_live() {
                        "subsystem is not ready"
                    } else {
                        "subsystem is not live or ready"
                    };
                    match (self.has_started(), since) {
                        (true, _) => error!(
                            subsystem_name = SUBSYSTEM,
                            check = "agent",
                            error = reason,
                            "Health check has failed"
                        ),
                        (false, None) => warn!(
                            subsystem_name = SUBSYSTEM,
                            check = "agent",
                            error = reason,
                            "Health check has failed. Starting up still."
                        ),
                        (false, Some(_)) => {}
                    }
                    failing_since = since.or_else(|| Some(Instant::now()));
                }
            }
            let pause = if self.is_ready() { STEADY_INTERVAL } else { FIRST_INTERVAL };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = drain.signalled() => break,
            }
        }
        debug!(subsystem_name = SUBSYSTEM, "Finishing health checker");
    }

    fn answer(&self, path: &str, checks: &HealthChecks) -> Response<Full<Bytes>> {
        let unavailable = || json!({ "make_new_x509_err": "workload api is unavailable" });
        let (healthy, show) = if path == checks.live_path {
            (self.is_live(), self.has_started() && !self.is_ready())
        } else if path == checks.ready_path {
            (self.is_ready(), !self.is_ready())
        } else {
            return response(
                StatusCode::NOT_FOUND,
                "text/plain; charset=utf-8",
                "404 page not found\n".into(),
            );
        };
        let details = if show && self.socket.is_some() { unavailable() } else { json!({}) };
        let status = if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        response(status, "application/json", format!("{}\n", json!({ "agent": details })))
    }
}

/// Listens until the drain is signalled.
pub(crate) async fn listen(
    health: Arc<Health>,
    checks: HealthChecks,
    tasks: Tasks,
    mut drain: Watcher,
) -> Result<(), AgentError> {
    let host = checks.bind_address.trim_matches(['[', ']']);
    let address = if host.contains(':') {
        format!("[{host}]:{}", checks.bind_port)
    } else {
        format!("{host}:{}", checks.bind_port)
    };
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|source| AgentError::Health { address: address.clone(), source })?;
    info!(subsystem_name = SUBSYSTEM, address, "Serving health checks");
    let (checks, slots) = (Arc::new(checks), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let slot = slots.clone().acquire_owned().await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.signalled() => return Ok(()),
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (health, checks) = (health.clone(), checks.clone());
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
    let _ = tokio::time::timeout(2 * HEADER_TIMEOUT, connection).await;
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// How long the listener waits for the sockets before it serves all the same.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(8);
const SUBSYSTEM: &str = "health";
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const STEADY_INTERVAL: Duration = Duration::from_secs(60);
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 64;
