//! Callers who write the same thing a little differently, and things that do not fit.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "common/fixture.rs"]
mod common;

use std::sync::Arc;

use common::{Fixture, agent, entry, id};
use steeple_spiffe::Selector;
use steeple_store::{
    EntryFilter, JoinToken, JoinTokenError, MatchBehavior, NewEntry, NodeFilter, SelectorFilter,
    Store, StoreConfig, open,
};
use steeple_testkit::DatabaseKind;

const IN_2033: i64 = 2_000_000_000;

/// A database by its name, with what keeps it alive.
type Database = (String, Arc<dyn Store>, Box<dyn std::any::Any>);

/// A database of each kind that there is, SQLite first.
async fn each() -> Vec<Database> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("datastore.sqlite3");
    let config = StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0");
    let mut all: Vec<Database> =
        vec![("SQLite".to_owned(), open(&config).await.unwrap(), Box::new(dir))];
    for fixture in Fixture::each() {
        all.push((format!("{:?}", fixture.server.kind()), fixture.open().await, Box::new(fixture)));
    }
    all
}

fn with(path: &str, entry_id: &str, hint: &str, selector: &str) -> NewEntry {
    NewEntry {
        entry_id: Some(entry_id.to_owned()),
        hint: hint.to_owned(),
        selectors: vec![Selector::new("unix", selector)],
        ..entry(path)
    }
}

fn by_selector(value: &str, behavior: MatchBehavior) -> SelectorFilter {
    SelectorFilter { selectors: vec![Selector::new("unix", value)], behavior }
}

async fn paths(store: &dyn Store, filter: EntryFilter) -> Vec<String> {
    let (found, _) = store.list_entries(&filter, None).await.unwrap();
    assert_eq!(store.count_entries(&filter).await.unwrap(), found.len() as u64);
    found.iter().map(|entry| entry.spiffe_id.path().to_owned()).collect()
}

/// Texts that a database may take for the first: by case, by spaces at the end, by accents, by
/// what its comparisons leave out, by its wildcards, and by its own language.
const TWINS: [&str; 12] = [
    "admin",
    "Admin",
    "admin ",
    "admin\t",
    "ádmin",
    "ａｄｍｉｎ",
    "ad\u{ad}min",
    "admin\u{200b}",
    "%",
    "a_min",
    "admin' OR '1'='1",
    "admin\\",
];

#[tokio::test]
async fn a_selector_or_hint_is_found_by_itself_only() {
    for (name, store, _alive) in each().await {
        for (at, twin) in TWINS.iter().enumerate() {
            let new = with(&format!("/w{at}"), &format!("e{at}"), twin, twin);
            store
                .create_entry(new)
                .await
                .unwrap_or_else(|error| panic!("{name} {twin:?}: {error}"));
        }
        for (at, twin) in TWINS.iter().enumerate() {
            let only = vec![format!("/w{at}")];
            let filter = EntryFilter { hint: Some((*twin).to_owned()), ..EntryFilter::default() };
            assert_eq!(paths(&*store, filter).await, only, "{name} hint {twin:?}");
            for behavior in [
                MatchBehavior::Exact,
                MatchBehavior::Any,
                MatchBehavior::Subset,
                MatchBehavior::Superset,
            ] {
                let selectors = Some(by_selector(twin, behavior));
                let filter = EntryFilter { selectors, ..EntryFilter::default() };
                assert_eq!(paths(&*store, filter).await, only, "{name} selector {twin:?}");
            }
        }
        store.close().await;
    }
}

#[tokio::test]
async fn nobody_gets_what_belongs_to_an_id_of_another_case() {
    for (name, store, _alive) in each().await {
        store.create_entry(with("/Admin", "Entry", "", "uid:1")).await.unwrap();
        store.create_entry(with("/admin", "other", "", "uid:1")).await.unwrap();
        let mut below = with("/below", "below", "", "uid:1");
        below.parent_id = id("/AGENT");
        store.create_entry(below).await.unwrap();
        let listed = |filter| paths(&*store, filter);
        let spiffe_id = |path| EntryFilter { spiffe_id: Some(id(path)), ..EntryFilter::default() };
        let parent_id = |path| EntryFilter { parent_id: Some(id(path)), ..EntryFilter::default() };
        assert_eq!(listed(spiffe_id("/admin")).await, ["/admin"], "{name}");
        assert_eq!(listed(spiffe_id("/Admin")).await, ["/Admin"], "{name}");
        assert_eq!(listed(spiffe_id("/ADMIN")).await, [""; 0], "{name}");
        assert_eq!(listed(parent_id("/AGENT")).await, ["/below"], "{name}");
        assert_eq!(listed(parent_id("/agent")).await.len(), 2, "{name}");
        for entry_id in ["entry", "ENTRY", "Entry ", "Entry%", "Entr_"] {
            assert_eq!(store.fetch_entry(entry_id).await.unwrap(), None, "{name} {entry_id}");
            assert!(store.delete_entry(entry_id).await.is_err(), "{name} {entry_id}");
        }
        assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), 3, "{name}");
        store.close().await;
    }
}

