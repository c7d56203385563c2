//! The one connection that writes to a SQLite file: kept between transactions, whose ends are
//! statements as others are.
//!
//! Each command to a SQLite connection is a hop to its thread and back. The driver's own BEGIN and
//! COMMIT are two each, as it waits until its answer was taken, and a pool sends one more when a
//! connection comes back to it. Here a transaction's last statements and its COMMIT go over in one
//! text, and the connection comes back without a word.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use sea_orm::sea_query::{Value, Values};
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::sqlite::{SqliteArguments, SqliteQueryResult, SqliteRow};
use sea_orm::sqlx::{
    Arguments as _, AssertSqlSafe, Either, Error, Execute, Executor, Sqlite, SqlitePool, query,
    query_with, raw_sql,
};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr,
    Statement,
};
use tokio::sync::OwnedMutexGuard;

/// The place of the connection, between transactions; none is there before the first one, and
/// after one that was not ended.
type Place = Option<PoolConnection<Sqlite>>;

/// The writing connection.
#[derive(Debug)]
pub(super) struct Held {
    pool: SqlitePool,
    place: Arc<tokio::sync::Mutex<Place>>,
    /// How long a transaction waits for the one before it.
    patience: Duration,
}

impl Held {
    /// The one connection of a pool.
    pub(super) fn new(pool: SqlitePool, patience: Duration) -> Self {
        Self { pool, place: Arc::default(), patience }
    }

    /// Begins a transaction that may write, which takes the file's write lock.
    pub(super) async fn begin(&self) -> Result<HeldTransaction, DbErr> {
        let turn = Arc::clone(&self.place).lock_owned();
        let turn = tokio::time::timeout(self.patience, turn).await;
        let mut place = turn.map_err(|_| failed(Error::PoolTimedOut))?;
        if place.is_none() || self.pool.is_closed() {
            *place = Some(self.pool.acquire().await.map_err(failed)?);
        }
        // From here on, whoever goes away takes the connection with him.
        let place = tokio::sync::Mutex::new(place);
        let mut tx = HeldTransaction { place, last: Mutex::default(), ended: false };
        match tx.run(query("BEGIN IMMEDIATE")).await {
            (_, Ok(())) => Ok(tx),
            (_, Err(error)) => {
                // The file said no (somebody else writes): nothing was begun.
                tx.ended = matches!(error, Error::Database(_));
                Err(failed(error))
            }
        }
    }

    /// Closes the connection, once the transaction that is open has ended, and the pool.
    pub(super) async fn close(&self) {
        let closing = self.pool.close();
        drop(self.place.lock().await.take());
        closing.await;
    }
}

/// An open transaction. Dropped unfinished, its connection is closed, and SQLite takes it back.
pub(super) struct HeldTransaction {
    place: tokio::sync::Mutex<OwnedMutexGuard<Place>>,
    /// Statements that nobody waits for: they run before the next one, or with the end.
    last: Mutex<Vec<Statement>>,
    /// Whether the connection has no transaction any more.
    ended: bool,
}

/// Why a transaction was not committed.
pub(super) enum NotCommitted {
    /// Something before the end failed: nothing was done.
    Before(DbErr),
    /// The end itself failed.
    Unknown(DbErr),
}

/// What statements answered, each its rows and an end.
type Answered = Vec<Either<SqliteQueryResult, SqliteRow>>;

