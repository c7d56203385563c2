//! Reads of one statement, which sees one state of the database by itself: no transaction is begun
//! and ended around it.
//!
//! On SQLite each command is a hop to the connection's thread, and a pool sends one more whenever
//! a connection comes back. So the connections of these reads are kept beside the pool.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sea_orm::sea_query::{SelectStatement, Value, Values};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sea_orm::sqlx::{
    AssertSqlSafe, ConnectOptions as _, Error, SqlSafeStr as _, SqlStr, query_with,
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, StatementBuilder};
use tokio::sync::Semaphore;

use super::SqlStore;
use super::held::{arguments, failed};
use super::link::Source;
use super::tx::Row;
use crate::error::StoreError;

/// So many connections there are at most. More than the processors of a small machine gain nothing,
/// and making one takes a thread and the work of ten reads.
const CONNECTIONS: usize = 4;

/// Connections to a SQLite database that are nobody's at the moment. One that is in use and not
/// given back, because its reader went away or failed, is closed.
#[derive(Debug)]
pub(super) struct Looks {
    options: SqliteConnectOptions,
    /// None once the store is closed.
    kept: Mutex<Option<Vec<SqliteConnection>>>,
    /// As many as may be in use.
    turns: Semaphore,
    /// How long a reader waits for another's connection.
    patience: Duration,
}

impl Looks {
    pub(super) fn new(options: SqliteConnectOptions, patience: Duration) -> Self {
        let (kept, turns) = (Mutex::new(Some(Vec::new())), Semaphore::new(CONNECTIONS));
        Self { options, kept, turns, patience }
    }

    async fn all(&self, sql: SqlStr, values: Values) -> Result<Vec<QueryResult>, DbErr> {
        let arguments = arguments(Some(values))?;
        let turn = tokio::time::timeout(self.patience, self.turns.acquire()).await;
        let turn = turn.map_err(|_| failed(Error::PoolTimedOut))?;
        let _turn = turn.map_err(|_| failed(Error::PoolClosed))?;
        let kept = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.as_mut().ok_or_else(|| failed(Error::PoolClosed))?.pop()
        };
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(failed)?,
        };
        let rows = query_with(sql, arguments).fetch_all(&mut connection).await;
        let rows = rows.map_err(failed)?;
        if let Some(kept) = &mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            kept.push(connection);
        }
        Ok(rows.into_iter().map(QueryResult::from).collect())
    }

    /// Lets go of the connections; none is made any more.
    pub(super) fn close(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl SqlStore {
    /// The rows of one statement. It changes nothing, so it may be asked again.
    pub(super) async fn look(&self, select: &SelectStatement) -> Result<Vec<Row>, StoreError> {
        let source = self.readers.as_ref().unwrap_or(&self.writer);
        let rows = self.within(self.look_at(source, select)).await?;
        Ok(rows.into_iter().map(|row| Row::new(row, self.dialect)).collect())
    }

    /// As [`Self::look`], for a statement that only SQLite understands, with numbers.
    pub(super) async fn look_at_text(
        &self,
        text: &'static str,
        numbers: &[i64],
    ) -> Result<Vec<Row>, StoreError> {
        let source = self.readers.as_ref().unwrap_or(&self.writer);
        let Some(looks) = &source.looks else {
            return Err(StoreError::sql("the database has no connections for such reads"));
        };
        let values = || Values(numbers.iter().map(|it| Value::from(*it)).collect());
        let asked = || looks.all(text.into_sql_str(), values());
        let rows = self.ask(source, asked).await?;
        Ok(rows.into_iter().map(|row| Row::new(row, self.dialect)).collect())
    }

    /// Whether this takes [`Self::look_at_text`].
    pub(super) fn looks(&self) -> bool {
        self.readers.as_ref().unwrap_or(&self.writer).looks.is_some()
    }

    async fn look_at(
        &self,
        source: &Source,
        select: &SelectStatement,
    ) -> Result<Vec<QueryResult>, StoreError> {
        let asked = || async {
            match &source.looks {
                Some(looks) => {
                    let statement = StatementBuilder::build(select, &DbBackend::Sqlite);
                    let values = statement.values.unwrap_or_else(|| Values(Vec::new()));
                    looks.all(AssertSqlSafe(statement.sql).into_sql_str(), values).await
                }
                None => source.connection.query_all(select).await,
            }
        };
        self.ask(source, asked).await
    }
}
