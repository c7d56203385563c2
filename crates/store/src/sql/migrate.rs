//! The `migrations` row: which schema the database has and which program last ran on it.

use std::cmp::Ordering;

use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Expr, Order, Query};

use super::dialect::Dialect;
use super::tx::Tx;
use super::version::Version;
use super::{ENTRIES, MIGRATIONS, NODES, SqlStore, schema};
use crate::config::StoreConfig;
use crate::error::{StoreError, excerpt};

/// What servers that start at the same time wait for each other by.
const LOCK: &str = "steeple_migrations";

/// Makes the schema, brings it up to date, or checks it (TD-09, TD-10); `true` = made it.
pub(super) async fn migrate(store: &SqlStore, config: &StoreConfig) -> Result<bool, StoreError> {
    let tx = store.write().await?;
    let done = match lock(&tx).await {
        Ok(()) => {
            let done = bring_up(&tx, config).await;
            unlock(&tx).await.and(done)
        }
        Err(error) => Err(error),
    };
    store.finish(tx, done).await.0
}

/// On SQLite the transaction itself is the lock. MySQL ends transactions at each CREATE, so there
/// it is one of the connection.
async fn lock(tx: &Tx) -> Result<(), StoreError> {
    match tx.dialect {
        Dialect::Sqlite { .. } => Ok(()),
        Dialect::Postgres => tx.exclude(&[LOCK]).await,
        Dialect::MySql { .. } => {
            let mut select = Query::select();
            select.expr(Expr::cust(format!("GET_LOCK('{LOCK}', 15)")));
            match tx.one(&select).await?.map(|row| row.get_or_default::<i64>(0)).transpose()? {
                Some(1) => Ok(()),
                _ => Err(StoreError::Unavailable(
                    "datastore-sql: another server is migrating the database".into(),
                )),
            }
        }
    }
}

async fn unlock(tx: &Tx) -> Result<(), StoreError> {
    if let Dialect::MySql { .. } = tx.dialect {
        let mut select = Query::select();
        select.expr(Expr::cust(format!("RELEASE_LOCK('{LOCK}')")));
        tx.one(&select).await?;
    }
    Ok(())
}

async fn bring_up(tx: &Tx, config: &StoreConfig) -> Result<bool, StoreError> {
    let this = Version::parse(&config.code_version).ok_or_else(|| {
        StoreError::Invalid("datastore-sql: the program's own version is malformed".into())
    })?;
    if tx.one(&tx.dialect.find_column(MIGRATIONS, None)).await?.is_none() {
        tracing::info!(subsystem_name = "sql", "Initializing new database");
        create(tx, &config.code_version).await?;
        return Ok(true);
    }
    let mut select = Query::select();
    select
        .columns(["version", "code_version"])
        .from(MIGRATIONS)
        .order_by("id", Order::Asc)
        .limit(1);
    let Some(row) = tx.one(&select).await? else {
        // MySQL cannot take back what was made of a schema when making it was cut short.
        if let Dialect::MySql { .. } = tx.dialect {
            create(tx, &config.code_version).await?;
            return Ok(true);
        }
        return Err(precondition(
            "the migrations table is empty: the schema is of unknown version",
        ));
    };
    let found = i32::try_from(row.get_or_default::<i64>(0)?).unwrap_or(i32::MAX);
    let code: String = row.get_or_default(1)?;
    let database = if code.is_empty() {
        Version::default()
    } else {
        Version::parse(&code).ok_or_else(|| {
            StoreError::sql(&format!(
                "error getting DB code version: unable to parse code version from DB: {}",
                excerpt(&code)
            ))
        })?
    };
    match check(found, &database, &this, config.disable_migration)? {
        Plan::Migrate => {
            tracing::info!(subsystem_name = "sql", schema = found, "Running migrations...");
            for from in found..schema::VERSION {
                step(tx, from, &config.code_version).await?;
            }
            tracing::info!(subsystem_name = "sql", "Done running migrations");
        }
        Plan::Keep => {
            if found == schema::VERSION && this.compare(&database) == Ordering::Greater {
                set_version(tx, schema::VERSION, &config.code_version).await?;
            }
        }
    }
    Ok(false)
}

/// From one schema to the next. The version goes last: where a statement cannot be taken back, a
/// step that was cut short is done again.
async fn step(tx: &Tx, from: i32, code_version: &str) -> Result<(), StoreError> {
    tracing::info!(subsystem_name = "sql", version_info = from, "Migrating version");
    match from {
        23 => add_column(tx, NODES, "agent_version", [SHORT_TEXT, "text"]).await?,
        24 => add_column(tx, ENTRIES, "additional_attributes", ["blob", "bytea"]).await?,
        other => {
            let text = format!("no migration support for unknown schema version {other}");
            return Err(StoreError::sql(&text));
        }
    }
    set_version(tx, from + 1, code_version).await
}

const SHORT_TEXT: &str = "varchar(255)";

/// Adds a column of a type, which is named for SQLite and MySQL, and for PostgreSQL.
async fn add_column(
    tx: &Tx,
    table: &str,
    column: &str,
    [kind, postgres]: [&str; 2],
) -> Result<(), StoreError> {
    if tx.one(&tx.dialect.find_column(table, Some(column))).await?.is_some() {
        return Ok(());
    }
    let statement = match tx.dialect {
        Dialect::Sqlite { .. } => format!("ALTER TABLE \"{table}\" ADD \"{column}\" {kind};"),
        Dialect::Postgres => format!("ALTER TABLE \"{table}\" ADD \"{column}\" {postgres}"),
        Dialect::MySql { .. } => {
            let kind = if kind == "blob" { "longblob" } else { kind };
            format!("ALTER TABLE `{table}` ADD `{column}` {kind}")
        }
    };
    let done = tx.inner.execute_unprepared(&statement).await;
    done.map(drop).map_err(|error| tx.error(&error))
}

