//! The wiring: each part is started after what it needs.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use steeple_ca::{CaConfig, CaManager};
use steeple_config::{CaSubject, Notice, NoticeKind, ServerConfig};
use steeple_federation::Refresher;
use steeple_ops::Program;
use steeple_ops::health::{Health, Hint};
use steeple_pki::KeyType;
use steeple_pki::x509::DistinguishedName;
use steeple_plugin::KeyManager;
use steeple_policy::Engine;
use steeple_runtime::log::LogHandle;
use steeple_runtime::{Clock, SystemClock, Tasks, VERSION, Watcher, drain, fsx, signal};
use steeple_server_api::{Parts, apis};
use steeple_server_core::access::{Gatekeeper, Trust};
use steeple_server_core::admission::Admission;
use steeple_server_core::agents::{Agents, AgentsConfig};
use steeple_server_core::authorities::Authorities;
use steeple_server_core::bundles::Bundles;
use steeple_server_core::entries::Entries;
use steeple_server_core::explain::Explainer;
use steeple_server_core::explain::agent::AgentExplainer;
use steeple_server_core::federation::Federation;
use steeple_server_core::housekeeping::{self, PruneNodes};
use steeple_server_core::index::{AuthorizedIndex, IndexPeriods, IndexTask};
use steeple_server_core::notify::{Notify, StoredBundle};
use steeple_server_core::push::{Push, PushTask};
use steeple_server_core::svids::Svids;
use steeple_server_core::tokens::Tokens;
use steeple_server_core::{DatastoreAuthorities, ServerSvidRotator, SigningPool, startup};
use steeple_store::{AwsIam, DatabaseType, Store, StoreConfig, TlsFiles};

use crate::error::ServerError;
use crate::federation::{self, BoundEndpoint, EndpointParts};
use crate::listeners::Handshake;
use crate::plugins::{self, AttestedAgents, LoadedPlugins, ServerIdentity};
use crate::{guard, health, listeners, telemetry};

/// The longest between two looks at the change feed; `cache_reload_interval` may shorten it.
const POLL: Duration = Duration::from_millis(250);

/// Between two full reads of the entries (SC-33).
const FULL_RELOAD: Duration = Duration::from_secs(24 * 60 * 60);

/// How long agents are served from memory while the datastore is away.
const OUTAGE_GRACE: Duration = Duration::from_secs(10 * 60);

/// Age at which events are deleted (SC-35).
const EVENT_AGE: Duration = Duration::from_secs(12 * 60 * 60);

/// How long everything may take to stop: calls have ten seconds of it.
const STOP: Duration = Duration::from_secs(12);

/// Between two reminders that the database is not the one that the keys belong to.
const REMIND: Duration = Duration::from_secs(10 * 60);

/// Runs the server until `shutdown` completes.
///
/// # Errors
/// When it cannot start, or a part of it fails for good.
pub async fn run(
    config: ServerConfig,
    notices: Vec<Notice>,
    log: LogHandle,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    for notice in &notices {
        tell(notice);
    }
    let server = Server { config, log, clock: Arc::new(SystemClock) };
    server.run(shutdown).await
}

/// A server that was not started yet.
pub struct Server {
    /// What it runs by.
    pub config: ServerConfig,
    /// Its log, which it may reopen and turn up.
    pub log: LogHandle,
    /// Its time.
    pub clock: Arc<dyn Clock>,
}

/// The parts that were opened, before anything is served.
struct Opened {
    plugins: LoadedPlugins,
    store: Arc<dyn Store>,
    manager: CaManager,
    notify: Notify,
    svid: ServerSvidRotator,
    index: AuthorizedIndex,
    index_task: IndexTask,
    lost_database: bool,
}

