//! A database of a server of the tests' own.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stderr,
    reason = "each test program uses its part, and a skipped test must say so"
)]

use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::{
    AttestedNode, Changes, DatabaseType, NewEntry, Revision, Since, Store, StoreConfig, open,
};
use steeple_testkit::{DatabaseKind, DatabaseServer};

/// Both servers.
pub const KINDS: [DatabaseKind; 2] = [DatabaseKind::Postgres, DatabaseKind::MariaDb];

/// An empty database.
pub struct Fixture {
    pub server: Arc<DatabaseServer>,
    pub name: String,
}

impl Fixture {
    /// `None`, and says so, if the database is not installed.
    pub fn new(kind: DatabaseKind) -> Option<Self> {
        Self::on(DatabaseServer::shared(kind))
    }

    /// On a server that the test may stop.
    pub fn private(kind: DatabaseKind) -> Option<Self> {
        Self::on(DatabaseServer::private(kind).map(Arc::new))
    }

    fn on(server: Result<Arc<DatabaseServer>, String>) -> Option<Self> {
        match server {
            Ok(server) => {
                let name = server.new_database();
                Some(Self { server, name })
            }
            Err(why) => {
                eprintln!("{why}");
                None
            }
        }
    }

    /// One of each kind that is installed.
    pub fn each() -> Vec<Self> {
        KINDS.into_iter().filter_map(Self::new).collect()
    }

    pub fn database_type(&self) -> DatabaseType {
        match self.server.kind() {
            DatabaseKind::Postgres => DatabaseType::Postgres,
            DatabaseKind::MariaDb => DatabaseType::MySql,
        }
    }

    pub fn config(&self) -> StoreConfig {
        let connection_string = self.server.connection_string(&self.name);
        StoreConfig {
            max_open_conns: Some(20),
            ..StoreConfig::new(self.database_type(), &connection_string, "1.15.0")
        }
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        open(&self.config()).await.unwrap()
    }

    pub fn sql(&self, sql: &str) -> String {
        self.server.run_sql(&self.name, sql)
    }

    /// A name in quotes.
    pub fn quoted(&self, name: &str) -> String {
        match self.server.kind() {
            DatabaseKind::Postgres => format!("\"{name}\""),
            DatabaseKind::MariaDb => format!("`{name}`"),
        }
    }
}

pub fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

pub fn entry(path: &str) -> NewEntry {
    NewEntry::new(id(path), id("/agent"), vec![Selector::new("unix", "uid:1")])
}

pub fn agent(path: &str) -> AttestedNode {
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

pub async fn changes(store: &dyn Store, after: &Revision) -> Changes {
    match store.changes_since(after).await.unwrap() {
        Since::Changes(changes) => changes,
        Since::ResnapshotNeeded(reason) => panic!("{reason}"),
    }
}

/// Asks until it is so.
pub async fn soon(what: &str, mut asked: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if asked().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 30 s");
}
