//! Several servers on one database.

#![expect(clippy::print_stdout, reason = "what was measured")]

use std::time::{Duration, Instant};

use steeple_net::channel::Channel;
use steeple_proto::spire::api::server::entry::v1 as entry_pb;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_testkit::{DatabaseKind, DatabaseServer};
use tempfile::TempDir;

use crate::support::{Running, directory, entry, start_on};

async fn start(home: &TempDir, database: &DatabaseServer, name: &str) -> Running {
    let kind = match database.kind() {
        DatabaseKind::Postgres => "postgres",
        DatabaseKind::MariaDb => "mysql",
    };
    start_on("example.org", home, "", kind, &database.connection_string(name)).await
}

async fn authorized(agent: &mut EntryClient<Channel>) -> Vec<String> {
    let request = entry_pb::GetAuthorizedEntriesRequest { output_mask: None };
    let answer = agent.get_authorized_entries(request).await.unwrap().into_inner();
    answer.entries.into_iter().map(|entry| entry.id).collect()
}

/// Makes entries on one server and sees each arrive on the other; how long each took.
async fn follow(kind: DatabaseKind, entries: usize) -> Option<Vec<Duration>> {
    let database = match DatabaseServer::shared(kind) {
        Ok(database) => database,
        Err(skipped) => {
            println!("{skipped}");
            return None;
        }
    };
    let name = database.new_database();
    let (here, there) = (directory(), directory());
    let first = start(&here, &database, &name).await;
    let second = start(&there, &database, &name).await;
    let agent = first.new_agent().await;
    let mut at_second = EntryClient::new(second.remote(Some(&agent)).await);

    let mut took = Vec::new();
    for number in 0..entries {
        let id = first.create(entry(&agent.id, &format!("/e{number}"))).await;
        let made = Instant::now();
        while !authorized(&mut at_second).await.contains(&id) {
            assert!(made.elapsed() < Duration::from_secs(10), "entry {number} never arrived");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.push(made.elapsed());
    }
    // And all of them are still there: nothing was skipped.
    assert_eq!(authorized(&mut at_second).await.len(), entries);
    first.stop().await;
    second.stop().await;
    took.sort();
    println!(
        "{kind:?}: from one server's answer to the other's: median {:?}, worst of {entries} {:?}",
        took[entries / 2],
        took[entries - 1]
    );
    Some(took)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_made_on_one_is_authorised_by_the_other_on_postgresql() {
    if let Some(took) = follow(DatabaseKind::Postgres, 100).await {
        assert_eq!(took.len(), 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_made_on_one_is_authorised_by_the_other_on_mariadb() {
    if let Some(took) = follow(DatabaseKind::MariaDb, 20).await {
        assert_eq!(took.len(), 20);
    }
}
