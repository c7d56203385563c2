//! The schema on PostgreSQL and MariaDB, and the way to it from older releases, also on SQLite.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "common/fixture.rs"]
mod common;

use common::{Fixture, agent, entry};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sea_orm::sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use steeple_store::{EntryUpdate, NewEntry, NodeFilter, StoreConfig, StoreError, open};
use steeple_testkit::DatabaseKind;

/// What a release with an older schema had, made of the newest: the columns that came since are
/// not there yet, and its version is written down.
fn age(fixture: &Fixture, schema: i32, code_version: &str) {
    let mut sql = String::new();
    if schema < 25 {
        sql += "ALTER TABLE registered_entries DROP COLUMN additional_attributes; ";
    }
    if schema < 24 {
        sql += "ALTER TABLE attested_node_entries DROP COLUMN agent_version; ";
    }
    sql += &format!("UPDATE migrations SET version = {schema}, code_version = '{code_version}'");
    fixture.sql(&sql);
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date_with_what_is_in_it() {
    for fixture in Fixture::each() {
        let fresh = Fixture::new(fixture.server.kind()).unwrap();
        fresh.open().await.close().await;
        for (schema, code_version) in [(23, "1.13.3"), (24, "1.14.2")] {
            let fixture = Fixture::new(fixture.server.kind()).unwrap();
            let store = fixture.open().await;
            let kept = store.create_entry(entry("/w")).await.unwrap();
            store.upsert_attested_node(agent("/agent")).await.unwrap();
            store.close().await;
            age(&fixture, schema, code_version);
            let store = fixture.open().await;
            assert!(!store.was_created());
            assert_eq!(store.fetch_entry(&kept.entry_id).await.unwrap().as_ref(), Some(&kept));
            let update = EntryUpdate { jwt_svid_include_jti: Some(true), ..EntryUpdate::default() };
            assert!(store.update_entry(&kept.entry_id, update).await.unwrap().jwt_svid_include_jti);
            store.set_agent_version(&common::id("/agent"), "1.15.0").await.unwrap();
            store.close().await;
            let version = fixture.sql("SELECT version, code_version FROM migrations");
            assert_eq!(version.replace(['|', '\t'], " "), "25 1.15.0");
            let (made, wanted) = (schema_of(&fixture), schema_of(&fresh));
            assert_eq!(made, wanted, "from schema {schema}");
            // Once more: there is nothing left to do.
            fixture.open().await.close().await;
        }
    }
}

/// The schema without what counts up as rows are made.
fn schema_of(fixture: &Fixture) -> String {
    let dump = fixture.server.dump_schema(&fixture.name);
    let lines = dump.lines().filter(|line| !line.starts_with("--") && !line.contains("restrict"));
    lines
        .map(|line| match line.split_once(" AUTO_INCREMENT=") {
            Some((before, after)) => {
                format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            None => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn a_migration_that_was_cut_short_is_finished() {
    // Only MySQL can leave one: it does not take back an ALTER TABLE.
    let Some(fixture) = Fixture::new(DatabaseKind::MariaDb) else { return };
    fixture.open().await.close().await;
    fixture.sql("UPDATE migrations SET version = 23, code_version = '1.13.0'");
    fixture.open().await.close().await;
    assert_eq!(fixture.sql("SELECT version FROM migrations"), "25");
    // And a schema that was not completely made when the server was killed.
    fixture.sql("DELETE FROM migrations; DROP TABLE dns_names; DROP TABLE ca_journals");
    let store = fixture.open().await;
    store.create_entry(entry("/w")).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn the_version_rules_are_spires() {
    for fixture in Fixture::each() {
        fixture.open().await.close().await;
        for (schema, code_version, text) in [
            (26, "1.16.0", ""),
            (26, "1.17.0", "incompatible DB schema and code version"),
            (26, "2.15.0", "incompatible DB schema and code version"),
            (25, "1.99.0", ""),
            (25, "", ""),
            (25, "one", "error getting DB code version: unable to parse code version from DB"),
            (22, "1.12.0", "migrating from schema version 22 requires a previous SPIRE release"),
        ] {
            fixture.sql(&format!(
                "UPDATE migrations SET version = {schema}, code_version = '{code_version}'"
            ));
            match open(&fixture.config()).await {
                Ok(store) => {
                    assert_eq!(text, "", "{schema} {code_version}");
                    store.close().await;
                }
                Err(error) => assert!(
                    !text.is_empty() && error.to_string().contains(text),
                    "{schema} {code_version}: {error}"
                ),
            }
        }
        assert_eq!(fixture.sql("SELECT version FROM migrations"), "22", "it was left alone");
        fixture.sql("UPDATE migrations SET version = 24, code_version = '1.14.0'");
        let config = StoreConfig { disable_migration: true, ..fixture.config() };
        let refused = open(&config).await.err().unwrap();
        assert!(refused.to_string().contains("auto-migration must be enabled"), "{refused}");
    }
}

#[tokio::test]
async fn of_several_servers_that_start_at_once_one_makes_the_schema() {
    for fixture in Fixture::each() {
        let config = fixture.config();
        let (a, b, c) = tokio::join!(open(&config), open(&config), open(&config));
        let stores = [a.unwrap(), b.unwrap(), c.unwrap()];
        assert_eq!(stores.iter().filter(|store| store.was_created()).count(), 1);
        assert_eq!(fixture.sql("SELECT COUNT(*) FROM migrations"), "1");
        for store in stores {
            store.close().await;
        }
    }
}

#[tokio::test]
async fn spiffe_ids_and_selectors_have_their_case_on_mysql_too() {
    let Some(fixture) = Fixture::new(DatabaseKind::MariaDb) else { return };
    let store = fixture.open().await;
    store.upsert_attested_node(agent("/Agent")).await.unwrap();
    assert!(store.fetch_node(&common::id("/Agent")).await.unwrap().is_some());
    // SPIRE answers /Agent here: its collation knows no case.
    assert_eq!(store.fetch_node(&common::id("/agent")).await.unwrap(), None);
    assert_eq!(store.ban_node(&common::id("/agent")).await, Err(StoreError::not_found()));
    let made =
        store.create_entry(NewEntry { entry_id: Some("ONE".into()), ..entry("/W") }).await.unwrap();
    assert_eq!(store.fetch_entry("one").await.unwrap(), None);
    assert!(store.fetch_entries(&["one".into()]).await.unwrap().is_empty());
    let other = store.create_entry(entry("/w")).await.unwrap();
    assert_ne!(other.entry_id, made.entry_id, "not similar");
    assert_eq!(store.count_nodes(&NodeFilter::default()).await.unwrap(), 1);
    store.close().await;
}

#[tokio::test]
async fn times_on_mysql_are_in_the_zone_that_the_connection_string_says() {
    let Some(fixture) = Fixture::new(DatabaseKind::MariaDb) else { return };
    let mut config = fixture.config();
    config.connection_string += "&loc=Asia%2FKolkata";
    let store = open(&config).await.unwrap();
    store.upsert_attested_node(agent("/agent")).await.unwrap();
    let shown = fixture.sql("SELECT expires_at FROM attested_node_entries");
    assert_eq!(shown, "2033-05-18 09:03:20", "5:30 ahead of UTC");
    let read = store.fetch_node(&common::id("/agent")).await.unwrap().unwrap();
    assert_eq!(read.expires_at, 2_000_000_000);
    store.close().await;
}

/// SQLite keeps the statements' texts, so here they are written as the releases had them.
#[tokio::test]
async fn older_schemas_on_sqlite_are_brought_up_to_date() {
    for schema in [23, 24] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.sqlite3");
        let config = StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0");
        let store = open(&config).await.unwrap();
        let kept = store.create_entry(entry("/w")).await.unwrap();
        store.close().await;
        let options = SqliteConnectOptions::new().filename(&path);
        let mut raw = SqliteConnection::connect_with(&options).await.unwrap();
        let wanted = texts(&mut raw).await;
        let mut aging = vec![
            "ALTER TABLE registered_entries DROP COLUMN additional_attributes".to_owned(),
            format!("UPDATE migrations SET version = {schema}, code_version = '1.14.0'"),
        ];
        if schema == 23 {
            aging.push("ALTER TABLE attested_node_entries DROP COLUMN agent_version".into());
        }
        for sql in aging {
            raw.execute(AssertSqlSafe(sql)).await.unwrap();
        }
        assert_ne!(texts(&mut raw).await, wanted);
        raw.close().await.unwrap();
        let store = open(&config).await.unwrap();
        assert_eq!(store.fetch_entry(&kept.entry_id).await.unwrap(), Some(kept));
        store.upsert_attested_node(agent("/agent")).await.unwrap();
        store.close().await;
        let mut raw = SqliteConnection::connect_with(&options).await.unwrap();
        let squeezed = |texts: Vec<String>| texts.join("\n").replace([' ', '\n'], "");
        assert_eq!(squeezed(texts(&mut raw).await), squeezed(wanted));
    }
}

async fn texts(connection: &mut SqliteConnection) -> Vec<String> {
    let select = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name";
    let rows = connection.fetch_all(select).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect()
}
