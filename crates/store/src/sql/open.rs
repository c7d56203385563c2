//! Opening a database: connections, settings, schema.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sea_orm::sea_query::{Expr, Query};
use sea_orm::sqlx::ConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sea_orm::{ConnectionTrait, DatabaseConnection, SqlxSqliteConnector, TransactionTrait};
use steeple_runtime::{Tasks, drain};
use tokio::sync::watch;

use super::SqlStore;
use super::dialect::Dialect;
use super::group::Group;
use super::held::Held;
use super::iam::Login;
use super::link::{self, Link, Source};
use super::listen::{self, Ear};
use super::look::Looks;
use super::mark::WalIndex;
use super::migrate::migrate;
use super::mysql_dsn::{self, MySqlDsn};
use super::own::Own;
use super::postgres_dsn::{self, PostgresDsn};
use super::sqlite_dsn::{self, SqliteDsn};
use super::tx::Tx;
use crate::config::{DatabaseType, StoreConfig};
use crate::error::StoreError;

/// Connections that only read. More than the processors of a small machine gain nothing.
const READERS: u32 = 4;

/// What an opened database is made of.
struct Opened {
    dialect: Dialect,
    writer: Source,
    readers: Option<Source>,
    replica: Option<Source>,
    wal_index: Option<WalIndex>,
}

