//! Where a demonstration lives: its directory, its sockets, its port, and its configuration files.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use steeple_runtime::fsx;
use tempfile::TempDir;

use crate::error::DemoError;

/// The default state directory.
const STATE: &str = ".state";
/// Held while a demonstration runs; its presence says whose directory it is.
const LOCK: &str = "demo.lock";
/// The port that SPIRE's servers listen on unless told otherwise.
const USUAL_PORT: u16 = 8081;
/// The longest path of a Unix socket, without its closing NUL (`sun_path`, unix(7)).
const LONGEST_SOCKET: usize = 107;
/// The longest of our sockets' names, with the slash.
const LONGEST_NAME: usize = "/server.sock".len();

/// The trust domain of the demonstration.
pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// The directory and all that is in it.
#[derive(Debug)]
pub(crate) struct Place {
    /// Absolute, without symbolic links: the kernel names programs so.
    pub(crate) root: PathBuf,
    /// Where the server's administrators talk to it.
    pub(crate) server_socket: PathBuf,
    /// Where workloads talk to the agent.
    pub(crate) agent_socket: PathBuf,
    /// Where agents talk to the server, on the loopback interface.
    pub(crate) port: u16,
    /// Whether there was a database from an earlier run.
    pub(crate) kept: bool,
    _lock: Flock<File>,
    /// For the sockets, when the root's path is too long for them.
    _short: Option<TempDir>,
}

impl Place {
    /// Takes `state_dir` and what is in it, or makes the default directory anew.
    pub(crate) fn prepare(state_dir: Option<&Path>) -> Result<Self, DemoError> {
        let (root, keep) = match state_dir {
            Some(dir) => (dir, true),
            None => (Path::new(STATE), false),
        };
        fsx::create_dir_all(root, 0o755).map_err(file("create", root))?;
        let root = root.canonicalize().map_err(file("find", root))?;
        let lock = lock(&root, keep)?;
        if !keep {
            empty(&root)?;
        }
        let kept = root.join("server/datastore.sqlite3").exists();
        for (name, mode) in [("bin", 0o755), ("server", 0o700), ("agent", 0o700)] {
            let path = root.join(name);
            fsx::create_dir_all(&path, mode).map_err(file("create", &path))?;
        }
        let short = short_dir(&root)?;
        let sockets = short.as_ref().map_or(root.as_path(), TempDir::path);
        let (server_socket, agent_socket) =
            (sockets.join("server.sock"), sockets.join("agent.sock"));
        let port = free_port().map_err(file("find a free port for", &root))?;
        let place =
            Self { port, kept, server_socket, agent_socket, root, _lock: lock, _short: short };
        place.configure()?;
        Ok(place)
    }

    /// Whether the usual port was taken by somebody else.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.port != USUAL_PORT
    }

    /// Takes another port if somebody else was faster to listen on this one.
    pub(crate) fn evade(&mut self) -> Result<bool, DemoError> {
        if listen(self.port).is_ok() {
            return Ok(false);
        }
        self.port = free_port().map_err(file("find a free port for", &self.root))?;
        self.configure().map(|()| true)
    }

    fn configure(&self) -> Result<(), DemoError> {
        self.write("server.conf", &self.server_conf())?;
        self.write("agent.conf", &self.agent_conf()).map(drop)
    }

    /// A file of this directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where a workload's program is.
    pub(crate) fn workload(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// Makes this program known under the name of a workload.
    pub(crate) fn install(&self, name: &str) -> Result<PathBuf, DemoError> {
        let path = self.workload(name);
        let program = std::env::current_exe().map_err(file("find", Path::new("this program")))?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file("replace", &path)(error));
            }
            _ => {}
        }
        // Another file system, or a program of somebody else's, is copied instead.
        fs::hard_link(&program, &path)
            .or_else(|_| fs::copy(&program, &path).map(drop))
            .map_err(file("create", &path))?;
        Ok(path)
    }

    /// Writes a file of this directory.
    pub(crate) fn write(&self, name: &str, contents: &str) -> Result<PathBuf, DemoError> {
        let path = self.file(name);
        fsx::write_atomic(&path, contents.as_bytes(), 0o644).map_err(file("write", &path))?;
        Ok(path)
    }

    fn server_conf(&self) -> String {
        format!(
            r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = {socket}
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = {data}
    log_level = "DEBUG"
}}

plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = {database}
        }}
    }}
    KeyManager "disk" {{
        plugin_data {{
            keys_path = {keys}
        }}
    }}
    NodeAttestor "join_token" {{
        plugin_data {{}}
    }}
}}
"#,
            port = self.port,
            socket = quoted(&self.server_socket),
            data = quoted(&self.file("server")),
            database = quoted(&self.file("server/datastore.sqlite3")),
            keys = quoted(&self.file("server/keys.json")),
        )
    }

    fn agent_conf(&self) -> String {
        format!(
            r#"agent {{
    data_dir = {data}
    log_level = "DEBUG"
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = {socket}
    trust_domain = "{TRUST_DOMAIN}"
    trust_bundle_path = {bundle}

    experimental {{
        # New entries are here within a second. The default of 5 s spares a busy server.
        sync_interval = "1s"
    }}
}}

