//! An SQLite file that others write to, damage, lock or replace.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sea_orm::sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::{
    AttestedNode, EntryFilter, EntryUpdate, JoinToken, JoinTokenError, NewEntry, NodeFilter,
    ResnapshotReason, Revision, Since, Store, StoreConfig, StoreError, open,
};

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("datastore.sqlite3");
        Self { _dir: dir, path }
    }

    fn config(&self) -> StoreConfig {
        StoreConfig::sqlite(self.path.to_str().unwrap(), "1.15.0")
    }

    async fn open(&self) -> Arc<dyn Store> {
        open(&self.config()).await.unwrap()
    }

    /// A connection of somebody else's.
    async fn raw(&self) -> SqliteConnection {
        raw(&self.path).await
    }
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap()
}

async fn run(connection: &mut SqliteConnection, sql: &str) {
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

async fn texts(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let rows = connection.fetch_all(AssertSqlSafe(sql.to_owned())).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn entry(path: &str) -> NewEntry {
    NewEntry::new(id(path), id("/agent"), vec![Selector::new("unix", "uid:1")])
}

fn agent(path: &str) -> AttestedNode {
    AttestedNode {
        spiffe_id: id(path),
        attestation_type: "join_token".into(),
        serial_number: "1".into(),
        expires_at: 2_000_000_000,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: Vec::new(),
        agent_version: String::new(),
    }
}

async fn changes(store: &dyn Store, after: &Revision) -> steeple_store::Changes {
    match store.changes_since(after).await.unwrap() {
        Since::Changes(changes) => changes,
        Since::ResnapshotNeeded(reason) => panic!("{reason}"),
    }
}

#[tokio::test]
async fn of_several_that_open_at_once_one_makes_the_schema() {
    let fixture = Fixture::new();
    let config = fixture.config();
    let (a, b, c) = tokio::join!(open(&config), open(&config), open(&config));
    let created = [a, b, c].map(|store| store.unwrap().was_created());
    assert_eq!(created.iter().filter(|created| **created).count(), 1);
    assert!(!fixture.open().await.was_created());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_follow_each_other_on_one_file() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.open().await, fixture.open().await);
    let mut revision = two.snapshot().await.unwrap().revision;
    let writers: Vec<_> = [&one, &two]
        .map(|store| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for _ in 0..25 {
                    let path = format!("/{}", fastrand::u64(..));
                    let made = store.create_entry(entry(&path)).await.unwrap();
                    store.update_entry(&made.entry_id, EntryUpdate::default()).await.unwrap();
                }
            })
        })
        .into_iter()
        .collect();
    let mut followed = std::collections::BTreeMap::new();
    loop {
        let finished = writers.iter().all(tokio::task::JoinHandle::is_finished);
        let news = changes(&*two, &revision).await;
        followed.extend(news.entries.into_iter().map(|change| (change.entry_id, change.entry)));
        revision = news.revision;
        if finished {
            break;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(followed.len(), 50);
    assert!(followed.values().all(|entry| entry.as_ref().unwrap().revision_number == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_spent_once_between_two_servers() {
    let fixture = Fixture::new();
    let servers = [fixture.open().await, fixture.open().await];
    let token = JoinToken { token: "t".into(), expires_at: i64::from(u32::MAX) };
    servers[0].create_join_token(token, None).await.unwrap();
    let attempts: Vec<_> = (0..40)
        .map(|number: usize| {
            let server = Arc::clone(&servers[number % 2]);
            tokio::spawn(async move {
                let now = std::time::SystemTime::UNIX_EPOCH;
                server.attest_with_join_token(agent("/joined"), "t", now).await
            })
        })
        .collect();
    let mut won = 0;
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error, JoinTokenError::Unknown),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_write_waits_for_another_process_and_gives_up_at_the_deadline() {
    let fixture = Fixture::new();
    let url = format!("{}?_busy_timeout=20", fixture.path.display());
    let config = StoreConfig {
        busy_deadline: Duration::from_millis(200),
        ..StoreConfig::sqlite(&url, "1.15.0")
    };
    let store = open(&config).await.unwrap();
    let mut other = fixture.raw().await;
    run(&mut other, "BEGIN IMMEDIATE").await;

    let started = Instant::now();
    let refused = store.create_entry(entry("/w")).await.unwrap_err();
    let text = "datastore-sql: database is locked";
    assert_eq!(refused, StoreError::Unavailable(text.into()));
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(store.snapshot().await.unwrap().entries.is_empty(), "reading goes on meanwhile");

    let waiting = store.create_entry(entry("/w"));
    let release = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        run(&mut other, "COMMIT").await;
    };
    let (made, ()) = tokio::join!(waiting, release);
    assert!(made.is_ok(), "{made:?}");
}

/// Lets some work run until it was looked at so many times, and gives it up.
async fn give_up<T>(work: impl Future<Output = T>, looks: usize) {
    let mut work = std::pin::pin!(work);
    for _ in 0..looks {
        let done = std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_ready()));
        if done.await {
            return;
        }
        // What it waits for happens meanwhile.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn who_goes_away_in_the_midst_leaves_nothing_half_done_and_nobody_waiting() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let agent = |number| {
        let selectors = vec![Selector::new("a", "b")];
        AttestedNode { selectors, ..agent(&format!("/agent/{number}")) }
    };
    let agents: Vec<_> = (0..40).map(agent).collect();
    for (looks, agent) in agents.iter().enumerate() {
        store.upsert_attested_node(agent.clone()).await.unwrap();
        let before = store.snapshot().await.unwrap();
        // In a transaction of its own, of several statements.
        give_up(store.delete_node(&agent.spiffe_id), looks / 2).await;
        give_up(store.fetch_node(&agent.spiffe_id), looks / 2).await;
        store.upsert_attested_node(agents[0].clone()).await.unwrap();
        let is_it = |change: &steeple_store::NodeChange| change.spiffe_id == agent.spiffe_id;
        let touched = changes(&*store, &before.revision).await.nodes.into_iter().find(is_it);
        let there = store.fetch_node(&agent.spiffe_id).await.unwrap();
        if *agent != agents[0] {
            assert_eq!(there.is_some(), touched.is_none(), "deleted with its event, or not at all");
        }
        let selectors = "SELECT COUNT(*) || '' FROM node_resolver_map_entries WHERE spiffe_id = '";
        let selectors = format!("{selectors}{}'", agent.spiffe_id);
        let left = texts(&mut fixture.raw().await, &selectors).await;
        assert_eq!(left == ["0"], there.is_none(), "deleted with its selectors, or not at all");
    }
    store.close().await;
}

#[tokio::test]
async fn what_is_written_looks_as_spire_writes_it() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let made = NewEntry { entry_id: Some("e".into()), ..entry("/w") };
    store.create_entry(made).await.unwrap();
    let flagged = NewEntry {
        entry_id: Some("f".into()),
        admin: true,
        disable_x509_svid_prefetch: true,
        ..entry("/f")
    };
    store.create_entry(flagged).await.unwrap();
    store.upsert_attested_node(agent("/agent")).await.unwrap();
    let mut raw = fixture.raw().await;
    let select = "SELECT entry_id || '|' || typeof(admin) || admin || downstream || store_svid \
                  || '|' || typeof(additional_attributes) || hex(additional_attributes) || '|' || \
                  typeof(hint) || '|' || revision_number FROM registered_entries";
    let expected = ["e|integer000|null|text|0", "f|integer100|blob0801|text|0"];
    assert_eq!(texts(&mut raw, select).await, expected);
    let select = "SELECT typeof(expires_at) || strftime('%s', expires_at) || '|' || \
                  typeof(new_expires_at) || '|' || new_serial_number FROM attested_node_entries";
    assert_eq!(texts(&mut raw, select).await, ["text2000000000|null|"]);
    for table in ["registered_entries", "selectors", "registered_entries_events", "migrations"] {
        for text in texts(&mut raw, &format!("SELECT created_at FROM {table}")).await {
            let zone = &text[text.len() - 6..];
            assert!(zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':', "{text}");
            assert_eq!(&text[10..11], " ", "{text}");
        }
    }
    let select = "SELECT sql FROM sqlite_master WHERE name = 'uix_bundles_trust_domain'";
    let index = r#"CREATE UNIQUE INDEX uix_bundles_trust_domain ON "bundles"(trust_domain) "#;
    assert_eq!(texts(&mut raw, select).await, [index], "gorm's text, blank and all");
    let modes = texts(&mut raw, "PRAGMA journal_mode").await;
    assert_eq!(modes, ["wal"]);
}