impl Server {
    /// Runs until `shutdown` completes.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
        let (trigger, watcher) = drain::channel();
        let tasks = Tasks::new();
        let program = telemetry::program(&self.config, &self.clock);
        let sinks = &self.config.telemetry;
        let telemetry = steeple_ops::telemetry::start(sinks, &program, &tasks, &watcher).await?;
        if let Some(profiling) = &self.config.profiling {
            steeple_ops::profiling::start(profiling, &program, &tasks, &watcher);
        }
        tokio::pin!(shutdown);
        // A plugin or a database that hangs must not keep the server from being stopped.
        let opened = tokio::select! {
            opened = Box::pin(self.open()) => opened?,
            () = &mut shutdown => return Ok(()),
        };
        let store = Arc::clone(&opened.store);
        let plugins = opened.plugins.running.clone();
        let started = self.start(opened, &program, &tasks, &watcher).await;
        drop(watcher);
        let outcome = match started {
            Ok(()) => {
                tokio::select! {
                    task = tasks.panicked() => Err(ServerError::Panicked(task)),
                    () = &mut shutdown => Ok(()),
                }
            }
            Err(error) => Err(error),
        };
        if !trigger.drain(STOP).await {
            tracing::warn!(
                subsystem_name = "endpoints",
                "Graceful stop unsuccessful, forced stop after 10s"
            );
        }
        plugins.close().await;
        tracing::debug!(subsystem_name = "catalog", "Closing DataStore");
        store.close().await;
        tracing::info!(subsystem_name = "catalog", "DataStore closed");
        drop(telemetry);
        outcome
    }

    /// Opens what the server stands on, in the order of need.
    async fn open(&self) -> Result<Opened, ServerError> {
        let config = &self.config;
        tracing::info!(
            admin_ids = ?config.admin_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
            data_dir = %config.data_dir.display(),
            launch_log_level = self.log.level().as_str(),
            version = VERSION,
            "Configured"
        );
        let path = &config.data_dir;
        fsx::create_dir_all(path, 0o755)
            .map_err(|source| ServerError::DataDir { path: path.clone(), source })?;
        let store = steeple_store::open(&store_config(config)).await;
        let store = store.map_err(ServerError::Datastore)?;
        tracing::info!(subsystem_name = "catalog", reconfigurable = false, "Configured DataStore");
        let plugins = LoadedPlugins::load(config).await?;
        let key_manager = Arc::clone(&plugins.key_manager);
        plugins.services.provide_agents(Arc::new(AttestedAgents(Arc::clone(&store))));
        startup::check_trust_domain(store.as_ref(), &config.trust_domain).await?;
        let lost_database = store.was_created() && holds_ca_keys(key_manager.as_ref()).await;

        let authorities =
            DatastoreAuthorities::new(Arc::clone(&store), config.trust_domain.clone());
        let manager = CaManager::load(
            ca_config(config),
            key_manager,
            Arc::new(authorities),
            plugins.upstream_authority.clone(),
            plugins.composers.clone(),
            Arc::clone(&self.clock),
        )
        .await?;
        manager.initialize().await?;
        let svid = ServerSvidRotator::start(
            manager.credentials(),
            Arc::clone(&self.clock),
            key_type(config.ca_key_type),
            manager.tainted_authorities(),
        )
        .await?;
        plugins.services.provide_identity(Arc::new(ServerIdentity {
            trust_domain: config.trust_domain.clone(),
            svid: svid.subscribe(),
            store: Arc::clone(&store),
        }));
        let bundle =
            StoredBundle { store: Arc::clone(&store), trust_domain: config.trust_domain.clone() };
        let (notifiers, publishers) = (plugins.notifiers.clone(), plugins.publishers.clone());
        let mut notify = Notify::new(Arc::new(bundle), notifiers, publishers);
        notify.bundle_loaded().await?;
        let poll = config.experimental.cache_reload_interval.unwrap_or(POLL).min(POLL);
        tracing::info!(subsystem_name = "endpoints", "Building in-memory entry cache");
        let (index, index_task) = AuthorizedIndex::load(
            Arc::clone(&store),
            Arc::clone(&self.clock),
            config.trust_domain.clone(),
            IndexPeriods {
                poll,
                reload: config.experimental.full_cache_reload_interval.unwrap_or(FULL_RELOAD),
            },
        )
        .await
        .map_err(ServerError::Index)?;
        tracing::info!(subsystem_name = "endpoints", "Completed building in-memory entry cache");
        Ok(Opened { plugins, store, manager, notify, svid, index, index_task, lost_database })
    }

    /// Binds the listeners, and only then starts the tasks.
    async fn start(
        &self,
        opened: Opened,
        program: &Program,
        tasks: &Tasks,
        drain: &Watcher,
    ) -> Result<(), ServerError> {
        let config = &self.config;
        let policy = guard::policy(config)?;
        let port = listeners::bind_port(&config.bind_address, config.bind_port).await?;
        let socket = listeners::bind_socket(&config.socket_path)?;
        let usr1 = signal::on_usr1().map_err(ServerError::Signals)?;
        let usr2 = signal::on_usr2().map_err(ServerError::Signals)?;

        let svid = opened.svid.subscribe();
        let identity = program.identity.clone();
        identity.set(listeners::identity_of(&svid.borrow()));
        let health = self.health(&opened);
        let feed_hint = health::feed_hint(opened.index.clone(), Arc::clone(&self.clock));
        let (store, clock) = (Arc::clone(&opened.store), Arc::clone(&self.clock));
        let (followers, refresher) = federation::manager(config, store, clock, tasks.clone());
        let parts = self.parts(&opened, policy, refresher);
        let endpoint = EndpointParts {
            bundles: parts.bundles.clone(),
            clock: Arc::clone(&self.clock),
            identity: identity.clone(),
            key_manager: Arc::clone(&opened.plugins.key_manager),
        };
        let endpoint = BoundEndpoint::bind(config, endpoint, tasks, drain).await?;
        let bundle_hints = vec![opened.manager.bundle_updates(), parts.bundles.changes()];
        let push = self.push(&parts).await?;
        let apis = apis(parts);
        tracing::info!(
            launch_log_level = self.log.launch_level().as_str(),
            "Logger service configured"
        );
        let Opened {
            plugins,
            store,
            manager,
            notify,
            svid: rotator,
            index_task,
            lost_database,
            ..
        } = opened;

        tracing::debug!(subsystem_name = "endpoints", "Initializing API endpoints");
        let w = || drain.clone();
        let tracked = config.audit_log_enabled;
        tasks.spawn("ca_manager", manager.run(w()));
        notify.spawn(bundle_hints, tasks, drain);
        let rotator = until(rotator.run(w()), "svid_rotator", "Stopping SVID rotator");
        tasks.spawn("svid_rotator", rotator);
        tasks.spawn("server_identity", listeners::follow_svid(svid, identity.clone(), w()));
        let words = "Stopping in-memory entry cache hydrator";
        tasks.spawn("entry_index", until(index_task.run(w()), "endpoints", words));
        if let Some(push) = push {
            tasks.spawn("push", push.run(w()));
        }
        tasks.spawn("log_reopener", signal::reopen_log(self.log.clone(), usr2, w()));
        tasks.spawn("reconfigurer", plugins.running.clone().reconfigure(usr1, w()));
        let (policy, proxies) = (guard::tls(config), guard::proxies(config));
        let limits = guard::connection_limits(config);
        let handshake = Handshake { identity, policy, proxies, limits };
        tasks.spawn("unix_api", listeners::serve_socket(socket, tracked, apis.local, w()));
        tasks.spawn(
            "tcp_api",
            listeners::serve_port(port, handshake, apis.remote, tasks.clone(), w()),
        );
        tasks.spawn("bundle_manager", followers.run(w()));
        if let Some(endpoint) = endpoint {
            tasks.spawn("bundle_endpoint", endpoint.serve(w()));
        }
        self.spawn_housekeeping(&store, tasks, drain);
        self.spawn_health(&health, feed_hint, tasks, drain);
        if telemetry::needs_bundles(config) {
            let bundles = telemetry::follow_bundles(store, program.bundles.clone(), w());
            tasks.spawn("telemetry_bundles", bundles);
        }
        if lost_database {
            tasks.spawn("lost_database", remind_of_lost_database(w()));
        }
        Ok(())
    }

    fn health(&self, opened: &Opened) -> Arc<Health> {
        health::checks(health::Checked {
            credentials: opened.manager.credentials(),
            manager: opened.manager.clone(),
            store: Arc::clone(&opened.store),
            socket: self.config.socket_path.clone(),
            clock: Arc::clone(&self.clock),
        })
    }

    /// What hints to agents, unless that is switched off.
    async fn push(&self, parts: &Parts) -> Result<Option<PushTask>, ServerError> {
        let Some(push) = parts.push.clone() else { return Ok(None) };
        let (store, clock) = (Arc::clone(&parts.store), Arc::clone(&self.clock));
        let loading = PushTask::load(push, store, parts.bundles.clone(), clock);
        loading.await.map(Some).map_err(ServerError::Datastore)
    }

    fn spawn_housekeeping(&self, store: &Arc<dyn Store>, tasks: &Tasks, drain: &Watcher) {
        let parts = || (Arc::clone(store), Arc::clone(&self.clock));
        let (entries, clock) = parts();
        tasks.spawn("prune_entries", housekeeping::prune_entries(entries, clock, drain.clone()));
        let older_than = self.config.experimental.prune_events_older_than.unwrap_or(EVENT_AGE);
        let (events, clock) = parts();
        let pruning = housekeeping::prune_events(events, clock, older_than, drain.clone());
        tasks.spawn("prune_events", async move {
            pruning.await;
            tracing::debug!(subsystem_name = "endpoints", "Stopping event pruner");
        });
        if let Some(prune) = &self.config.prune_attested_nodes {
            let what = PruneNodes {
                expired_for: prune.expired_for,
                batch: usize::try_from(prune.batch_size).unwrap_or(0),
                include_tofu: prune.include_non_reattestable,
            };
            let (nodes, clock) = parts();
            let pruning = housekeeping::prune_nodes(nodes, clock, what, drain.clone());
            tasks.spawn("prune_nodes", pruning);
        }
    }

    fn spawn_health(&self, health: &Arc<Health>, hint: Hint, tasks: &Tasks, drain: &Watcher) {
        tasks.spawn("health_checks", Arc::clone(health).watch(Some(hint), drain.clone()));
        let checks = self.config.health_checks.clone();
        if checks.listener_enabled {
            tasks.spawn("health_listener", Arc::clone(health).listen(checks, drain.clone()));
        }
    }

    /// The use cases that the APIs are adapters of.
    fn parts(&self, opened: &Opened, policy: Option<Engine>, refresher: Refresher) -> Parts {
        let config = &self.config;
        let trust_domain = config.trust_domain.clone();
        let store = || Arc::clone(&opened.store);
        let credentials = opened.manager.credentials();
        let pool = SigningPool::per_core();
        let admission = Arc::new(Admission {
            policy: plugins::admission_policy(&config.attestation_policy),
            only_as_part: opened.plugins.only_as_part.clone(),
            ..Admission::default()
        });
        let bundles =
            Bundles::new(store(), trust_domain.clone()).publishing_by(opened.manager.clone());
        Parts {
            trust_domain: trust_domain.clone(),
            entries: Entries::new(store(), opened.index.clone(), trust_domain.clone()),
            explainer: Explainer::new(
                store(),
                opened.index.clone(),
                credentials.clone(),
                trust_domain.clone(),
                !config.disable_jwt_svids,
            ),
            agent_explainer: AgentExplainer::new(
                store(),
                opened.index.clone(),
                Arc::clone(&admission),
                trust_domain.clone(),
            ),
            agents: Agents::new(AgentsConfig {
                store: store(),
                index: opened.index.clone(),
                credentials: credentials.clone(),
                pool: pool.clone(),
                trust_domain: trust_domain.clone(),
                attestors: opened.plugins.node_attestors.clone(),
                id_as_selector: config.experimental.agent_spiffe_id_as_selector,
                admission: Arc::clone(&admission),
            }),
            tokens: Tokens::new(
                store(),
                opened.plugins.node_attestors.iter().map(|it| it.name().to_owned()),
            ),
            svids: Svids::new(
                store(),
                opened.index.clone(),
                credentials,
                pool,
                trust_domain,
                !config.disable_jwt_svids,
            )
            .with_wit(config.experimental.wit_svid),
            authorities: Authorities::new(opened.manager.clone(), bundles.clone()),
            federation: Federation::new(store(), bundles.clone()),
            refresher,
            bundles,
            gatekeeper: Gatekeeper::new(
                store(),
                opened.index.clone(),
                config.admin_ids.iter().cloned(),
                Trust {
                    max_staleness: config.max_attested_node_info_staleness,
                    outage_grace: config
                        .experimental
                        .datastore_outage_grace
                        .unwrap_or(OUTAGE_GRACE),
                },
            ),
            store: store(),
            log: self.log.clone(),
            svid: opened.svid.subscribe(),
            clock: Arc::clone(&self.clock),
            push: (!config.experimental.disable_push).then(|| Push::new(opened.index.clone())),
            policy,
            limits: guard::rate_limits(config),
            load: guard::load_limits(config),
            audit: config.audit_log_enabled,
        }
    }
}

