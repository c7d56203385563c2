//! The wiring: each part is started after what it needs.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use steeple_agent_api::admin::{DebugService, LoggerService};
use steeple_agent_api::endpoint::Endpoint;
use steeple_agent_api::rate_limit::RateLimits;
use steeple_agent_api::workload::WorkloadApi;
use steeple_agent_core::attest::{AttestLimits, WorkloadAttestation};
use steeple_agent_core::bundle::CachedBundle;
use steeple_agent_core::cache::IdentityCache;
use steeple_agent_core::jwt::{DEFAULT_CACHE_HIT_TIMEOUT, JwtSvids};
use steeple_agent_core::node::{BOOTSTRAP_INTERVAL, BOOTSTRAP_PATIENCE, Refusal};
use steeple_agent_core::sync::BatchSize;
use steeple_config::{AgentConfig, Notice, NoticeKind, WorkloadKeyType};
use steeple_net::tls::{ClientTls, Roots, TlsPolicy};
use steeple_ops::Program;
use steeple_pki::{Bundle, KeyType};
use steeple_plugin::WorkloadAttestor;
use steeple_runtime::log::LogHandle;
use steeple_runtime::{Backoff, Clock, SystemClock, Tasks, VERSION, Watcher, drain, signal};
use steeple_spiffe::SpiffeId;
use tracing::{error, info, warn};

use crate::attestation::NodeAttestation;
use crate::credentials::{AgentSvid, Credentials};
use crate::data::DataFile;
use crate::error::AgentError;
use crate::health::{self, Started};
use crate::manager::rotator::renewal_rule;
use crate::manager::taint::Sweeps;
use crate::manager::{Manager, Settings, SyncState};
use crate::plugins::{Plugins, RunningPlugins};
use crate::server::{ServerClient, ServerJwtSource};
use crate::telemetry;
use crate::trust::TrustSource;

/// Runs the agent until `shutdown` completes.
///
/// # Errors
/// When it cannot start, or the server will have no more of it.
pub async fn run(
    config: AgentConfig,
    notices: Vec<Notice>,
    log: LogHandle,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    tell(&notices);
    let agent = Agent { config, log, clock: Arc::new(SystemClock) };
    agent.run(shutdown).await
}

/// An agent that was not started yet.
pub struct Agent {
    /// What it runs by.
    pub config: AgentConfig,
    /// Its log, which it may reopen and turn up.
    pub log: LogHandle,
    /// Its time.
    pub clock: Arc<dyn Clock>,
}