impl HeldTransaction {
    /// Runs statements, and answers what they did before one failed.
    async fn run<'q>(
        &self,
        statements: impl Execute<'q, Sqlite> + 'q,
    ) -> (Answered, Result<(), Error>) {
        let mut place = self.place.lock().await;
        let Some(connection) = place.as_mut() else { return (Vec::new(), Err(Error::PoolClosed)) };
        let mut answers = (&mut **connection).fetch_many(statements);
        let mut answered = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => answered.push(answer),
                Err(error) => return (answered, Err(error)),
            }
        }
        (answered, Ok(()))
    }

    async fn run_built(&self, statement: Statement) -> Result<Answered, DbErr> {
        self.run_last().await?;
        let arguments = arguments(statement.values)?;
        let (answered, done) = self.run(query_with(AssertSqlSafe(statement.sql), arguments)).await;
        done.map(|()| answered).map_err(failed)
    }

    /// Has statements run before whatever comes next, the end included. What they say is that of
    /// what comes next.
    pub(super) fn add_last(&self, statements: Vec<Statement>) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).extend(statements);
    }

    fn take_last(&self) -> Vec<Statement> {
        std::mem::take(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn run_last(&self) -> Result<(), DbErr> {
        let last = self.take_last();
        if last.is_empty() {
            return Ok(());
        }
        let Statement { sql, values, .. } = join(last);
        let (_, done) = self.run(query_with(AssertSqlSafe(sql), arguments(values)?)).await;
        done.map_err(failed)
    }

    /// Commits, and answers the id of the row that was made last.
    pub(super) async fn commit(mut self) -> Result<i64, NotCommitted> {
        let mut all = self.take_last();
        let before = all.len();
        all.push(Statement::from_string(DbBackend::Sqlite, "COMMIT"));
        let Statement { sql, values, .. } = join(all);
        let arguments = match arguments(values) {
            Ok(arguments) => arguments,
            Err(error) => return Err(self.not_committed(error).await),
        };
        let (answered, done) = self.run(query_with(AssertSqlSafe(sql), arguments)).await;
        let ends: Vec<_> = answered.into_iter().filter_map(Either::left).collect();
        match done {
            Ok(()) => {
                self.ended = true;
                Ok(ends.last().map_or(0, SqliteQueryResult::last_insert_rowid))
            }
            Err(error) if ends.len() < before => Err(self.not_committed(failed(error)).await),
            // The connection is closed.
            Err(error) => Err(NotCommitted::Unknown(failed(error))),
        }
    }

    async fn not_committed(self, error: DbErr) -> NotCommitted {
        if let Err(rollback) = self.rollback().await {
            tracing::warn!(subsystem_name = "sql", error = %rollback, "Rollback failed");
        }
        NotCommitted::Before(error)
    }

    /// Takes everything back.
    pub(super) async fn rollback(mut self) -> Result<(), DbErr> {
        let (_, done) = self.run(query("ROLLBACK")).await;
        done.map_err(failed)?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for HeldTransaction {
    fn drop(&mut self) {
        // Closed, rather than left to the next one with a transaction in it.
        if !self.ended
            && let Some(connection) = self.place.get_mut().take()
        {
            drop(connection.detach());
        }
    }
}

/// A transaction, on whichever connection.
pub(super) enum Transaction {
    /// Of a pool.
    Pooled(DatabaseTransaction),
    /// The one that writes to a SQLite file.
    Held(HeldTransaction),
}

impl From<DatabaseTransaction> for Transaction {
    fn from(inner: DatabaseTransaction) -> Self {
        Self::Pooled(inner)
    }
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        match self {
            Self::Pooled(inner) => inner.get_database_backend(),
            Self::Held(_) => DbBackend::Sqlite,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        match self {
            Self::Pooled(inner) => inner.execute_raw(statement).await,
            Self::Held(inner) => Ok(executed(inner.run_built(statement).await?)),
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        match self {
            Self::Pooled(inner) => inner.execute_unprepared(sql).await,
            Self::Held(inner) => {
                inner.run_last().await?;
                let (answered, done) = inner.run(raw_sql(AssertSqlSafe(sql))).await;
                done.map(|()| executed(answered)).map_err(failed)
            }
        }
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match self {
            Self::Pooled(inner) => inner.query_one_raw(statement).await,
            Self::Held(inner) => Ok(rows(inner.run_built(statement).await?).next()),
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Pooled(inner) => inner.query_all_raw(statement).await,
            Self::Held(inner) => Ok(rows(inner.run_built(statement).await?).collect()),
        }
    }
}

/// What statements did, all together.
fn executed(answered: Answered) -> ExecResult {
    let mut done = SqliteQueryResult::default();
    done.extend(answered.into_iter().filter_map(Either::left));
    done.into()
}

fn rows(answered: Answered) -> impl Iterator<Item = QueryResult> {
    answered.into_iter().filter_map(Either::right).map(QueryResult::from)
}

/// An error of SQLite's driver.
pub(super) fn failed(error: Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

/// Several statements in one text, which SQLite's driver takes as such.
pub(super) fn join(statements: Vec<Statement>) -> Statement {
    let (mut text, mut values) = (String::new(), Vec::new());
    for statement in statements {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&statement.sql);
        values.extend(statement.values.map(|some| some.0).unwrap_or_default());
    }
    Statement::from_sql_and_values(DbBackend::Sqlite, text, values)
}

/// A statement's values as SQLite's driver takes them.
pub(super) fn arguments(values: Option<Values>) -> Result<SqliteArguments, DbErr> {
    let mut arguments = SqliteArguments::default();
    for value in values.map(|values| values.0).unwrap_or_default() {
        let added = match value {
            Value::String(text) => arguments.add(text),
            Value::BigInt(number) => arguments.add(number),
            Value::Int(number) => arguments.add(number),
            Value::Bool(flag) => arguments.add(flag),
            Value::Bytes(bytes) => arguments.add(bytes),
            Value::Unsigned(number) => arguments.add(number),
            Value::BigUnsigned(number) => {
                let number = number.map(i64::try_from).transpose();
                arguments.add(number.map_err(|error| DbErr::Type(error.to_string()))?)
            }
            other => return Err(DbErr::Type(format!("SQLite is given no such value: {other:?}"))),
        };
        added.map_err(|error| DbErr::Type(error.to_string()))?;
    }
    Ok(arguments)
}
