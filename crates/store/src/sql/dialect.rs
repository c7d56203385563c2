//! Everything that differs between SQL dialects. The rest of `sql` is one code path.
//!
//! PostgreSQL and MySQL join in with their drivers; what they need is named at each function.

use std::time::SystemTime;

use sea_orm::sea_query::{Expr, ExprTrait, InsertStatement, SelectStatement, Value};
use sea_orm::{ConnectionTrait, DbErr, RuntimeErr, SqliteTransactionMode, TransactionOptions};

use super::timestamp;
use crate::error::StoreError;

/// A dialect and what has to be known to write it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    /// Timestamps are texts there, written in the zone that SPIRE would write them in.
    Sqlite { utc_offset_seconds: i32 },
}

impl Dialect {
    /// How a transaction that may write begins.
    ///
    /// SQLite takes its one write lock at once: a transaction that reads first and asks for the
    /// lock later is refused when somebody else wrote in between. (PostgreSQL and MySQL:
    /// REPEATABLE READ and [`Dialect::lock_rows`].)
    pub(super) fn write_options(self) -> TransactionOptions {
        match self {
            Self::Sqlite { .. } => TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            },
        }
    }

    /// How a transaction that sees one state of the database begins. (PostgreSQL and MySQL:
    /// REPEATABLE READ, read only.)
    pub(super) fn read_options(self) -> TransactionOptions {
        match self {
            Self::Sqlite { .. } => TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Deferred),
                ..TransactionOptions::default()
            },
        }
    }

    /// Locks what a transaction reads in order to change it. (PostgreSQL and MySQL: FOR UPDATE.)
    pub(super) fn lock_rows(self, select: &mut SelectStatement) -> &mut SelectStatement {
        match self {
            // The write lock is held since BEGIN IMMEDIATE.
            Self::Sqlite { .. } => select,
        }
    }

    /// Inserts one row and answers its id. (PostgreSQL: RETURNING id.)
    pub(super) async fn insert_one(
        self,
        connection: &impl ConnectionTrait,
        insert: &InsertStatement,
    ) -> Result<i64, DbErr> {
        match self {
            Self::Sqlite { .. } => {
                let done = connection.execute(insert).await?;
                i64::try_from(done.last_insert_id()).map_err(|_| DbErr::UnpackInsertId)
            }
        }
    }

    /// A point in time as the value of a timestamp column.
    pub(super) fn timestamp(self, at: SystemTime) -> Value {
        match self {
            Self::Sqlite { utc_offset_seconds } => {
                timestamp::format(timestamp::Nanos::from(at), utc_offset_seconds).into()
            }
        }
    }

    /// Seconds since the epoch as the value of a timestamp column.
    pub(super) fn timestamp_seconds(self, seconds: i64) -> Value {
        match self {
            Self::Sqlite { utc_offset_seconds } => {
                timestamp::format(timestamp::Nanos::from_seconds(seconds), utc_offset_seconds)
                    .into()
            }
        }
    }

    /// Whether a timestamp column lies before a time in seconds since the epoch.
    ///
    /// SPIRE compares the texts, which is right as long as all of them are in one zone. Rows of
    /// two programs need not be, so here SQLite makes times of them first.
    pub(super) fn is_before(self, column: &'static str, seconds: i64) -> Expr {
        match self {
            Self::Sqlite { .. } => Expr::cust(format!("unixepoch(\"{column}\")")).lt(seconds),
        }
    }

    /// The id of the newest row that a table ever had, deleted since or not; 0 = none ever.
    ///
    /// SQLite keeps it in `sqlite_sequence`, inside the transaction: a rollback takes it back, so
    /// that ids have no gaps but those that deleting makes.
    pub(super) async fn newest_id(
        self,
        connection: &impl ConnectionTrait,
        table: &'static str,
    ) -> Result<i64, DbErr> {
        match self {
            Self::Sqlite { .. } => {
                let mut select = SelectStatement::new();
                select.column("seq").from("sqlite_sequence").and_where(Expr::col("name").eq(table));
                match connection.query_one(&select).await? {
                    Some(row) => row.try_get_by_index(0),
                    None => Ok(0),
                }
            }
        }
    }

    /// The largest row id that a page token can stand for; a larger one is past the end.
    pub(super) fn max_id(self) -> u64 {
        match self {
            Self::Sqlite { .. } => i64::MAX.cast_unsigned(),
        }
    }

    /// A failed statement, in SPIRE's words. The driver's texts hold no values.
    pub(super) fn error(self, error: &DbErr) -> StoreError {
        let (DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error))
        | DbErr::Conn(RuntimeErr::SqlxError(error))) = error
        else {
            let text = format!("datastore-sql: {error}");
            return match error {
                DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => StoreError::Unavailable(text),
                _ => StoreError::Internal(text),
            };
        };
        self.driver_error(error)
    }

    pub(super) fn driver_error(self, error: &sea_orm::sqlx::Error) -> StoreError {
        use sea_orm::sqlx::Error;
        let Error::Database(database) = error else {
            let text = format!("datastore-sql: {error}");
            return match error {
                Error::Io(_) | Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => {
                    StoreError::Unavailable(text)
                }
                _ => StoreError::Internal(text),
            };
        };
        let text = format!("datastore-sql: {}", database.message());
        match self {
            Self::Sqlite { .. } => {
                match database.code().and_then(|code| code.parse::<i32>().ok()) {
                    // The low byte is the primary result code.
                    Some(code) if code & 0xff == SQLITE_CONSTRAINT => {
                        StoreError::AlreadyExists(text)
                    }
                    Some(code) if SQLITE_UNAVAILABLE.contains(&(code & 0xff)) => {
                        StoreError::Unavailable(text)
                    }
                    _ => StoreError::Internal(text),
                }
            }
        }
    }

    /// Whether somebody else holds the write lock, so that beginning again may help.
    pub(super) fn is_busy(self, error: &DbErr) -> bool {
        let (DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error))
        | DbErr::Conn(RuntimeErr::SqlxError(error))) = error
        else {
            return false;
        };
        self.is_busy_driver(error)
    }

    /// The same of an error of the driver itself.
    pub(super) fn is_busy_driver(self, error: &sea_orm::sqlx::Error) -> bool {
        let sea_orm::sqlx::Error::Database(database) = error else { return false };
        match self {
            Self::Sqlite { .. } => database
                .code()
                .and_then(|code| code.parse::<i32>().ok())
                .is_some_and(|code| matches!(code & 0xff, SQLITE_BUSY | SQLITE_LOCKED)),
        }
    }
}

const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_CONSTRAINT: i32 = 19;
/// BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN.
const SQLITE_UNAVAILABLE: [i32; 6] = [SQLITE_BUSY, SQLITE_LOCKED, 8, 10, 13, 14];
