//! The change feed on PostgreSQL and MariaDB, where ids and commits come in different orders and
//! others write who know nothing of us.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "common/fixture.rs"]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::{Fixture, changes, entry, soon};
use sea_orm::sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, PgConnection};
use steeple_store::{EntryUpdate, ResnapshotReason, Since, Store, open};
use steeple_testkit::DatabaseKind;

/// A connection of somebody else's.
enum Other {
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
}

impl Other {
    async fn new(fixture: &Fixture) -> Self {
        let (port, name) = (fixture.server.port(), &fixture.name);
        match fixture.server.kind() {
            DatabaseKind::Postgres => {
                let url = format!("postgres://spire:spire@127.0.0.1:{port}/{name}");
                Self::Postgres(PgConnection::connect(&url).await.unwrap())
            }
            DatabaseKind::MariaDb => {
                let url = format!("mysql://spire:spire@127.0.0.1:{port}/{name}");
                Self::MariaDb(MySqlConnection::connect(&url).await.unwrap())
            }
        }
    }

    async fn run(&mut self, sql: &str) {
        let sql = sea_orm::sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Postgres(connection) => drop(connection.execute(sql).await.unwrap()),
            Self::MariaDb(connection) => drop(connection.execute(sql).await.unwrap()),
        }
    }

    /// Touches an entry as SPIRE does.
    async fn touch(&mut self, entry_id: &str) {
        self.run(&format!(
            "INSERT INTO registered_entries_events (created_at, updated_at, entry_id) \
             VALUES (now(), now(), '{entry_id}')"
        ))
        .await;
    }
}

async fn ids(store: &dyn Store, revision: &mut steeple_store::Revision) -> Vec<String> {
    let news = changes(store, revision).await;
    *revision = news.revision;
    news.entries.into_iter().map(|change| change.entry_id).collect()
}

#[tokio::test]
async fn an_event_that_becomes_visible_late_is_told_late_and_not_lost() {
    for fixture in Fixture::each() {
        let store = fixture.open().await;
        store.create_entry(entry("/five")).await.unwrap();
        let mut revision = store.snapshot().await.unwrap().revision;
        let (mut six, mut seven) = (Other::new(&fixture).await, Other::new(&fixture).await);
        six.run("BEGIN").await;
        six.touch("six").await;
        seven.touch("seven").await;
        assert_eq!(ids(&*store, &mut revision).await, ["seven"]);
        assert!(ids(&*store, &mut revision).await.is_empty());
        seven.touch("eight").await;
        assert_eq!(ids(&*store, &mut revision).await, ["eight"]);
        six.run("COMMIT").await;
        assert_eq!(ids(&*store, &mut revision).await, ["six"]);
        assert!(ids(&*store, &mut revision).await.is_empty(), "and each is told once");
        store.close().await;
    }
}

#[tokio::test]
async fn an_id_that_was_rolled_back_holds_nobody_up() {
    for fixture in Fixture::each() {
        let store = fixture.open().await;
        let mut revision = store.snapshot().await.unwrap().revision;
        let mut other = Other::new(&fixture).await;
        other.touch("one").await;
        other.run("BEGIN").await;
        other.touch("never").await;
        other.run("ROLLBACK").await;
        other.touch("three").await;
        assert_eq!(ids(&*store, &mut revision).await, ["one", "three"]);
        assert!(ids(&*store, &mut revision).await.is_empty());
        store.close().await;
    }
}

#[tokio::test]
async fn an_event_of_before_the_snapshot_that_commits_after_it_is_told() {
    for fixture in Fixture::each() {
        let store = fixture.open().await;
        let mut other = Other::new(&fixture).await;
        other.run("BEGIN").await;
        other.touch("open").await;
        store.create_entry(entry("/w")).await.unwrap();
        let mut revision = store.snapshot().await.unwrap().revision;
        other.run("COMMIT").await;
        assert_eq!(ids(&*store, &mut revision).await, ["open"]);
        store.close().await;
    }
}