impl Agent {
    /// Runs until `shutdown` completes.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), AgentError> {
        let (trigger, watcher) = drain::channel();
        let tasks = Tasks::new();
        let plugins = OnceLock::new();
        let outcome = {
            let serving = self.serve(&tasks, &watcher, &plugins);
            tokio::pin!(serving, shutdown);
            tokio::select! {
                outcome = &mut serving => outcome,
                task = tasks.panicked() => Err(AgentError::Panicked(task)),
                () = &mut shutdown => Ok(()),
            }
        };
        drop(watcher);
        trigger.drain(DRAIN_GRACE).await;
        if let Some(plugins) = plugins.get() {
            plugins.close().await;
        }
        outcome
    }

    async fn serve(
        &self,
        tasks: &Tasks,
        watcher: &Watcher,
        running_plugins: &OnceLock<RunningPlugins>,
    ) -> Result<(), AgentError> {
        let config = &self.config;
        info!(data_dir = %config.data_dir.display(), version = VERSION, "Starting agent");
        let program = telemetry::program(config, &self.clock);
        let _telemetry =
            steeple_ops::telemetry::start(&config.telemetry, &program, tasks, watcher).await?;
        if let Some(profiling) = &config.profiling {
            steeple_ops::profiling::start(profiling, &program, tasks, watcher);
        }
        let data = Arc::new(DataFile::open(&config.data_dir)?);
        self.watch_signals(tasks, watcher);
        // Caught from here on: it must not end the process while plugins are loaded.
        let reconfigure = signal::on_usr1();
        let (plugins, running) = Plugins::load(config).await?;
        if let Ok(signals) = reconfigure {
            tasks.spawn("reconfigurer", running.clone().reconfigure(signals, watcher.clone()));
        }
        let _ = running_plugins.set(running);
        let started = Started::default();
        self.watch_health(&started, tasks, watcher);
        let (manager, attestors) = self.become_agent(plugins, &data, &program).await?;
        if telemetry::needs_bundles(config) {
            let (cache, book) = (manager.cache.clone(), program.bundles.clone());
            let following = telemetry::follow_bundles(cache, book, watcher.clone());
            tasks.spawn("telemetry_bundles", following);
        }
        self.initialize(&manager).await?;
        self.open_sockets(&manager, attestors, tasks, watcher)?;
        started.set();
        let mut running = Running(true);
        let outcome = manager.run(watcher.clone()).await;
        running.0 = false;
        outcome
    }

    fn watch_signals(&self, tasks: &Tasks, watcher: &Watcher) {
        match signal::on_usr2() {
            Ok(signals) => {
                tasks.spawn(
                    "log_reopener",
                    signal::reopen_log(self.log.clone(), signals, watcher.clone()),
                );
            }
            Err(error) => warn!(%error, "Log files cannot be reopened by signal"),
        }
    }

    fn watch_health(&self, started: &Started, tasks: &Tasks, watcher: &Watcher) {
        let socket = workload_socket(&self.config).map(Path::to_owned);
        let health = health::checks(socket, started.clone());
        let checks = self.config.health_checks.clone();
        let (started, mut drain, own) = (started.clone(), watcher.clone(), tasks.clone());
        tasks.spawn("health", async move {
            tokio::select! {
                () = started.wait() => {}
                () = drain.signalled() => return,
            }
            if checks.listener_enabled {
                let listening = health.clone().listen(checks, drain.clone());
                own.spawn("health_listener", listening);
            }
            health.watch(None, drain).await;
        });
    }

    /// Attests, or takes up the stored identity.
    async fn become_agent(
        &self,
        plugins: Plugins,
        data: &Arc<DataFile>,
        program: &Program,
    ) -> Result<(Arc<Manager>, Vec<Arc<dyn WorkloadAttestor>>), AgentError> {
        let config = &self.config;
        let attestation = NodeAttestation {
            trust_domain: config.trust_domain.clone(),
            server_host: config.server_address.clone(),
            server_port: config.server_port,
            tls: tls_policy(config),
            key_manager: plugins.key_manager,
            evidence: plugins.node_evidence,
            clock: self.clock.clone(),
        };
        let source = TrustSource::new(config, data);
        let rebootstrap = source.may_rebootstrap()?;
        let (svid, bundle) = self.attest(&attestation, data, rebootstrap).await?;
        let rebootstrap = rebootstrap && source.may_rebootstrap()?;
        if !svid.reattestable && plugins.key_manager_name == "memory" {
            warn!(
                "Node attestation is not reattestable and the 'memory' key manager is in use; if the agent process is restarted, it will be unable to obtain a new SVID and will need to be manually evicted to be able to re-attest."
            );
        }
        let manager = self.manager(attestation, svid, bundle, data, rebootstrap, program)?;
        Ok((Arc::new(manager), plugins.workload_attestors))
    }

    /// Tries for a minute, unless the server says no.
    async fn attest(
        &self,
        attestation: &NodeAttestation,
        data: &DataFile,
        rebootstrap: bool,
    ) -> Result<(AgentSvid, Bundle), AgentError> {
        let source = TrustSource::new(&self.config, data);
        let mut patience = Patience::new(patience(rebootstrap));
        loop {
            let outcome = match source.first_trust(self.clock.now()).await {
                Ok(trust) => attestation.begin(data, trust).await,
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok((svid, bundle)) => {
                    source.succeeded(self.clock.now())?;
                    data.store_bundle(bundle.certificates().cloned().collect());
                    data.store_svid(svid.chain.clone(), svid.reattestable);
                    return Ok((svid, bundle));
                }
                Err(error) if error.is_denied() => return Err(error),
                Err(error) => {
                    if error.refusal() == Refusal::UnknownAuthority && source.is_bootstrap() {
                        info!("Trust Bundle and Server don't agree, bootstrapping again");
                    }
                    error
                }
            };
            if rebootstrap && error.refusal() == Refusal::UnknownAuthority {
                source.disagrees(self.clock.now())?;
            }
            patience.wait("Failed to retrieve attestation result", error).await?;
        }
    }

    fn manager(
        &self,
        attestation: NodeAttestation,
        svid: AgentSvid,
        bundle: Bundle,
        data: &Arc<DataFile>,
        rebootstrap: bool,
        program: &Program,
    ) -> Result<Manager, AgentError> {
        let config = &self.config;
        let experimental = &config.experimental;
        let rule = renewal_rule(config);
        let credentials = Arc::new(Credentials::new(svid, rule, program.identity.clone()));
        let roots = Roots::new(bundle.certificates().cloned().collect());
        let server_id = SpiffeId::server(&config.trust_domain);
        let tls = ClientTls::new(server_id, roots.clone(), Some(credentials.slot()))
            .with_policy(tls_policy(config));
        let server = Arc::new(ServerClient::new(&config.server_address, config.server_port, tls)?);
        let hit_timeout =
            experimental.jwt_svid_cache_hit_timeout.unwrap_or(DEFAULT_CACHE_HIT_TIMEOUT);
        let jwt_source = Arc::new(ServerJwtSource::new(server.clone(), hit_timeout));
        let own_bundle = Arc::new(CachedBundle::new(bundle));
        Ok(Manager {
            attestation,
            credentials,
            server,
            roots,
            data: data.clone(),
            cache: IdentityCache::new(own_bundle, or_default(config.x509_svid_cache_max_size)),
            jwt: Arc::new(JwtSvids::new(jwt_source, or_default(config.jwt_svid_cache_max_size))),
            clock: self.clock.clone(),
            settings: Settings {
                sync_interval: experimental.sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL),
                incremental_sync: experimental.use_sync_authorized_entries,
                workload_key_type: key_type(config.workload_x509_svid_key_type),
                renewal: rule,
                rebootstrap,
                rebootstrap_delay: config.rebootstrap_delay,
            },
            state: Mutex::new(SyncState::default()),
            batch: Mutex::new(BatchSize::new()),
            sweeps: Sweeps::new(),
        })
    }

    /// The first sync, tried for a minute; then workloads may come.
    async fn initialize(&self, manager: &Manager) -> Result<(), AgentError> {
        let rebootstrap = manager.settings.rebootstrap;
        let mut patience = Patience::new(patience(rebootstrap));
        loop {
            let error = match manager.initialize().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let error = match error.refusal() {
                Refusal::Reattest | Refusal::Banned => return Err(error),
                Refusal::UnknownAuthority if rebootstrap => {
                    match manager.on_unknown_authority(error) {
                        Some(fatal) => return Err(fatal),
                        None => AgentError::Bootstrap("Trust Bundle and Server don't agree".into()),
                    }
                }
                Refusal::UnknownAuthority | Refusal::Transient => error,
            };
            patience.wait("Failed to initialize manager", error).await?;
        }
    }

    fn open_sockets(
        &self,
        manager: &Arc<Manager>,
        attestors: Vec<Arc<dyn WorkloadAttestor>>,
        tasks: &Tasks,
        watcher: &Watcher,
    ) -> Result<(), AgentError> {
        let config = &self.config;
        let own_pid = i32::try_from(std::process::id()).expect("process ids are positive");
        let attestation =
            Arc::new(WorkloadAttestation::new(attestors, AttestLimits::default(), own_pid));
        match &config.socket_path {
            Some(path) => {
                let api = (!config.disable_workload_api)
                    .then(|| Arc::new(self.workload_api(manager, attestation, watcher)));
                let endpoint = Endpoint::workload(path, api)?;
                tasks.spawn("agent_apis", endpoint.serve(watcher.clone()));
            }
            None => info!(
                apis = "Workload and SDS APIs",
                "Skipping agent APIs because public endpoint is disabled"
            ),
        }
        if let Some(path) = &config.admin_socket_path {
            let debug = DebugService::new(
                manager.credentials.clone(),
                manager.cache.clone(),
                manager.jwt.clone(),
                self.clock.clone(),
            );
            let endpoint = Endpoint::admin(path, debug, LoggerService::new(self.log.clone()))?;
            tasks.spawn("admin_apis", endpoint.serve(watcher.clone()));
        }
        Ok(())
    }

    fn workload_api(
        &self,
        manager: &Manager,
        attestation: Arc<WorkloadAttestation>,
        watcher: &Watcher,
    ) -> WorkloadApi {
        let config = &self.config;
        WorkloadApi {
            cache: manager.cache.clone(),
            jwt: manager.jwt.clone(),
            attestation,
            trust_domain: config.trust_domain.clone(),
            allow_unauthenticated_verifiers: config.allow_unauthenticated_verifiers,
            allowed_foreign_jwt_claims: config.allowed_foreign_jwt_claims.iter().cloned().collect(),
            log_selectors: config.log_selectors.clone(),
            rate_limits: RateLimits::default(),
            clock: self.clock.clone(),
            drain: watcher.clone(),
        }
    }
}

