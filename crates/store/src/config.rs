use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Tells the time that rows are stamped with; a test brings its own.
pub type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The kind of database (TD-01).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DatabaseType {
    /// `sqlite3`: a file, written by this process and perhaps by others on this machine.
    Sqlite,
    /// `postgres`, or `aws_postgres` with [`StoreConfig::aws`].
    Postgres,
    /// `mysql`, or `aws_mysql` with [`StoreConfig::aws`]; MariaDB too.
    MySql,
}

/// Certificates for MySQL, as the configuration names them (TD-03).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsFiles {
    /// `root_ca_path`: PEM of the CAs that the server's certificate may come from.
    pub root_ca: Option<PathBuf>,
    /// `client_cert_path`: PEM of the certificate to show.
    pub client_cert: Option<PathBuf>,
    /// `client_key_path`: PEM of its key.
    pub client_key: Option<PathBuf>,
}

/// How to log in to a database of AWS RDS without a password (TD-01).
#[derive(Clone, PartialEq, Eq)]
pub struct AwsIam {
    /// The region of the database.
    pub region: String,
    /// The access key; without both of them, the ones of the environment count.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
}

impl fmt::Debug for AwsIam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsIam").field("region", &self.region).finish_non_exhaustive()
    }
}

/// How to reach the database, as the `DataStore "sql"` block says it.
#[derive(Clone)]
pub struct StoreConfig {
    /// The kind of database.
    pub database_type: DatabaseType,
    /// The connection string of Go's driver: for SQLite a path or a `file:` URI (TD-06).
    pub connection_string: String,
    /// The same of a replica for reads that need not be current (TD-02).
    pub ro_connection_string: Option<String>,
    /// Certificates, for MySQL.
    pub tls: TlsFiles,
    /// Log in by tokens of AWS.
    pub aws: Option<AwsIam>,
    /// Connections at most, 0 = any number; 100 if not said (TD-04). Not for SQLite.
    pub max_open_conns: Option<u32>,
    /// Connections to keep while they are not needed; 100 if not said. Not for SQLite.
    pub max_idle_conns: Option<u32>,
    /// The age at which a connection is replaced; none if not said. Not for SQLite.
    pub conn_max_lifetime: Option<Duration>,
    /// Version of this program as the `migrations` row keeps it; a semantic version (TD-10).
    pub code_version: String,
    /// Do not make or change the schema (TD-05).
    pub disable_migration: bool,
    /// Log each SQL statement, without its values, at debug level.
    pub log_sql: bool,
    /// How long a call may take, waiting for others included, before it answers `Unavailable`.
    pub busy_deadline: Duration,
    /// Where the time comes from.
    pub now: Now,
}

impl StoreConfig {
    /// A database with everything else at its default.
    #[must_use]
    pub fn new(database_type: DatabaseType, connection_string: &str, code_version: &str) -> Self {
        Self {
            database_type,
            connection_string: connection_string.into(),
            ro_connection_string: None,
            tls: TlsFiles::default(),
            aws: None,
            max_open_conns: None,
            max_idle_conns: None,
            conn_max_lifetime: None,
            code_version: code_version.into(),
            disable_migration: false,
            log_sql: false,
            busy_deadline: Duration::from_secs(20),
            now: Arc::new(SystemTime::now),
        }
    }

    /// An SQLite database with everything else at its default.
    #[must_use]
    pub fn sqlite(connection_string: &str, code_version: &str) -> Self {
        Self::new(DatabaseType::Sqlite, connection_string, code_version)
    }
}

impl fmt::Debug for StoreConfig {
    /// Without the connection strings, which hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("database_type", &self.database_type)
            .field("code_version", &self.code_version)
            .field("disable_migration", &self.disable_migration)
            .finish_non_exhaustive()
    }
}
