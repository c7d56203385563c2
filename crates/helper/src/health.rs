//! Whether every file was written, for those who look from outside.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::SYSTEM;
use crate::config::{Config, HealthConfig};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Not,
    Failed,
    Done,
}

/// What became of every file; shared.
#[derive(Clone)]
pub(crate) struct Health(Arc<Mutex<State>>);

struct State {
    x509: Option<Written>,
    jwt: BTreeMap<String, Written>,
}

impl Health {
    /// Nothing is written yet.
    pub(crate) fn new(config: &Config) -> Self {
        let tokens = config.jwt_svids.iter().map(|it| &it.file);
        let names = config.jwt_bundle_file.iter().chain(tokens);
        let jwt = names.map(|name| (key(config, name), Written::Not)).collect();
        let x509 = config.x509.as_ref().map(|_| Written::Not);
        Self(Arc::new(Mutex::new(State { x509, jwt })))
    }

    pub(crate) fn x509(&self, written: Written) {
        self.lock().x509 = Some(written);
    }

    pub(crate) fn jwt(&self, config: &Config, name: &str, written: Written) {
        self.lock().jwt.insert(key(config, name), written);
    }

    /// No file failed.
    pub(crate) fn is_live(&self) -> bool {
        self.all(|written| written != Written::Failed)
    }

    /// Every file is there.
    pub(crate) fn is_ready(&self) -> bool {
        self.all(|written| written == Written::Done)
    }

    fn all(&self, holds: impl Fn(Written) -> bool) -> bool {
        let state = self.lock();
        state.x509.iter().chain(state.jwt.values()).all(|written| holds(*written))
    }

    fn body(&self, status: http::StatusCode) -> String {
        let state = self.lock();
        let jwt: BTreeMap<_, _> = state.jwt.iter().map(|(name, it)| (name, it.word())).collect();
        let mut files = serde_json::json!({ "jwt_write_status": jwt });
        if let Some(x509) = state.x509 {
            files["x509_write_status"] = x509.word().into();
        }
        serde_json::json!({
            "status": status.canonical_reason(),
            "health": { "file_write_statuses": files },
        })
        .to_string()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds the state")
    }
}

impl Written {
    fn word(self) -> &'static str {
        match self {
            Self::Not => "unwritten",
            Self::Failed => "failed",
            Self::Done => "written",
        }
    }
}

fn key(config: &Config, name: &str) -> String {
    config.cert_dir.join(name).display().to_string()
}

/// Answers until it is dropped. A port that is taken is told, and no reason to
/// stop.
pub(crate) async fn serve(config: HealthConfig, health: Health) {
    info!(system = SYSTEM, "Starting health server");
    let listener = match listen(config.port).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!(system = SYSTEM, %error, "Error serving health checks");
            return std::future::pending().await;
        }
    };
    let config = Arc::new(config);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (config, health) = (config.clone(), health.clone());
        connections.spawn(async move {
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let response = answer(&config, &health, request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIME)
                .keep_alive(false)
                .max_buf_size(MAX_REQUEST)
                .serve_connection(TokioIo::new(stream), answer);
            // Whoever asks too slowly, or breaks off, is not worth a line.
            let _ = tokio::time::timeout(2 * REQUEST_TIME, served).await;
            drop(place);
        });
    }
}

async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
    }
}

fn answer(config: &HealthConfig, health: &Health, path: &str) -> http::Response<Full<Bytes>> {
    let good = if path == config.liveness_path {
        health.is_live()
    } else if path == config.readiness_path {
        health.is_ready()
    } else {
        let mut response = http::Response::new(Full::new(Bytes::from("404 page not found\n")));
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        return response;
    };
    let status = if good { http::StatusCode::OK } else { http::StatusCode::SERVICE_UNAVAILABLE };
    let mut response = http::Response::new(Full::new(Bytes::from(health.body(status))));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

const MAX_CONNECTIONS: usize = 16;
const MAX_REQUEST: usize = 8 * 1024;
const REQUEST_TIME: Duration = Duration::from_secs(5);
