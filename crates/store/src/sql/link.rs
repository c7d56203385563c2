//! The connections to one database server: pools, log-in tokens, and a gate that closes while
//! the server does not answer.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sea_orm::sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sea_orm::sqlx::pool::PoolOptions;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sea_orm::sqlx::{ConnectOptions as _, Connection, Database, Error, MySqlPool, PgPool, Pool};
use sea_orm::{DatabaseConnection, SqlxMySqlConnector, SqlxPostgresConnector};
use steeple_runtime::Backoff;

use super::dialect::Dialect;
use super::held::Held;
use super::iam::{Login, Token};
use super::look::Looks;
use crate::config::{Now, StoreConfig};
use crate::error::StoreError;

/// Connections at most, and of them idle, as SPIRE has it.
const DEFAULT_CONNECTIONS: u32 = 100;
/// How long a sign of life may take.
const PROBE: Duration = Duration::from_secs(5);
/// An idle connection is closed after so long, as SPIRE's.
const IDLE: Duration = Duration::from_secs(30);
/// A connection that lay idle for longer is asked for a sign of life first.
const FRESH: Duration = Duration::from_secs(1);
/// A connection comes sooner than this, or something is wrong.
const SUSPICIOUS: Duration = Duration::from_millis(500);
/// A closed gate is tried again after this, and then ever more rarely.
const FIRST_TRY: Duration = Duration::from_millis(200);
const LAST_TRY: Duration = Duration::from_secs(2);

/// A database server, and how it is with it.
pub(super) struct Source {
    /// What health and logs call it.
    pub(super) name: &'static str,
    pub(super) connection: DatabaseConnection,
    pub(super) link: Link,
    /// On SQLite, connections for reads of one statement.
    pub(super) looks: Option<Looks>,
    /// Of a SQLite file, the connection that writes.
    pub(super) held: Option<Held>,
    gate: Mutex<Gate>,
    /// Held by who finds out why a connection is long in coming.
    asking: tokio::sync::Mutex<()>,
}

/// What is below the connection.
#[derive(Clone)]
pub(super) enum Link {
    /// A file: always there, or an error at once.
    Sqlite,
    Postgres {
        pool: PgPool,
        options: PgConnectOptions,
        login: Option<Arc<Login>>,
    },
    MySql {
        pool: MySqlPool,
        options: MySqlConnectOptions,
        login: Option<Arc<Login>>,
    },
}

/// Whether calls are let through to the server.
enum Gate {
    Open,
    /// A call took too long: the next one first asks for a sign of life.
    Doubtful,
    Closed {
        why: String,
        next_try: Instant,
        backoff: Backoff,
        since: Instant,
    },
}

enum Entry {
    Free,
    Try,
    Refused(StoreError),
}

impl Source {
    pub(super) fn new(name: &'static str, connection: DatabaseConnection, link: Link) -> Self {
        let (gate, asking) = (Mutex::new(Gate::Open), tokio::sync::Mutex::new(()));
        Self { name, connection, link, looks: None, held: None, gate, asking }
    }

    /// With connections of their own for reads of one statement.
    pub(super) fn with_looks(mut self, looks: Looks) -> Self {
        self.looks = Some(looks);
        self
    }

    /// With a connection that is kept for those who write.
    pub(super) fn with_held(mut self, held: Held) -> Self {
        self.held = Some(held);
        self
    }

    /// Lets a call through, or tells at once that there is no use.
    ///
    /// Of the calls that come while the server is away, one at a time tries to reach it, at
    /// intervals that grow and differ from server to server, so that a database that comes back
    /// is not met by all of its clients at once.
    pub(super) async fn enter(&self, dialect: Dialect, now: &Now) -> Result<(), StoreError> {
        self.link.renew_login(now)?;
        match self.ask() {
            Entry::Free => Ok(()),
            Entry::Refused(error) => Err(error),
            Entry::Try => self.try_again(dialect).await,
        }
    }

    fn ask(&self) -> Entry {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *gate {
            Gate::Open => Entry::Free,
            Gate::Doubtful => Entry::Try,
            Gate::Closed { why, next_try, backoff, .. } => {
                if Instant::now() < *next_try {
                    return Entry::Refused(StoreError::Unavailable(why.clone()));
                }
                *next_try = Instant::now() + PROBE + backoff.next();
                Entry::Try
            }
        }
    }

