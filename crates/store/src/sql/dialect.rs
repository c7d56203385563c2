//! Everything that differs between SQL dialects. The rest of `sql` is one code path.

use std::collections::BTreeSet;
use std::time::SystemTime;

use sea_orm::sea_query::{
    BinOper, Expr, ExprTrait, InsertStatement, LockType, Query, SelectStatement, SimpleExpr, Value,
};
use sea_orm::{
    AccessMode, ConnectionTrait, DbErr, IsolationLevel, SqliteTransactionMode, TransactionOptions,
};

use super::timestamp::{self, Nanos};
use super::zone::Zone;

/// A dialect and what has to be known to write it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    /// Timestamps are texts there, written in the zone that SPIRE would write them in.
    Sqlite { utc_offset_seconds: i32 },
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB. Timestamps have no zone there; Go's driver is told which they are in.
    MySql { zone: Zone },
}

impl Dialect {
    /// How a transaction that may write begins.
    ///
    /// SQLite takes its one write lock at once: a transaction that reads first and asks for the
    /// lock later is refused when somebody else wrote in between. The others lock the rows that
    /// they are about to change and so see them as they are, not as they were at the start.
    pub(super) fn write_options(self) -> TransactionOptions {
        match self {
            Self::Sqlite { .. } => TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            },
            Self::Postgres | Self::MySql { .. } => TransactionOptions {
                isolation_level: Some(IsolationLevel::ReadCommitted),
                ..TransactionOptions::default()
            },
        }
    }

    /// How a transaction that sees one state of the database begins.
    pub(super) fn read_options(self) -> TransactionOptions {
        match self {
            Self::Sqlite { .. } => TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Deferred),
                ..TransactionOptions::default()
            },
            Self::Postgres | Self::MySql { .. } => TransactionOptions {
                isolation_level: Some(IsolationLevel::RepeatableRead),
                access_mode: Some(AccessMode::ReadOnly),
                ..TransactionOptions::default()
            },
        }
    }

    /// Locks what a transaction reads in order to change it.
    pub(super) fn lock_rows(self, select: &mut SelectStatement) -> &mut SelectStatement {
        match self {
            // The write lock is held since BEGIN IMMEDIATE.
            Self::Sqlite { .. } => select,
            Self::Postgres | Self::MySql { .. } => select.lock(LockType::Update),
        }
    }

    /// As [`Self::lock_rows`], of one of the tables that are joined.
    pub(super) fn lock_rows_of(self, select: &mut SelectStatement, table: &'static str) {
        match self {
            // It locks nothing that may be missing.
            Self::Postgres => {
                select.lock_with_tables(LockType::Update, [table]);
            }
            // MariaDB has no words for a part of them.
            Self::Sqlite { .. } | Self::MySql { .. } => {
                self.lock_rows(select);
            }
        }
    }

    /// Whether a statement that changes rows can answer them.
    pub(super) fn has_returning(self) -> bool {
        !matches!(self, Self::MySql { .. })
    }

    /// Keeps other servers' transactions of the same kind out until this one ends.
    ///
    /// What no unique index forbids (two similar entries) is forbidden by this. SPIRE takes no
    /// such lock, so beside it a duplicate may appear, as it may beside a second SPIRE.
    pub(super) async fn exclude(
        self,
        connection: &impl ConnectionTrait,
        what: &[&str],
    ) -> Result<(), DbErr> {
        match self {
            Self::Sqlite { .. } => {}
            Self::Postgres => {
                // In one order for all, so that no two wait for each other.
                let places: BTreeSet<i64> = what.iter().map(|what| exclusion_place(what)).collect();
                if places.is_empty() {
                    return Ok(());
                }
                let mut select = Query::select();
                for place in places {
                    select.expr(Expr::cust_with_values(
                        "pg_advisory_xact_lock($1)",
                        [EXCLUSION_CLASS << 32 | place],
                    ));
                }
                connection.query_one(&select).await?;
            }
            // Its named locks belong to connections and not to transactions; a row that always
            // is there serves as well.
            Self::MySql { .. } => {
                let mut select = Query::select();
                select.column("id").from(super::MIGRATIONS).lock(LockType::Update);
                connection.query_all(&select).await?;
            }
        }
        Ok(())
    }

    /// Inserts one row and answers its id.
    pub(super) async fn insert_one(
        self,
        connection: &impl ConnectionTrait,
        mut insert: InsertStatement,
    ) -> Result<i64, DbErr> {
        match self {
            Self::Sqlite { .. } | Self::MySql { .. } => {
                let done = connection.execute(&insert).await?;
                i64::try_from(done.last_insert_id()).map_err(|_| DbErr::UnpackInsertId)
            }
            Self::Postgres => {
                insert.returning_col("id");
                let row = connection.query_one(&insert).await?.ok_or(DbErr::UnpackInsertId)?;
                row.try_get_by_index::<i32>(0).map(i64::from)
            }
        }
    }

    /// The time that rows of a transaction are stamped with, as exact as the database keeps it.
    pub(super) fn stamp(self, now: SystemTime) -> SystemTime {
        match self {
            Self::Sqlite { .. } | Self::Postgres => now,
            Self::MySql { .. } => Nanos::from(now).rounded().to_system_time(),
        }
    }

    /// A point in time for a timestamp column.
    pub(super) fn timestamp(self, at: SystemTime) -> SimpleExpr {
        self.nanos(Nanos::from(at))
    }

    /// The text that a timestamp column of SQLite gets.
    pub(super) fn timestamp_text(self, at: SystemTime) -> String {
        let utc_offset_seconds = match self {
            Self::Sqlite { utc_offset_seconds } => utc_offset_seconds,
            Self::Postgres | Self::MySql { .. } => 0,
        };
        timestamp::format(Nanos::from(at), utc_offset_seconds)
    }

    /// Seconds since the epoch for a timestamp column.
    pub(super) fn timestamp_seconds(self, seconds: i64) -> SimpleExpr {
        self.nanos(Nanos::from_seconds(seconds))
    }

    /// A timestamp that is not known.
    pub(super) fn no_timestamp(self) -> SimpleExpr {
        match self {
            Self::Sqlite { .. } | Self::MySql { .. } => Expr::val(Value::String(None)),
            Self::Postgres => Expr::cust("NULL"),
        }
    }

    fn nanos(self, at: Nanos) -> SimpleExpr {
        match self {
            Self::Sqlite { utc_offset_seconds } => {
                Expr::val(timestamp::format(at, utc_offset_seconds))
            }
            Self::Postgres => Expr::val(timestamp::format(at, 0)).cast_as("timestamptz"),
            Self::MySql { zone } => {
                Expr::val(timestamp::format_without_zone(at, zone.offset_at(at.seconds())))
            }
        }
    }

    /// A timestamp column as [`super::tx::Row::timestamp`] reads it.
    pub(super) fn select_timestamp(self, column: &'static str) -> SimpleExpr {
        match self {
            Self::Sqlite { .. } => Expr::col(column),
            // Microseconds since the epoch; what is no time (infinity) is none.
            Self::Postgres => Expr::cust(format!(
                "CASE WHEN isfinite(\"{column}\") THEN \
                 CAST(EXTRACT(EPOCH FROM \"{column}\") * 1000000 AS bigint) END"
            )),
            Self::MySql { .. } => Expr::col(column).cast_as("CHAR"),
        }
    }

    /// Whether a timestamp column lies before a time in seconds since the epoch.
    ///
    /// SPIRE compares the texts on SQLite, which is right as long as all of them are in one zone.
    /// Rows of two programs need not be, so here SQLite makes times of them first.
    pub(super) fn is_before(self, column: &'static str, seconds: i64) -> SimpleExpr {
        match self {
            Self::Sqlite { .. } => Expr::cust(format!("unixepoch(\"{column}\")")).lt(seconds),
            Self::Postgres | Self::MySql { .. } => {
                Expr::col(column).lt(self.timestamp_seconds(seconds))
            }
        }
    }

    /// That a text column is exactly this. SPIRE's tables on MySQL have a collation that knows no
    /// case, which would let one SPIFFE ID pass for another.
    pub(super) fn is(self, column: &'static str, text: &str) -> SimpleExpr {
        let equal = Expr::col(column).eq(text);
        match self {
            Self::Sqlite { .. } | Self::Postgres => equal,
            // The first half finds the row by the index, the second half looks twice.
            Self::MySql { .. } => equal.and(Expr::col(column).binary(BinOper::Equal, binary(text))),
        }
    }

    /// That a text column is exactly this, to be looked at only in rows that were found otherwise.
    pub(super) fn is_unindexed(self, column: &'static str, text: &str) -> SimpleExpr {
        match self {
            // Without statistics it would choose any index that there is.
            Self::Sqlite { .. } => Expr::cust(format!("+\"{column}\"")).eq(text),
            Self::Postgres | Self::MySql { .. } => self.is(column, text),
        }
    }

    /// That a text column is exactly one of these.
    pub(super) fn is_one_of<'a>(
        self,
        column: (&'static str, &'static str),
        texts: impl Iterator<Item = &'a str> + Clone,
    ) -> SimpleExpr {
        let listed = Expr::col(column).is_in(texts.clone());
        match self {
            Self::Sqlite { .. } | Self::Postgres => listed,
            Self::MySql { .. } => listed.and(Expr::col(column).is_in(texts.map(binary))),
        }
    }

    /// The id of the newest row that a table ever had on SQLite, deleted since or not; 0 = none.
    ///
    /// SQLite keeps it in `sqlite_sequence`, inside the transaction: a rollback takes it back, so
    /// that ids have no gaps but those that deleting makes.
    pub(super) async fn newest_id(
        connection: &impl ConnectionTrait,
        table: &'static str,
    ) -> Result<i64, DbErr> {
        let mut select = SelectStatement::new();
        select.column("seq").from("sqlite_sequence").and_where(Expr::col("name").eq(table));
        match connection.query_one(&select).await? {
            Some(row) => row.try_get_by_index(0),
            None => Ok(0),
        }
    }

    /// Whether ids become visible in their order, without gaps: only where there is one writer.
    pub(super) fn has_ordered_ids(self) -> bool {
        matches!(self, Self::Sqlite { .. })
    }

    /// The largest row id that a page token can stand for; a larger one is past the end.
    pub(super) fn max_id(self) -> u64 {
        match self {
            Self::Sqlite { .. } => i64::MAX.cast_unsigned(),
            Self::Postgres => i32::MAX.cast_unsigned().into(),
            Self::MySql { .. } => u32::MAX.into(),
        }
    }

    /// Whether a table has a column; with none named, whether there is the table.
    pub(super) fn find_column(self, table: &str, column: Option<&str>) -> SelectStatement {
        let mut select = Query::select();
        select.expr(Expr::val(1));
        match self {
            Self::Sqlite { .. } => {
                select.from(sea_orm::sea_query::TableRef::FunctionCall(
                    sea_orm::sea_query::Func::cust("pragma_table_info").arg(table),
                    "columns".into(),
                ));
                if let Some(column) = column {
                    select.and_where(Expr::col("name").eq(column));
                }
            }
            Self::Postgres | Self::MySql { .. } => {
                let schema =
                    if matches!(self, Self::Postgres) { "current_schema()" } else { "DATABASE()" };
                select
                    .from(("information_schema", "columns"))
                    .and_where(Expr::col("table_schema").eq(Expr::cust(schema)))
                    .and_where(Expr::col("table_name").eq(table));
                if let Some(column) = column {
                    select.and_where(Expr::col("column_name").eq(column));
                }
            }
        }
        select.limit(1);
        select
    }
}

/// Tells our advisory locks from others': the upper half of their keys.
const EXCLUSION_CLASS: i64 = 0x5354_4c45;

/// So many locks there are at most: a database has room for some thousands.
const EXCLUSIONS: u64 = 1024;

/// One of [`EXCLUSIONS`] places for a text, the same in every server (FNV-1a). Two texts that
/// share one wait for each other, and no harm is done.
fn exclusion_place(text: &str) -> i64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash % EXCLUSIONS).cast_signed()
}

fn binary(text: &str) -> SimpleExpr {
    Expr::val(text).cast_as("BINARY")
}