/// Attempts with growing pauses, up to a limit in all.
struct Patience {
    pauses: Backoff,
    since: Instant,
    limit: Duration,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { pauses: Backoff::with_default_max(BOOTSTRAP_INTERVAL), since: Instant::now(), limit }
    }

    /// Waits before the next attempt, or gives the failure back for good.
    async fn wait(&mut self, line: &'static str, error: AgentError) -> Result<(), AgentError> {
        let pause = self.pauses.next();
        if self.since.elapsed() + pause > self.limit {
            return Err(error);
        }
        let retry_interval = steeple_runtime::duration::format_go(pause);
        warn!(%error, retry_interval, "{line}");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

fn patience(rebootstrap: bool) -> Duration {
    if rebootstrap { REBOOTSTRAP_PATIENCE } else { BOOTSTRAP_PATIENCE }
}

/// Says so when the manager is dropped at its work, which is how a signal ends it.
struct Running(bool);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0 {
            info!(subsystem_name = "manager", "Cache manager stopped");
        }
    }
}

fn workload_socket(config: &AgentConfig) -> Option<&Path> {
    config.socket_path.as_deref().filter(|_| !config.disable_workload_api)
}

fn key_type(configured: WorkloadKeyType) -> KeyType {
    match configured {
        WorkloadKeyType::EcP256 => KeyType::EcP256,
        WorkloadKeyType::EcP384 => KeyType::EcP384,
        WorkloadKeyType::Rsa2048 => KeyType::Rsa2048,
    }
}

