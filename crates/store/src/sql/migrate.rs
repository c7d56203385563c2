//! The `migrations` row: which schema the database has and which program last ran on it.

use std::cmp::Ordering;

use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Expr, ExprTrait, Query};

use super::dialect::Dialect;
use super::tx::Tx;
use super::{MIGRATIONS, schema};
use crate::config::StoreConfig;
use crate::error::{StoreError, excerpt};

/// Makes the schema or checks the one that is there (TD-09, TD-10); `true` = made it.
pub(super) async fn migrate(tx: &Tx, config: &StoreConfig) -> Result<bool, StoreError> {
    let this = Version::parse(&config.code_version).ok_or_else(|| {
        StoreError::Invalid("datastore-sql: the program's own version is malformed".into())
    })?;
    if !has_table(tx, MIGRATIONS).await? {
        tracing::info!(subsystem_name = "sql", "Initializing new database");
        create(tx, &config.code_version).await?;
        return Ok(true);
    }
    let mut select = Query::select();
    select
        .columns(["version", "code_version"])
        .from(MIGRATIONS)
        .order_by("id", sea_orm::sea_query::Order::Asc)
        .limit(1);
    let Some(row) = tx.one(&select).await? else {
        return Err(precondition(
            "the migrations table is empty: the schema is of unknown version",
        ));
    };
    let found: i32 = row.get_or_default(0)?;
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
    check(found, &database, &this, config.disable_migration)?;
    if found == schema::VERSION && this.compare(&database) == Ordering::Greater {
        let mut update = Query::update();
        update
            .table(MIGRATIONS)
            .value("code_version", config.code_version.as_str())
            .value("updated_at", tx.dialect.timestamp(tx.now));
        tx.execute(&update).await?;
    }
    Ok(false)
}

/// Whether this program can work on a database of a schema version.
fn check(
    found: i32,
    database: &Version,
    this: &Version,
    disable_migration: bool,
) -> Result<(), StoreError> {
    match found.cmp(&schema::VERSION) {
        Ordering::Equal => Ok(()),
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
            Ok(())
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
        Ordering::Less => Err(precondition(&format!(
            "the database has schema {found} and this program cannot migrate it to schema {} yet; \
             start SPIRE 1.15 on it once",
            schema::VERSION
        ))),
    }
}

async fn create(tx: &Tx, code_version: &str) -> Result<(), StoreError> {
    let statements = match tx.dialect {
        Dialect::Sqlite { .. } => schema::SQLITE,
    };
    for statement in statements {
        // The semicolon keeps the driver from cutting, and SQLite from not storing, the blank at
        // the end of gorm's texts.
        let done = tx.inner.execute_unprepared(&format!("{statement};")).await;
        done.map_err(|error| tx.dialect.error(&error))?;
    }
    let row = [("version", schema::VERSION.into()), ("code_version", code_version.into())];
    tx.insert(MIGRATIONS, &row).await?;
    Ok(())
}

async fn has_table(tx: &Tx, table: &str) -> Result<bool, StoreError> {
    let mut select = Query::select();
    match tx.dialect {
        Dialect::Sqlite { .. } => select
            .expr(Expr::val(1))
            .from("sqlite_master")
            .and_where(Expr::col("type").eq("table"))
            .and_where(Expr::col("name").eq(table)),
    };
    Ok(tx.one(&select).await?.is_some())
}

fn precondition(text: &str) -> StoreError {
    StoreError::Precondition(format!("datastore-sql: {text}"))
}

/// A semantic version (semver.org, 2.0).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Version {
    core: [u64; 3],
    pre_release: Vec<String>,
    text: String,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        const LONGEST: usize = 255;
        if text.len() > LONGEST {
            return None;
        }
        let without_build = text.split_once('+').map_or(text, |(version, _)| version);
        let (core, pre_release) = match without_build.split_once('-') {
            Some((core, pre_release)) => (core, Some(pre_release)),
            None => (without_build, None),
        };
        let mut parts = core.split('.');
        let mut number = || {
            let part = parts.next()?;
            let right = part.bytes().all(|byte| byte.is_ascii_digit())
                && (part == "0" || !part.starts_with('0'));
            if right { part.parse().ok() } else { None }
        };
        let core = [number()?, number()?, number()?];
        if parts.next().is_some() {
            return None;
        }
        let pre_release: Vec<String> =
            pre_release.map(|ids| ids.split('.').map(str::to_owned).collect()).unwrap_or_default();
        let right = |id: &String| {
            !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        pre_release.iter().all(right).then(|| Self { core, pre_release, text: text.into() })
    }

    /// Precedence (semver.org, 11).
    fn compare(&self, other: &Self) -> Ordering {
        self.core.cmp(&other.core).then_with(|| {
            match (self.pre_release.is_empty(), other.pre_release.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => self.compare_pre_release(other),
            }
        })
    }

    fn compare_pre_release(&self, other: &Self) -> Ordering {
        for (mine, theirs) in self.pre_release.iter().zip(&other.pre_release) {
            let order = match (mine.parse::<u64>(), theirs.parse::<u64>()) {
                (Ok(mine), Ok(theirs)) => mine.cmp(&theirs),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => mine.cmp(theirs),
            };
            if order.is_ne() {
                return order;
            }
        }
        self.pre_release.len().cmp(&other.pre_release.len())
    }

    /// The same major version and at most one minor version apart.
    fn is_next_to(&self, other: &Self) -> bool {
        self.core[0] == other.core[0] && self.core[1].abs_diff(other.core[1]) <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_are_ordered_as_semver_orders_them() {
        let ascending = [
            "1.14.9",
            "1.15.0-alpha",
            "1.15.0-alpha.1",
            "1.15.0-alpha.beta",
            "1.15.0-beta.2",
            "1.15.0-beta.11",
            "1.15.0-steeple-0.1.0",
            "1.15.0",
            "1.15.3",
            "1.16.0-dev-unk",
            "2.0.0",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(version(pair[0]).compare(&version(pair[1])), Ordering::Less, "{pair:?}");
            assert_eq!(version(pair[1]).compare(&version(pair[0])), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(version("1.0.0+a").compare(&version("1.0.0+b")), Ordering::Equal);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in
            ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.x", "1.2.3-", "1.2.3-a..b", "1.2.3-ä"]
        {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        assert_eq!(Version::parse(&"1".repeat(300)), None);
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
    fn an_older_schema_is_refused_with_the_way_out() {
        for (found, part) in
            [(22, "requires a previous SPIRE release"), (23, "schema 23"), (24, "schema 24")]
        {
            let error = check(found, &version("1.15.0"), &version("1.15.0"), false).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