#[tokio::test]
async fn malformed_rows_do_not_keep_the_others_from_being_served() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let good = store.create_entry(entry("/good")).await.unwrap();
    store.upsert_attested_node(agent("/good-agent")).await.unwrap();
    let revision = store.snapshot().await.unwrap().revision;
    let mut raw = fixture.raw().await;
    for (entry_id, columns) in [
        ("bad-id", "'not a spiffe id', 'spiffe://example.org/agent', 0, NULL, NULL"),
        ("bad-parent", "'spiffe://example.org/w', NULL, 0, NULL, NULL"),
        ("bad-ttl", "'spiffe://example.org/w', 'spiffe://example.org/a', 99999999999, NULL, NULL"),
        ("text-ttl", "'spiffe://example.org/w', 'spiffe://example.org/a', 'soon', NULL, NULL"),
        ("bad-time", "'spiffe://example.org/w', 'spiffe://example.org/a', 0, NULL, 'yesterday'"),
        ("bad-blob", "'spiffe://example.org/w', 'spiffe://example.org/a', 0, x'ffffff', NULL"),
        ("nulls", "'spiffe://example.org/nulls', 'spiffe://example.org/a', NULL, NULL, NULL"),
    ] {
        let sql = format!(
            "INSERT INTO registered_entries \
             (entry_id, spiffe_id, parent_id, ttl, additional_attributes, created_at) \
             VALUES ('{entry_id}', {columns}); \
             INSERT INTO registered_entries_events (entry_id) VALUES ('{entry_id}')"
        );
        run(&mut raw, &sql).await;
    }
    run(&mut raw, "INSERT INTO attested_node_entries (spiffe_id, expires_at) VALUES ('x', 'y')")
        .await;
    run(&mut raw, "INSERT INTO attested_node_entries_events (spiffe_id) VALUES ('x'), (NULL)")
        .await;
    // Left over from an entry that is gone.
    run(
        &mut raw,
        "INSERT INTO selectors (registered_entry_id, type, value) VALUES (999, 'a', 'b')",
    )
    .await;

    let snapshot = store.snapshot().await.unwrap();
    let served: Vec<_> = snapshot.entries.iter().map(|entry| entry.entry_id.as_str()).collect();
    assert_eq!(served, [good.entry_id.as_str(), "nulls"]);
    assert_eq!(snapshot.nodes.len(), 1);
    assert_eq!(store.list_entries(&EntryFilter::default(), None).await.unwrap().0.len(), 2);
    assert_eq!(store.list_nodes(&NodeFilter::default(), None).await.unwrap().0.len(), 1);
    let news = changes(&*store, &revision).await;
    assert_eq!(news.entries.len(), 7);
    assert_eq!(news.entries.iter().filter(|change| change.entry.is_some()).count(), 1);
    assert!(news.nodes.is_empty());
    let error = store.fetch_entry("bad-id").await.unwrap_err();
    assert!(error.to_string().contains("malformed"), "{error}");
    let nulls = store.fetch_entry("nulls").await.unwrap().unwrap();
    assert_eq!((nulls.hint.as_str(), nulls.created_at, nulls.admin), ("", 0, false));
}

