//! How many statements an operation takes: each is a hop to the database's thread, or to its
//! machine. Counted where the driver logs them; BEGIN is not among them, and COMMIT is part of the
//! last one, on SQLite.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::{
    AttestedNode, EntryUpdate, JoinToken, NewEntry, NodeUpdate, Since, Store, StoreConfig, open,
};
use steeple_testkit::StatementCounter;

struct Fixture {
    store: Arc<dyn Store>,
    _directory: tempfile::TempDir,
    statements: StatementCounter,
}

impl Fixture {
    async fn new() -> Self {
        let statements = StatementCounter::alone().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("datastore.sqlite3");
        let mut config = StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0");
        config.log_sql = true;
        let store = open(&config).await.unwrap();
        Self { store, _directory: directory, statements }
    }

    /// What an operation answers, and how many statements it took.
    async fn count<T>(&self, work: impl Future<Output = T>) -> (T, usize) {
        self.statements.count(work).await
    }
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn entries(kind: &str, count: usize) -> Vec<NewEntry> {
    let new = |number: usize| {
        let selectors = vec![Selector::new("unix", "uid:0"), Selector::new("unix", "gid:0")];
        NewEntry::new(id(&format!("/{kind}/{number}")), id("/agent"), selectors)
    };
    (0..count).map(new).collect()
}

fn node(path: &str) -> AttestedNode {
    AttestedNode {
        spiffe_id: id(path),
        attestation_type: "join_token".into(),
        serial_number: "1".into(),
        expires_at: 2_000_000_000,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: vec![Selector::new("a", "b"), Selector::new("c", "d")],
        agent_version: String::new(),
    }
}

#[tokio::test]
async fn entries_are_made_many_in_a_statement() {
    let it = Fixture::new().await;
    for (count, most) in [(1, 3), (50, 5), (200, 12)] {
        let new = entries(&count.to_string(), count);
        let (made, statements) = it.count(it.store.create_entries(new)).await;
        assert!(made.iter().all(Result::is_ok));
        assert_eq!(statements, most, "{count} entries");
    }
    it.store.close().await;
}

#[tokio::test]
async fn what_was_made_is_read_in_as_many_statements_whatever_its_number() {
    let it = Fixture::new().await;
    let start = it.store.snapshot().await.unwrap().revision;
    let (nothing, statements) = it.count(it.store.changes_since(&start)).await;
    assert!(matches!(nothing, Ok(Since::Changes(changes)) if changes.is_empty()));
    assert_eq!(statements, 1);
    it.store.create_entries(entries("w", 100)).await;
    let (some, statements) = it.count(it.store.changes_since(&start)).await;
    assert!(matches!(some, Ok(Since::Changes(changes)) if changes.entries.len() == 100));
    assert_eq!(statements, 3, "the events, the entries, and what belongs to them");
    let (listed, statements) = it.count(it.store.list_entries(&Default::default(), None)).await;
    assert_eq!(listed.unwrap().0.len(), 100);
    assert_eq!(statements, 2);
    it.store.close().await;
}

#[tokio::test]
async fn everything_is_read_two_thousand_rows_in_two_statements() {
    let it = Fixture::new().await;
    let mut statements = Vec::new();
    let mut there = 0;
    for count in [10, 1_990, 2_010] {
        let mut made = 0;
        while there < count {
            let some = Ord::min(count - there, 200);
            it.store.create_entries(entries(&format!("{count}/{made}"), some)).await;
            (there, made) = (there + some, made + 1);
        }
        let (read, took) = it.count(it.store.snapshot()).await;
        assert_eq!(read.unwrap().entries.len(), count);
        statements.push(took);
    }
    assert_eq!(statements[1], statements[0], "in one page");
    assert_eq!(statements[2], statements[0] + 2, "in two");
    it.store.close().await;
}

#[tokio::test]
async fn entries_are_changed_and_deleted_together() {
    let it = Fixture::new().await;
    let made = it.store.create_entries(entries("w", 50)).await;
    let ids: Vec<String> = made.into_iter().map(|made| made.unwrap().0.entry_id).collect();
    let update = EntryUpdate { hint: Some("x".into()), ..EntryUpdate::default() };
    let updates: Vec<_> = ids.iter().map(|id| (id.clone(), update.clone())).collect();
    let (updated, statements) = it.count(it.store.update_entries(&updates)).await;
    assert!(updated.iter().all(Result::is_ok));
    assert_eq!(statements, 2 + 50 + 1, "reading them, each, and their events with the end");
    let (deleted, statements) = it.count(it.store.delete_entries(&ids)).await;
    assert!(deleted.iter().all(Result::is_ok));
    assert_eq!(statements, 2 + 1 + 1, "reading them, all, and their events with the end");
    it.store.close().await;
}

#[tokio::test]
async fn an_agent_costs_few_statements() {
    let it = Fixture::new().await;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let token = JoinToken { token: "t".into(), expires_at: 2000 };
    let (made, statements) = it.count(it.store.create_join_token(token, None)).await;
    made.unwrap();
    assert_eq!(statements, 1);
    let agent = node("/spire/agent/join_token/t");
    let (known, statements) = it.count(it.store.fetch_join_attempt("t", &agent.spiffe_id)).await;
    assert!(!known.unwrap().unwrap().is_banned);
    assert_eq!(statements, 1, "the token and the agent");
    let (attested, statements) =
        it.count(it.store.attest_with_join_token(agent.clone(), "t", now)).await;
    attested.unwrap();
    assert_eq!(statements, 2, "what there is, and all that is written, the event included");
    let (fetched, statements) = it.count(it.store.fetch_node(&agent.spiffe_id)).await;
    assert_eq!(fetched.unwrap(), Some(agent.clone()));
    assert_eq!(statements, 1, "the agent with its selectors");
    let (renewed, statements) = it.count(it.store.renew_node(&agent.spiffe_id, "2", 3000)).await;
    renewed.unwrap();
    assert_eq!(statements, 2, "the change, the event");
    let (used, statements) = it.count(it.store.promote_node_serial(&agent.spiffe_id, "2")).await;
    used.unwrap();
    assert_eq!(statements, 3, "the agent, the change, the event");
    let (_, statements) = it.count(it.store.promote_node_serial(&agent.spiffe_id, "2")).await;
    assert_eq!(statements, 1, "it was used before");
    let version = NodeUpdate { agent_version: Some("1".into()), ..NodeUpdate::default() };
    let (updated, statements) = it.count(it.store.update_node(&agent.spiffe_id, version)).await;
    updated.unwrap();
    assert_eq!(statements, 3, "the agent, the change, the event");
    it.store.close().await;
}

#[tokio::test]
async fn what_happened_to_agents_is_read_in_one_statement() {
    let it = Fixture::new().await;
    let start = it.store.snapshot().await.unwrap().revision;
    it.store.upsert_attested_node(node("/first")).await.unwrap();
    let Ok(Since::Changes(first)) = it.store.changes_since(&start).await else { panic!("none") };
    let start = first.revision;
    for path in ["/a", "/b", "/c"] {
        it.store.upsert_attested_node(node(path)).await.unwrap();
    }
    let (told, statements) = it.count(it.store.changes_since(&start)).await;
    assert_eq!(statements, 1, "the events and the agents with their selectors");
    let Ok(Since::Changes(told)) = told else { panic!("no changes") };
    let nodes: Vec<_> = told.nodes.into_iter().map(|change| change.node.unwrap()).collect();
    assert_eq!(nodes, ["/a", "/b", "/c"].map(node));
    // Entries were touched as well: all is read in a transaction, and says the same of agents.
    it.store.create_entries(entries("w", 1)).await;
    let Ok(Since::Changes(both)) = it.store.changes_since(&start).await else { panic!("none") };
    assert_eq!(both.entries.len(), 1);
    let again: Vec<_> = both.nodes.into_iter().map(|change| change.node.unwrap()).collect();
    assert_eq!(again, nodes);
    let Ok(Since::Changes(rest)) = it.store.changes_since(&told.revision).await else {
        panic!("none")
    };
    assert_eq!((rest.entries.len(), rest.nodes.len()), (1, 0), "it was followed to its end");
    it.store.close().await;
}

/// Not a test: prints what making entries costs here. `cargo test --release -p steeple-store
/// --test statements -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "it is what it is for")]
async fn what_making_entries_costs() {
    const TOTAL: usize = 20_000;
    let directory = tempfile::tempdir_in(".").unwrap();
    for (batch, callers) in [(1, 1), (1, 8), (1, 64), (50, 1), (50, 4), (200, 1)] {
        let path = directory.path().join(format!("{batch}-{callers}.sqlite3"));
        let config = StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0");
        let store = open(&config).await.unwrap();
        let (started, cpu) = (std::time::Instant::now(), cpu());
        let total = if batch == 1 { TOTAL / 4 } else { TOTAL };
        let work: Vec<_> = (0..callers)
            .map(|caller| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for round in 0..total / batch / callers {
                        let new = entries(&format!("{caller}/{round}"), batch);
                        let made = store.create_entries(new).await;
                        assert!(made.iter().all(Result::is_ok));
                    }
                })
            })
            .collect();
        for work in work {
            work.await.unwrap();
        }
        let made = total / batch / callers * batch * callers;
        eprintln!(
            "{batch:4} in a call, {callers:3} callers: {:8.0}/s, {:7.1} µs CPU each",
            made as f64 / started.elapsed().as_secs_f64(),
            (crate::cpu() - cpu) / made as f64
        );
        store.close().await;
    }
}

/// The CPU time of this process, in microseconds.
fn cpu() -> f64 {
    const PER_TICK: f64 = 10_000.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * PER_TICK
}
