//! SQLite connection strings as SPIRE takes them: a path or a `file:` URI, with the parameters
//! of SQLite and of Go's driver behind a question mark (TD-06).

use std::path::PathBuf;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use crate::error::{StoreError, excerpt};

/// A connection string, understood.
#[derive(Debug)]
pub(super) struct SqliteDsn {
    pub(super) options: SqliteConnectOptions,
    /// The database has no file, so that every connection must be the same one.
    pub(super) in_memory: bool,
}

/// Go's driver waits so long for a lock.
const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn parse(connection_string: &str) -> Result<SqliteDsn, StoreError> {
    let (location, parameters) = split(connection_string)?;
    let mut dsn = SqliteDsn {
        options: SqliteConnectOptions::new()
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(DEFAULT_BUSY_TIMEOUT),
        in_memory: location == ":memory:",
    };
    for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode(key)?, decode(value)?);
        apply(&mut dsn, &key, &value)?;
    }
    if dsn.in_memory {
        dsn.options = dsn.options.in_memory(true);
    } else if location.is_empty() {
        return Err(invalid("connection_string names no file"));
    } else {
        dsn.options = dsn.options.filename(PathBuf::from(decode(location)?));
    }
    Ok(dsn)
}

/// The path, still escaped, and the parameters.
fn split(text: &str) -> Result<(&str, &str), StoreError> {
    if text.contains('\0') {
        return Err(invalid("connection_string has a NUL in it"));
    }
    let scheme_end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)));
    let scheme =
        scheme_end.filter(|&at| at > 0 && text[at..].starts_with(':')).map(|at| &text[..at]);
    let rest = match scheme {
        None => text,
        Some(scheme) if scheme.eq_ignore_ascii_case("file") => {
            let rest = &text[scheme.len() + 1..];
            let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
            match rest.strip_prefix("//") {
                None => rest,
                Some(rest) => {
                    let path = rest.find('/').unwrap_or(rest.len());
                    let authority = &rest[..path];
                    if !authority.is_empty() && authority != "localhost" {
                        let authority = excerpt(authority);
                        return Err(invalid(&format!("invalid uri authority: {authority}")));
                    }
                    &rest[path..]
                }
            }
        }
        Some(scheme) => {
            return Err(invalid(&format!("unsupported scheme \"{}\"", excerpt(scheme))));
        }
    };
    Ok(rest.split_once('?').unwrap_or((rest, "")))
}

fn apply(dsn: &mut SqliteDsn, key: &str, value: &str) -> Result<(), StoreError> {
    let options = std::mem::take(&mut dsn.options);
    let wrong = || invalid(&format!("Invalid {key}: {}", excerpt(value)));
    dsn.options = match key {
        // SPIRE sets these two itself, whatever the connection string says.
        "_foreign_keys" | "_fk" | "_journal_mode" | "_journal" => options,
        "mode" => match value {
            "ro" => options.read_only(true),
            "rw" => options.create_if_missing(false),
            "rwc" => options,
            "memory" => {
                dsn.in_memory = true;
                options
            }
            _ => return Err(wrong()),
        },
        "cache" => match value {
            // Shared between connections of a process, which only a database in memory needs,
            // and that has a single connection here.
            "shared" | "private" => options,
            _ => return Err(wrong()),
        },
        "immutable" => options.immutable(boolean(value).ok_or_else(wrong)?),
        "vfs" => options.vfs(value.to_owned()),
        "_busy_timeout" | "_timeout" => {
            options.busy_timeout(Duration::from_millis(value.parse().map_err(|_| wrong())?))
        }
        "_synchronous" | "_sync" => {
            options.synchronous(match value.to_ascii_uppercase().as_str() {
                "0" | "OFF" => SqliteSynchronous::Off,
                "1" | "NORMAL" => SqliteSynchronous::Normal,
                "2" | "FULL" => SqliteSynchronous::Full,
                "3" | "EXTRA" => SqliteSynchronous::Extra,
                _ => return Err(wrong()),
            })
        }
        "_cache_size" => {
            let size: i64 = value.parse().map_err(|_| wrong())?;
            options.pragma("cache_size", size.to_string())
        }
        "_secure_delete" => match value.to_ascii_uppercase().as_str() {
            "0" | "NO" | "FALSE" | "OFF" => options.pragma("secure_delete", "OFF"),
            "1" | "YES" | "TRUE" | "ON" => options.pragma("secure_delete", "ON"),
            "FAST" => options.pragma("secure_delete", "FAST"),
            "DEFAULT" => options,
            _ => return Err(wrong()),
        },
        _ => {
            tracing::warn!(
                subsystem_name = "sql",
                parameter = %excerpt(key),
                "Ignoring a parameter of connection_string"
            );
            options
        }
    };
    Ok(())
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "true" | "on" => Some(true),
        "0" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

fn decode(text: &str) -> Result<String, StoreError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) if high + low > 0 => {
                out.push(u8::try_from(high * 16 + low).expect("two hex digits make a byte"));
            }
            _ => return Err(invalid("connection_string has a malformed % escape")),
        }
    }
    String::from_utf8(out).map_err(|_| invalid("connection_string is not UTF-8"))
}

