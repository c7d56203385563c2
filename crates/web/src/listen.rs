//! Binding, with Go's reading of addresses.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use steeple_runtime::gotext;
use tokio::net::{TcpListener, UnixListener, lookup_host};

/// A bound socket that nobody serves yet.
#[derive(Debug)]
pub struct Listener(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// It is not of the form host:port; says in Go's words what is wrong.
    #[error("listen tcp: {0}")]
    Address(String),
    /// The name cannot be looked up.
    #[error("listen tcp: {}", gotext::lookup(host, source))]
    Lookup {
        /// The name.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses, for example because somebody else has it.
    #[error("listen {network} {address}: bind: {}", gotext::system(source))]
    Bind {
        /// `tcp` or `unix`.
        network: &'static str,
        /// The address or path.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Listener {
    /// Listens on `address`, `host:port` as Go writes it: without a host on all interfaces, for
    /// both versions of IP; with a name on the first address that it has.
    ///
    /// # Errors
    /// [`ListenError`] says what is wrong with the address.
    pub async fn tcp(address: &str) -> Result<Self, ListenError> {
        let (host, port) = split_host_port(address).map_err(ListenError::Address)?;
        let bind =
            |source| ListenError::Bind { network: "tcp", address: address.to_owned(), source };
        if host.is_empty() {
            // A system without IPv6 still has the other.
            let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    TcpListener::bind(("0.0.0.0", port)).await
                }
                bound => bound,
            };
            return listener.map(Self::from).map_err(bind);
        }
        let lookup = |source| ListenError::Lookup { host: host.to_owned(), source };
        let found: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(lookup)?.collect();
        // As Go: IPv4 first where a name has both.
        let first = found.iter().find(|it| it.is_ipv4()).or(found.first());
        let first = *first.ok_or_else(|| lookup(io::ErrorKind::NotFound.into()))?;
        TcpListener::bind(first).await.map(Self::from).map_err(bind)
    }

    /// Whether [`Listener::tcp`] can read `address`.
    ///
    /// # Errors
    /// Says what is wrong with it, as Go does.
    pub fn check(address: &str) -> Result<(), String> {
        split_host_port(address).map(|_| ())
    }

    /// Listens on the Unix socket `path` with permission bits `mode`, in place of a socket of that
    /// name. Other kinds of file are left alone. When it is served no more, its file goes.
    ///
    /// # Errors
    /// [`ListenError::Bind`].
    pub fn unix(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let bind = |source| ListenError::Bind {
            network: "unix",
            address: path.display().to_string(),
            source,
        };
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(bind(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "the file exists and is not a socket",
                )));
            }
            fs::remove_file(path).map_err(bind)?;
        }
        let listener = UnixListener::bind(path).map_err(bind)?;
        let file = SocketFile::of(path).map_err(bind)?;
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(bind)?;
        Ok(Self(Kind::Unix(listener, file)))
    }

    /// The address of a TCP socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix(..) => None,
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(Kind::Tcp(listener))
    }
}

/// The name of a socket; dropped, it is removed, unless another process replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // Left behind, it is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn split_host_port(address: &str) -> Result<(&str, u16), String> {
    let fail = |reason: &str| {
        let shown: String = address.chars().take(100).collect();
        format!("address {shown}: {reason}")
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| fail("missing port in address"))?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').ok_or_else(|| fail("missing ']' in address"))?,
        None if host.contains(':') => return Err(fail("too many colons in address")),
        None => host,
    };
    let port = match port {
        "" => 0,
        "http" => 80,
        "https" => 443,
        port if port.bytes().all(|it| it.is_ascii_digit()) => {
            port.parse().map_err(|_| fail("invalid port"))?
        }
        port => {
            let shown: String = port.chars().take(100).collect();
            return Err(format!("lookup tcp/{shown}: unknown port"));
        }
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        assert_eq!(split_host_port(":443"), Ok(("", 443)));
        assert_eq!(split_host_port("localhost:80"), Ok(("localhost", 80)));
        assert_eq!(split_host_port("[::1]:https"), Ok(("::1", 443)));
        let error = |address| split_host_port(address).unwrap_err();
        assert_eq!(error("localhost"), "address localhost: missing port in address");
        assert_eq!(error("::1:80"), "address ::1:80: too many colons in address");
        assert_eq!(error("h:65536"), "address h:65536: invalid port");
        assert_eq!(error("h:x"), "lookup tcp/x: unknown port");
    }

    #[tokio::test]
    async fn a_unix_socket_replaces_a_socket_and_nothing_else_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(Listener::unix(&path, 0o777).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        let old = Listener::unix(&path, 0o777).unwrap();
        let new = Listener::unix(&path, 0o700).unwrap();
        drop(old);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(new);
        assert!(!path.exists());
    }
}