#[tokio::test]
async fn timestamps_of_other_zones_are_compared_as_times() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let mut raw = fixture.raw().await;
    // The same moment, 2001-09-09 01:46:40 UTC, as servers in three zones write it.
    for (path, text) in [
        ("west", "2001-09-08 21:46:40-04:00"),
        ("utc", "2001-09-09 01:46:40+00:00"),
        ("east", "2001-09-09 12:46:40.0+11:00"),
    ] {
        let sql = format!(
            "INSERT INTO attested_node_entries (spiffe_id, serial_number, expires_at) \
             VALUES ('spiffe://example.org/{path}', '1', '{text}')"
        );
        run(&mut raw, &sql).await;
    }
    let count = |expires_before| {
        let store = Arc::clone(&store);
        async move {
            let filter =
                NodeFilter { expires_before: Some(expires_before), ..NodeFilter::default() };
            store.count_nodes(&filter).await.unwrap()
        }
    };
    assert_eq!((count(1_000_000_000).await, count(1_000_000_001).await), (0, 3));
    let (nodes, _) = store.list_nodes(&NodeFilter::default(), None).await.unwrap();
    assert!(nodes.iter().all(|node| node.expires_at == 1_000_000_000));
}

#[tokio::test]
async fn a_foreign_pruner_is_noticed_or_harmless() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let start = store.snapshot().await.unwrap().revision;
    for path in ["/a", "/b", "/c"] {
        store.create_entry(entry(path)).await.unwrap();
    }
    let read = changes(&*store, &start).await.revision;
    let mut raw = fixture.raw().await;
    run(&mut raw, "DELETE FROM registered_entries_events").await;
    let made = store.create_entry(entry("/d")).await.unwrap();
    let news = changes(&*store, &read).await;
    assert_eq!(news.entries.len(), 1, "who had read them loses nothing");
    assert_eq!(news.entries[0].entry_id, made.entry_id);
    let answer = store.changes_since(&start).await.unwrap();
    assert!(matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Pruned)), "{answer:?}");

    for path in ["/e", "/f", "/g"] {
        store.create_entry(entry(path)).await.unwrap();
    }
    run(&mut raw, "DELETE FROM registered_entries_events WHERE id = 6").await;
    let answer = store.changes_since(&news.revision).await.unwrap();
    assert!(matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Gap)), "{answer:?}");
}

