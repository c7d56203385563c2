//! The store over SQL: connections, transactions, and who waits for whom.
//!
//! Reads run in transactions of their own on several connections and see one state each. Writes
//! go through a single connection, one after the other.

mod bundle_rows;
mod bundles;
mod ca_journals;
mod dialect;
mod entries;
mod entry_rows;
mod entry_rules;
mod federation;
mod feed;
mod filters;
mod join_tokens;
mod migrate;
mod node_rows;
mod nodes;
mod open;
mod pages;
mod schema;
mod sqlite_dsn;
mod store;
mod timestamp;
mod tx;

use std::time::{Duration, Instant};

use sea_orm::sea_query::SelectStatement;
use sea_orm::{DatabaseConnection, TransactionTrait};
use tokio::sync::watch;

use crate::config::Now;
use crate::error::StoreError;
use dialect::Dialect;
use tx::Tx;

const BUNDLES: &str = "bundles";
const CA_JOURNALS: &str = "ca_journals";
const DNS_NAMES: &str = "dns_names";
const ENTRIES: &str = "registered_entries";
const ENTRY_EVENTS: &str = "registered_entries_events";
const FEDERATED_ENTRIES: &str = "federated_registration_entries";
const FEDERATED_TRUST_DOMAINS: &str = "federated_trust_domains";
const JOIN_TOKENS: &str = "join_tokens";
const MIGRATIONS: &str = "migrations";
const NODES: &str = "attested_node_entries";
const NODE_EVENTS: &str = "attested_node_entries_events";
const NODE_SELECTORS: &str = "node_resolver_map_entries";
const SELECTORS: &str = "selectors";

/// How many values one IN (…) may list, below every dialect's limit.
const IN_LIST: usize = 500;

/// The one implementation of [`crate::Store`].
pub(crate) struct SqlStore {
    dialect: Dialect,
    writer: DatabaseConnection,
    readers: DatabaseConnection,
    now: Now,
    busy_deadline: Duration,
    wake: watch::Sender<u64>,
    created: bool,
}

impl SqlStore {
    /// Begins a transaction that sees one state of the database.
    async fn read(&self) -> Result<Tx, StoreError> {
        let options = self.dialect.read_options();
        let begun = self.readers.begin_with_options(options).await;
        let inner = begun.map_err(|error| self.dialect.error(&error))?;
        Ok(Tx::reading(inner, self.dialect))
    }

    /// Begins a transaction that may write, after those that are ahead of it.
    ///
    /// Another process may hold the write lock for longer than the driver waits; nothing has
    /// happened yet, so beginning again is safe until the deadline.
    async fn write(&self) -> Result<Tx, StoreError> {
        let started = Instant::now();
        loop {
            let options = self.dialect.write_options();
            match self.writer.begin_with_options(options).await {
                Ok(inner) => return Ok(Tx::writing(inner, self.dialect, (self.now)())),
                Err(error)
                    if self.dialect.is_busy(&error) && started.elapsed() < self.busy_deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => return Err(self.dialect.error(&error)),
            }
        }
    }

    /// Commits if the work was done, else takes all of it back.
    async fn finish<T, E: From<StoreError>>(&self, tx: Tx, done: Result<T, E>) -> Result<T, E> {
        match done {
            Ok(value) => {
                let wrote_events = tx.wrote_events();
                tx.commit().await?;
                if wrote_events {
                    self.wake.send_modify(|count| *count = count.wrapping_add(1));
                }
                Ok(value)
            }
            Err(error) => {
                if let Err(rollback) = tx.rollback().await {
                    tracing::warn!(subsystem_name = "sql", error = %rollback, "Rollback failed");
                }
                Err(error)
            }
        }
    }
}

/// The number that a `SELECT COUNT(*)` answers.
async fn count(tx: &Tx, select: &SelectStatement) -> Result<u64, StoreError> {
    let count: Option<i64> = tx.one(select).await?.map(|row| row.get(0)).transpose()?;
    Ok(count.unwrap_or(0).cast_unsigned())
}
