//! What a failed statement means: SPIRE's words for the caller, and whether to begin again.

use sea_orm::sqlx::Error;
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::{DbErr, RuntimeErr};
use steeple_runtime::gotext;

use super::dialect::Dialect;
use crate::error::StoreError;

/// What may be done about a failure other than telling the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Retry {
    /// Nothing.
    Never,
    /// Two transactions stood in each other's way and this one was taken back: begin again.
    Conflict,
    /// Somebody made the same row first: where that is no error, begin again and find it.
    Duplicate,
}

impl Dialect {
    /// A failed statement, in SPIRE's words. The drivers' texts hold no more than the value of a
    /// key that is there twice, which is taken out.
    pub(super) fn error(self, error: &DbErr) -> StoreError {
        match driver(error) {
            Some(error) => self.driver_error(error),
            None => {
                let text = format!("datastore-sql: {error}");
                match error {
                    DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => StoreError::Unavailable(text),
                    _ => StoreError::Internal(text),
                }
            }
        }
    }

    /// The same of an error of the driver itself.
    pub(super) fn driver_error(self, error: &Error) -> StoreError {
        let Error::Database(database) = error else {
            return match error {
                Error::PoolTimedOut => StoreError::Unavailable(
                    "datastore-sql: no connection to the database became free in time".into(),
                ),
                Error::PoolClosed => StoreError::Unavailable(
                    "datastore-sql: the connection to the database is closed".into(),
                ),
                Error::Io(error) => {
                    StoreError::Unavailable(format!("datastore-sql: {}", gotext::system(error)))
                }
                Error::WorkerCrashed | Error::Protocol(_) | Error::Tls(_) => {
                    StoreError::Unavailable(format!("datastore-sql: {error}"))
                }
                _ => StoreError::Internal(format!("datastore-sql: {error}")),
            };
        };
        let text = format!("datastore-sql: {}", self.words(database.as_ref()));
        match self.kind(database.as_ref()) {
            Kind::Constraint => StoreError::AlreadyExists(text),
            Kind::Unavailable | Kind::Conflict | Kind::Busy => StoreError::Unavailable(text),
            Kind::Other => StoreError::Internal(text),
        }
    }

    /// The message as Go's driver gives it.
    fn words(self, error: &dyn DatabaseError) -> String {
        let message = error.message();
        match self {
            Self::Sqlite { .. } => message.to_owned(),
            Self::Postgres => format!("pq: {message} ({})", error.code().unwrap_or_default()),
            Self::MySql { .. } => {
                let number = mysql_number(error);
                let state = error.code().unwrap_or_default().into_owned();
                let message = match message.split_once("Duplicate entry '") {
                    // A join token may be the value.
                    Some(_) if message.contains("uix_join_tokens_token") => {
                        "Duplicate entry for key 'uix_join_tokens_token'"
                    }
                    _ => message,
                };
                format!("Error {number} ({state}): {message}")
            }
        }
    }

    /// Whether somebody else holds SQLite's write lock, so that beginning again may help.
    pub(super) fn is_busy(self, error: &DbErr) -> bool {
        driver(error).is_some_and(|error| self.is_busy_driver(error))
    }

    /// The same of an error of the driver itself.
    pub(super) fn is_busy_driver(self, error: &Error) -> bool {
        matches!(error, Error::Database(database) if self.kind(database.as_ref()) == Kind::Busy)
    }

    /// Whether a server says that it has no room for one more connection.
    pub(super) fn is_crowded(self, error: &Error) -> bool {
        const TOO_MANY_CONNECTIONS: u16 = 1040;
        match (self, error) {
            (Self::Postgres, Error::Database(error)) => {
                error.code().is_some_and(|it| it == "53300")
            }
            (Self::MySql { .. }, Error::Database(error)) => {
                mysql_number(error.as_ref()) == TOO_MANY_CONNECTIONS
            }
            _ => false,
        }
    }

    /// Whether MySQL says that an index is there already.
    pub(super) fn is_made_already(self, error: &DbErr) -> bool {
        const DUPLICATE_KEY_NAME: u16 = 1061;
        match (self, driver(error)) {
            (Self::MySql { .. }, Some(Error::Database(error))) => {
                mysql_number(error.as_ref()) == DUPLICATE_KEY_NAME
            }
            _ => false,
        }
    }

    /// What may be done about a failure.
    pub(super) fn retry(self, error: &DbErr) -> Retry {
        let Some(Error::Database(database)) = driver(error) else { return Retry::Never };
        match self.kind(database.as_ref()) {
            Kind::Conflict => Retry::Conflict,
            Kind::Constraint => Retry::Duplicate,
            _ => Retry::Never,
        }
    }

    fn kind(self, error: &dyn DatabaseError) -> Kind {
        let code = error.code().unwrap_or_default();
        match self {
            Self::Sqlite { .. } => match code.parse::<i32>().map(|code| code & 0xff) {
                Ok(19) => Kind::Constraint,
                // BUSY, LOCKED.
                Ok(5 | 6) => Kind::Busy,
                // READONLY, IOERR, FULL, CANTOPEN.
                Ok(8 | 10 | 13 | 14) => Kind::Unavailable,
                _ => Kind::Other,
            },
            Self::Postgres => match &*code {
                "40001" | "40P01" => Kind::Conflict,
                // Lock and statement timeouts, a server that starts, stops or only reads.
                "55P03" | "57014" | "25006" => Kind::Unavailable,
                code if code.starts_with("23") => Kind::Constraint,
                code if ["08", "28", "3D", "53", "57", "58"]
                    .iter()
                    .any(|class| code.starts_with(class)) =>
                {
                    Kind::Unavailable
                }
                _ => Kind::Other,
            },
            Self::MySql { .. } => match mysql_number(error) {
                1062 => Kind::Constraint,
                // Lock wait timeout, deadlock, record changed (MariaDB), write conflict.
                1205 | 1213 | 1020 | 3572 => Kind::Conflict,
                number if UNAVAILABLE.contains(&number) => Kind::Unavailable,
                _ => Kind::Other,
            },
        }
    }
}

/// MySQL's numbers for a log-in refused, too many connections, out of memory or disk, shutting
/// down, only reading and interrupted.
const UNAVAILABLE: [u16; 14] =
    [1040, 1041, 1021, 1045, 1049, 1114, 1053, 1290, 1792, 1836, 1317, 1927, 1969, 3024];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Constraint,
    Conflict,
    Busy,
    Unavailable,
    Other,
}

fn mysql_number(error: &dyn DatabaseError) -> u16 {
    error
        .try_downcast_ref::<sea_orm::sqlx::mysql::MySqlDatabaseError>()
        .map_or(0, sea_orm::sqlx::mysql::MySqlDatabaseError::number)
}

fn driver(error: &DbErr) -> Option<&Error> {
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error))
        | DbErr::Conn(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}
