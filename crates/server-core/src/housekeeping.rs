//! What is deleted when its time has come: entries, agents, events.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_runtime::Clock;
use steeple_runtime::Watcher;
use steeple_store::Store;
use steeple_telemetry::call;

/// Between two looks for expired entries (NL-16).
const ENTRIES_EVERY: Duration = Duration::from_secs(5 * 60);

/// Between two looks for expired agents, give or take the jitter (NL-15).
const NODES_EVERY: Duration = Duration::from_secs(60 * 60);
const NODES_JITTER_SECONDS: u64 = 15 * 60;

/// Which agents are pruned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PruneNodes {
    /// How long an agent's SVID must have been expired.
    pub expired_for: Duration,
    /// Agents per pass; 0 for the datastore's default.
    pub batch: usize,
    /// Also agents that could not attest again.
    pub include_tofu: bool,
}

/// Deletes expired entries until the drain begins.
pub async fn prune_entries(store: Arc<dyn Store>, clock: Arc<dyn Clock>, mut drain: Watcher) {
    while pause(ENTRIES_EVERY, &mut drain).await {
        let call = call(&["registration_entry", "manager", "prune"]);
        let pruned = store.prune_entries(clock.now()).await;
        call.outcome(&pruned);
        match pruned {
            Ok(pruned) => {
                for entry in pruned {
                    tracing::info!(
                        subsystem_name = "registration_manager",
                        spiffe_id = %entry.spiffe_id,
                        parent_id = %entry.parent_id,
                        entry_id = entry.entry_id,
                        "Pruned an expired registration"
                    );
                }
            }
            Err(error) => tracing::error!(
                subsystem_name = "registration_manager",
                %error,
                "Failed pruning registration entries"
            ),
        }
    }
}

/// Deletes agents whose SVID ended long ago, until the drain begins.
pub async fn prune_nodes(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    what: PruneNodes,
    mut drain: Watcher,
) {
    tracing::info!(
        subsystem_name = "node_manager",
        expired_for = ?what.expired_for,
        include_tofu = what.include_tofu,
        "Periodic prune of expired nodes started"
    );
    let shift = Duration::from_secs(fastrand::u64(0..2 * NODES_JITTER_SECONDS));
    let every = NODES_EVERY - Duration::from_secs(NODES_JITTER_SECONDS) + shift;
    while pause(every, &mut drain).await {
        let expired_before = before(clock.now(), what.expired_for);
        let call = call(&["node", "manager", "prune"]);
        let pruned = store.prune_nodes(expired_before, what.batch, what.include_tofu).await;
        call.outcome(&pruned);
        match pruned {
            Ok(pruned) => {
                for node in pruned {
                    tracing::info!(
                        subsystem_name = "node_manager",
                        spiffe_id = %node.spiffe_id,
                        "Pruned an expired node"
                    );
                }
            }
            Err(error) => tracing::error!(
                subsystem_name = "node_manager",
                %error,
                "Failed during periodic pruning of expired nodes"
            ),
        }
    }
}

/// Deletes old events of the change feed, until the drain begins (CH-08, SC-35).
pub async fn prune_events(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    older_than: Duration,
    mut drain: Watcher,
) {
    while pause(older_than / 2, &mut drain).await {
        if let Err(error) = store.prune_events(before(clock.now(), older_than)).await {
            tracing::error!(subsystem_name = "endpoints", %error, "Failed to prune events");
        }
    }
}

/// Waits; false once the drain began.
async fn pause(length: Duration, drain: &mut Watcher) -> bool {
    tokio::select! {
        () = drain.signalled() => false,
        () = tokio::time::sleep(length) => true,
    }
}

fn before(now: SystemTime, distance: Duration) -> SystemTime {
    now.checked_sub(distance).unwrap_or(SystemTime::UNIX_EPOCH)
}