/// The memory of a reader is cut short while transactions are open, and nothing falls through.
#[tokio::test]
async fn a_long_history_is_forgotten_without_losing_what_is_still_open() {
    for fixture in Fixture::each() {
        let store = fixture.open().await;
        store.create_entry(entry("/first")).await.unwrap();
        let mut revision = store.snapshot().await.unwrap().revision;
        let mut other = Other::new(&fixture).await;
        let mut late = Other::new(&fixture).await;
        late.run("BEGIN").await;
        late.touch("late").await;
        let numbers = match fixture.server.kind() {
            DatabaseKind::Postgres => "generate_series(1, 700)",
            DatabaseKind::MariaDb => "seq_1_to_700",
        };
        let many = format!(
            "INSERT INTO registered_entries_events (created_at, updated_at, entry_id) \
             SELECT now(), now(), 'many' FROM {numbers}"
        );
        other.run(&many).await;
        // The lock that forgetting takes is not given while somebody has an event open.
        assert_eq!(ids(&*store, &mut revision).await, ["many"]);
        late.run("COMMIT").await;
        assert_eq!(ids(&*store, &mut revision).await, ["late"]);
        store.close().await;

        let store = fixture.open().await;
        assert_eq!(ids(&*store, &mut revision).await, Vec::<String>::new());
        late.run("BEGIN").await;
        late.touch("later").await;
        other.touch("next").await;
        assert_eq!(ids(&*store, &mut revision).await, ["next"]);
        late.run("ROLLBACK").await;
        late.touch("last").await;
        assert_eq!(ids(&*store, &mut revision).await, ["last"]);
        store.close().await;
    }
}

/// Writers of ours, writers like SPIRE, rollbacks and a pruner, all at once, on two servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_skipped_however_transactions_interleave() {
    for fixture in Fixture::each() {
        let fixture = Arc::new(fixture);
        let (one, two) = (fixture.open().await, fixture.open().await);
        one.create_entry(entry("/first")).await.unwrap();
        let mut revision = two.snapshot().await.unwrap().revision;
        let mut work = Vec::new();
        for writer in 0..4 {
            let store = Arc::clone(if writer % 2 == 0 { &one } else { &two });
            work.push(tokio::spawn(async move {
                let mut made = Vec::new();
                for round in 0..15 {
                    let new = entry(&format!("/{writer}/{round}"));
                    made.push(store.create_entry(new).await.unwrap().entry_id);
                }
                made
            }));
        }
        for writer in 0..4 {
            let fixture = Arc::clone(&fixture);
            work.push(tokio::spawn(async move {
                let mut other = Other::new(&fixture).await;
                let mut made = Vec::new();
                for round in 0..25 {
                    let name = format!("s{writer}-{round}");
                    other.run("BEGIN").await;
                    other.touch(&name).await;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
                    if round % 5 == 4 {
                        other.run("ROLLBACK").await;
                    } else {
                        other.run("COMMIT").await;
                        made.push(name);
                    }
                }
                made
            }));
        }
        let mut told = BTreeMap::<String, usize>::new();
        loop {
            let finished = work.iter().all(tokio::task::JoinHandle::is_finished);
            for id in ids(&*two, &mut revision).await {
                *told.entry(id).or_default() += 1;
            }
            if finished {
                break;
            }
        }
        let mut expected = Vec::new();
        for work in work {
            expected.extend(work.await.unwrap());
        }
        expected.sort_unstable();
        assert_eq!(told.keys().cloned().collect::<Vec<_>>(), expected);
        assert!(told.values().all(|times| *times == 1), "each event was told once");
        one.close().await;
        two.close().await;
    }
}

#[tokio::test]
async fn a_database_restored_from_a_copy_is_recognised() {
    for fixture in Fixture::each() {
        let store = fixture.open().await;
        let mut other = Other::new(&fixture).await;
        for name in ["one", "two", "three"] {
            other.touch(name).await;
        }
        let revision = store.snapshot().await.unwrap().revision;
        // Without the last two, as if restored from before them.
        let newest = "(SELECT * FROM (SELECT MAX(id) - 1 FROM registered_entries_events) AS t)";
        other.run(&format!("DELETE FROM registered_entries_events WHERE id >= {newest}")).await;
        let answer = store.changes_since(&revision).await.unwrap();
        let replaced = matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Replaced));
        assert!(replaced, "{answer:?}");
        // And written to until the ids are the same again.
        for (id, name) in [(2, "other"), (3, "things"), (4, "happened")] {
            other
                .run(&format!(
                    "INSERT INTO registered_entries_events (id, created_at, updated_at, entry_id) \
                     VALUES ({id}, now(), now(), '{name}')"
                ))
                .await;
        }
        let answer = store.changes_since(&revision).await.unwrap();
        let replaced = matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Replaced));
        assert!(replaced, "{answer:?}");
        let mut revision = store.snapshot().await.unwrap().revision;
        assert!(ids(&*store, &mut revision).await.is_empty(), "and then all is well");
        store.close().await;
    }
}