#[tokio::test]
async fn a_restored_copy_is_noticed() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.create_entry(entry("/a")).await.unwrap();
    let mut raw = fixture.raw().await;
    let copy = fixture.path.with_extension("copy");
    run(&mut raw, &format!("VACUUM INTO '{}'", copy.display())).await;
    store.create_entry(entry("/b")).await.unwrap();
    let revision = store.snapshot().await.unwrap().revision;

    let restored = open(&StoreConfig::sqlite(copy.to_str().unwrap(), "1.15.0")).await.unwrap();
    let answer = restored.changes_since(&revision).await.unwrap();
    assert!(matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Replaced)), "{answer:?}");
    restored.create_entry(entry("/c")).await.unwrap();
    let answer = restored.changes_since(&revision).await.unwrap();
    assert!(matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Replaced)), "{answer:?}");
}

#[tokio::test]
async fn too_many_events_need_a_snapshot() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let revision = store.snapshot().await.unwrap().revision;
    let mut raw = fixture.raw().await;
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50001) \
               INSERT INTO registered_entries_events (entry_id) SELECT 'e' || i FROM n";
    run(&mut raw, sql).await;
    let answer = store.changes_since(&revision).await.unwrap();
    assert!(matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::TooMany)), "{answer:?}");
}

