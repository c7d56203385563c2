//! A transaction, as all the queries see it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sea_orm::sea_query::{DeleteStatement, Expr, InsertStatement, Query, SelectStatement};
use sea_orm::sqlx::{Column as _, Row as _, TypeInfo as _};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, StatementBuilder, TryGetable};

use super::admit::Renewal;
use super::dialect::Dialect;
use super::failure::Retry;
use super::held::{self, NotCommitted, Transaction};
use super::{ENTRY_EVENTS, NODE_EVENTS, create, timestamp};
use crate::error::StoreError;
use crate::feed::{Mark, OwnChange};
use crate::model::AttestedNode;

/// One open transaction. Dropped unfinished, it is rolled back.
pub(super) struct Tx {
    pub(super) inner: Transaction,
    pub(super) dialect: Dialect,
    /// What the rows of this transaction are stamped with.
    pub(super) now: SystemTime,
    writes: bool,
    /// Where the database was when this began, if what it does is to be told from memory.
    before: Option<Mark>,
    /// Whether an event was written, so that readers want to be woken.
    touched: AtomicBool,
    /// Whether something was touched of which it is not known how it stands now.
    obscure: AtomicBool,
    /// Whether a row was written for certain, so that the commit is one.
    wrote: AtomicBool,
    bundles: AtomicBool,
    /// Events that are written before the end, all of a table at once.
    pending: Mutex<Pending>,
    /// How many statements may have changed something.
    changes: AtomicUsize,
    /// What may be done about the failure of this transaction.
    retry: Mutex<Retry>,
}

impl Tx {
    pub(super) fn reading(inner: impl Into<Transaction>, dialect: Dialect) -> Self {
        Self::new(inner.into(), dialect, SystemTime::UNIX_EPOCH, false)
    }

    pub(super) fn writing(
        inner: impl Into<Transaction>,
        dialect: Dialect,
        now: SystemTime,
    ) -> Self {
        Self::new(inner.into(), dialect, dialect.stamp(now), true)
    }

    fn new(inner: Transaction, dialect: Dialect, now: SystemTime, writes: bool) -> Self {
        let retry = Mutex::new(Retry::Never);
        let [touched, obscure, wrote, bundles] = [const { AtomicBool::new(false) }; 4];
        let before = None;
        let (pending, changes) = (Mutex::default(), AtomicUsize::new(0));
        Self {
            inner,
            dialect,
            now,
            writes,
            before,
            touched,
            obscure,
            wrote,
            bundles,
            pending,
            changes,
            retry,
        }
    }

    /// Says where the database is, while nobody else can write to it.
    pub(super) fn with_mark(mut self, before: Option<Mark>) -> Self {
        self.before = before;
        self
    }

    /// Keeps other transactions that name one of the same out until this one ends.
    pub(super) async fn exclude(&self, what: &[&str]) -> Result<(), StoreError> {
        let done = self.dialect.exclude(&self.inner, what).await;
        done.map_err(|error| self.error(&error))
    }