    /// Asks for a sign of life, and opens or closes the gate by the answer.
    pub(super) async fn try_again(&self, dialect: Dialect) -> Result<(), StoreError> {
        let answer = match tokio::time::timeout(PROBE, self.link.probe()).await {
            Ok(Ok(())) => Ok(()),
            // It answers, and those who are connected are served.
            Ok(Err(error)) if dialect.is_crowded(&error) => Ok(()),
            Ok(Err(error)) => Err(dialect.driver_error(&error).to_string()),
            Err(_) => Err(format!("datastore-sql: no answer within {} s", PROBE.as_secs())),
        };
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(()) => {
                if let Gate::Closed { since, .. } = &*gate {
                    tracing::info!(
                        subsystem_name = "sql",
                        connection = self.name,
                        seconds = since.elapsed().as_secs(),
                        "The SQL database is back"
                    );
                }
                *gate = Gate::Open;
                Ok(())
            }
            Err(why) => {
                let why = format!(
                    "{why} (the {} database cannot be reached)",
                    if self.name == "primary" { "SQL" } else { "read-only SQL" }
                );
                let (since, mut backoff) = match std::mem::replace(&mut *gate, Gate::Open) {
                    Gate::Closed { since, backoff, .. } => (since, backoff),
                    Gate::Open | Gate::Doubtful => {
                        tracing::error!(
                            subsystem_name = "sql",
                            connection = self.name,
                            error = %why,
                            "The SQL database cannot be reached"
                        );
                        (Instant::now(), Backoff::new(FIRST_TRY, LAST_TRY))
                    }
                };
                let next_try = Instant::now() + backoff.next().mul_f64(0.5 + fastrand::f64());
                *gate = Gate::Closed { why: why.clone(), next_try, backoff, since };
                Err(StoreError::Unavailable(why))
            }
        }
    }

    /// Finds out why a connection is long in coming, and answers only if it will not come. (A
    /// pool goes on trying to connect until its caller's time is up.)
    pub(super) async fn suspect(&self, dialect: Dialect) -> StoreError {
        tokio::time::sleep(SUSPICIOUS).await;
        // One asks for all who wait.
        if !self.is_saturated()
            && let Ok(_asking) = self.asking.try_lock()
            && let Err(error) = self.try_again(dialect).await
        {
            return error;
        }
        std::future::pending().await
    }

    /// A call took too long.
    pub(super) fn doubt(&self) {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*gate, Gate::Open) {
            *gate = Gate::Doubtful;
        }
    }

    /// Whether every connection is in use, so that waiting for one says nothing of the server.
    pub(super) fn is_saturated(&self) -> bool {
        match &self.link {
            Link::Sqlite => true,
            Link::Postgres { pool, .. } => pool.size() >= pool.options().get_max_connections(),
            Link::MySql { pool, .. } => pool.size() >= pool.options().get_max_connections(),
        }
    }

    pub(super) async fn close(&self) {
        if let Some(looks) = &self.looks {
            looks.close();
        }
        if let Some(held) = &self.held {
            held.close().await;
        }
        // SQLite folds the write-ahead log back into the file when the last connection closes.
        if let Err(error) = self.connection.close_by_ref().await {
            tracing::warn!(subsystem_name = "sql", %error, "Closing the database failed");
        }
    }
}

impl Link {
    /// Connects anew, which tells why it cannot; a pool would only say that it took too long.
    async fn probe(&self) -> Result<(), Error> {
        match self {
            Self::Sqlite => Ok(()),
            Self::Postgres { pool, .. } => ping(pool.connect_options().connect().await?).await,
            Self::MySql { pool, .. } => ping(pool.connect_options().connect().await?).await,
        }
    }

    /// Gives connections to come a fresh token, if they log in by one and it grows old.
    pub(super) fn renew_login(&self, now: &Now) -> Result<(), StoreError> {
        match self {
            Self::Sqlite => {}
            Self::Postgres { pool, options, login } => {
                if let Some(token) = fresh_token(login.as_ref(), now())? {
                    pool.set_connect_options(options.clone().password(&token.0));
                }
            }
            Self::MySql { pool, options, login } => {
                if let Some(token) = fresh_token(login.as_ref(), now())? {
                    pool.set_connect_options(options.clone().password(&token.0));
                }
            }
        }
        Ok(())
    }

    /// The options of the connections that are made now.
    pub(super) fn postgres_options(&self) -> Option<Arc<PgConnectOptions>> {
        match self {
            Self::Postgres { pool, .. } => Some(pool.connect_options()),
            Self::Sqlite | Self::MySql { .. } => None,
        }
    }
}

fn fresh_token(login: Option<&Arc<Login>>, now: SystemTime) -> Result<Option<Token>, StoreError> {
    login.map_or(Ok(None), |login| login.renew(now))
}

async fn ping<C: Connection>(mut connection: C) -> Result<(), Error> {
    connection.ping().await?;
    connection.close().await
}