fn tell(notice: &Notice) {
    let (line, key) = (notice.line, notice.key.as_str());
    match notice.kind {
        NoticeKind::Info => tracing::info!("{}", notice.text),
        NoticeKind::Deprecated => {
            tracing::warn!(alert = true, alert_type = "deprecated_config", "{}", notice.text);
        }
        NoticeKind::NotAvailable | NoticeKind::NoEffect => {
            tracing::warn!(key, line, "{}", notice.text);
        }
        NoticeKind::Warning => tracing::warn!("{}", notice.text),
    }
}

/// Whether an earlier run made CA keys here.
async fn holds_ca_keys(key_manager: &dyn KeyManager) -> bool {
    key_manager.keys().await.is_ok_and(|keys| keys.iter().any(|(id, _)| id.starts_with("x509-CA-")))
}

/// Runs a part to its end, and says so.
async fn until(part: impl Future<Output = ()>, subsystem_name: &str, words: &str) {
    part.await;
    tracing::debug!(subsystem_name, "{words}");
}

async fn remind_of_lost_database(mut drain: Watcher) {
    loop {
        tokio::select! {
            () = drain.signalled() => return,
            () = tokio::time::sleep(REMIND) => tracing::error!(
                "This server started with an empty database beside CA keys of an earlier one, and \
                 has made a new CA: whoever trusts the earlier one does not trust this server"
            ),
        }
    }
}