    /// How far this transaction has come, to tell whether what follows changed anything.
    pub(super) fn progress(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    /// The id of the newest row that a table ever had, on SQLite.
    pub(super) async fn newest_id(&self, table: &'static str) -> Result<i64, StoreError> {
        Dialect::newest_id(&self.inner, table).await.map_err(|error| self.error(&error))
    }

    /// Locks what this transaction reads, if it may go on to change it.
    pub(super) fn lock_rows(&self, select: &mut SelectStatement) {
        if self.writes {
            self.dialect.lock_rows(select);
        }
    }

    /// As [`Self::lock_rows`], of one of the tables that are joined.
    pub(super) fn lock_rows_of(&self, select: &mut SelectStatement, table: &'static str) {
        if self.writes {
            self.dialect.lock_rows_of(select, table);
        }
    }

    pub(super) async fn all<S: StatementBuilder>(
        &self,
        select: &S,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.inner.query_all(select).await.map_err(|error| self.error(&error))?;
        Ok(rows.into_iter().map(|inner| Row { inner, dialect: self.dialect }).collect())
    }

    /// The rows of several selects, one behind the other; in one go where each statement is a
    /// hop to another thread.
    pub(super) async fn all_together(
        &self,
        selects: &[SelectStatement],
    ) -> Result<Vec<Row>, StoreError> {
        self.rows_together(selects.iter().map(|it| self.built(it)).collect()).await
    }

    /// The rows that several statements answer, likewise.
    pub(super) async fn rows_together(
        &self,
        statements: Vec<Statement>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut all = Vec::new();
        for statement in self.joined(statements) {
            let rows = self.inner.query_all_raw(statement).await;
            let rows = rows.map_err(|error| self.error(&error))?;
            all.extend(rows.into_iter().map(|inner| Row { inner, dialect: self.dialect }));
        }
        Ok(all)
    }

    /// A statement as the database takes it.
    pub(super) fn built<S: StatementBuilder>(&self, statement: &S) -> Statement {
        StatementBuilder::build(statement, &self.inner.get_database_backend())
    }

    /// Notes that something was, or may have been, changed.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a row was written for certain.
    pub(super) fn wrote_a_row(&self) {
        self.wrote.store(true, Ordering::Relaxed);
    }

    pub(super) async fn one<S: StatementBuilder>(
        &self,
        select: &S,
    ) -> Result<Option<Row>, StoreError> {
        let row = self.inner.query_one(select).await.map_err(|error| self.error(&error))?;
        Ok(row.map(|inner| Row { inner, dialect: self.dialect }))
    }

    /// Runs a statement and answers how many rows it changed.
    pub(super) async fn execute<S: StatementBuilder>(
        &self,
        statement: &S,
    ) -> Result<u64, StoreError> {
        self.changed();
        let done = self.inner.execute(statement).await.map_err(|error| self.error(&error))?;
        if done.rows_affected() > 0 {
            self.wrote_a_row();
        }
        Ok(done.rows_affected())
    }

    /// Inserts rows and answers what the statement says of them.
    pub(super) async fn insert_returning(
        &self,
        insert: &InsertStatement,
    ) -> Result<Vec<Row>, StoreError> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.all(insert).await
    }

    /// Runs several inserts, in one go where each statement is a hop to another thread.
    pub(super) async fn insert_together(
        &self,
        inserts: Vec<InsertStatement>,
    ) -> Result<(), StoreError> {
        self.run_together(inserts.iter().map(|it| self.built(it)).collect()).await
    }

    /// Runs several deletions, likewise.
    pub(super) async fn delete_together(
        &self,
        deletes: &[DeleteStatement],
    ) -> Result<(), StoreError> {
        self.run_together(deletes.iter().map(|it| self.built(it)).collect()).await
    }

    /// Runs several statements, likewise.
    pub(super) async fn run_together(&self, statements: Vec<Statement>) -> Result<(), StoreError> {
        self.changed();
        self.changes.fetch_add(statements.len(), Ordering::Relaxed);
        for statement in self.joined(statements) {
            self.inner.execute_raw(statement).await.map_err(|error| self.error(&error))?;
        }
        Ok(())
    }

    /// The statements in one text, where the driver takes them so.
    fn joined(&self, statements: Vec<Statement>) -> Vec<Statement> {
        if !matches!(self.dialect, Dialect::Sqlite { .. }) || statements.len() < 2 {
            return statements;
        }
        vec![held::join(statements)]
    }

