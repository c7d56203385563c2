//! The agent's sockets: what stands on each, and out of which parts.

use std::sync::Arc;

use steeple_agent_api::admin::{DebugService, LoggerService};
use steeple_agent_api::caller::Callers;
use steeple_agent_api::delegated::DelegatedApi;
use steeple_agent_api::endpoint::Endpoint;
use steeple_agent_api::explain::ExplainService;
use steeple_agent_api::rate_limit::RateLimits;
use steeple_agent_api::sds::{SdsApi, SdsNames};
use steeple_agent_api::workload::WorkloadApi;
use steeple_agent_core::attest::{AttestLimits, WorkloadAttestation};
use steeple_agent_core::wit::WitSvids;
use steeple_config::{AgentConfig, WorkloadRateLimits};
use steeple_net::unix::Sockets;
use steeple_plugin::WorkloadAttestor;
use steeple_runtime::log::LogHandle;
use steeple_runtime::{Clock, Tasks, Watcher};
use tracing::info;

use crate::app::tls_policy;
use crate::broker;
use crate::error::AgentError;
use crate::manager::Manager;
use crate::server::ServerWitSource;

/// What the sockets are made from, beside the manager.
pub(crate) struct Endpoints<'a> {
    pub(crate) config: &'a AgentConfig,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) log: &'a LogHandle,
    pub(crate) sockets: &'a Sockets,
}