fn store_config(config: &ServerConfig) -> StoreConfig {
    let datastore = &config.datastore;
    let database_type = match datastore.database_type {
        steeple_config::DatabaseType::Sqlite3 => DatabaseType::Sqlite,
        steeple_config::DatabaseType::Postgres => DatabaseType::Postgres,
        steeple_config::DatabaseType::MySql => DatabaseType::MySql,
    };
    StoreConfig {
        ro_connection_string: datastore.ro_connection_string.clone(),
        tls: TlsFiles {
            root_ca: datastore.root_ca_path.clone(),
            client_cert: datastore.client_cert_path.clone(),
            client_key: datastore.client_key_path.clone(),
        },
        aws: datastore.aws.as_ref().map(|aws| AwsIam {
            region: aws.region.clone(),
            access_key_id: aws.access_key_id.clone(),
            secret_access_key: aws.secret_access_key.clone(),
        }),
        max_open_conns: datastore.max_open_conns,
        max_idle_conns: datastore.max_idle_conns,
        conn_max_lifetime: datastore.conn_max_lifetime,
        disable_migration: datastore.disable_migration,
        log_sql: datastore.log_sql,
        ..StoreConfig::new(database_type, &datastore.connection_string, VERSION)
    }
}

fn ca_config(config: &ServerConfig) -> CaConfig {
    CaConfig {
        ca_ttl: config.ca_ttl,
        x509_svid_ttl: config.default_x509_svid_ttl,
        jwt_svid_ttl: config.default_jwt_svid_ttl,
        agent_ttl: config.agent_ttl.unwrap_or(config.default_x509_svid_ttl),
        ca_key_type: key_type(config.ca_key_type),
        jwt_key_type: key_type(config.jwt_key_type),
        ca_subject: Some(ca_subject(&config.ca_subject)).filter(|name| !name.is_empty()),
        jwt_issuer: config.jwt_issuer.clone(),
        wit_key_type: key_type(config.experimental.wit_key_type.unwrap_or(config.ca_key_type)),
        wit_issuer: config.experimental.wit_issuer.clone(),
        enable_wit: config.experimental.wit_svid,
        disable_jwt: config.disable_jwt_svids,
        ..CaConfig::new(config.trust_domain.clone())
    }
}

fn ca_subject(subject: &CaSubject) -> DistinguishedName {
    DistinguishedName {
        country: subject.country.clone(),
        organization: subject.organization.clone(),
        common_name: subject.common_name.clone(),
        ..DistinguishedName::default()
    }
}

fn key_type(key_type: steeple_config::KeyType) -> KeyType {
    match key_type {
        steeple_config::KeyType::EcP256 => KeyType::EcP256,
        steeple_config::KeyType::EcP384 => KeyType::EcP384,
        steeple_config::KeyType::Rsa2048 => KeyType::Rsa2048,
        steeple_config::KeyType::Rsa4096 => KeyType::Rsa4096,
    }
}
