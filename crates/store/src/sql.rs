//! The store over SQL: connections, transactions, and who waits for whom.
//!
//! Reads run in transactions of their own and see one state each. On SQLite writes go through a
//! single connection, one after the other; elsewhere they lock the rows that they change.

mod admit;
mod bulk;
mod bundle_rows;
mod bundles;
mod ca_journals;
mod create;
mod dialect;
mod entries;
mod entry_rows;
mod entry_rules;
mod failure;
mod federation;
mod feed;
mod filters;
mod group;
mod held;
mod hex;
mod iam;
mod join_tokens;
mod link;
mod listen;
mod look;
mod mark;
mod migrate;
mod mysql_dsn;
mod node_rows;
mod nodes;
mod open;
mod own;
mod packed;
mod pages;
mod postgres_dsn;
mod reusable_tokens;
mod schema;
mod settle;
mod sqlite_dsn;
mod store;
mod timestamp;
mod tx;
mod version;
mod zone;

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sea_orm::sea_query::SelectStatement;
use sea_orm::{DatabaseTransaction, DbErr, TransactionOptions, TransactionTrait};
use steeple_runtime::{Drain, Tasks};
use tokio::sync::watch;

use crate::config::Now;
use crate::error::StoreError;
use dialect::Dialect;
use failure::Retry;
use group::Group;
use held::Transaction;
use link::Source;
use mark::WalIndex;
use own::{Commit, Own};
use tx::{Done, Failed, Tx};

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

/// How often a transaction is begun again that stood in another one's way.
const CONFLICTS: u32 = 20;

/// How often one is begun again because somebody made the same row first.
const DUPLICATES: u32 = 3;

/// The one implementation of [`crate::Store`].
pub(crate) struct SqlStore {
    dialect: Dialect,
    /// What is written to. On SQLite a single connection.
    writer: Source,
    /// Further connections to the same database that only read; none = the writer's serve.
    readers: Option<Source>,
    /// A copy that may be behind.
    replica: Option<Source>,
    now: Now,
    busy_deadline: Duration,
    /// On SQLite, what tells whether anybody has committed.
    wal_index: Option<WalIndex>,
    /// Those who wait to write, on SQLite.
    group: Group,
    /// What was committed here, for the index.
    own: Own,
    /// Nothing but agents was touched when changes were last read.
    only_agents: AtomicBool,
    wake: watch::Sender<u64>,
    wake_bundles: watch::Sender<u64>,
    created: bool,
    settled_at: Mutex<Option<Instant>>,
    /// Tells our own notifications from others'.
    id: String,
    /// The listener; ended by the drain.
    tasks: Tasks,
    drain: Mutex<Option<Drain>>,
}

/// Whether a row that somebody else made first is a reason to look again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfMade {
    Refuse,
    LookAgain,
}

/// How often a transaction was begun.
struct Attempts {
    if_made: IfMade,
    conflicts: u32,
    duplicates: u32,
}

impl Attempts {
    fn new(if_made: IfMade) -> Self {
        Self { if_made, conflicts: 0, duplicates: 0 }
    }

    /// Whether to begin again, after a pause that keeps two from meeting again and again.
    async fn go_on(&mut self, retry: Retry) -> bool {
        let again = match retry {
            Retry::Never => false,
            Retry::Conflict => {
                self.conflicts += 1;
                self.conflicts <= CONFLICTS
            }
            Retry::Duplicate => {
                self.duplicates += 1;
                self.if_made == IfMade::LookAgain && self.duplicates <= DUPLICATES
            }
        };
        if again {
            let longest = 4_u64 << self.conflicts.min(6);
            tokio::time::sleep(Duration::from_millis(1 + fastrand::u64(..longest))).await;
        }
        again
    }
}

impl SqlStore {
    /// Begins a transaction that sees one current state of the database.
    async fn read(&self) -> Result<Tx, StoreError> {
        let source = self.readers.as_ref().unwrap_or(&self.writer);
        let inner = self.begin(source, self.dialect.read_options()).await?;
        Ok(Tx::reading(inner, self.dialect))
    }

    /// Begins a transaction that sees one state of the database, which may be a little old.
    async fn read_stale(&self) -> Result<(Tx, feed::From), StoreError> {
        if let Some(replica) = &self.replica {
            match self.begin(replica, self.dialect.read_options()).await {
                Ok(inner) => return Ok((Tx::reading(inner, self.dialect), feed::From::Replica)),
                // The other one still has everything.
                Err(error) => tracing::debug!(
                    subsystem_name = "sql",
                    %error,
                    "Reading from the primary database instead of the read-only one"
                ),
            }
        }
        Ok((self.read().await?, feed::From::Primary))
    }

    /// What tells where the database is; a copy that changes are read from may be behind.
    fn marks(&self) -> Option<&WalIndex> {
        self.wal_index.as_ref().filter(|_| self.replica.is_none())
    }

