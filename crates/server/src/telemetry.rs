//! The server as its operator looks at it from outside.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use steeple_config::ServerConfig;
use steeple_net::tls::IdentitySlot;
use steeple_ops::{BundleBook, Program};
use steeple_runtime::{Clock, Watcher};
use steeple_store::Store;

/// Between two looks at the bundles that scrapers are checked against.
const INTERVAL: Duration = Duration::from_secs(5);

/// The server, before it has an SVID.
pub(crate) fn program(config: &ServerConfig, clock: &Arc<dyn Clock>) -> Program {
    Program {
        name: "server",
        trust_domain: config.trust_domain.clone(),
        identity: IdentitySlot::new(),
        bundles: BundleBook::default(),
        clock: Arc::clone(clock),
        require_pq_kem: config.experimental.require_pq_kem,
    }
}

/// Whether anybody is checked against bundles.
pub(crate) fn needs_bundles(config: &ServerConfig) -> bool {
    let exporter = config.telemetry.prometheus.as_ref();
    let tls = exporter.and_then(|exporter| exporter.tls.as_ref());
    tls.is_some_and(|tls| !tls.authorized_spiffe_ids.is_empty())
}

/// Keeps the bundles in memory what they are in the datastore.
pub(crate) async fn follow_bundles(store: Arc<dyn Store>, book: BundleBook, mut drain: Watcher) {
    loop {
        match store.list_bundles(None).await {
            Ok((bundles, _)) => {
                let bundles: HashMap<_, _> = bundles
                    .into_iter()
                    .map(|it| {
                        (it.trust_domain.clone(), it.certificates().cloned().collect::<Vec<_>>())
                    })
                    .collect();
                book.set(bundles);
            }
            // What was there before goes on.
            Err(error) => tracing::debug!(%error, "Cannot read the bundles for telemetry"),
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = drain.signalled() => return,
        }
    }
}
