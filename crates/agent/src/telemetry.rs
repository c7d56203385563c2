//! The agent as its operator looks at it from outside.

use std::sync::Arc;
use std::time::Duration;

use steeple_agent_core::cache::IdentityCache;
use steeple_config::AgentConfig;
use steeple_net::tls::IdentitySlot;
use steeple_ops::{BundleBook, Program};
use steeple_runtime::{Clock, Watcher};
use steeple_telemetry::Call;

use crate::error::AgentError;

/// Between two looks at the bundles that scrapers are checked against.
const INTERVAL: Duration = Duration::from_secs(5);

/// The agent, before it has an SVID.
pub(crate) fn program(config: &AgentConfig, clock: &Arc<dyn Clock>) -> Program {
    Program {
        name: "agent",
        trust_domain: config.trust_domain.clone(),
        identity: IdentitySlot::new(),
        bundles: BundleBook::default(),
        clock: Arc::clone(clock),
        require_pq_kem: config.experimental.require_pq_kem,
    }
}

/// Ends a call by how it turned out.
pub(crate) fn end<T>(call: Call, result: &Result<T, AgentError>) {
    call.status(result.as_ref().map_or_else(AgentError::code_name, |_| "OK"));
}

/// Whether anybody is checked against bundles.
pub(crate) fn needs_bundles(config: &AgentConfig) -> bool {
    let exporter = config.telemetry.prometheus.as_ref();
    let tls = exporter.and_then(|exporter| exporter.tls.as_ref());
    tls.is_some_and(|tls| !tls.authorized_spiffe_ids.is_empty())
}

/// Keeps the bundles for handshakes what they are in the cache.
pub(crate) async fn follow_bundles(
    cache: Arc<IdentityCache>,
    book: BundleBook,
    mut drain: Watcher,
) {
    loop {
        let own = cache.own_bundle();
        let mut bundles = cache.bundles();
        bundles.insert(own.trust_domain().clone(), own);
        let certificates = bundles.into_iter().map(|(trust_domain, bundle)| {
            (trust_domain, bundle.bundle().certificates().cloned().collect())
        });
        book.set(certificates.collect());
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = drain.signalled() => return,
        }
    }
}
