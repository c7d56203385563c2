use std::fmt;
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
}

/// How to reach the database, as the `DataStore "sql"` block says it.
#[derive(Clone)]
pub struct StoreConfig {
    /// The kind of database.
    pub database_type: DatabaseType,
    /// The driver's connection string: for SQLite a path or a `file:` URI (TD-06).
    pub connection_string: String,
    /// Version of this program as the `migrations` row keeps it; a semantic version (TD-10).
    pub code_version: String,
    /// Do not make or change the schema (TD-05).
    pub disable_migration: bool,
    /// Log each SQL statement, without its values, at debug level.
    pub log_sql: bool,
    /// How long a write waits for other writers before it answers `Unavailable`.
    pub busy_deadline: Duration,
    /// Where the time comes from.
    pub now: Now,
}

impl StoreConfig {
    /// An SQLite database with everything else at its default.
    #[must_use]
    pub fn sqlite(connection_string: &str, code_version: &str) -> Self {
        Self {
            database_type: DatabaseType::Sqlite,
            connection_string: connection_string.into(),
            code_version: code_version.into(),
            disable_migration: false,
            log_sql: false,
            busy_deadline: Duration::from_secs(20),
            now: Arc::new(SystemTime::now),
        }
    }
}

impl fmt::Debug for StoreConfig {
    /// Without the connection string, which holds a password on other dialects.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("database_type", &self.database_type)
            .field("code_version", &self.code_version)
            .field("disable_migration", &self.disable_migration)
            .finish_non_exhaustive()
    }
}
