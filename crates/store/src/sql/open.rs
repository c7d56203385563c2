//! Opening a database: connections, settings, schema.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::sea_query::{Expr, Query};
use sea_orm::sqlx::ConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sea_orm::{ConnectionTrait, DatabaseConnection, SqlxSqliteConnector, TransactionTrait};
use tokio::sync::watch;

use super::SqlStore;
use super::dialect::Dialect;
use super::migrate::migrate;
use super::sqlite_dsn::{self, SqliteDsn};
use super::tx::Tx;
use crate::config::{DatabaseType, StoreConfig};
use crate::error::StoreError;

/// Connections that only read. More than the processors of a small machine gain nothing.
const READERS: u32 = 4;

impl SqlStore {
    pub(crate) async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let DatabaseType::Sqlite = config.database_type;
        tracing::info!(subsystem_name = "sql", db_type = "sqlite3", "Opening SQL database");
        let SqliteDsn { options, in_memory } = sqlite_dsn::parse(&config.connection_string)?;
        let options = if config.log_sql { options } else { options.disable_statement_logging() };

        let dialect = Dialect::Sqlite { utc_offset_seconds: 0 };
        let path = options.get_filename().to_owned();
        let writer =
            connect(1, options.clone(), config.busy_deadline).await.map_err(
                |error| match dialect.driver_error(&error) {
                    StoreError::Unavailable(text) => {
                        StoreError::Unavailable(format!("{text}: {}", path.display()))
                    }
                    other => other,
                },
            )?;
        let (version, utc_offset_seconds) = about(&writer, dialect).await?;
        let dialect = Dialect::Sqlite { utc_offset_seconds };

        // A database in memory lives in its one connection, which then also reads.
        let readers = if in_memory {
            writer.clone()
        } else {
            let options = options.pragma("query_only", "ON");
            let readers = connect(READERS, options, config.busy_deadline).await;
            readers.map_err(|error| dialect.driver_error(&error))?
        };
        let mut store = Self {
            dialect,
            writer,
            readers,
            now: Arc::clone(&config.now),
            busy_deadline: config.busy_deadline,
            wake: watch::Sender::new(0),
            created: false,
        };
        let tx = store.write().await?;
        let done = migrate(&tx, config).await;
        store.created = store.finish(tx, done).await?;
        tracing::info!(
            subsystem_name = "sql",
            r#type = "sqlite3",
            version = %version,
            read_only = false,
            "Connected to SQL database"
        );
        Ok(store)
    }
}

async fn connect(
    connections: u32,
    options: SqliteConnectOptions,
    deadline: Duration,
) -> Result<DatabaseConnection, sea_orm::sqlx::Error> {
    let dialect = Dialect::Sqlite { utc_offset_seconds: 0 };
    let started = Instant::now();
    loop {
        let pool = SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(connections)
            .acquire_timeout(deadline)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options.clone())
            .await;
        match pool {
            Ok(pool) => return Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool)),
            // Turning a new file's journal to WAL does not wait as other statements do: whoever
            // opens it at the same moment is told at once that it is locked.
            Err(error) if dialect.is_busy_driver(&error) && started.elapsed() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// SQLite's version, and how far the local time zone is from UTC now.
///
/// Go's driver writes timestamps in the local zone. The C library knows it safely, whereas Rust
/// programs with threads had better not look into the environment.
async fn about(
    connection: &DatabaseConnection,
    dialect: Dialect,
) -> Result<(String, i32), StoreError> {
    let mut select = Query::select();
    select
        .expr(Expr::cust("sqlite_version()"))
        .expr(Expr::cust("unixepoch('now', 'localtime') - unixepoch('now')"));
    let tx = connection.begin().await.map_err(|error| dialect.error(&error))?;
    let tx = Tx::reading(tx, dialect);
    let Some(row) = tx.one(&select).await? else {
        return Err(StoreError::sql("the database does not tell its version"));
    };
    let about = (row.get(0)?, row.get::<i64>(1)?);
    tx.rollback().await?;
    Ok((about.0, i32::try_from(about.1).unwrap_or_default()))
}

impl SqlStore {
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let mut select = Query::select();
        select.expr(Expr::val(1));
        match self.readers.query_one(&select).await {
            Ok(_) => Ok(()),
            Err(error) => Err(StoreError::Unavailable(self.dialect.error(&error).to_string())),
        }
    }

    pub(super) async fn shut(&self) {
        // SQLite folds the write-ahead log back into the file when the last connection closes.
        let closed = (self.readers.close_by_ref().await, self.writer.close_by_ref().await);
        if let (Err(error), _) | (_, Err(error)) = closed {
            tracing::warn!(subsystem_name = "sql", error = %error, "Closing the database failed");
        }
    }
}