impl SqlStore {
    pub(crate) async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        tracing::info!(subsystem_name = "sql", db_type = name(config), "Opening SQL database");
        let opened = match config.database_type {
            DatabaseType::Sqlite => {
                if config.ro_connection_string.is_some() {
                    tracing::warn!(
                        subsystem_name = "sql",
                        "Read-only connection is not applicable for sqlite3. Falling back to \
                         primary connection"
                    );
                }
                open_sqlite(config).await?
            }
            DatabaseType::Postgres => open_postgres(config)?,
            DatabaseType::MySql => open_mysql(config)?,
        };
        let (trigger, watcher) = drain::channel();
        let mut store = Self {
            dialect: opened.dialect,
            writer: opened.writer,
            readers: opened.readers,
            replica: opened.replica,
            now: Arc::clone(&config.now),
            busy_deadline: config.busy_deadline,
            wal_index: opened.wal_index,
            group: Group::default(),
            own: Own::default(),
            only_agents: AtomicBool::new(false),
            wake: watch::Sender::new(0),
            wake_bundles: watch::Sender::new(0),
            created: false,
            settled_at: Mutex::new(None),
            id: uuid::Uuid::new_v4().to_string(),
            tasks: Tasks::new(),
            drain: Mutex::new(Some(trigger)),
        };
        store.introduce(config).await?;
        store.created = migrate(&store, config).await?;
        if let DatabaseType::Postgres = config.database_type {
            let ear = Ear {
                link: store.writer.link.clone(),
                now: Arc::clone(&store.now),
                wake: store.wake.clone(),
                wake_bundles: store.wake_bundles.clone(),
                own: store.id.clone(),
                interrupted: false,
            };
            let listening = listen::run(ear, watcher);
            store.tasks.spawn("sql_listener", listening);
        }
        Ok(store)
    }

    /// Says what was connected to. This is where a database that is not there shows.
    async fn introduce(&self, config: &StoreConfig) -> Result<(), StoreError> {
        for (source, read_only) in [(Some(&self.writer), false), (self.replica.as_ref(), true)] {
            let Some(source) = source else { continue };
            // A copy that is away at the start is no reason not to start.
            match self.within(self.version_of(source)).await {
                Ok(version) => tracing::info!(
                    subsystem_name = "sql",
                    r#type = name(config),
                    version = %version,
                    read_only,
                    "Connected to SQL database"
                ),
                Err(error) if read_only => tracing::warn!(
                    subsystem_name = "sql",
                    %error,
                    "The read-only database cannot be reached; the other one serves"
                ),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn version_of(&self, source: &Source) -> Result<String, StoreError> {
        let mut select = Query::select();
        select.expr(Expr::cust(match self.dialect {
            Dialect::Sqlite { .. } => "sqlite_version()",
            Dialect::Postgres => "current_setting('server_version')",
            Dialect::MySql { .. } => "VERSION()",
        }));
        let options = sea_orm::TransactionOptions::default();
        let tx = Tx::reading(self.begin(source, options).await?, self.dialect);
        let row = tx.one(&select).await?;
        let version = row.map(|row| row.get(0)).transpose()?.unwrap_or_default();
        tx.rollback().await?;
        Ok(version)
    }
}

/// The value of `database_type`.
fn name(config: &StoreConfig) -> &'static str {
    match (config.database_type, config.aws.is_some()) {
        (DatabaseType::Sqlite, _) => "sqlite3",
        (DatabaseType::Postgres, false) => "postgres",
        (DatabaseType::Postgres, true) => "aws_postgres",
        (DatabaseType::MySql, false) => "mysql",
        (DatabaseType::MySql, true) => "aws_mysql",
    }
}

async fn open_sqlite(config: &StoreConfig) -> Result<Opened, StoreError> {
    let SqliteDsn { options, in_memory } = sqlite_dsn::parse(&config.connection_string)?;
    let options = if config.log_sql { options } else { options.disable_statement_logging() };
    let dialect = Dialect::Sqlite { utc_offset_seconds: 0 };
    let path = options.get_filename().to_owned();
    let writer = connect(1, options.clone(), config.busy_deadline).await.map_err(|error| {
        match dialect.driver_error(&error) {
            StoreError::Unavailable(text) => {
                StoreError::Unavailable(format!("{text}: {}", path.display()))
            }
            other => other,
        }
    })?;
    let dialect = Dialect::Sqlite { utc_offset_seconds: utc_offset(&writer, dialect).await? };
    // A database in memory lives in its one connection, which then also reads.
    let readers = if in_memory {
        None
    } else {
        let options = options.pragma("query_only", "ON");
        let readers = connect(READERS, options.clone(), config.busy_deadline).await;
        Some((
            readers.map_err(|error| dialect.driver_error(&error))?,
            Looks::new(options, config.busy_deadline),
        ))
    };
    let replica = match &config.ro_connection_string {
        None => None,
        Some(text) => {
            let options = sqlite_dsn::parse(text)?.options.pragma("query_only", "ON");
            let replica = connect(READERS, options, config.busy_deadline).await;
            Some(replica.map_err(|error| dialect.driver_error(&error))?)
        }
    };
    // Not in use where the file system has no room for shared memory, or by another VFS.
    let uses_wal = !in_memory && uses_wal(&writer, dialect).await?;
    Ok(Opened {
        dialect,
        wal_index: uses_wal.then(|| WalIndex::open(&path)).flatten(),
        writer: match in_memory {
            true => Source::new("primary", writer, Link::Sqlite),
            false => {
                let held =
                    Held::new(writer.get_sqlite_connection_pool().clone(), config.busy_deadline);
                Source::new("primary", writer, Link::Sqlite).with_held(held)
            }
        },
        readers: readers.map(|(readers, looks)| {
            Source::new("primary", readers, Link::Sqlite).with_looks(looks)
        }),
        replica: replica.map(|replica| Source::new("read-only", replica, Link::Sqlite)),
    })
}

fn open_postgres(config: &StoreConfig) -> Result<Opened, StoreError> {
    let source = |name: &'static str, text: &str| {
        let PostgresDsn { options, host, port, user, has_password, .. } =
            postgres_dsn::parse(text)?;
        let login = login(config, &host, port, &user, has_password, "postgres")?;
        let (connection, link) = link::postgres(config, &options, login)?;
        Ok::<_, StoreError>(Source::new(name, connection, link))
    };
    let replica = config.ro_connection_string.as_deref();
    Ok(Opened {
        dialect: Dialect::Postgres,
        writer: source("primary", &config.connection_string)?,
        readers: None,
        replica: replica.map(|text| source("read-only", text)).transpose()?,
        wal_index: None,
    })
}