#[tokio::test]
async fn the_migrations_row_follows_spires_rules() {
    let fixture = Fixture::new();
    fixture.open().await.close().await;
    let mut raw = fixture.raw().await;
    let select = "SELECT version || '|' || code_version FROM migrations";
    assert_eq!(texts(&mut raw, select).await, ["25|1.15.0"]);
    for (ours, left) in
        [("1.15.2", "25|1.15.2"), ("1.15.2-steeple-0.1.0", "25|1.15.2"), ("1.16.0", "25|1.16.0")]
    {
        let config = StoreConfig::sqlite(fixture.path.to_str().unwrap(), ours);
        assert!(!open(&config).await.unwrap().was_created());
        assert_eq!(texts(&mut raw, select).await, [left]);
    }
    for (version, code_version, text) in [
        (26, "1.17.0", "incompatible DB schema and code version"),
        (22, "1.7.0", "migrating from schema version 22 requires a previous SPIRE release"),
        (25, "one.two", "unable to parse code version from DB: one.two"),
    ] {
        let sql = format!("UPDATE migrations SET version={version}, code_version='{code_version}'");
        run(&mut raw, &sql).await;
        let Err(refused) = open(&fixture.config()).await else { panic!("{version} was taken") };
        assert!(refused.to_string().contains(text), "{refused}");
    }
    run(&mut raw, "UPDATE migrations SET version=26, code_version='1.16.0'").await;
    assert!(open(&fixture.config()).await.is_ok(), "one minor version ahead is tolerated");
    run(&mut raw, "UPDATE migrations SET version=25, code_version=NULL").await;
    assert!(open(&fixture.config()).await.is_ok(), "old releases left it empty");
    assert_eq!(texts(&mut raw, select).await, ["25|1.15.0"]);
    run(&mut raw, "DELETE FROM migrations").await;
    assert!(matches!(open(&fixture.config()).await, Err(StoreError::Precondition(_))));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let fixture = Fixture::new();
    let garbage = vec![0x42; 8192];
    std::fs::write(&fixture.path, &garbage).unwrap();
    let Err(refused) = open(&fixture.config()).await else { panic!("it was taken") };
    assert!(refused.to_string().contains("file is not a database"), "{refused}");
    assert_eq!(std::fs::read(&fixture.path).unwrap(), garbage);

    let nowhere = StoreConfig::sqlite("/nonexistent/dir/db.sqlite3", "1.15.0");
    let Err(refused) = open(&nowhere).await else { panic!("it was taken") };
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    assert!(refused.to_string().contains("/nonexistent/dir/db.sqlite3"), "{refused}");
    let wrong = StoreConfig::sqlite("postgres://x", "1.15.0");
    assert!(matches!(open(&wrong).await, Err(StoreError::Invalid(_))));
    let unversioned = StoreConfig::sqlite(fixture.path.to_str().unwrap(), "dev");
    assert!(open(&unversioned).await.is_err());
}

#[tokio::test]
async fn an_empty_file_is_a_new_database() {
    let fixture = Fixture::new();
    std::fs::write(&fixture.path, b"").unwrap();
    assert!(fixture.open().await.was_created());
}

