//! The built-in datastore `sql`, whose configuration is read here because no
//! plugin stands behind it.

use std::{fmt, path::PathBuf, time::Duration};

use serde::Deserialize;
use steeple_hcl::{Block, Located};

use crate::{
    checks::{Checker, on, quote, set, shorten},
    problem::NoticeKind,
    url,
};

/// What the datastore runs by.
#[derive(Clone, PartialEq, Eq)]
pub struct DataStoreConfig {
    /// The kind of database.
    pub database_type: DatabaseType,
    /// The driver's connection string; for SQLite a path or a `file:` URI.
    pub connection_string: String,
    /// The same of a replica that is only read.
    pub ro_connection_string: Option<String>,
    /// PEM file of the CAs that a MySQL server's certificate may come from.
    pub root_ca_path: Option<PathBuf>,
    /// PEM file of the certificate to show to a MySQL server.
    pub client_cert_path: Option<PathBuf>,
    /// PEM file of its key.
    pub client_key_path: Option<PathBuf>,
    /// Log-in by tokens of AWS.
    pub aws: Option<AwsDatabase>,
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
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    MySql,
}

/// What `aws_postgres` and `aws_mysql` say.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct AwsDatabase {
    /// The region of the database.
    pub region: String,
    /// The access key; empty = the one of the environment.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
}

impl fmt::Debug for AwsDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsDatabase").field("region", &self.region).finish_non_exhaustive()
    }
}

/// The keys of `DataStore "sql"`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    database_type: Located<Block>,
    connection_string: Located<String>,
    ro_connection_string: Located<String>,
    root_ca_path: Located<String>,
    client_cert_path: Located<String>,
    client_key_path: Located<String>,
    conn_max_lifetime: Located<String>,
    max_open_conns: Located<i64>,
    max_idle_conns: Located<i64>,
    disable_migration: Located<bool>,
    log_sql: Located<bool>,
}

/// The block form of `database_type`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawAws {
    aws_mysql: Located<RawAwsDatabase>,
    aws_postgres: Located<RawAwsDatabase>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawAwsDatabase {
    region: Located<String>,
    access_key_id: Located<String>,
    secret_access_key: Located<String>,
}

const KEY: &str = "plugins.DataStore.sql";

/// Checks the plugin's block; problems are the checker's.
pub(crate) fn build(
    checker: &mut Checker,
    block: Option<&Block>,
    line: Option<usize>,
) -> Option<DataStoreConfig> {
    let raw = match block.map(Block::decode::<Raw>) {
        None => Raw::default(),
        Some(Ok(decoded)) => {
            for unknown in decoded.unknown {
                let key = format!("{KEY}.{}", shorten(&unknown.key));
                let text = format!("unknown key {key}; ignored, as SPIRE does");
                let line = Some(unknown.position.line).filter(|line| *line > 0);
                checker.note(NoticeKind::NoEffect, line, &key, text);
            }
            decoded.value
        }
        Some(Err(errors)) => {
            for error in &errors {
                let key = error.path().trim_start_matches("root.");
                let line = error.position().map(|position| position.line).or(line);
                checker.problem(line, &format!("{KEY}.{key}"), error.to_string());
            }
            return None;
        }
    };

    let database = database_type(checker, &raw, line);
    let database_type = database.as_ref().map(|(database_type, _)| *database_type);
    if set(&raw.connection_string).is_none() {
        let key = format!("{KEY}.connection_string");
        checker.problem(line, &key, "datastore-sql: connection_string must be set");
    }
    let connection_string = connection_string(checker, &raw, database_type);
    let conn_max_lifetime =
        checker.duration(&format!("{KEY}.conn_max_lifetime"), &raw.conn_max_lifetime, |text| {
            format!("datastore-sql: failed to parse conn_max_lifetime {text}")
        });
    let mut count = |name: &str, value: &Located<i64>| {
        let wanted = value.value?;
        // Go's driver takes a number below zero for "no limit".
        u32::try_from(wanted.max(0))
            .map_err(|_| {
                checker.problem(
                    value.line(),
                    &format!("{KEY}.{name}"),
                    format!("{name} is too high"),
                );
            })
            .ok()
    };
    let max_open_conns = count("max_open_conns", &raw.max_open_conns);
    let max_idle_conns = count("max_idle_conns", &raw.max_idle_conns);
    Some(DataStoreConfig {
        database_type: database_type?,
        connection_string: connection_string?,
        ro_connection_string: set(&raw.ro_connection_string).map(str::to_owned),
        root_ca_path: set(&raw.root_ca_path).map(PathBuf::from),
        client_cert_path: set(&raw.client_cert_path).map(PathBuf::from),
        client_key_path: set(&raw.client_key_path).map(PathBuf::from),
        aws: database.and_then(|(_, aws)| aws),
        max_open_conns,
        max_idle_conns,
        conn_max_lifetime,
        disable_migration: on(&raw.disable_migration),
        log_sql: on(&raw.log_sql),
        line,
    })
}