    /// Begins a transaction that may write, after those that are ahead of it.
    async fn write(&self) -> Result<Tx, StoreError> {
        let source = &self.writer;
        let inner = match &source.held {
            Some(held) => Transaction::Held(self.ask(source, || held.begin()).await?),
            None => self.begin(source, self.dialect.write_options()).await?.into(),
        };
        let held = matches!(inner, Transaction::Held(_));
        let before = self.marks().filter(|_| held).and_then(WalIndex::mark);
        Ok(Tx::writing(inner, self.dialect, (self.now)()).with_mark(before))
    }

    /// Nothing has happened yet when beginning fails, so beginning again is safe: on SQLite until
    /// the deadline, as another process may hold the write lock for longer than the driver waits;
    /// elsewhere once, if the server answers, as the connection may be one from before it was
    /// started anew.
    async fn begin(
        &self,
        source: &Source,
        options: TransactionOptions,
    ) -> Result<DatabaseTransaction, StoreError> {
        self.ask(source, || source.connection.begin_with_options(options)).await
    }

    /// Does what can be done again when it fails, as nothing has happened then.
    async fn ask<T, F>(&self, source: &Source, work: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        source.enter(self.dialect, &self.now).await?;
        let started = Instant::now();
        let mut lost = 0;
        loop {
            let error = tokio::select! {
                done = work() => match done {
                    Ok(done) => return Ok(done),
                    Err(error) => error,
                },
                error = source.suspect(self.dialect) => return Err(error),
            };
            if !self.go_on(source, &error, started, &mut lost).await? {
                return Err(self.dialect.error(&error));
            }
        }
    }

    /// Whether to begin again what failed before anything happened.
    ///
    /// # Errors
    /// When the database server gives no sign of life.
    async fn go_on(
        &self,
        source: &Source,
        error: &DbErr,
        started: Instant,
        lost: &mut u32,
    ) -> Result<bool, StoreError> {
        if self.dialect.is_busy(error) && started.elapsed() < self.busy_deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            return Ok(true);
        }
        let told = self.dialect.error(error);
        if !matches!(told, StoreError::Unavailable(_)) || source.is_saturated() || *lost > 2 {
            return Ok(false);
        }
        *lost += 1;
        source.try_again(self.dialect).await?;
        Ok(true)
    }

    /// Commits if the work was done, else takes all of it back.
    async fn finish<T>(
        &self,
        tx: Tx,
        done: Result<T, StoreError>,
    ) -> (Result<T, StoreError>, Retry) {
        match self.end(tx, done).await {
            Ok(value) => (Ok(value), Retry::Never),
            Err(Failed::TakenBack(error, retry)) => (Err(error), retry),
            Err(Failed::Unknown(error)) => (Err(error), Retry::Never),
        }
    }

    /// As [`Self::finish`], and tells what was taken back from what may have been done.
    async fn end<T>(&self, tx: Tx, done: Result<T, StoreError>) -> Result<T, Failed> {
        let written = match done {
            Ok(value) => tx.write_events().await.map(|()| value),
            Err(error) => Err(error),
        };
        match written {
            Ok(value) => {
                let (wrote_events, wrote_bundles) = (tx.wrote_events(), tx.wrote_bundles());
                let done = tx.commit(&self.id).await?;
                if let Some(marks) = self.marks() {
                    // Somebody may have committed since; then this is not the mark after `done`.
                    let after = marks.mark();
                    self.own.add(done.zip(after).map(|(done, after)| {
                        let Done { before, wrote, agents, last_event } = done;
                        Commit { before, after, wrote, agents, last_event }
                    }));
                }
                if wrote_events {
                    listen::count_up(&self.wake);
                }
                if wrote_bundles {
                    listen::count_up(&self.wake_bundles);
                }
                Ok(value)
            }
            Err(error) => {
                let retry = tx.retry();
                if let Err(rollback) = tx.rollback().await {
                    tracing::warn!(subsystem_name = "sql", error = %rollback, "Rollback failed");
                }
                Err(Failed::TakenBack(error, retry))
            }
        }
    }

    /// Gives the work the time that it may take. What is dropped is taken back by the database.
    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        if matches!(self.dialect, Dialect::Sqlite { .. }) {
            return work.await;
        }
        match tokio::time::timeout(self.busy_deadline, work).await {
            Ok(done) => done,
            Err(_) => {
                self.writer.doubt();
                Err(StoreError::Unavailable(format!(
                    "datastore-sql: the database did not answer within {} s",
                    self.busy_deadline.as_secs_f32()
                )))
            }
        }
    }

    /// A failed statement outside a transaction of ours.
    fn error(&self, error: &DbErr) -> StoreError {
        self.dialect.error(error)
    }
}

/// The number that a `SELECT COUNT(*)` answers.
async fn count(tx: &Tx, select: &SelectStatement) -> Result<u64, StoreError> {
    let count: i64 = match tx.one(select).await? {
        Some(row) => row.get_or_default(0)?,
        None => 0,
    };
    Ok(count.cast_unsigned())
}