plugins {{
    NodeAttestor "join_token" {{
        plugin_data {{}}
    }}
    KeyManager "disk" {{
        plugin_data {{
            directory = {data}
        }}
    }}
    WorkloadAttestor "unix" {{
        plugin_data {{
            # Gives the selector unix:path. No unix:sha256, which would hash the program.
            discover_workload_path = true
            workload_size_limit = -1
        }}
    }}
}}
"#,
            port = self.port,
            socket = quoted(&self.agent_socket),
            data = quoted(&self.file("agent")),
            bundle = quoted(&self.file("bundle.pem")),
        )
    }
}

/// An error that tells what could not be done to which file.
pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DemoError {
    let path = path.to_owned();
    move |source| DemoError::File { action, path, source }
}

/// Takes the directory's lock. A directory that is to be emptied must be empty, or have one.
fn lock(root: &Path, keep: bool) -> Result<Flock<File>, DemoError> {
    let path = root.join(LOCK);
    if !keep && !path.exists() {
        let mut files = fs::read_dir(root).map_err(file("read", root))?;
        if files.next().is_some() {
            return Err(DemoError::NotOurs(root.to_owned()));
        }
    }
    let lock = File::options().create(true).append(true).open(&path);
    let lock = lock.map_err(file("open", &path))?;
    Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => DemoError::Busy(root.to_owned()),
        error => file("lock", &path)(error.into()),
    })
}

/// Removes everything but the lock.
fn empty(root: &Path) -> Result<(), DemoError> {
    for entry in fs::read_dir(root).map_err(file("read", root))? {
        let entry = entry.map_err(file("read", root))?;
        let path = entry.path();
        if entry.file_name().as_bytes() == LOCK.as_bytes() {
            continue;
        }
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(file("remove", &path))?;
    }
    Ok(())
}

/// A directory with a short path, if `root` has one too long for our sockets.
fn short_dir(root: &Path) -> Result<Option<TempDir>, DemoError> {
    let fits = |dir: &Path| dir.as_os_str().len() + LONGEST_NAME <= LONGEST_SOCKET;
    if fits(root) {
        return Ok(None);
    }
    let make = |parent: &Path| tempfile::Builder::new().prefix("steeple").tempdir_in(parent);
    let temp = std::env::temp_dir();
    let made = make(&temp).ok().filter(|dir| fits(dir.path()));
    let made = made.map_or_else(|| make(Path::new("/tmp")), Ok);
    made.map(Some).map_err(file("create a directory in", Path::new("/tmp")))
}

/// The usual port, or another one that nobody listens on.
fn free_port() -> io::Result<u16> {
    listen(USUAL_PORT).or_else(|_| listen(0))?.local_addr().map(|address| address.port())
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// A path as an HCL string.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{path}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_directory_keeps_what_is_in_it() {
        let dir = steeple_testkit::temp_dir();
        let place = Place::prepare(Some(dir.path())).unwrap();
        assert!(!place.kept);
        fs::write(place.file("server/datastore.sqlite3"), "rows").unwrap();
        drop(place);
        assert!(Place::prepare(Some(dir.path())).unwrap().kept);
    }

    #[test]
    fn a_directory_serves_one_demonstration_at_a_time() {
        let dir = steeple_testkit::temp_dir();
        let first = Place::prepare(Some(dir.path())).unwrap();
        assert!(matches!(Place::prepare(Some(dir.path())), Err(DemoError::Busy(_))));
        drop(first);
        assert!(Place::prepare(Some(dir.path())).is_ok());
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_emptied() {
        let dir = steeple_testkit::temp_dir();
        fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
        assert!(matches!(lock(dir.path(), false), Err(DemoError::NotOurs(_))));
        assert!(dir.path().join("thesis.txt").exists());
    }

    #[test]
    fn emptying_leaves_the_lock_alone() {
        let dir = steeple_testkit::temp_dir();
        let held = lock(dir.path(), false).unwrap();
        fs::create_dir_all(dir.path().join("server/deep")).unwrap();
        fs::write(dir.path().join("server.log"), "").unwrap();
        empty(dir.path()).unwrap();
        drop(held);
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK]);
    }

    #[test]
    fn sockets_go_elsewhere_when_the_path_is_too_long() {
        let dir = steeple_testkit::temp_dir();
        let deep = dir.path().join("d".repeat(100));
        let place = Place::prepare(Some(&deep)).unwrap();
        assert!(!place.server_socket.starts_with(&deep));
        assert!(place.server_socket.as_os_str().len() <= LONGEST_SOCKET);
        let elsewhere = place.server_socket.parent().unwrap().to_owned();
        drop(place);
        assert!(!elsewhere.exists(), "it goes away with the demonstration");
    }

    #[test]
    fn a_port_that_somebody_else_took_is_given_up() {
        let dir = steeple_testkit::temp_dir();
        let mut place = Place::prepare(Some(dir.path())).unwrap();
        let faster = listen(0).unwrap();
        let taken = faster.local_addr().unwrap().port();
        place.port = taken;
        assert!(place.evade().unwrap());
        assert_ne!(place.port, taken);
        let conf = fs::read_to_string(place.file("server.conf")).unwrap();
        assert!(conf.contains(&format!("bind_port = \"{}\"", place.port)), "{conf}");
    }

    #[test]
    fn paths_are_quoted_for_hcl() {
        assert_eq!(quoted(Path::new(r#"/a "b"\c"#)), r#""/a \"b\"\\c""#);
    }
}