type Database = (DatabaseType, Option<AwsDatabase>);

fn database_type(checker: &mut Checker, raw: &Raw, line: Option<usize>) -> Option<Database> {
    let key = format!("{KEY}.database_type");
    let place = raw.database_type.line().or(line);
    let Some(block) = raw.database_type.as_ref() else {
        // SPIRE's words for a key that is not there.
        checker.problem(place, &key, "malformed database type configuration");
        return None;
    };
    if block.is_body() {
        return aws_database(checker, block, place, &key);
    }
    let name = block.decode::<String>().map(|decoded| decoded.value).unwrap_or_default();
    match name.as_str() {
        "sqlite3" => return Some((DatabaseType::Sqlite3, None)),
        "postgres" => return Some((DatabaseType::Postgres, None)),
        "mysql" => return Some((DatabaseType::MySql, None)),
        "" => checker.problem(place, &key, "datastore-sql: database_type must be set"),
        _ => {
            let text = format!("datastore-sql: unsupported database_type: {}", shorten(&name));
            checker.problem(place, &key, text);
        }
    }
    None
}

fn aws_database(
    checker: &mut Checker,
    block: &Block,
    line: Option<usize>,
    key: &str,
) -> Option<Database> {
    if block.len() != 1 {
        checker.problem(line, key, "exactly one database type is expected");
        return None;
    }
    let decoded = match block.decode::<RawAws>() {
        Ok(decoded) => decoded.value,
        Err(error) => {
            let text = format!("failed to decode configuration: {error}");
            checker.problem(line, key, text);
            return None;
        }
    };
    let (kind, database) = match (decoded.aws_mysql.as_ref(), decoded.aws_postgres.as_ref()) {
        (Some(database), _) => (DatabaseType::MySql, database),
        (_, Some(database)) => (DatabaseType::Postgres, database),
        _ => {
            let text = "unknown database type; there are aws_mysql and aws_postgres";
            checker.problem(line, key, text);
            return None;
        }
    };
    if set(&database.region).is_none() {
        checker.problem(line, key, "datastore-sql: region must be specified");
    }
    let text = |value| set(value).unwrap_or_default().to_owned();
    let aws = AwsDatabase {
        region: text(&database.region),
        access_key_id: text(&database.access_key_id),
        secret_access_key: text(&database.secret_access_key),
    };
    Some((kind, Some(aws)))
}

/// The connection string, as far as it can be judged without a driver: SQLite's is a path or a
/// `file:` URI, and MySQL's has to ask for times (TD-07).
fn connection_string(
    checker: &mut Checker,
    raw: &Raw,
    database_type: Option<DatabaseType>,
) -> Option<String> {
    let text = set(&raw.connection_string)?;
    let key = format!("{KEY}.connection_string");
    let line = raw.connection_string.line();
    if database_type == Some(DatabaseType::MySql) && !text.contains("parseTime=") {
        checker.problem(
            line,
            &key,
            "datastore-sql: invalid mysql config: missing parseTime=true param in \
             connection_string",
        );
    }
    if database_type == Some(DatabaseType::Sqlite3) {
        match url::parse(text) {
            Ok(url) if url.scheme.is_empty() || url.scheme == "file" => {}
            Ok(url) => {
                let text = format!("datastore-sql: unsupported scheme {}", quote(&url.scheme));
                checker.problem(line, &key, text);
            }
            Err(error) => checker.problem(line, &key, format!("datastore-sql: {error}")),
        }
    }
    Some(text.to_owned())
}