async fn set_version(tx: &Tx, version: i32, code_version: &str) -> Result<(), StoreError> {
    let mut update = Query::update();
    update
        .table(MIGRATIONS)
        .value("version", version)
        .value("code_version", code_version)
        .value("updated_at", tx.dialect.timestamp(tx.now));
    tx.execute(&update).await.map(drop)
}

/// What is to be done about a schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    Keep,
    Migrate,
}

/// Whether this program can work on a database of a schema version.
fn check(
    found: i32,
    database: &Version,
    this: &Version,
    disable_migration: bool,
) -> Result<Plan, StoreError> {
    match found.cmp(&schema::VERSION) {
        Ordering::Equal => Ok(Plan::Keep),
        _ if disable_migration && !this.is_next_to(database) => {
            Err(precondition("auto-migration must be enabled for current DB"))
        }
        // Another server of the cluster was upgraded first: SPIRE promises to work one minor
        // version apart.
        Ordering::Greater if this.is_next_to(database) => {
            tracing::warn!(
                subsystem_name = "sql",
                schema = found,
                version_info = %database.text,
                "DB schema is ahead of code version, upgrading SPIRE Server is recommended"
            );
            Ok(Plan::Keep)
        }
        Ordering::Greater => Err(precondition(&format!(
            "incompatible DB schema and code version: the database has schema {found} of version \
             {}, this program knows schema {} at most; upgrade it",
            excerpt(&database.text),
            schema::VERSION
        ))),
        Ordering::Less if found < schema::OLDEST_MIGRATABLE => Err(precondition(&format!(
            "migrating from schema version {found} requires a previous SPIRE release; please \
             follow the upgrade strategy at doc/upgrading.md"
        ))),
        // SPIRE starts, and then misses columns in every other statement.
        Ordering::Less if disable_migration => Err(precondition(&format!(
            "auto-migration must be enabled for current DB: it has schema {found}, and this \
             program needs schema {}",
            schema::VERSION
        ))),
        Ordering::Less => Ok(Plan::Migrate),
    }
}

async fn create(tx: &Tx, code_version: &str) -> Result<(), StoreError> {
    let statements = match tx.dialect {
        Dialect::Sqlite { .. } => schema::sqlite::SCHEMA,
        Dialect::Postgres => schema::postgres::SCHEMA,
        Dialect::MySql { .. } => schema::mysql::SCHEMA,
    };
    for statement in statements {
        let statement = match tx.dialect {
            // The semicolon keeps the driver from cutting, and SQLite from not storing, the blank
            // at the end of gorm's texts.
            Dialect::Sqlite { .. } => format!("{statement};"),
            Dialect::Postgres => (*statement).to_owned(),
            Dialect::MySql { .. } => match statement.strip_prefix("CREATE TABLE ") {
                Some(table) => {
                    format!("CREATE TABLE IF NOT EXISTS {table}{}", schema::mysql::TABLE_OPTIONS)
                }
                None => (*statement).to_owned(),
            },
        };
        match tx.inner.execute_unprepared(&statement).await {
            Ok(_) => {}
            Err(error) if tx.dialect.is_made_already(&error) => {}
            Err(error) => return Err(tx.error(&error)),
        }
    }
    let row = [("version", schema::VERSION.into()), ("code_version", code_version.into())];
    tx.insert(MIGRATIONS, &row).await?;
    Ok(())
}

fn precondition(text: &str) -> StoreError {
    StoreError::Precondition(format!("datastore-sql: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn a_newer_schema_is_tolerated_from_the_next_minor_version_only() {
        let this = version("1.15.0");
        assert!(check(25, &version("1.99.0"), &this, true).is_ok());
        assert!(check(26, &version("1.16.2"), &this, false).is_ok());
        for theirs in ["1.17.0", "2.15.0"] {
            let error = check(26, &version(theirs), &this, false).unwrap_err();
            assert!(matches!(&error, StoreError::Precondition(text)
                if text.starts_with("datastore-sql: incompatible DB schema and code version")));
        }
    }

    #[test]
    fn without_migrations_only_a_neighbouring_version_will_do() {
        let this = version("1.15.0");
        assert!(check(26, &version("1.16.0"), &this, true).is_ok());
        for (found, theirs) in [(26, "1.17.0"), (24, "1.13.0")] {
            let error = check(found, &version(theirs), &this, true).unwrap_err();
            assert!(error.to_string().contains("auto-migration must be enabled"), "{error}");
        }
    }

    #[test]
    fn schemas_of_the_last_releases_are_migrated_and_older_ones_refused() {
        let this = version("1.15.0");
        for found in [23, 24] {
            assert_eq!(check(found, &version("1.14.0"), &this, false), Ok(Plan::Migrate));
            let error = check(found, &version("1.14.0"), &this, true).unwrap_err();
            assert!(error.to_string().contains("auto-migration must be enabled"), "{error}");
        }
        let error = check(22, &version("1.14.0"), &this, false).unwrap_err();
        assert!(error.to_string().contains("requires a previous SPIRE release"), "{error}");
    }
}
