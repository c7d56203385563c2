//! Whether an agent may call: answered from memory, and never otherwise than by the datastore.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_runtime::{SystemClock, Tasks, drain};
use steeple_server_core::access::{
    AccessError, AgentFault, Caller, Gatekeeper, PeerSvid, Permit, Rule, Trust,
};
use steeple_server_core::index::{AuthorizedIndex, IndexPeriods};
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_store::model::{AttestedNode, NodeUpdate};
use steeple_store::{Store, StoreConfig};

const AGENTS_ONLY: Rule =
    Rule { any: false, local: false, admin: false, downstream: false, agent: true };

async fn open(directory: &Path) -> Arc<dyn Store> {
    let file = directory.join("datastore.sqlite3");
    steeple_store::open(&StoreConfig::sqlite(file.to_str().unwrap(), "1.15.0")).await.unwrap()
}

fn agent() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/spire/agent/join_token/a").unwrap()
}

fn node(serial_number: &str) -> AttestedNode {
    AttestedNode {
        spiffe_id: agent(),
        attestation_type: "join_token".into(),
        serial_number: serial_number.into(),
        expires_at: 4_000_000_000,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: Vec::new(),
        agent_version: String::new(),
    }
}

/// Calls with the SVID of this serial number.
async fn call(gatekeeper: &Gatekeeper, serial_number: &str) -> Result<(), AgentFault> {
    let now = SystemTime::now();
    let caller = Caller::Remote {
        address: "192.0.2.1:1000".parse().unwrap(),
        svid: Some(PeerSvid {
            id: agent(),
            serial_number: serial_number.into(),
            not_after: now + Duration::from_secs(3600),
        }),
    };
    match gatekeeper.authorize(AGENTS_ONLY, &caller, now).await {
        Ok(Permit::Agent(permit)) if *permit.id() == agent() => Ok(()),
        Err(AccessError::Agent { fault, .. }) => Err(fault),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_server_did_to_an_agent_holds_for_its_next_call() {
    let directory = tempfile::tempdir().unwrap();
    let (store, peer) = (open(directory.path()).await, open(directory.path()).await);
    // Nobody looks by the clock.
    let never = Duration::from_secs(3600);
    let periods = IndexPeriods { poll: never, reload: never };
    let home = TrustDomain::parse("example.org").unwrap();
    let loading = AuthorizedIndex::load(Arc::clone(&store), Arc::new(SystemClock), home, periods);
    let (index, task) = loading.await.unwrap();
    let (trigger, watcher) = drain::channel();
    let tasks = Tasks::new();
    tasks.spawn("index", task.run(watcher));
    let trust = Trust { max_staleness: Duration::ZERO, outage_grace: Duration::from_secs(600) };
    let gatekeeper = Gatekeeper::new(Arc::clone(&store), index, [], trust);

    for writer in [&store, &peer, &store, &peer] {
        assert_eq!(call(&gatekeeper, "1").await, Err(AgentFault::NotAttested));
        writer.upsert_attested_node(node("1")).await.unwrap();
        for _ in 0..3 {
            assert_eq!(call(&gatekeeper, "1").await, Ok(()));
        }
        assert_eq!(call(&gatekeeper, "2").await, Err(AgentFault::NotActive));

        let renewed = NodeUpdate { new_serial_number: Some("2".into()), ..NodeUpdate::default() };
        writer.update_node(&agent(), renewed).await.unwrap();
        assert_eq!(call(&gatekeeper, "1").await, Ok(()), "until the new one is used");
        assert_eq!(call(&gatekeeper, "2").await, Ok(()));
        assert_eq!(call(&gatekeeper, "1").await, Err(AgentFault::NotActive));
        assert_eq!(call(&gatekeeper, "2").await, Ok(()));

        writer.ban_node(&agent()).await.unwrap();
        assert_eq!(call(&gatekeeper, "2").await, Err(AgentFault::Banned));
        writer.delete_node(&agent()).await.unwrap();
        assert_eq!(call(&gatekeeper, "2").await, Err(AgentFault::NotAttested));
    }
    assert!(trigger.drain(Duration::from_secs(30)).await);
}
