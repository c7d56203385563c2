//! Statements that the agents' polls send to the database, counted where the driver logs them.

#![expect(clippy::print_stdout, reason = "what was counted, or why it was not")]

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use steeple_proto::spire::api::server::bundle::v1 as bundle_pb;
use steeple_proto::spire::api::types;
use steeple_server_api::GrpcService;
use steeple_store::{DatabaseType, Since, StoreConfig};
use steeple_testkit::{DatabaseKind, DatabaseServer, StatementCounter};

use crate::instructions::sync;
use crate::stack::{EACH, World, sqlite, world};

/// Agents of the fleet.
const AGENTS: usize = 50;

/// Times that each asks in a minute: every five seconds, if nobody changes the interval.
const POLLS: usize = 12;

/// Between two looks of the index at a quiet datastore (as `steeple_server` has it).
const LOOK: Duration = Duration::from_millis(250);

/// How many statements something took, and nothing before it.
async fn count<T>(statements: &StatementCounter, work: impl Future<Output = T>) -> usize {
    statements.quiet().await;
    statements.count(work).await.1
}

/// A minute of the fleet's, in which the agents ask one after the other at the same distances.
async fn a_minute_of_syncs<S: GrpcService>(world: &World<S>) {
    minute(world, async |agent| {
        assert_eq!(sync(world, &world.agents[agent]).await.entries.len(), EACH);
    })
    .await;
}

/// The call that goes with each sync.
async fn a_minute_of_bundles<S: GrpcService>(world: &World<S>) {
    const PATH: &str = "/spire.api.server.bundle.v1.Bundle/GetBundle";
    minute(world, async |agent| {
        let request = bundle_pb::GetBundleRequest { output_mask: None };
        let answer = world.call(&world.agents[agent], PATH, &request).await;
        assert_eq!(types::Bundle::decode(answer).unwrap().x509_authorities.len(), 1);
    })
    .await;
}

async fn minute<S: GrpcService>(world: &World<S>, mut ask: impl AsyncFnMut(usize)) {
    let step = Duration::from_secs(60) / u32::try_from(AGENTS * POLLS).unwrap();
    for _ in 0..POLLS {
        for agent in 0..AGENTS {
            ask(agent).await;
            world.clock.advance(step);
        }
    }
}

#[tokio::test]
async fn on_sqlite_the_syncs_of_a_minute_ask_for_nothing_while_nothing_changes() {
    let statements = StatementCounter::alone().await;
    let (store, _directory) = sqlite().await;
    let world = world(store, AGENTS, LOOK).await;
    // Each connection is verified once, by the bundle.
    a_minute_of_syncs(&world).await;
    assert_eq!(count(&statements, a_minute_of_syncs(&world)).await, 0);
    // A change is seen, and then it is as before.
    let id = &world.entry_ids[0];
    assert!(count(&statements, world.store.delete_entry(id)).await > 0);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while sync(&world, &world.agents[0]).await.entries.len() == EACH {
        assert!(std::time::Instant::now() < deadline, "the change is not seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let others = async {
        for agent in &world.agents[1..] {
            assert_eq!(sync(&world, agent).await.entries.len(), EACH);
        }
    };
    assert_eq!(count(&statements, others).await, 0);
    world.stop().await;
}

#[tokio::test]
async fn bundles_are_read_once_a_second_whoever_asks() {
    const READING: usize = 1;
    let statements = StatementCounter::alone().await;
    let (store, _directory) = sqlite().await;
    let world = world(store, AGENTS, LOOK).await;
    let read = count(&statements, a_minute_of_bundles(&world)).await;
    println!("{read} statements for {} calls", AGENTS * POLLS);
    assert!((1..=60 * READING).contains(&read), "{read} statements");
    world.stop().await;
}

/// PostgreSQL cannot tell without being asked whether anybody has committed.
#[tokio::test]
async fn on_postgres_a_sync_asks_for_the_agents_standing_and_for_nothing_else() {
    /// The node with its selectors.
    const STANDING: usize = 1;
    /// What tells that there is nothing new.
    const NOTHING: usize = 4;
    let database = match DatabaseServer::shared(DatabaseKind::Postgres) {
        Ok(database) => database,
        Err(skipped) => {
            println!("{skipped}");
            return;
        }
    };
    let statements = StatementCounter::alone().await;
    let name = database.new_database();
    let url = database.connection_string(&name);
    let config = StoreConfig::new(DatabaseType::Postgres, &url, "1.15.0");
    let store = steeple_store::open(&StoreConfig { log_sql: true, ..config }).await.unwrap();
    let revision = store.snapshot().await.unwrap().revision;
    let nothing = Arc::clone(&store);
    let look = count(&statements, async {
        let seen = nothing.changes_since(&revision).await;
        assert!(matches!(seen, Ok(Since::Changes(changes)) if changes.is_empty()));
    });
    let look = look.await;
    // The index looks when this says so, and not otherwise.
    let world = world(store, AGENTS, Duration::from_secs(3600)).await;
    a_minute_of_syncs(&world).await;
    let asked = count(&statements, a_minute_of_syncs(&world)).await;
    let syncs = AGENTS * POLLS;
    println!("{asked} statements for {syncs} syncs, {look} for a look at the feed");
    assert!(asked <= STANDING * syncs, "{asked} statements for {syncs} syncs");
    assert!(look <= NOTHING, "{look} statements for a look at the feed");
    world.stop().await;
}