impl Endpoints<'_> {
    /// Opens every socket that the configuration asks for.
    pub(crate) fn open(
        &self,
        manager: &Arc<Manager>,
        attestors: Vec<Arc<dyn WorkloadAttestor>>,
        tasks: &Tasks,
        watcher: &Watcher,
    ) -> Result<(), AgentError> {
        let own_pid = i32::try_from(std::process::id()).expect("process ids are positive");
        let attestation =
            Arc::new(WorkloadAttestation::new(attestors, AttestLimits::default(), own_pid));
        let callers = Arc::new(Callers {
            attestation,
            rate_limits: rate_limits(&self.config.experimental.rate_limits),
            log_selectors: self.config.log_selectors.clone(),
            clock: self.clock.clone(),
        });
        self.open_public(manager, &callers, tasks, watcher)?;
        self.open_admin(manager, &callers, tasks, watcher)?;
        self.open_broker(manager, &callers, tasks, watcher)
    }

    fn open_public(
        &self,
        manager: &Manager,
        callers: &Arc<Callers>,
        tasks: &Tasks,
        watcher: &Watcher,
    ) -> Result<(), AgentError> {
        let Some(path) = &self.config.socket_path else {
            info!(
                apis = "Workload and SDS APIs",
                "Skipping agent APIs because public endpoint is disabled"
            );
            return Ok(());
        };
        let api = (!self.config.disable_workload_api)
            .then(|| Arc::new(self.workload_api(manager, callers, watcher)));
        let incoming = self.sockets.open("workload", path, 0o777, 0o755)?;
        let sds = (!self.config.disable_sds_api)
            .then(|| Arc::new(self.sds_api(manager, callers, watcher)));
        let endpoint = Endpoint::workload(incoming, api, sds);
        tasks.spawn("agent_apis", endpoint.serve(watcher.clone()));
        Ok(())
    }

    fn open_admin(
        &self,
        manager: &Manager,
        callers: &Callers,
        tasks: &Tasks,
        watcher: &Watcher,
    ) -> Result<(), AgentError> {
        let Some(path) = &self.config.admin_socket_path else { return Ok(()) };
        let debug = DebugService::new(
            manager.credentials.clone(),
            manager.cache.clone(),
            manager.jwt.clone(),
            self.clock.clone(),
        )
        .with_stored(manager.stored.clone());
        let incoming = self.sockets.open("admin", path, 0o770, 0o755)?;
        let logger = LoggerService::new(self.log.clone());
        let delegated = Arc::new(DelegatedApi::new(
            manager.cache.clone(),
            manager.jwt.clone(),
            callers.attestation.clone(),
            self.config.authorized_delegates.iter().cloned().collect(),
            self.clock.clone(),
            watcher.clone(),
        ));
        let explain = ExplainService {
            attestation: callers.attestation.clone(),
            cache: manager.cache.clone(),
            status: manager.credentials.clone(),
            book: manager.book.clone(),
            sync_interval: manager.settings.sync_interval,
            log_selectors: self.config.log_selectors.clone(),
            clock: self.clock.clone(),
        };
        let endpoint = Endpoint::admin(incoming, debug, logger, delegated).explaining(explain);
        tasks.spawn("admin_apis", endpoint.serve(watcher.clone()));
        Ok(())
    }

    fn open_broker(
        &self,
        manager: &Manager,
        callers: &Callers,
        tasks: &Tasks,
        watcher: &Watcher,
    ) -> Result<(), AgentError> {
        let Some(config) = &self.config.broker else { return Ok(()) };
        let parts = broker::Parts {
            manager,
            attestation: &callers.attestation,
            sockets: self.sockets,
            policy: tls_policy(self.config),
            clock: self.clock,
            watcher,
        };
        let endpoint = broker::open(config, &parts)?;
        tasks.spawn("broker_api", endpoint.serve(tasks.clone(), watcher.clone()));
        Ok(())
    }

    fn sds_api(&self, manager: &Manager, callers: &Arc<Callers>, watcher: &Watcher) -> SdsApi {
        let config = &self.config.sds;
        SdsApi {
            cache: manager.cache.clone(),
            callers: callers.clone(),
            names: SdsNames {
                svid: config.default_svid_name.clone(),
                bundle: config.default_bundle_name.clone(),
                all_bundles: config.default_all_bundles_name.clone(),
                disable_spiffe_cert_validation: config.disable_spiffe_cert_validation,
            },
            clock: self.clock.clone(),
            drain: watcher.clone(),
        }
    }

    fn workload_api(
        &self,
        manager: &Manager,
        callers: &Arc<Callers>,
        watcher: &Watcher,
    ) -> WorkloadApi {
        let config = self.config;
        let wit = config.experimental.wit_svid.then(|| {
            let source = Arc::new(ServerWitSource::new(manager.server.clone()));
            let most = match config.x509_svid_cache_max_size {
                0 => DEFAULT_WIT_CACHE_SIZE,
                most => most,
            };
            Arc::new(WitSvids::new(source, manager.settings.workload_key_type, most))
        });
        WorkloadApi {
            cache: manager.cache.clone(),
            jwt: manager.jwt.clone(),
            wit,
            http: config.experimental.workload_http_api,
            callers: callers.clone(),
            trust_domain: config.trust_domain.clone(),
            allow_unauthenticated_verifiers: config.allow_unauthenticated_verifiers,
            allowed_foreign_jwt_claims: config.allowed_foreign_jwt_claims.iter().cloned().collect(),
            clock: self.clock.clone(),
            drain: watcher.clone(),
        }
    }
}

/// Calls per second by method, and a line of log for each that is limited.
fn rate_limits(configured: &WorkloadRateLimits) -> RateLimits {
    let limits = [
        ("SpiffeWorkloadAPI", "FetchX509SVID", configured.fetch_x509_svid),
        ("SpiffeWorkloadAPI", "FetchJWTSVID", configured.fetch_jwt_svid),
        ("SpiffeWorkloadAPI", "FetchX509Bundles", configured.fetch_x509_bundles),
        ("SpiffeWorkloadAPI", "FetchJWTBundles", configured.fetch_jwt_bundles),
        (SDS, "StreamSecrets", configured.stream_secrets),
        (SDS, "FetchSecrets", configured.fetch_secrets),
    ];
    for (service, method, limit) in limits.into_iter().filter(|(_, _, limit)| *limit > 0) {
        let method = format!("/{service}/{method}");
        info!(
            subsystem_name = "endpoints",
            method, limit, "Workload API/SDS rate limiting enabled"
        );
    }
    RateLimits::new(limits.map(|(_, method, limit)| (method, limit)))
}

const DEFAULT_WIT_CACHE_SIZE: usize = 1000;
const SDS: &str = "envoy.service.secret.v3.SecretDiscoveryService";
