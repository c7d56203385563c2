//! A private PostgreSQL or MariaDB for the tests of a process: one server each, a database per
//! test, gone with the process however it ends.
//!
//! What needs the programs that Debian packages as `postgresql` and `mariadb-server` says
//! "skipped: …" where they are missing.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

/// The user that may do everything, and its password.
pub const DATABASE_USER: &str = "spire";

/// Below the ports that the kernel gives to those who ask for any.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Which database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DatabaseKind {
    /// PostgreSQL.
    Postgres,
    /// MariaDB, a MySQL.
    MariaDb,
}

impl DatabaseKind {
    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
        }
    }
}

/// A database server of our own.
pub struct DatabaseServer {
    kind: DatabaseKind,
    port: u16,
    dir: PathBuf,
    control: Mutex<Control>,
    databases: AtomicU32,
    // Removed by the script too, which survives this process.
    _dir: TempDir,
}

struct Control {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Control {
    fn ask(&mut self, command: &str) -> io::Result<Result<(), String>> {
        let commands = self.commands.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(commands, "{command}")?;
        commands.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Result<(), String>> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(if line.trim() == "ok" { Ok(()) } else { Err(line.trim().to_owned()) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The script ends the database and removes the directory when nobody commands any more.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

impl DatabaseServer {
    /// The server that the tests of this process share, started for the first of them.
    ///
    /// # Errors
    /// `skipped: <why>` when the database is not installed.
    ///
    /// # Panics
    /// When it is installed and does not start.
    pub fn shared(kind: DatabaseKind) -> Result<Arc<Self>, String> {
        type Slot = OnceLock<Result<Arc<DatabaseServer>, String>>;
        static POSTGRES: Slot = OnceLock::new();
        static MARIADB: Slot = OnceLock::new();
        let slot = match kind {
            DatabaseKind::Postgres => &POSTGRES,
            DatabaseKind::MariaDb => &MARIADB,
        };
        slot.get_or_init(|| Self::private(kind).map(Arc::new)).clone()
    }

    /// A server for one test, which may stop it.
    ///
    /// # Errors
    /// `skipped: <why>` when the database is not installed.
    ///
    /// # Panics
    /// When it is installed and does not start.
    pub fn private(kind: DatabaseKind) -> Result<Self, String> {
        let dir = crate::temp_dir();
        let mut child = Command::new("sh")
            .args(["-c", include_str!("databases.sh"), "databases.sh", kind.name()])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // So that Ctrl-C ends the tests first, and the script after them.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut control = Control { child, commands, answers };
        if let Err(why) = control.answer().expect("the script answers") {
            return Err(format!("skipped: {why}"));
        }
        control.ask("init").expect("the script answers").expect("the database can be made");
        // Another program may take a port at any moment, so it is tried and not looked at.
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let first = std::process::id().wrapping_mul(2_654_435_761) >> 8;
        let ours = SERVERS.fetch_add(1, Ordering::Relaxed);
        let ports = PORTS.cycle_from(first as usize + ours as usize * 37);
        let mut port = 0;
        let mut started = Err(String::new());
        for candidate in ports.take(20) {
            started = control.ask(&format!("start {candidate}")).expect("the script answers");
            if started.is_ok() {
                port = candidate;
                break;
            }
        }
        started.expect("the database starts");
        Ok(Self {
            kind,
            port,
            dir: dir.path().to_owned(),
            control: Mutex::new(control),
            databases: AtomicU32::new(0),
            _dir: dir,
        })
    }

    /// Which database it is.
    pub fn kind(&self) -> DatabaseKind {
        self.kind
    }

    /// Its port on 127.0.0.1, before and after each restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket (and of `tls/`: `ca.pem`, `client.pem`, `client.key`).
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends it in order; its connections break.
    pub fn stop(&self) {
        self.command("stop");
    }

    /// Starts it again where it was.
    pub fn start(&self) {
        let command = format!("start {}", self.port);
        for _ in 0..20 {
            let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
            if control.ask(&command).expect("the script answers").is_ok() {
                return;
            }
            // Somebody else has the port for a moment.
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        self.command(&command);
    }

    /// Ends it on the spot.
    pub fn kill(&self) {
        self.command("kill");
    }

    /// Lets it hang: connections stay, and nothing is answered.
    pub fn pause(&self) {
        self.command("pause");
    }

    /// Lets it go on after [`DatabaseServer::pause`].
    pub fn resume(&self) {
        self.command("resume");
    }

    fn command(&self, command: &str) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        control.ask(command).expect("the script answers").expect(command);
    }

    /// Makes an empty database and answers its name.
    pub fn new_database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{number}");
        self.run_sql("", &format!("CREATE DATABASE {name}"));
        name
    }

    /// A connection string of Go's driver for a database, over TCP.
    pub fn connection_string(&self, database: &str) -> String {
        let (user, port) = (DATABASE_USER, self.port);
        match self.kind {
            DatabaseKind::Postgres => format!(
                "host=127.0.0.1 port={port} user={user} password={user} dbname={database} \
                 sslmode=disable"
            ),
            DatabaseKind::MariaDb => {
                format!("{user}:{user}@tcp(127.0.0.1:{port})/{database}?parseTime=true")
            }
        }
    }

    /// Runs statements with the database's own client program; rows as lines of text with a `|`
    /// (PostgreSQL) or a tab (MariaDB) between columns. An empty name stands for no database.
    ///
    /// # Panics
    /// When a statement fails.
    pub fn run_sql(&self, database: &str, sql: &str) -> String {
        let output = self.client(database, sql).output().expect("the client starts");
        assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn client(&self, database: &str, sql: &str) -> Command {
        match self.kind {
            DatabaseKind::Postgres => {
                let mut psql = Command::new("psql");
                psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", DATABASE_USER]);
                psql.arg("-h").arg(&self.dir).arg("-p").arg(self.port.to_string());
                let database = if database.is_empty() { "postgres" } else { database };
                psql.args(["-c", sql, database]);
                psql
            }
            DatabaseKind::MariaDb => {
                let mut mariadb = Command::new("mariadb");
                mariadb.args(["--no-defaults", "-N", "-B", "-u", DATABASE_USER]);
                mariadb.arg(format!("-p{DATABASE_USER}"));
                mariadb.arg(format!("--socket={}", self.dir.join("mariadb.sock").display()));
                mariadb.args(["-e", sql, database]);
                mariadb
            }
        }
    }

    /// The schema of a database as its own tool writes it down.
    ///
    /// # Panics
    /// When the tool fails.
    pub fn dump_schema(&self, database: &str) -> String {
        let mut dump = match self.kind {
            DatabaseKind::Postgres => {
                let mut dump = Command::new("pg_dump");
                dump.args(["-s", "-U", DATABASE_USER, "-h"]).arg(&self.dir);
                dump.arg("-p").arg(self.port.to_string());
                dump
            }
            DatabaseKind::MariaDb => {
                let mut dump = Command::new("mariadb-dump");
                dump.args(["--no-defaults", "--no-data", "--skip-comments", "-u", DATABASE_USER]);
                dump.arg(format!("-p{DATABASE_USER}"));
                dump.arg(format!("--socket={}", self.dir.join("mariadb.sock").display()));
                dump
            }
        };
        let output = dump.arg(database).output().expect("the tool starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

trait CycleFrom {
    fn cycle_from(self, offset: usize) -> impl Iterator<Item = u16>;
}

impl CycleFrom for std::ops::Range<u16> {
    fn cycle_from(self, offset: usize) -> impl Iterator<Item = u16> {
        let length = self.len();
        // A step of a prime number, so that neighbours do not try each other's next.
        (0..length).map(move |step| self.start + ((offset + step * 131) % length) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_start_stop_and_leave_nothing() {
        for kind in [DatabaseKind::Postgres, DatabaseKind::MariaDb] {
            let server = match DatabaseServer::private(kind) {
                Ok(server) => server,
                Err(why) => {
                    #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
                    {
                        eprintln!("{why}");
                    }
                    continue;
                }
            };
            let name = server.new_database();
            server.run_sql(&name, "CREATE TABLE t (a integer); INSERT INTO t VALUES (42)");
            server.stop();
            server.start();
            assert_eq!(server.run_sql(&name, "SELECT a FROM t"), "42");
            server.kill();
            server.start();
            assert!(server.dump_schema(&name).contains("CREATE TABLE"));
            let dir = server.dir().to_owned();
            drop(server);
            assert!(!dir.exists());
        }
    }
}
