//! A transaction, as all the queries see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use sea_orm::sea_query::{Expr, InsertStatement, Query, SelectStatement};
use sea_orm::{ConnectionTrait, DatabaseTransaction, QueryResult, StatementBuilder, TryGetable};

use super::dialect::Dialect;
use super::timestamp;
use crate::error::StoreError;

/// One open transaction. Dropped unfinished, it is rolled back.
pub(super) struct Tx {
    pub(super) inner: DatabaseTransaction,
    pub(super) dialect: Dialect,
    /// What the rows of this transaction are stamped with.
    pub(super) now: SystemTime,
    writes: bool,
    /// Whether an event was written, so that readers want to be woken.
    touched: AtomicBool,
}

impl Tx {
    pub(super) fn reading(inner: DatabaseTransaction, dialect: Dialect) -> Self {
        let now = SystemTime::UNIX_EPOCH;
        Self { inner, dialect, now, writes: false, touched: AtomicBool::new(false) }
    }

    pub(super) fn writing(inner: DatabaseTransaction, dialect: Dialect, now: SystemTime) -> Self {
        Self { inner, dialect, now, writes: true, touched: AtomicBool::new(false) }
    }

    /// Locks what this transaction reads, if it may go on to change it.
    pub(super) fn lock_rows(&self, select: &mut SelectStatement) {
        if self.writes {
            self.dialect.lock_rows(select);
        }
    }

    pub(super) async fn all<S: StatementBuilder>(
        &self,
        select: &S,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.inner.query_all(select).await.map_err(|error| self.error(&error))?;
        Ok(rows.into_iter().map(|inner| Row { inner, dialect: self.dialect }).collect())
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
        let done = self.inner.execute(statement).await.map_err(|error| self.error(&error))?;
        Ok(done.rows_affected())
    }

    /// Inserts one row with its timestamps and answers its id.
    pub(super) async fn insert(
        &self,
        table: &'static str,
        columns: &[(&'static str, Expr)],
    ) -> Result<i64, StoreError> {
        let mut insert = self.insert_into(table, columns.iter().map(|(name, _)| *name));
        self.add_row(&mut insert, columns.iter().map(|(_, value)| value.clone()));
        let id = self.dialect.insert_one(&self.inner, &insert).await;
        id.map_err(|error| self.error(&error))
    }

    /// Inserts rows with their timestamps, many in a statement.
    pub(super) async fn insert_many(
        &self,
        table: &'static str,
        columns: &[&'static str],
        rows: Vec<Vec<Expr>>,
    ) -> Result<(), StoreError> {
        const ROWS_PER_STATEMENT: usize = 200;
        for rows in rows.chunks(ROWS_PER_STATEMENT) {
            let mut insert = self.insert_into(table, columns.iter().copied());
            for row in rows {
                self.add_row(&mut insert, row.iter().cloned());
            }
            self.execute(&insert).await?;
        }
        Ok(())
    }

    fn insert_into(
        &self,
        table: &'static str,
        columns: impl Iterator<Item = &'static str>,
    ) -> InsertStatement {
        let mut insert = Query::insert();
        insert.into_table(table).columns(["created_at", "updated_at"].into_iter().chain(columns));
        insert
    }

    fn add_row(&self, insert: &mut InsertStatement, row: impl IntoIterator<Item = Expr>) {
        let now = Expr::val(self.dialect.timestamp(self.now));
        insert.values_panic([now.clone(), now].into_iter().chain(row));
    }

    /// Writes the event that tells every server that an entry was touched (CH-03).
    pub(super) async fn entry_event(&self, entry_id: &str) -> Result<(), StoreError> {
        self.touched.store(true, Ordering::Relaxed);
        self.insert(super::ENTRY_EVENTS, &[("entry_id", entry_id.into())]).await?;
        Ok(())
    }

    /// Writes the event that tells every server that an agent was touched (CH-03).
    pub(super) async fn node_event(&self, spiffe_id: &str) -> Result<(), StoreError> {
        self.touched.store(true, Ordering::Relaxed);
        self.insert(super::NODE_EVENTS, &[("spiffe_id", spiffe_id.into())]).await?;
        Ok(())
    }

    pub(super) fn wrote_events(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let dialect = self.dialect;
        self.inner.commit().await.map_err(|error| dialect.error(&error))
    }

    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        let dialect = self.dialect;
        self.inner.rollback().await.map_err(|error| dialect.error(&error))
    }

    fn error(&self, error: &sea_orm::DbErr) -> StoreError {
        self.dialect.error(error)
    }
}

/// A row of an answer; columns by their place in the SELECT.
pub(super) struct Row {
    inner: QueryResult,
    dialect: Dialect,
}

impl Row {
    pub(super) fn get<T: TryGetable>(&self, column: usize) -> Result<T, StoreError> {
        self.inner.try_get_by_index(column).map_err(|error| self.dialect.error(&error))
    }

    /// A column in which NULL means nothing: empty, 0, false.
    pub(super) fn get_or_default<T: TryGetable + Default>(
        &self,
        column: usize,
    ) -> Result<T, StoreError>
    where
        Option<T>: TryGetable,
    {
        Ok(self.get::<Option<T>>(column)?.unwrap_or_default())
    }

    /// A timestamp column; `None` for NULL.
    pub(super) fn timestamp(&self, column: usize) -> Result<Option<timestamp::Nanos>, StoreError> {
        match self.dialect {
            Dialect::Sqlite { .. } => {
                // A driver that stored a number meant seconds since the epoch.
                if let Ok(seconds) = self.inner.try_get_by_index::<Option<i64>>(column) {
                    return Ok(seconds.map(timestamp::Nanos::from_seconds));
                }
                let text: String = self.get(column)?;
                timestamp::parse(&text).map(Some).ok_or_else(|| {
                    StoreError::sql(&format!(
                        "column {column} holds no timestamp: {}",
                        crate::error::excerpt(&text)
                    ))
                })
            }
        }
    }
}