fn or_default(size: usize) -> usize {
    if size == 0 { DEFAULT_CACHE_SIZE } else { size }
}

/// What the author of the configuration should know, into the log.
fn tell(notices: &[Notice]) {
    for notice in notices {
        match notice.kind {
            NoticeKind::Deprecated => {
                warn!(alert = true, alert_type = "deprecated_config", "{}", notice.text);
            }
            NoticeKind::Info => info!("{}", notice.text),
            NoticeKind::Warning => warn!("{}", notice.text),
            NoticeKind::NotAvailable | NoticeKind::NoEffect => warn!("{notice}"),
        }
    }
}

fn tls_policy(config: &AgentConfig) -> TlsPolicy {
    TlsPolicy { require_pq_kem: config.experimental.require_pq_kem }
}

/// Says in the log how the agent ended; gives the exit code.
pub(crate) fn conclude(outcome: &Result<(), AgentError>) -> i32 {
    match outcome {
        Ok(()) => {
            info!("Agent stopped gracefully");
            0
        }
        Err(error) => {
            error!(%error, "Agent crashed");
            1
        }
    }
}

const DEFAULT_CACHE_SIZE: usize = 1000;
const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(5);
const REBOOTSTRAP_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
const DRAIN_GRACE: Duration = Duration::from_secs(10);