#[tokio::test]
async fn a_damaged_bundle_or_authority_is_told_apart() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let mut raw = fixture.raw().await;
    // trust_domain_id "spiffe://a.test", a root CA of 3 bytes of garbage, sequence number 7.
    let blob = "0a0f7370696666653a2f2f612e7465737412050a03ffffff2807";
    let sql =
        format!("INSERT INTO bundles (trust_domain, data) VALUES ('spiffe://a.test', x'{blob}')");
    run(&mut raw, &sql).await;
    let trust_domain = steeple_spiffe::TrustDomain::parse("a.test").unwrap();
    let bundle = store.fetch_bundle(&trust_domain).await.unwrap().unwrap();
    assert_eq!((bundle.x509_authorities.len(), bundle.sequence_number), (0, 7));
    let mut other = steeple_pki::Bundle::new(trust_domain.clone());
    other.refresh_hint = Duration::from_secs(1);
    let mask = steeple_store::BundleMask {
        x509_authorities: false,
        jwt_authorities: false,
        wit_authorities: false,
        refresh_hint: true,
        sequence_number: false,
    };
    store.update_bundle(&other, mask).await.unwrap();
    let kept =
        texts(&mut raw, "SELECT (instr(hex(data), '12050A03FFFFFF') > 0) || '' FROM bundles");
    assert_eq!(kept.await, ["1"], "what we cannot read is kept");
    let refused = store.prune_bundle(&trust_domain, std::time::SystemTime::UNIX_EPOCH).await;
    assert!(matches!(refused, Err(StoreError::Internal(_))));
    run(&mut raw, "UPDATE bundles SET data = x'ffff'").await;
    assert!(matches!(store.fetch_bundle(&trust_domain).await, Err(StoreError::Internal(_))));
}

#[tokio::test]
async fn after_closing_everything_is_unavailable_and_in_one_file() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.create_entry(entry("/w")).await.unwrap();
    store.health().await.unwrap();
    store.close().await;
    assert!(matches!(store.health().await, Err(StoreError::Unavailable(_))));
    let refused = store.create_entry(entry("/x")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    assert!(!fixture.path.with_extension("sqlite3-wal").exists(), "the log was folded in");
}

/// Not run by default: how long a snapshot of 100,000 entries takes.
#[tokio::test]
#[ignore = "a measurement; run it in the release profile"]
async fn a_hundred_thousand_entries_load_quickly() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let mut raw = fixture.raw().await;
    let numbers =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)";
    for sql in [
        "INSERT INTO registered_entries (created_at, entry_id, spiffe_id, parent_id, ttl, admin, \
         downstream, expiry, revision_number, store_svid, hint, jwt_svid_ttl) \
         SELECT '2026-11-22 06:10:41.481568464+00:00', 'e' || i, \
         'spiffe://example.org/ns/' || (i % 100) || '/sa/' || i, \
         'spiffe://example.org/spire/agent/x509pop/' || (i % 1000), 0, 0, 0, 0, 0, 0, '', 0 FROM n",
        "INSERT INTO selectors (registered_entry_id, type, value) \
         SELECT i, 'k8s', 'ns:' || (i % 100) FROM n UNION ALL SELECT i, 'k8s', 'sa:' || i FROM n",
        "INSERT INTO attested_node_entries (spiffe_id, serial_number, expires_at) \
         SELECT 'spiffe://example.org/spire/agent/x509pop/' || i, '1', \
         '2026-11-22 06:10:41+00:00' FROM n WHERE i <= 5000",
        "INSERT INTO node_resolver_map_entries (spiffe_id, type, value) \
         SELECT 'spiffe://example.org/spire/agent/x509pop/' || i, 'x509pop', 'ca:1' \
         FROM n WHERE i <= 5000",
    ] {
        run(&mut raw, &format!("{numbers} {sql}")).await;
    }
    let started = Instant::now();
    let snapshot = store.snapshot().await.unwrap();
    let took = started.elapsed();
    assert_eq!((snapshot.entries.len(), snapshot.nodes.len()), (100_000, 5000));
    assert!(snapshot.entries.iter().all(|entry| entry.selectors.len() == 2));
    assert!(took < Duration::from_secs(20), "{took:?}");
    let started = Instant::now();
    let revision = &snapshot.revision;
    let made = store.create_entry(entry("/one-more")).await.unwrap();
    assert_eq!(changes(&*store, revision).await.entries[0].entry_id, made.entry_id);
    let one_more = started.elapsed();
    assert!(one_more < Duration::from_secs(1), "{one_more:?}");
    #[expect(clippy::print_stderr, reason = "this is what it is run for")]
    {
        eprintln!("snapshot {took:?}, one more entry and its change {one_more:?}");
    }
}