/// How large the pool is and how its connections are kept (TD-04).
fn pool_options<D: Database>(config: &StoreConfig, deadline: Duration) -> PoolOptions<D> {
    // Go takes 0 for "no limit"; no database server takes more than this.
    const NO_LIMIT: u32 = 10_000;
    let max_open = match config.max_open_conns.unwrap_or(DEFAULT_CONNECTIONS) {
        0 => NO_LIMIT,
        connections => connections,
    };
    PoolOptions::<D>::new()
        .min_connections(0)
        .max_connections(max_open)
        .acquire_timeout(deadline)
        .idle_timeout(IDLE)
        .max_lifetime(config.conn_max_lifetime)
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                if about.idle_for < FRESH {
                    return Ok(true);
                }
                let answer = tokio::time::timeout(PROBE, connection.ping()).await;
                Ok(matches!(answer, Ok(Ok(()))))
            })
        })
}

/// What a connection that comes back is asked, and whether there is room for it: its return is
/// where whatever was left half-done is taken back, which a dead server never answers.
async fn come_back(
    asked: impl Future<Output = Result<(), Error>>,
    room: bool,
) -> Result<bool, Error> {
    match tokio::time::timeout(PROBE, asked).await {
        Ok(answer) => answer.map(|()| room),
        Err(_) => Err(Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

fn has_room<D: Database>(itself: &OnceLock<Pool<D>>, config_max_idle: usize) -> bool {
    itself.get().is_none_or(|pool| pool.num_idle() < config_max_idle)
}

fn max_idle(config: &StoreConfig) -> usize {
    config.max_idle_conns.unwrap_or(DEFAULT_CONNECTIONS) as usize
}

/// A pool for PostgreSQL. Connects when it is used.
pub(super) fn postgres(
    config: &StoreConfig,
    options: &PgConnectOptions,
    login: Option<Arc<Login>>,
) -> Result<(DatabaseConnection, Link), StoreError> {
    let options = quiet(options.clone(), config.log_sql);
    let itself = Arc::new(OnceLock::new());
    let deadline = config.busy_deadline;
    let pool_options: PgPoolOptions = pool_options(config, deadline);
    let settings = format!("SET lock_timeout = {0}; SET statement_timeout = {0}", millis(deadline));
    let pool = pool_options
        .after_connect(move |connection, _| {
            let settings = sea_orm::sqlx::AssertSqlSafe(settings.clone());
            Box::pin(
                async move { sea_orm::sqlx::raw_sql(settings).execute(connection).await.map(drop) },
            )
        })
        .after_release({
            let (itself, max_idle) = (Arc::clone(&itself), max_idle(config));
            move |connection, _| {
                let room = has_room(&itself, max_idle);
                Box::pin(come_back(connection.ping(), room))
            }
        })
        .connect_lazy_with(options.clone());
    let _ = itself.set(pool.clone());
    let connection = SqlxPostgresConnector::from_sqlx_postgres_pool(pool.clone());
    Ok((connection, Link::Postgres { pool, options, login }))
}

/// A pool for MySQL. Connects when it is used.
pub(super) fn mysql(
    config: &StoreConfig,
    options: &MySqlConnectOptions,
    login: Option<Arc<Login>>,
) -> Result<(DatabaseConnection, Link), StoreError> {
    let options = quiet(options.clone(), config.log_sql);
    let itself = Arc::new(OnceLock::new());
    let deadline = config.busy_deadline;
    let pool_options: MySqlPoolOptions = pool_options(config, deadline);
    let seconds = deadline.as_secs().max(1);
    // A lenient server cuts a text that is too long for its column, and one SPIFFE ID becomes
    // another.
    let settings = format!(
        "SET SESSION innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}, \
         sql_mode = CONCAT_WS(',', NULLIF(@@SESSION.sql_mode, ''), 'STRICT_ALL_TABLES')"
    );
    let pool = pool_options
        .after_connect(move |connection, _| {
            let settings = sea_orm::sqlx::AssertSqlSafe(settings.clone());
            Box::pin(
                async move { sea_orm::sqlx::raw_sql(settings).execute(connection).await.map(drop) },
            )
        })
        .after_release({
            let (itself, max_idle) = (Arc::clone(&itself), max_idle(config));
            move |connection, _| {
                let room = has_room(&itself, max_idle);
                // A call that ran out of time while it began a transaction leaves it open.
                let asked = async move {
                    sea_orm::sqlx::raw_sql("ROLLBACK").execute(connection).await.map(drop)
                };
                Box::pin(come_back(asked, room))
            }
        })
        .connect_lazy_with(options.clone());
    let _ = itself.set(pool.clone());
    let connection = SqlxMySqlConnector::from_sqlx_mysql_pool(pool.clone());
    Ok((connection, Link::MySql { pool, options, login }))
}

fn quiet<O: sea_orm::sqlx::ConnectOptions>(options: O, log_sql: bool) -> O {
    if log_sql { options } else { options.disable_statement_logging() }
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis().max(1)
}
