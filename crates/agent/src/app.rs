//! The wiring: each part is started after what it needs.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use steeple_agent_core::bundle::CachedBundle;
use steeple_agent_core::cache::IdentityCache;
use steeple_agent_core::jwt::{DEFAULT_CACHE_HIT_TIMEOUT, JwtSvids};
use steeple_agent_core::svid_store::StoreCache;
use steeple_agent_core::sync::BatchSize;
use steeple_config::{AgentConfig, Notice, NoticeKind, WorkloadKeyType};
use steeple_net::tls::{ClientTls, Roots, TlsPolicy};
use steeple_net::unix::Sockets;
use steeple_ops::Program;
use steeple_pki::{Bundle, KeyType};
use steeple_plugin::WorkloadAttestor;
use steeple_runtime::log::LogHandle;
use steeple_runtime::{Clock, SystemClock, Tasks, VERSION, Watcher, drain, signal};
use steeple_spiffe::SpiffeId;
use tracing::{error, info, warn};

use crate::attestation::NodeAttestation;
use crate::credentials::{AgentSvid, Credentials};
use crate::data::DataFile;
use crate::endpoints::Endpoints;
use crate::error::AgentError;
use crate::handover::{self, Handover};
use crate::health::{self, Started};
use crate::manager::rotator::renewal_rule;
use crate::manager::taint::Sweeps;
use crate::manager::{Manager, Settings, SyncState};
use crate::offline::OfflineCache;
use crate::plugins::{Plugins, RunningPlugins};
use crate::server::{ServerClient, ServerJwtSource};
use crate::start::{self, Begun, Start};
use crate::svid_store::StoreService;
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
    sockets: Sockets,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    tell(&notices);
    let agent = Agent { config, log, clock: Arc::new(SystemClock), sockets };
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
    /// Where its sockets come from.
    pub sockets: Sockets,
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
                () = &mut shutdown => Ok(Ending::Stopped),
            }
        };
        if !matches!(outcome, Ok(Ending::HandedOver)) {
            handover::tell_systemd("STOPPING=1");
        }
        self.sockets.close_tcp();
        drop(watcher);
        trigger.drain(DRAIN_GRACE).await;
        if let Some(plugins) = plugins.get() {
            plugins.close().await;
        }
        outcome.map(drop)
    }

    async fn serve(
        &self,
        tasks: &Tasks,
        watcher: &Watcher,
        running_plugins: &OnceLock<RunningPlugins>,
    ) -> Result<Ending, AgentError> {
        let config = &self.config;
        info!(data_dir = %config.data_dir.display(), version = VERSION, "Starting agent");
        let program = telemetry::program(config, &self.clock);
        let _telemetry =
            steeple_ops::telemetry::start(&config.telemetry, &program, tasks, watcher).await?;
        if let Some(profiling) = &config.profiling {
            steeple_ops::profiling::start(profiling, &program, tasks, watcher);
        }
        let mut handover = Handover::begin(config).await?;
        self.watch_signals(tasks, watcher);
        let (manager, attestors, started) = tokio::select! {
            prepared = self.prepare(tasks, watcher, running_plugins, &program) => prepared?,
            error = handover.forsaken() => return Err(error),
        };
        let sockets = &self.sockets;
        handover.take_sockets(sockets).await?;
        let endpoints = Endpoints { config, clock: &self.clock, log: &self.log, sockets };
        endpoints.open(&manager, attestors, tasks, watcher)?;
        handover.serving(sockets).await;
        // Not before: until now the agent before may have to go on with what it kept.
        if manager.offline.is_some() {
            tasks.spawn("offline_cache", manager.clone().keep_offline(watcher.clone()));
        }
        started.set();
        loop {
            let mut running = Running(true);
            let (successor, still) = tokio::select! {
                outcome = Box::pin(manager.run(watcher.clone())) => {
                    running.0 = false;
                    return outcome.map(|()| Ending::Stopped);
                }
                asked = async { (handover.asked().await, manager.hold_still().await) } => asked,
            };
            drop(running);
            manager.leave(still).await;
            // Nothing is written any more, however this ends, unless we stay.
            if successor.give_way(sockets).await {
                handover.leave_door();
                return Ok(Ending::HandedOver);
            }
            manager.stay().await;
        }
    }

    /// Everything up to what takes sockets: an agent that knows what it is authorised for.
    async fn prepare(
        &self,
        tasks: &Tasks,
        watcher: &Watcher,
        running_plugins: &OnceLock<RunningPlugins>,
        program: &Program,
    ) -> Result<(Arc<Manager>, Vec<Arc<dyn WorkloadAttestor>>, Started), AgentError> {
        let config = &self.config;
        let data = Arc::new(DataFile::open(&config.data_dir)?);
        // Caught from here on: it must not end the process while plugins are loaded.
        let reconfigure = signal::on_usr1();
        let (plugins, running) = Plugins::load(config).await?;
        if let Ok(signals) = reconfigure {
            tasks.spawn("reconfigurer", running.clone().reconfigure(signals, watcher.clone()));
        }
        let _ = running_plugins.set(running);
        let started = Started::default();
        self.watch_health(&started, tasks, watcher);
        let (manager, attestors) = self.become_agent(plugins, &data, program).await?;
        if telemetry::needs_bundles(config) {
            let (cache, book) = (manager.cache.clone(), program.bundles.clone());
            let following = telemetry::follow_bundles(cache, book, watcher.clone());
            tasks.spawn("telemetry_bundles", following);
        }
        start::first_contact(&manager).await?;
        Ok((manager, attestors, started))
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
            servers: config.servers.clone(),
            tls: tls_policy(config),
            key_manager: plugins.key_manager,
            evidence: plugins.node_evidence,
            clock: self.clock.clone(),
        };
        let source = TrustSource::new(config, data);
        let rebootstrap = source.may_rebootstrap()?;
        let offline = OfflineCache::of(config, &attestation.key_manager, &plugins.key_manager_name);
        let start = Start { agent: self, attestation: &attestation, data, rebootstrap };
        let Begun { svid, bundle, kept } = start.begin(offline.as_deref()).await?;
        let rebootstrap = rebootstrap && source.may_rebootstrap()?;
        if !svid.reattestable && plugins.key_manager_name == "memory" {
            warn!(
                "Node attestation is not reattestable and the 'memory' key manager is in use; if the agent process is restarted, it will be unable to obtain a new SVID and will need to be manually evicted to be able to re-attest."
            );
        }
        let manager = self.manager(attestation, svid, bundle, data, rebootstrap, program)?;
        let store_service = StoreService::new(manager.stored.clone(), plugins.svid_stores);
        let manager = Manager { offline, store_service, ..manager };
        if let Some(kept) = kept {
            manager.restore(kept);
        }
        Ok((Arc::new(manager), plugins.workload_attestors))
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
        let seed = steeple_pki::digest::seed(svid.id());
        let credentials = Arc::new(Credentials::new(svid, rule, program.identity.clone()));
        let roots = Roots::new(bundle.certificates().cloned().collect());
        let server_id = SpiffeId::server(&config.trust_domain);
        let tls = ClientTls::new(server_id, roots.clone(), Some(credentials.slot()))
            .with_policy(tls_policy(config));
        let server = Arc::new(ServerClient::new(&config.servers, tls, seed)?);
        let hit_timeout =
            experimental.jwt_svid_cache_hit_timeout.unwrap_or(DEFAULT_CACHE_HIT_TIMEOUT);
        let jwt_source = Arc::new(ServerJwtSource::new(server.clone(), hit_timeout));
        let own_bundle = Arc::new(CachedBundle::new(bundle));
        let stored = Arc::new(StoreCache::new(own_bundle.clone()));
        Ok(Manager {
            attestation,
            credentials,
            server,
            roots,
            data: data.clone(),
            store_service: StoreService::new(stored.clone(), Vec::new()),
            stored,
            cache: IdentityCache::new(own_bundle, or_default(config.x509_svid_cache_max_size)),
            book: Arc::default(),
            jwt: Arc::new(JwtSvids::new(jwt_source, or_default(config.jwt_svid_cache_max_size))),
            clock: self.clock.clone(),
            settings: Settings {
                sync_interval: experimental.sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL),
                incremental_sync: experimental.use_sync_authorized_entries,
                push: !experimental.disable_push,
                workload_key_type: key_type(config.workload_x509_svid_key_type),
                renewal: rule,
                rebootstrap,
                rebootstrap_delay: config.rebootstrap_delay,
            },
            state: Mutex::new(SyncState::default()),
            batch: Mutex::new(BatchSize::new()),
            sweeps: Sweeps::new(),
            hints: tokio::sync::Notify::new(),
            jolts: tokio::sync::watch::Sender::new(0),
            offline: None,
            offline_since_start: AtomicBool::new(false),
            upkeep: tokio::sync::Mutex::new(true),
        })
    }
}

/// Why an agent ends that nothing ails.
enum Ending {
    Stopped,
    /// Another process serves in its place.
    HandedOver,
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

pub(crate) fn tls_policy(config: &AgentConfig) -> TlsPolicy {
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
const DRAIN_GRACE: Duration = Duration::from_secs(10);
