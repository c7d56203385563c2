//! The built-in datastore `sql`, whose configuration is read here because no
//! plugin stands behind it.

use std::{fmt, time::Duration};

/// What the datastore runs by.
#[derive(Clone, PartialEq, Eq)]
pub struct DataStoreConfig {
    /// The kind of database.
    pub database_type: DatabaseType,
    /// The driver's connection string; for SQLite a path or a `file:` URI.
    pub connection_string: String,
    /// Connections at most; the default applies when unset.
    pub max_open_conns: Option<u32>,
    /// Idle connections at most; the default applies when unset.
    pub max_idle_conns: Option<u32>,
    /// Age at which a connection is replaced; never when unset.
    pub conn_max_lifetime: Option<Duration>,
    /// Do not change the schema.
    pub disable_migration: bool,
    /// Log SQL statements.
    pub log_sql: bool,
    /// Line of the `DataStore "sql"` block.
    pub line: Option<usize>,
}

impl fmt::Debug for DataStoreConfig {
    /// Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataStoreConfig")
            .field("database_type", &self.database_type)
            .field("disable_migration", &self.disable_migration)
            .finish_non_exhaustive()
    }
}

/// The kinds of database that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseType {
    /// SQLite, embedded.
    Sqlite3,
}