    /// Inserts one row with its timestamps and answers its id.
    pub(super) async fn insert(
        &self,
        table: &'static str,
        columns: &[(&'static str, Expr)],
    ) -> Result<i64, StoreError> {
        let mut insert = self.insert_into(table, columns.iter().map(|(name, _)| *name));
        self.add_row(&mut insert, columns.iter().map(|(_, value)| value.clone()));
        self.changes.fetch_add(1, Ordering::Relaxed);
        let id = self.dialect.insert_one(&self.inner, insert).await;
        let id = id.map_err(|error| self.error(&error))?;
        self.wrote_a_row();
        Ok(id)
    }

    /// An insert of rows that have timestamps.
    pub(super) fn insert_into(
        &self,
        table: &'static str,
        columns: impl Iterator<Item = &'static str>,
    ) -> InsertStatement {
        let mut insert = Query::insert();
        insert.into_table(table).columns(["created_at", "updated_at"].into_iter().chain(columns));
        insert
    }

    /// Adds a row, with the time of this transaction.
    pub(super) fn add_row(
        &self,
        insert: &mut InsertStatement,
        row: impl IntoIterator<Item = Expr>,
    ) {
        let now = self.dialect.timestamp(self.now);
        insert.values_panic([now.clone(), now].into_iter().chain(row));
    }

    /// Tells every server, with the commit, that an entry was touched (CH-03).
    pub(super) fn entry_event(&self, entry_id: &str) {
        self.entries_touched();
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.pending().entries.push(entry_id.to_owned());
    }

    /// Tells every server, with the commit, that an agent was touched (CH-03).
    pub(super) fn node_event(&self, spiffe_id: &str) {
        self.entries_touched();
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.pending().nodes.push(spiffe_id.to_owned());
    }

    /// As [`Self::node_event`], of an agent that stands like this now.
    pub(super) fn node_is(&self, node: &AttestedNode) {
        self.node_became(node.spiffe_id.as_str(), || OwnChange::Agent(node.clone()));
    }

    /// As [`Self::node_event`], of an agent that has renewed.
    pub(super) fn node_renewed(&self, renewal: &Renewal) {
        self.node_became(renewal.agent.as_str(), || OwnChange::Renewed {
            spiffe_id: renewal.agent.clone(),
            serial_number: renewal.serial_number.clone(),
            expires_at: renewal.expires_at,
        });
    }

    fn node_became(&self, spiffe_id: &str, change: impl FnOnce() -> OwnChange) {
        self.touched.store(true, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        let mut pending = self.pending();
        pending.nodes.push(spiffe_id.to_owned());
        if self.before.is_some() {
            pending.became.push(change());
        }
    }

    /// Notes that an event is written, of something that is to be read again.
    pub(super) fn entries_touched(&self) {
        self.touched.store(true, Ordering::Relaxed);
        self.obscure.store(true, Ordering::Relaxed);
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the events that are to be written: no commit without.
    pub(super) async fn write_events(&self) -> Result<(), StoreError> {
        let (entries, nodes) = {
            let mut pending = self.pending();
            let last = pending.nodes.last().cloned();
            pending.last_node = last.or(pending.last_node.take());
            (std::mem::take(&mut pending.entries), std::mem::take(&mut pending.nodes))
        };
        for (table, column, subjects) in
            [(ENTRY_EVENTS, "entry_id", entries), (NODE_EVENTS, "spiffe_id", nodes)]
        {
            let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
            let inserts = create::event_rows(self, table, column, &subjects);
            if !inserts.is_empty() {
                self.run_last(inserts.iter().map(|it| self.built(it)).collect()).await?;
            }
        }
        Ok(())
    }

    pub(super) fn wrote_events(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// Notes that a bundle was written; bundles have no events.
    pub(super) fn bundle_written(&self) {
        self.bundles.store(true, Ordering::Relaxed);
    }

    pub(super) fn wrote_bundles(&self) -> bool {
        self.bundles.load(Ordering::Relaxed)
    }

    /// Has statements run with the commit, where that saves something; what they say is told then.
    pub(super) async fn run_last(&self, statements: Vec<Statement>) -> Result<(), StoreError> {
        let Transaction::Held(inner) = &self.inner else {
            return self.run_together(statements).await;
        };
        self.changes.fetch_add(1 + statements.len(), Ordering::Relaxed);
        inner.add_last(statements);
        Ok(())
    }

    /// Commits, and answers what was done if all of that is known; what is committed then is to be
    /// marked.
    pub(super) async fn commit(self, caller: &str) -> Result<Option<Done>, Failed> {
        let calls = [
            (self.wrote_events(), super::listen::EVENTS),
            (self.wrote_bundles(), super::listen::BUNDLES),
        ];
        for (_, channel) in calls.into_iter().filter(|(wrote, _)| *wrote) {
            if !matches!(self.dialect, Dialect::Postgres) {
                break;
            }
            // Delivered with the commit, and to nobody if there is none.
            let notify = format!("NOTIFY {channel}, '{caller}'");
            let done = self.inner.execute_unprepared(&notify).await;
            done.map_err(|error| Failed::Unknown(self.error(&error)))?;
        }
        let dialect = self.dialect;
        let known = self.before.filter(|_| !self.obscure.load(Ordering::Relaxed));
        let wrote = self.wrote.load(Ordering::Relaxed);
        let pending = self.pending.into_inner().unwrap_or_else(PoisonError::into_inner);
        match self.inner {
            Transaction::Pooled(inner) => match inner.commit().await {
                Ok(()) => Ok(None),
                Err(error) => Err(Failed::Unknown(dialect.error(&error))),
            },
            Transaction::Held(inner) => match inner.commit().await {
                Ok(newest) => Ok(known.map(|before| {
                    // As the event was written.
                    let written_at = dialect.timestamp_text(self.now);
                    let last = pending.last_node.map(|node| (newest, written_at + " " + &node));
                    let wrote = wrote || last.is_some();
                    Done { before, wrote, agents: pending.became, last_event: last }
                })),
                Err(NotCommitted::Before(error)) => {
                    Err(Failed::TakenBack(dialect.error(&error), dialect.retry(&error)))
                }
                Err(NotCommitted::Unknown(error)) => Err(Failed::Unknown(dialect.error(&error))),
            },
        }
    }

    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        let dialect = self.dialect;
        let done = match self.inner {
            Transaction::Pooled(inner) => inner.rollback().await,
            Transaction::Held(inner) => inner.rollback().await,
        };
        done.map_err(|error| dialect.error(&error))
    }

    /// What may be done about a failure of this transaction.
    pub(super) fn retry(&self) -> Retry {
        *self.retry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn error(&self, error: &DbErr) -> StoreError {
        let retry = self.dialect.retry(error);
        if retry != Retry::Never {
            *self.retry.lock().unwrap_or_else(PoisonError::into_inner) = retry;
        }
        self.dialect.error(error)
    }
}

/// What a transaction did to agents, entries being as they were.
pub(super) struct Done {
    /// Where the database was before.
    pub(super) before: Mark,
    /// Whether something was written for certain.
    pub(super) wrote: bool,
    /// What became of agents, in the order of their events.
    pub(super) agents: Vec<OwnChange>,
    /// The last event: its id, and what a cursor remembers of it.
    pub(super) last_event: Option<(i64, String)>,
}

/// Why a transaction was not committed.
pub(super) enum Failed {
    /// Something in it failed, and nothing of it was done.
    TakenBack(StoreError, Retry),
    /// The commit failed: nobody knows whether it happened, and it is not tried again.
    Unknown(StoreError),
}

/// Who was touched and has no event yet.
#[derive(Default)]
struct Pending {
    entries: Vec<String>,
    nodes: Vec<String>,
    /// What became of agents, in the order of their events.
    became: Vec<OwnChange>,
    /// Who the last event is about, once it is written.
    last_node: Option<String>,
}

/// A row of an answer; columns by their place in the SELECT.
pub(super) struct Row {
    inner: QueryResult,
    dialect: Dialect,
}

/// What a column can be read as.
pub(super) trait Value: Sized {
    fn read(row: &QueryResult, column: usize, dialect: Dialect) -> Result<Self, DbErr>;
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn read(row: &QueryResult, column: usize, _: Dialect) -> Result<Self, DbErr> {
                row.try_get_by_index(column)
            }
        }
    )*};
}
plain!(Option<bool>, Option<String>, Option<Vec<u8>>);

impl Value for Option<i64> {
    /// gorm makes integers of every width, and the drivers read each as its own type only.
    fn read(row: &QueryResult, column: usize, dialect: Dialect) -> Result<Self, DbErr> {
        fn wide<T: TryGetable>(row: &QueryResult, column: usize) -> Result<Option<i64>, DbErr>
        where
            i64: From<T>,
            Option<T>: TryGetable,
        {
            Ok(row.try_get_by_index::<Option<T>>(column)?.map(i64::from))
        }
        match dialect {
            Dialect::Sqlite { .. } => row.try_get_by_index(column),
            Dialect::Postgres => {
                let driver = row.try_as_pg_row();
                match driver.map(|row| row.column(column).type_info().name()) {
                    Some("INT4") => wide::<i32>(row, column),
                    Some("INT2") => wide::<i16>(row, column),
                    _ => row.try_get_by_index(column),
                }
            }
            Dialect::MySql { .. } => {
                let driver = row.try_as_mysql_row();
                match driver.map(|row| row.column(column).type_info().name()) {
                    Some(name) if name.ends_with("UNSIGNED") => {
                        let value: Option<u64> = row.try_get_by_index(column)?;
                        Ok(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)))
                    }
                    _ => row.try_get_by_index(column),
                }
            }
        }
    }
}