fn invalid(text: &str) -> StoreError {
    StoreError::Invalid(format!("datastore-sql: {text}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn path(connection_string: &str) -> PathBuf {
        parse(connection_string).unwrap().options.get_filename().to_owned()
    }

    #[test]
    fn takes_every_form_that_spire_takes() {
        for (connection_string, expected) in [
            ("data.db", "data.db"),
            ("./data.db", "./data.db"),
            ("/home/fred/data.db", "/home/fred/data.db"),
            ("file:data.db", "data.db"),
            ("file:/home/fred/data.db", "/home/fred/data.db"),
            ("file:///home/fred/data.db", "/home/fred/data.db"),
            ("file://localhost/home/fred/data.db", "/home/fred/data.db"),
            ("file:data.db?mode=rwc", "data.db"),
            ("FILE:with%20space.db?_busy_timeout=10&_fk=0", "with space.db"),
            ("data.db?_journal_mode=DELETE&_foreign_keys=OFF", "data.db"),
            ("file:data.db#fragment", "data.db"),
            ("a/b:c.db", "a/b:c.db"),
        ] {
            assert_eq!(path(connection_string), Path::new(expected), "{connection_string}");
        }
    }

    #[test]
    fn knows_databases_without_a_file() {
        for connection_string in [":memory:", "file::memory:", "file:db1?mode=memory&cache=shared"]
        {
            assert!(parse(connection_string).unwrap().in_memory, "{connection_string}");
        }
        assert!(!parse("memory").unwrap().in_memory);
    }

    #[test]
    fn refuses_what_it_cannot_mean() {
        for (connection_string, text) in [
            ("mysql://data.db", "datastore-sql: unsupported scheme \"mysql\""),
            ("", "datastore-sql: connection_string names no file"),
            ("file:", "datastore-sql: connection_string names no file"),
            ("file://elsewhere/a.db", "datastore-sql: invalid uri authority: elsewhere"),
            ("a.db?mode=sometimes", "datastore-sql: Invalid mode: sometimes"),
            ("a.db?_busy_timeout=soon", "datastore-sql: Invalid _busy_timeout: soon"),
            ("a.db?_sync=9", "datastore-sql: Invalid _sync: 9"),
            ("a%2", "datastore-sql: connection_string has a malformed % escape"),
            ("a%00b", "datastore-sql: connection_string has a malformed % escape"),
            ("a%ff", "datastore-sql: connection_string is not UTF-8"),
        ] {
            assert_eq!(parse(connection_string).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn an_unknown_parameter_is_ignored_as_the_go_driver_ignores_it() {
        assert_eq!(path("a.db?colour=red"), Path::new("a.db"));
    }
}
