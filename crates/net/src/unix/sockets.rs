//! The listening sockets of a process: those that it was given, by systemd or by the process before
//! it, and those that it binds itself.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::bind::{Listening, bind};
use super::{BindError, UnixIncoming};

/// A listening socket that another process made.
#[derive(Debug)]
pub struct Given {
    /// Where it listens.
    pub path: PathBuf,
    /// What it is called instead, when its maker names sockets by their purpose.
    pub name: Option<String>,
    /// The inode of its file if removing that is up to us; none where a supervisor keeps it.
    pub inode: Option<u64>,
    /// The socket.
    pub listener: StdListener,
}

/// A socket that is being served, as it is given to another process.
#[derive(Debug)]
pub struct Held {
    /// Where it listens.
    pub path: PathBuf,
    /// As in [`Given::inode`].
    pub inode: Option<u64>,
    /// The socket.
    pub fd: OwnedFd,
}

/// Opens sockets, knows them, and can let go of them.
#[derive(Debug, Default)]
pub struct Sockets {
    given: Mutex<Vec<Given>>,
    open: Mutex<Vec<Weak<Listening>>>,
    given_tcp: Mutex<Vec<(String, TcpListener)>>,
    /// A second handle for each that is open.
    open_tcp: Mutex<Vec<(String, TcpListener)>>,
}

impl Sockets {
    /// Without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a socket for whoever opens its path.
    pub fn give(&self, socket: Given) {
        lock(&self.given).push(socket);
    }

    /// The socket at `path` (or called `name`), if it was given, else [`bind`]s it.
    ///
    /// # Errors
    /// As [`bind`]. Must be called in a Tokio runtime.
    pub fn open(
        &self,
        name: &str,
        path: &Path,
        mode: u32,
        directory_mode: u32,
    ) -> Result<UnixIncoming, BindError> {
        let incoming = match self.take(name, path) {
            Some(Given { path, inode, listener, .. }) => {
                tracing::info!(path = %path.display(), "Serving a socket that was handed over");
                let at = |source| BindError::Listen { path: path.clone(), source };
                UnixIncoming::new(Listening::new(listener, path.clone(), inode).map_err(at)?)
            }
            None => bind(path, mode, directory_mode)?,
        };
        lock(&self.open).push(Arc::downgrade(&incoming.listening));
        Ok(incoming)
    }

    fn take(&self, name: &str, path: &Path) -> Option<Given> {
        let mut given = lock(&self.given);
        let by_path = given.iter().position(|socket| socket.path == path && leads_to(socket));
        let named = |socket: &Given| socket.name.as_deref() == Some(name);
        let at = by_path.or_else(|| given.iter().position(named))?;
        Some(given.remove(at))
    }

    /// Keeps a TCP socket for whoever opens its address, as that was written.
    pub fn give_tcp(&self, address: String, listener: TcpListener) {
        lock(&self.given_tcp).push((address, listener));
    }

    /// The TCP socket for `address`, if it was given, else a new one.
    ///
    /// # Errors
    /// As `bind(2)`. Must be called in a Tokio runtime.
    pub fn open_tcp(&self, address: &str) -> io::Result<tokio::net::TcpListener> {
        let given = {
            let mut given = lock(&self.given_tcp);
            let found = given.iter().position(|(of, _)| of == address);
            found.map(|at| given.remove(at).1)
        };
        let listener = match given {
            Some(listener) => {
                tracing::info!(address, "Serving a socket that was handed over");
                listener
            }
            None => TcpListener::bind(address)?,
        };
        listener.set_nonblocking(true)?;
        lock(&self.open_tcp).push((address.to_owned(), listener.try_clone()?));
        tokio::net::TcpListener::from_std(listener)
    }

    /// The TCP sockets that are served now.
    ///
    /// # Errors
    /// When there is no file descriptor left.
    pub fn held_tcp(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let open = lock(&self.open_tcp);
        open.iter().map(|(at, open)| Ok((at.clone(), open.try_clone()?.into()))).collect()
    }

    /// Lets go of the TCP sockets; who serves them has them still.
    pub fn close_tcp(&self) {
        lock(&self.open_tcp).clear();
    }

    /// Closes what was given and that nobody opened; says where those listened.
    pub fn close_unused(&self) -> Vec<PathBuf> {
        let mut unused: Vec<_> = lock(&self.given).drain(..).map(|socket| socket.path).collect();
        unused.extend(lock(&self.given_tcp).drain(..).map(|(address, _)| PathBuf::from(address)));
        unused
    }

    /// What is served now and can still be reached.
    ///
    /// # Errors
    /// When there is no file descriptor left.
    pub fn held(&self) -> io::Result<Vec<Held>> {
        let open: Vec<_> = lock(&self.open).iter().filter_map(Weak::upgrade).collect();
        open.iter()
            .filter(|listening| listening.is_in_place())
            .map(|listening| {
                use std::os::fd::AsFd as _;
                let fd = listening.listener.as_fd().try_clone_to_owned()?;
                Ok(Held { path: listening.path.clone(), inode: listening.inode, fd })
            })
            .collect()
    }

    /// Leaves the files of these paths to the process that serves them from now on.
    pub fn release(&self, paths: &[PathBuf]) {
        for listening in lock(&self.open).iter().filter_map(Weak::upgrade) {
            if paths.contains(&listening.path) {
                listening.release();
            }
        }
    }
}

/// Whether the path still leads to the socket: somebody may have removed or replaced the file.
fn leads_to(socket: &Given) -> bool {
    socket.inode.is_none_or(|inode| {
        fs::symlink_metadata(&socket.path).is_ok_and(|found| found.ino() == inode)
    })
}

fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().expect("no code panics while it holds the sockets")
}
