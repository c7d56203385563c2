//! PostgreSQL databases for servers, and how many statements they get: what SQLite does not count.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

const PSQL: &str = "psql";

/// The databases there are, with the label of the folder that each is for.
static DATABASES: Mutex<Vec<(String, Address)>> = Mutex::new(Vec::new());

/// A database of one server's own; dropping this drops it.
pub struct Database(Address);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    /// A database in which others can be created, as a URL.
    admin: String,
    name: String,
}

impl Database {
    /// Creates one on the PostgreSQL server of `admin`, for the folder with this label.
    ///
    /// # Errors
    /// When there is no `psql`, or it fails.
    pub fn create(admin: &str, label: &str) -> Result<Self> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench_{}_{number}", std::process::id());
        let address = Address { admin: admin.to_owned(), name };
        address.run(&format!("CREATE DATABASE {}", address.name))?;
        lock().push((label.to_owned(), address.clone()));
        Ok(Self(address))
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let Address { admin, name } = &self.0;
        let (base, options) = admin.split_once('?').unwrap_or((admin, ""));
        let scheme = base.find("://").map_or(0, |at| at + 3);
        let host = base[scheme..].find('/').map_or(base, |at| &base[..scheme + at]);
        let mark = if options.is_empty() { "" } else { "?" };
        format!("{host}/{name}{mark}{options}")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let counted = self.0.clone();
        lock().retain(|(_, it)| *it != counted);
        // It is empty, or has what nobody needs; the next run takes another name.
        let _ = self.0.run(&format!("DROP DATABASE {} WITH (FORCE)", self.0.name));
    }
}

impl Address {
    fn run(&self, sql: &str) -> Result<String> {
        let mut command = Command::new(PSQL);
        command.args(["-X", "-A", "-t", "-d", &self.admin, "-c", sql]);
        let output = command.output().map_err(Error::io(PSQL))?;
        if !output.status.success() {
            let status = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::Call { call: PSQL, status });
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Statements so far, if they are counted; else transactions.
    fn statements(&self) -> Option<f64> {
        let name = &self.name;
        let statements = self.run(&format!(
            "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d \
             ON d.oid = s.dbid WHERE d.datname = '{name}'"
        ));
        let count = statements.or_else(|_| {
            self.run(&format!(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'"
            ))
        });
        count.ok()?.parse().ok()
    }
}

/// Statements so far of all databases of the folder with this label; transactions where the
/// extension `pg_stat_statements` is not there. `None` without such a database.
pub fn statements(label: &str) -> Option<f64> {
    let addresses: Vec<Address> =
        lock().iter().filter(|(of, _)| of == label).map(|(_, it)| it.clone()).collect();
    let counts: Option<Vec<f64>> = addresses.iter().map(Address::statements).collect();
    counts.filter(|it| !it.is_empty()).map(|it| it.into_iter().sum())
}

fn lock() -> std::sync::MutexGuard<'static, Vec<(String, Address)>> {
    DATABASES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_its_own_is_on_the_same_server() {
        for (admin, url) in [
            ("postgres://u:p@h:1/postgres?sslmode=disable", "postgres://u:p@h:1/x?sslmode=disable"),
            ("postgres://u@h", "postgres://u@h/x"),
            ("postgres://u@h/", "postgres://u@h/x"),
        ] {
            // Not dropped: there is no such server.
            let it = Database(Address { admin: admin.into(), name: "x".into() });
            assert_eq!(it.url(), url);
            std::mem::forget(it);
        }
    }
}
