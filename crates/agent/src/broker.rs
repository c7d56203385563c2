//! The SPIFFE Broker API: its sockets and whom it serves, out of the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use steeple_agent_api::broker::{
    BrokerAdmission, BrokerApi, BrokerEndpoint, BrokerListeners, BrokerPolicies, ReferencePolicy,
};
use steeple_agent_core::attest::WorkloadAttestation;
use steeple_config::{BrokerConfig, BrokerIdentity};
use steeple_net::tls::{ServerTls, TlsPolicy};
use steeple_net::unix::Sockets;
use steeple_runtime::{Clock, Watcher};
use tokio::net::TcpListener;

use crate::error::AgentError;
use crate::manager::Manager;

/// What the endpoint is made from, beside its configuration.
pub(crate) struct Parts<'a> {
    pub(crate) manager: &'a Manager,
    pub(crate) attestation: &'a Arc<WorkloadAttestation>,
    pub(crate) sockets: &'a Sockets,
    pub(crate) policy: TlsPolicy,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) watcher: &'a Watcher,
}

/// Binds what the configuration names; nobody is served yet.
pub(crate) fn open(config: &BrokerConfig, parts: &Parts<'_>) -> Result<BrokerEndpoint, AgentError> {
    if config.brokers.is_empty() {
        return Err(AgentError::Broker("at least one broker is required".into()));
    }
    let unix = config.socket_path.as_deref();
    let unix = unix.map(|path| parts.sockets.open("broker", path, 0o770, 0o755)).transpose()?;
    let tcp = config.bind_address.as_deref().map(|at| bind(at, parts.sockets)).transpose()?;
    let cache = &parts.manager.cache;
    let ids = config.brokers.iter().map(|broker| broker.id.clone()).collect();
    let admission = Arc::new(BrokerAdmission::new(ids, cache.clone()));
    let tls = ServerTls::mutual(parts.manager.credentials.slot(), parts.policy, admission);
    let policies = config.brokers.iter().map(|it| (it.id.clone(), policy(it))).collect();
    let api = BrokerApi::new(
        cache.clone(),
        parts.manager.jwt.clone(),
        parts.attestation.clone(),
        BrokerPolicies(policies),
        parts.clock.clone(),
        parts.watcher.clone(),
    );
    Ok(BrokerEndpoint::new(BrokerListeners { unix, tcp }, tls, Arc::new(api)))
}

fn bind(address: &str, sockets: &Sockets) -> Result<TcpListener, AgentError> {
    // As Go has it: no host is every address.
    let everywhere = address.strip_prefix(':').map(|port| format!("[::]:{port}"));
    sockets.open_tcp(everywhere.as_deref().unwrap_or(address)).map_err(|error: std::io::Error| {
        AgentError::Broker(format!("failed to listen on broker address {address:?}: {error}"))
    })
}

fn policy(broker: &BrokerIdentity) -> ReferencePolicy {
    let mut policy = ReferencePolicy::default();
    for allowed in &broker.allowed_reference_types {
        if allowed.type_url == "*" {
            policy = ReferencePolicy { any: Some(allowed.allow_over_tcp), types: HashMap::new() };
            break;
        }
        policy.types.insert(allowed.type_url.clone(), allowed.allow_over_tcp);
    }
    policy
}