fn open_mysql(config: &StoreConfig) -> Result<Opened, StoreError> {
    let source = |name: &'static str, text: &str| {
        let MySqlDsn { mut options, host, port, user, has_password, zone, .. } =
            mysql_dsn::parse(text, &config.tls)?;
        let login = login(config, &host, port, &user, has_password, "mysql")?;
        if login.is_some() {
            // The token goes over in clear text, which is why the driver insists on TLS then.
            options = options.enable_cleartext_plugin(true);
        }
        let (connection, link) = link::mysql(config, &options, login)?;
        Ok::<_, StoreError>((Source::new(name, connection, link), zone))
    };
    let (writer, zone) = source("primary", &config.connection_string)?;
    let replica = config.ro_connection_string.as_deref();
    let replica = replica.map(|text| source("read-only", text)).transpose()?;
    Ok(Opened {
        dialect: Dialect::MySql { zone },
        writer,
        readers: None,
        replica: replica.map(|(replica, _)| replica),
        wal_index: None,
    })
}

fn login(
    config: &StoreConfig,
    host: &str,
    port: u16,
    user: &str,
    has_password: bool,
    kind: &str,
) -> Result<Option<Arc<Login>>, StoreError> {
    let Some(aws) = &config.aws else { return Ok(None) };
    if has_password {
        return Err(StoreError::Invalid(format!(
            "datastore-sql: invalid {kind} configuration: password should not be set when using \
             IAM authentication"
        )));
    }
    Ok(Some(Arc::new(Login::new(aws, host, port, user)?)))
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

/// How far the local time zone is from UTC now.
///
/// Go's driver writes timestamps in the local zone. The C library knows it safely, whereas Rust
/// programs with threads had better not look into the environment.
async fn utc_offset(connection: &DatabaseConnection, dialect: Dialect) -> Result<i32, StoreError> {
    let mut select = Query::select();
    select.expr(Expr::cust("unixepoch('now', 'localtime') - unixepoch('now')"));
    let tx = connection.begin().await.map_err(|error| dialect.error(&error))?;
    let tx = Tx::reading(tx, dialect);
    let offset: Option<i64> = tx.one(&select).await?.map(|row| row.get(0)).transpose()?;
    tx.rollback().await?;
    Ok(i32::try_from(offset.unwrap_or_default()).unwrap_or_default())
}

/// Whether the database is in WAL mode, with its index in a file of its own.
async fn uses_wal(connection: &DatabaseConnection, dialect: Dialect) -> Result<bool, StoreError> {
    let mut select = Query::select();
    select.expr(Expr::cust(
        "(SELECT journal_mode FROM pragma_journal_mode) || ' ' || \
         (SELECT locking_mode FROM pragma_locking_mode)",
    ));
    let tx = connection.begin().await.map_err(|error| dialect.error(&error))?;
    let tx = Tx::reading(tx, dialect);
    let modes: Option<String> = tx.one(&select).await?.map(|row| row.get(0)).transpose()?;
    tx.rollback().await?;
    Ok(modes.as_deref() == Some("wal normal"))
}

impl SqlStore {
    /// Asks each database for a sign of life.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.within(self.ping_source(self.readers.as_ref().unwrap_or(&self.writer))).await?;
        match &self.replica {
            Some(replica) => self.within(self.ping_source(replica)).await,
            None => Ok(()),
        }
    }

    async fn ping_source(&self, source: &Source) -> Result<(), StoreError> {
        let told = |error: StoreError| match error {
            StoreError::Unavailable(text) => StoreError::Unavailable(text),
            other => StoreError::Unavailable(other.to_string()),
        };
        source.enter(self.dialect, &self.now).await?;
        let mut select = Query::select();
        select.expr(Expr::val(1));
        match source.connection.query_one(&select).await {
            Ok(_) => Ok(()),
            Err(error) => match self.error(&error) {
                StoreError::Unavailable(_) if !source.is_saturated() => {
                    source.try_again(self.dialect).await
                }
                other => Err(told(other)),
            },
        }
    }

    pub(super) async fn shut(&self) {
        // The listener is told, and not waited for for long.
        let trigger = self.drain.lock().ok().and_then(|mut trigger| trigger.take());
        if let Some(trigger) = trigger {
            trigger.drain(Duration::from_secs(1)).await;
        }
        let sources = [self.replica.as_ref(), self.readers.as_ref(), Some(&self.writer)];
        for source in sources.into_iter().flatten() {
            source.close().await;
        }
    }
}
