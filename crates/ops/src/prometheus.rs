//! The listener that Prometheus scrapes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use http_body_util::Full;
use steeple_config::{PrometheusConfig, PrometheusTlsConfig};
use steeple_runtime::{Tasks, Watcher};
use steeple_spiffe::SpiffeId;
use steeple_telemetry::process::Process;
use steeple_telemetry::prometheus::{CONTENT_TYPE as TEXT_FORMAT, Prometheus};
use steeple_web::{CertFiles, CertSource, ClientAuth, Request, Response};
use steeple_web::{Tls, TlsOptions, serve};

use crate::telemetry::TelemetryError;
use crate::{Program, bind_in_time};

const SUBSYSTEM: &str = "telemetry";

/// Starts the exporter. A port that is taken is a warning: SPIRE goes on too.
pub(crate) async fn start(
    config: &PrometheusConfig,
    sink: &Arc<Prometheus>,
    program: &Program,
    tasks: &Tasks,
    drain: &Watcher,
) -> Result<(), TelemetryError> {
    if config.host != "localhost" {
        tracing::warn!(
            subsystem_name = SUBSYSTEM,
            "Agent is now configured to accept remote network connections for Prometheus stats \
             collection. Please ensure access to this port is tightly controlled"
        );
    }
    tracing::info!(
        subsystem_name = SUBSYSTEM,
        host = config.host,
        port = config.port,
        "Starting prometheus exporter"
    );
    let tls = match &config.tls {
        None => None,
        Some(tls) => {
            let made = Tls::new(options(tls, program)?, tasks, drain).await;
            Some(made.map_err(|error| TelemetryError::Tls(error.to_string()))?)
        }
    };
    let address = format!("{}:{}", config.host, config.port);
    let (sink, drain) = (Arc::clone(sink), drain.clone());
    tasks.spawn("prometheus", async move {
        if let Err(error) = run(address, tls, sink, drain).await {
            tracing::warn!(
                subsystem_name = SUBSYSTEM,
                "Prometheus listener stopped unexpectedly: {error}"
            );
        }
    });
    Ok(())
}

async fn run(
    address: String,
    tls: Option<Tls>,
    sink: Arc<Prometheus>,
    drain: Watcher,
) -> std::io::Result<()> {
    let warn = |error: &std::io::Error| {
        tracing::warn!(
            subsystem_name = SUBSYSTEM,
            "Prometheus listener stopped unexpectedly: {error}"
        );
    };
    let Some(listener) = bind_in_time(address, drain.clone(), warn).await? else { return Ok(()) };
    let handler = move |request: Request| {
        let answer = scrape(&sink, &request);
        async move { answer }
    };
    serve(listener, tls, handler, crate::health::limits(), drain).await;
    Ok(())
}

/// Any path and method, as in SPIRE.
fn scrape(sink: &Prometheus, request: &Request) -> Response {
    let text = sink.render(Instant::now()) + &Process::read().render();
    let accepted = request.headers().get("accept-encoding").and_then(|it| it.to_str().ok());
    let gzip = accepted.unwrap_or_default().split(',').any(|it| it.trim().starts_with("gzip"));
    let compressed = gzip.then(|| crate::profiling::gzip(text.as_bytes()).ok()).flatten();
    let is_compressed = compressed.is_some();
    let body = compressed.map_or_else(|| Bytes::from(text), Bytes::from);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
    if is_compressed {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// What the `tls` block asks for, with SPIRE's words for what contradicts.
fn options(tls: &PrometheusTlsConfig, program: &Program) -> Result<TlsOptions, TelemetryError> {
    let wrong = |text: &str| Err(TelemetryError::Tls(text.to_owned()));
    let source = match (&tls.cert_file, &tls.key_file, tls.use_spire_svid) {
        (None, None, true) => CertSource::Slot(program.identity.clone()),
        (_, _, true) => {
            return wrong(
                "cert_file and key_file cannot be configured when use_spire_svid is enabled",
            );
        }
        (Some(cert), Some(key), false) => {
            CertSource::Files(CertFiles {
                cert: cert.clone(),
                key: key.clone(),
                // SPIRE reads them once; a renewed certificate should not need a restart.
                sync_interval: Some(Duration::from_secs(60)),
            })
        }
        (_, _, false) => {
            return wrong(
                "cert_file and key_file must both be configured unless use_spire_svid is enabled",
            );
        }
    };
    let clients = match (tls.authorized_spiffe_ids.as_slice(), &tls.client_ca_file) {
        ([], None) => ClientAuth::None,
        // SPIRE looks at the file only when it serves with certificate files.
        ([], Some(_)) if tls.use_spire_svid => ClientAuth::None,
        ([], Some(file)) => ClientAuth::CaFile(file.clone()),
        (_, Some(_)) => {
            return wrong("client_ca_file cannot be configured with authorized_spiffe_ids");
        }
        (ids, None) => {
            let mut authorized = Vec::new();
            for text in ids {
                let id = SpiffeId::parse(text).map_err(|error| {
                    let text: String = text.chars().take(100).collect();
                    TelemetryError::Tls(format!("invalid authorized SPIFFE ID {text:?}: {error}"))
                })?;
                authorized.push(id);
            }
            ClientAuth::Spiffe { authorized, bundles: Arc::new(program.bundles.clone()) }
        }
    };
    Ok(TlsOptions {
        source,
        clients,
        require_pq_kem: program.require_pq_kem,
        subsystem: Some(SUBSYSTEM),
    })
}
