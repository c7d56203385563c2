//! The running program: sockets, tasks, and their end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::USER_AGENT;
use steeple_runtime::drain::{self, Tasks, Watcher};
use steeple_runtime::log::{LogError, LogHandle};
use steeple_runtime::signal;
use steeple_runtime::version::VERSION;
use steeple_web::acme::AcmeOptions;
use steeple_web::{
    CertFiles, CertSource, Client, ClientAuth, Limits, ListenError, Listener, Request, Tls,
    TlsError, TlsOptions, serve,
};
use tokio::time::Instant;

use crate::config::{Config, ConfigError, Listen};
use crate::domains::DomainError;
use crate::health::Health;
use crate::provider::Provider;
use crate::source::{Origin, Source};

/// How long open requests may go on at the end.
const GRACE: Duration = Duration::from_secs(10);

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Domain(#[from] DomainError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("task {0} panicked")]
    Panicked(&'static str),
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn run(mut config: Config, log: LogHandle) -> Result<(), AppError> {
    let shutdown = signal::shutdown();
    let tasks = Tasks::new();
    let (drain, watcher) = drain::channel();
    tasks.spawn("log_reopen", signal::reopen_log(log, signal::on_usr2()?, watcher.clone()));
    if config.allow_insecure_scheme {
        tracing::warn!(
            "allow_insecure_scheme is enabled. JWKS keys will be served over HTTP. Only enable \
             this when the network path to the provider is trusted end-to-end (for example, when \
             TLS is terminated at a trusted reverse proxy or load balancer on a private network)"
        );
    }
    let (interval, health) = (config.poll_interval, config.health.take());
    let origin = Origin::new(&config.origin)?;
    let source = Source::start(origin, interval, config.set_key_use, &tasks, watcher.clone());
    let provider = Arc::new(Provider::new(&config, Arc::clone(&source))?);
    if config.log_requests {
        tracing::info!("Logging all requests");
    }
    let (listener, tls) = listen(&config, &tasks, &watcher).await?;
    if let Some(health) = health {
        let started = Instant::now();
        let port = health.port;
        let health = Arc::new(Health::new(health, source, interval, started));
        tasks.spawn("health_checks", serve_health(health, port, watcher.clone()));
    }
    let log_requests = config.log_requests;
    let handler = move |request: Request| {
        let provider = Arc::clone(&provider);
        async move {
            let client = request.extensions().get::<Client>();
            let encrypted = client.is_some_and(|it| it.tls.is_some());
            if log_requests {
                log_request(&request, client);
            }
            provider.answer(&request, encrypted)
        }
    };
    tasks.spawn("provider", serve(listener, tls, handler, Limits::default(), watcher));
    let panicked = tokio::select! {
        () = shutdown => None,
        task = tasks.panicked() => Some(task),
    };
    drain.drain(GRACE).await;
    panicked.map_or(Ok(()), |task| Err(AppError::Panicked(task)))
}

async fn listen(
    config: &Config,
    tasks: &Tasks,
    drain: &Watcher,
) -> Result<(Listener, Option<Tls>), AppError> {
    let tls = async |source| {
        let options = TlsOptions {
            source,
            clients: ClientAuth::None,
            require_pq_kem: false,
            subsystem: None,
        };
        Tls::new(options, tasks, drain).await
    };
    Ok(match &config.listen {
        Listen::Http(address) => {
            let listener = Listener::tcp(address).await?;
            tracing::warn!(address, "Serving HTTP (insecure)");
            (listener, None)
        }
        Listen::Unix(path) => {
            // Whoever can reach it may ask, as with SPIRE: its directory decides who can.
            let listener = Listener::unix(path, 0o777)?;
            tracing::info!(network = "unix", address = %path.display(), "Serving HTTP");
            (listener, None)
        }
        Listen::Files { addr, cert, key, sync_interval } => {
            let (cert_file_path, sync_interval) = (cert.display(), Some(*sync_interval));
            let files = CertFiles { cert: cert.clone(), key: key.clone(), sync_interval };
            let tls = tls(CertSource::Files(files)).await?;
            let listener = Listener::tcp(addr).await?;
            tracing::info!(
                %cert_file_path,
                address = addr,
                "Serving HTTPS using certificate loaded from disk"
            );
            (listener, Some(tls))
        }
        Listen::Acme(acme) => {
            // First, for the authority checks over it.
            let listener = Listener::tcp(&acme.addr).await?;
            let options = AcmeOptions {
                directory_url: acme.directory_url.clone(),
                domains: config.domains.clone(),
                email: acme.email.clone(),
                tos_accepted: true,
                cache_dir: acme.cache_dir.clone(),
                key_manager: None,
                user_agent: format!("Steeple OIDC Discovery Provider/{VERSION}"),
                on_terms: Some(|url| tracing::info!(url, "ACME Terms Of Service accepted")),
            };
            let tls = tls(CertSource::Acme(options)).await?;
            tracing::info!("Serving HTTPS via ACME");
            (listener, Some(tls))
        }
    })
}

/// The provider goes on without its probes when their port is taken, as SPIRE's does.
async fn serve_health(health: Arc<Health>, port: u16, drain: Watcher) {
    let listener = match Listener::tcp(&format!(":{port}")).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("{error}");
            return;
        }
    };
    let handler = move |request: Request| {
        let health = Arc::clone(&health);
        async move { health.answer(&request, Instant::now()) }
    };
    serve(listener, None, handler, Limits::default(), drain).await;
}

fn log_request(request: &Request, client: Option<&Client>) {
    let short = |text: &str| text.chars().take(256).collect::<String>();
    // Go's name of a client on a Unix socket.
    let address = client.and_then(|it| it.address).map_or_else(|| "@".into(), |it| it.to_string());
    let agent = request.headers().get(USER_AGENT).and_then(|it| it.to_str().ok());
    tracing::debug!(
        "remote-addr" = address,
        method = %request.method(),
        url = short(&request.uri().to_string()),
        "user-agent" = short(agent.unwrap_or_default()),
        "Incoming request"
    );
}