#[tokio::test]
async fn an_agent_has_its_own_selectors_and_is_touched_by_its_own_id_only() {
    for (name, store, _alive) in each().await {
        let mut upper = agent("/Agent");
        upper.selectors = vec![Selector::new("unix", "Cluster:Prod")];
        store.upsert_attested_node(upper.clone()).await.unwrap();
        // Where a table has room for one of the two only, the second is refused, and the first
        // keeps what is its own.
        let mut lower = agent("/agent");
        lower.selectors = vec![Selector::new("unix", "cluster:prod")];
        let both = store.upsert_attested_node(lower).await.is_ok();
        assert!(both || name == "MariaDb", "{name}");
        let read = store.fetch_node(&id("/Agent")).await.unwrap().unwrap();
        assert_eq!(read.selectors, upper.selectors, "{name}");
        for (value, path) in [("Cluster:Prod", "/Agent"), ("cluster:prod", "/agent")] {
            for behavior in [MatchBehavior::Any, MatchBehavior::Exact, MatchBehavior::Superset] {
                let selectors = Some(by_selector(value, behavior));
                let filter = NodeFilter { selectors, ..NodeFilter::default() };
                let (found, _) = store.list_nodes(&filter, None).await.unwrap();
                let found: Vec<_> = found.iter().map(|node| node.spiffe_id.path()).collect();
                let expected: &[&str] = if path == "/Agent" || both { &[path] } else { &[] };
                assert_eq!(found, expected, "{name} {value}");
            }
        }
        assert!(store.ban_node(&id("/AGENT")).await.is_err(), "{name}");
        assert!(store.delete_node(&id("/AGENT")).await.is_err(), "{name}");
        let read = store.fetch_node(&id("/Agent")).await.unwrap().unwrap();
        assert!(!read.is_banned(), "{name}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_join_token_is_spent_by_itself_only() {
    for (name, store, _alive) in each().await {
        let token = "6a7B-c".to_owned();
        let now = std::time::SystemTime::UNIX_EPOCH;
        let made = JoinToken { token: token.clone(), expires_at: IN_2033 };
        store.create_join_token(made, None).await.unwrap();
        for guess in ["6a7b-c", "6A7B-C", "6a7B-c ", "6a7B-%", "6a7B__", "' OR '1'='1", ""] {
            let node = agent("/spire/agent/join_token/x");
            let answer = store.attest_with_join_token(node, guess, now).await;
            let refused = matches!(answer, Err(JoinTokenError::Unknown));
            assert!(refused, "{name} {guess:?}: {answer:?}");
        }
        let node = agent("/spire/agent/join_token/x");
        let answer = store.attest_with_join_token(node, &token, now).await;
        assert!(answer.is_ok(), "{name}: {answer:?}");
        store.close().await;
    }
}

/// A server that was told to be lenient cuts a text to the length of its column.
#[tokio::test]
async fn what_does_not_fit_is_refused_and_never_cut() {
    if let Some(fixture) = Fixture::private(DatabaseKind::MariaDb) {
        fixture.sql("SET GLOBAL sql_mode = ''");
        let store = fixture.open().await;
        let long = |start: &str| format!("{start}{}", "x".repeat(300));
        let selector = |value: &str| vec![Selector::new("unix", value)];
        let refused = [
            NewEntry { spiffe_id: id(&long("/w")), ..entry("/w") },
            NewEntry { parent_id: id(&long("/p")), ..entry("/w") },
            NewEntry { selectors: selector(&long("uid:")), ..entry("/w") },
            NewEntry { hint: long("hint"), ..entry("/w") },
            NewEntry { dns_names: vec![long("a")], ..entry("/w") },
        ];
        for new in refused {
            let answer = store.create_entry(new).await;
            assert!(answer.is_err(), "{answer:?}");
        }
        assert!(store.upsert_attested_node(agent(&long("/agent"))).await.is_err());
        let token = JoinToken { token: long("t"), expires_at: IN_2033 };
        assert!(store.create_join_token(token, None).await.is_err());
        assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), 0);
        assert_eq!(store.count_nodes(&NodeFilter::default()).await.unwrap(), 0);
        store.close().await;
    }
    for (name, store, _alive) in each().await {
        let made = store.create_entry(entry(&format!("/{}", "x".repeat(300)))).await;
        if let Ok(made) = made {
            let read = store.fetch_entry(&made.entry_id).await.unwrap();
            assert_eq!(read, Some(made), "{name}");
        }
        store.close().await;
    }
}