#[tokio::test]
async fn who_reads_too_late_is_told_to_start_afresh() {
    for fixture in Fixture::each() {
        let store = fixture.open().await;
        let mut other = Other::new(&fixture).await;
        other.touch("seen").await;
        let mut revision = store.snapshot().await.unwrap().revision;
        // SPIRE's pruner leaves nothing at all.
        other.run("DELETE FROM registered_entries_events").await;
        other.touch("new").await;
        let answer = store.changes_since(&revision).await.unwrap();
        let pruned = matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Pruned));
        assert!(pruned, "{answer:?}");
        // Ours leaves the newest, so that whoever had read it goes on.
        revision = store.snapshot().await.unwrap().revision;
        let soon = SystemTime::now() + Duration::from_secs(3600);
        store.prune_events(soon).await.unwrap();
        store.prune_events(soon).await.unwrap();
        other.touch("next").await;
        assert_eq!(ids(&*store, &mut revision).await, ["next"]);
        store.close().await;
    }
}

/// On PostgreSQL a peer need not ask: it is called.
#[tokio::test]
async fn a_commit_wakes_the_other_server_at_once() {
    let Some(fixture) = Fixture::new(DatabaseKind::Postgres) else { return };
    let (one, two) = (fixture.open().await, fixture.open().await);
    let mut wakeups = two.wakeups();
    // Both may still be about to listen.
    soon("the first call", async || {
        one.create_entry(entry(&format!("/{}", fastrand::u64(..)))).await.unwrap();
        tokio::time::timeout(Duration::from_millis(300), wakeups.clone().changed()).await.is_ok()
    })
    .await;
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        wakeups.mark_unchanged();
        let started = Instant::now();
        one.create_entry(entry(&format!("/{}", fastrand::u64(..)))).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), wakeups.changed()).await.unwrap().unwrap();
        longest = longest.max(started.elapsed());
    }
    eprintln!("the longest of 20 from call to wake-up: {longest:?}");
    // The listener's connection breaks; it comes back by itself.
    fixture.server.run_sql(
        &fixture.name,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'",
    );
    soon("a call after the break", async || {
        wakeups.mark_unchanged();
        one.create_entry(entry(&format!("/{}", fastrand::u64(..)))).await.unwrap();
        tokio::time::timeout(Duration::from_millis(500), wakeups.clone().changed()).await.is_ok()
    })
    .await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn reads_that_may_be_stale_go_to_the_replica_and_never_go_back_in_time() {
    for fixture in Fixture::each() {
        let replica = fixture.server.new_database();
        let config = steeple_store::StoreConfig {
            ro_connection_string: Some(fixture.server.connection_string(&replica)),
            ..fixture.config()
        };
        let copy = steeple_store::StoreConfig {
            connection_string: fixture.server.connection_string(&replica),
            ..fixture.config()
        };
        // A replica that has not come far: the schema and nothing else.
        let copy = open(&copy).await.unwrap();
        let store = open(&config).await.unwrap();
        let made = store.create_entry(entry("/w")).await.unwrap();
        let mut revision = store.snapshot().await.unwrap().revision;
        assert!(ids(&*store, &mut revision).await.is_empty(), "the replica is behind: later");
        store.update_entry(&made.entry_id, EntryUpdate::default()).await.unwrap();
        assert!(ids(&*store, &mut revision).await.is_empty());
        assert_eq!(store.fetch_entry(&made.entry_id).await.unwrap().unwrap().revision_number, 1);
        // It catches up.
        let dump = fixture.sql("SELECT entry_id FROM registered_entries_events ORDER BY id");
        assert_eq!(dump.lines().count(), 2);
        let copied = match fixture.server.kind() {
            DatabaseKind::MariaDb => format!(
                "INSERT INTO {replica}.registered_entries_events \
                 SELECT * FROM registered_entries_events"
            ),
            DatabaseKind::Postgres => String::new(),
        };
        if !copied.is_empty() {
            fixture.sql(&copied);
            assert_eq!(ids(&*store, &mut revision).await, [made.entry_id.as_str()]);
        }
        store.close().await;
        copy.close().await;
    }
}
