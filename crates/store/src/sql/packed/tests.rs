use std::collections::BTreeSet;

use sea_orm::sea_query::{Cond, ExprTrait};

use super::*;
use crate::batch::EntryView;
use crate::config::StoreConfig;
use crate::model::{Entry, Page};
use crate::sql::{SqlStore, entry_rows};

/// A store and its folder, with the rows that some SQL makes.
async fn store(sql: &str) -> (SqlStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("datastore.sqlite3");
    let store = Box::pin(SqlStore::open(&StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0")))
        .await
        .unwrap();
    let tx = store.write().await.unwrap();
    tx.inner.execute_unprepared(sql).await.unwrap();
    store.finish(tx, Ok(())).await.0.unwrap();
    (store, folder)
}

/// What a page of all entries is when it is read in either way; the first is none if there is
/// something that only the second can judge.
async fn both(store: &SqlStore, page: &Page) -> (Option<Vec<Entry>>, Vec<Entry>) {
    let tx = store.read().await.unwrap();
    let select = entry_rows::select_between(tx.dialect, page).unwrap();
    let packed = fetch(&tx, select, Reach::Contiguous).await;
    let rows = entry_rows::find_between(&tx, page).await.unwrap();
    let last_id = packed.as_ref().map(|packed| packed.last_id);
    assert!(last_id.is_none_or(|last_id| last_id == rows.last_id));
    let batch = packed.and_then(|packed| packed.unpack());
    let entries = batch.map(|batch| batch.iter().map(EntryView::to_entry).collect());
    (entries, rows.entries.into_iter().map(|stored| stored.entry).collect())
}

const ALL: Page = Page { token: None, size: 1_000 };

/// Texts that would end a text, or look like something else.
const TEXTS: &str = "('a'), (''), ('\"'), ('\\'), ('\\u0041'), ('a\"],[7,\"b'), ('null'), ('1'), \
     (char(0)), ('x' || char(0) || 'y'), (char(1, 8, 9, 10, 12, 13, 31, 127)), ('é😀'), \
     (char(8232, 65533, 65535)), (' '), ('''')";

/// Entries with each of the texts everywhere where a text may be anything, and one of each number.
fn many() -> String {
    format!(
        "CREATE TEMP TABLE texts (n INTEGER PRIMARY KEY, text TEXT); \
         INSERT INTO texts (text) VALUES {TEXTS}; \
         INSERT INTO bundles (trust_domain) VALUES ('spiffe://b.org'), ('spiffe://a.org'), ('c.d'); \
         INSERT INTO registered_entries (entry_id, spiffe_id, parent_id, ttl, jwt_svid_ttl, admin, \
         downstream, expiry, revision_number, store_svid, hint, additional_attributes, created_at) \
         SELECT n || text, 'spiffe://example.org/w/' || n, 'spiffe://other.org', n, -n, n % 2, \
         n % 3, n * 1000000007, -n, n % 5, text, \
         CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN x'' WHEN 2 THEN x'0801' ELSE x'08011001' END, \
         CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN 1700000000 + n \
         WHEN 2 THEN '2026-11-22 06:10:41.5' || n || '+02:00' ELSE '2026-11-22T12:00:00Z' END \
         FROM texts; \
         INSERT INTO registered_entries (entry_id, spiffe_id, parent_id) VALUES \
         (NULL, 'spiffe://example.org', 'spiffe://example.org/spire/server'); \
         DELETE FROM registered_entries WHERE id = 3; \
         INSERT INTO selectors (registered_entry_id, type, value) \
         SELECT a.n, b.text, c.text FROM texts a, texts b, texts c WHERE a.n <> 5 AND a.n <= b.n \
         ORDER BY c.n DESC, b.n; \
         INSERT INTO dns_names (registered_entry_id, value) \
         SELECT a.n, b.text FROM texts a, texts b WHERE a.n % 2 = 0 ORDER BY b.n * 7 % 11; \
         INSERT INTO federated_registration_entries (registered_entry_id, bundle_id) \
         SELECT n, bundles.id FROM texts, bundles WHERE n % 3 = bundles.id % 3 OR n = 4;"
    )
}

#[tokio::test]
async fn what_is_read_as_one_value_is_what_is_read_row_by_row() {
    let (store, _folder) = store(&many()).await;
    let (packed, rows) = both(&store, &ALL).await;
    assert_eq!(rows.len(), 15);
    assert_eq!(packed.as_ref(), Some(&rows));
    let hints: BTreeSet<&str> = rows.iter().map(|entry| entry.hint.as_str()).collect();
    assert_eq!(hints.len(), 14, "each text has survived, and one was deleted");
    assert!(rows.iter().any(|entry| entry.dns_names.len() == 15));
    assert!(rows.iter().any(|entry| entry.federates_with.len() == 3));
    assert!(rows.iter().any(|entry| entry.jwt_svid_include_jti));

    let mut page = Page { token: None, size: 4 };
    let mut read = Vec::new();
    loop {
        let (packed, rows) = both(&store, &page).await;
        assert_eq!(packed.as_ref(), Some(&rows));
        if rows.is_empty() {
            break;
        }
        read.extend(rows);
        let tx = store.read().await.unwrap();
        let select = entry_rows::select_between(tx.dialect, &page).unwrap();
        let packed = fetch(&tx, select, Reach::Contiguous).await.unwrap();
        page.token = packed.last_id.map(|id| id.to_string());
    }
    assert_eq!(read, rows);
}

#[tokio::test]
async fn a_list_is_the_same_whichever_way_it_is_read() {
    let (store, _folder) = store(&many()).await;
    let tx = store.read().await.unwrap();
    for page in [None, Some(&ALL), Some(&Page { token: Some("6".to_owned()), size: 3 })] {
        for fits in [
            Cond::all(),
            Cond::all().add(Expr::col("admin").eq(true)),
            Cond::all().add(Expr::col("hint").eq("nobody has it")),
        ] {
            let (entries, last_id) = entry_rows::list(&tx, fits.clone(), page).await.unwrap();
            let found = entry_rows::find(&tx, fits, page).await.unwrap();
            assert_eq!(last_id, found.last_id);
            let rows: Vec<Entry> = found.entries.into_iter().map(|stored| stored.entry).collect();
            assert_eq!(entries, rows);
        }
    }
}

#[tokio::test]
async fn what_is_not_as_it_should_be_is_left_to_who_reads_row_by_row() {
    let good = "'w', 'spiffe://a.org/w', 'spiffe://a.org/p', 0, 0, '', NULL, NULL";
    for (what, columns) in [
        ("id", "'w', 'spiffe:/a.org/w', 'spiffe://a.org/p', 0, 0, '', NULL, NULL"),
        ("parent", "'w', 'spiffe://a.org/w', NULL, 0, 0, '', NULL, NULL"),
        ("long TTL", "'w', 'spiffe://a.org/w', 'spiffe://a.org/p', 99999999999, 0, '', NULL, NULL"),
        ("TTL in words", "'w', 'spiffe://a.org/w', 'spiffe://a.org/p', 'soon', 0, '', NULL, NULL"),
        ("half", "'w', 'spiffe://a.org/w', 'spiffe://a.org/p', 0, 1.5, '', NULL, NULL"),
        ("blob", "'w', 'spiffe://a.org/w', 'spiffe://a.org/p', 0, 0, x'41', NULL, NULL"),
        (
            "bytes",
            "'w', 'spiffe://a.org/w', 'spiffe://a.org/p', 0, 0, \
          CAST(x'ff41' AS TEXT), NULL, NULL",
        ),
        ("attributes", "'w', 'spiffe://a.org/w', 'spiffe://a.org/p', 0, 0, '', x'ffffff', NULL"),
        ("time", "'w', 'spiffe://a.org/w', 'spiffe://a.org/p', 0, 0, '', NULL, 'yesterday'"),
    ] {
        let insert = "INSERT INTO registered_entries (entry_id, spiffe_id, parent_id, ttl, expiry, \
                      hint, additional_attributes, created_at) VALUES ";
        let (store, _folder) =
            store(&format!("{insert} ({columns}); {insert} (1 || {good});")).await;
        let (packed, rows) = both(&store, &ALL).await;
        assert_eq!(packed, None, "{what}");
        assert_eq!(rows.len(), 1, "{what}");
        let tx = store.read().await.unwrap();
        assert_eq!(entry_rows::list(&tx, Cond::all(), None).await.unwrap().0, rows, "{what}");
    }
    // What belongs to an entry may be wrong, too.
    for wrong in [
        "INSERT INTO selectors (registered_entry_id, type, value) VALUES (1, NULL, 'a'), (1, '', 'a')",
        "INSERT INTO bundles (trust_domain) VALUES ('No Name'); \
         INSERT INTO federated_registration_entries VALUES (1, 1)",
    ] {
        let (store, _folder) = store(&format!(
            "INSERT INTO registered_entries (entry_id, spiffe_id, parent_id) \
             VALUES ('w', 'spiffe://a.org/w', 'spiffe://a.org/p'); {wrong}"
        ))
        .await;
        let (packed, rows) = both(&store, &ALL).await;
        assert_eq!((packed, rows.len()), (None, 1), "{wrong}");
    }
}

#[tokio::test]
async fn what_is_left_of_entries_that_are_gone_belongs_to_nobody() {
    let (store, _folder) = store(
        "INSERT INTO registered_entries (id, entry_id, spiffe_id, parent_id) VALUES \
         (5, 'a', 'spiffe://a.org/w', 'spiffe://a.org/p'), \
         (9, 'b', 'spiffe://a.org/w', 'spiffe://a.org/p'); \
         INSERT INTO selectors (registered_entry_id, type, value) VALUES \
         (4, 'gone', '4'), (5, 'x', '5'), (7, 'gone', '7'), (9, 'x', '9'), (11, 'gone', '11')",
    )
    .await;
    let (packed, rows) = both(&store, &ALL).await;
    assert_eq!(packed.as_ref(), Some(&rows));
    let selectors: Vec<String> =
        rows.iter().flat_map(|entry| &entry.selectors).map(ToString::to_string).collect();
    assert_eq!(selectors, ["x:5", "x:9"]);
}