impl Row {
    pub(super) fn new(inner: QueryResult, dialect: Dialect) -> Self {
        Self { inner, dialect }
    }

    /// A column in which NULL is an error.
    pub(super) fn get<T>(&self, column: usize) -> Result<T, StoreError>
    where
        Option<T>: Value,
    {
        let null = || StoreError::sql(&format!("column {column} is NULL"));
        Option::<T>::read(&self.inner, column, self.dialect)
            .map_err(|error| self.dialect.error(&error))?
            .ok_or_else(null)
    }

    /// A column in which NULL means nothing: empty, 0, false.
    pub(super) fn get_or_default<T: Default>(&self, column: usize) -> Result<T, StoreError>
    where
        Option<T>: Value,
    {
        let value = Option::<T>::read(&self.inner, column, self.dialect);
        Ok(value.map_err(|error| self.dialect.error(&error))?.unwrap_or_default())
    }

    /// A timestamp column, selected by [`Dialect::select_timestamp`]; `None` for NULL.
    pub(super) fn timestamp(&self, column: usize) -> Result<Option<timestamp::Nanos>, StoreError> {
        let wrong = |text: &str| {
            let text = crate::error::excerpt(text);
            StoreError::sql(&format!("column {column} holds no timestamp: {text}"))
        };
        match self.dialect {
            Dialect::Sqlite { .. } => {
                // A driver that stored a number meant seconds since the epoch.
                if let Ok(seconds) = self.inner.try_get_by_index::<Option<i64>>(column) {
                    return Ok(seconds.map(timestamp::Nanos::from_seconds));
                }
                let text: String = self.get(column)?;
                timestamp::parse(&text).map(Some).ok_or_else(|| wrong(&text))
            }
            Dialect::Postgres => {
                let micros = self.inner.try_get_by_index::<Option<i64>>(column);
                let micros = micros.map_err(|error| self.dialect.error(&error))?;
                Ok(micros.map(timestamp::Nanos::from_micros))
            }
            Dialect::MySql { zone } => {
                let text = self.inner.try_get_by_index::<Option<String>>(column);
                let Some(text) = text.map_err(|error| self.dialect.error(&error))? else {
                    return Ok(None);
                };
                let shown = timestamp::parse(&text).ok_or_else(|| wrong(&text))?;
                Ok(Some(shown.shift_to(|seconds| zone.to_utc(seconds))))
            }
        }
    }
}
