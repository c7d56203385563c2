//! What systemd passes to a service, and what a service tells it.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use listenfd::ListenFd;

/// Listening Unix sockets that systemd opened for this process, each with its name, if any.
///
/// They are taken: a second call finds none, and no child inherits them. Sockets of other kinds are
/// left alone. To be called before there are threads, for it changes the environment.
pub fn listeners() -> Vec<(Option<String>, UnixListener)> {
    let own = std::process::id().to_string();
    if env::var("LISTEN_PID").ok() != Some(own) {
        return Vec::new();
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(|name| (!name.is_empty()).then(|| name.to_owned()));
    let mut found = Vec::new();
    let mut sockets = ListenFd::from_env();
    for index in 0..sockets.len().min(MAX) {
        let name = names.next().flatten();
        if let Ok(Some(listener)) = sockets.take_unix_listener(index) {
            found.push((name, listener));
        }
    }
    found
}

/// Tells systemd `state`, such as `READY=1`; without systemd nothing happens.
///
/// # Errors
/// When the socket that systemd named cannot be reached.
pub fn notify(state: &str) -> io::Result<()> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => tell(&socket, state),
        _ => Ok(()),
    }
}

fn tell(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    // A supervisor that does not read must not stop us.
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// More than any unit of ours has.
const MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_go_to_sockets_of_either_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        tell(path.as_os_str(), "READY=1").unwrap();
        let name = format!("steeple-test-{}", fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstracted = UnixDatagram::bind_addr(&address).unwrap();
        tell(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        let read = |from: &UnixDatagram| {
            let mut bytes = [0; 64];
            let read = from.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..read].to_vec()).unwrap()
        };
        assert_eq!((read(&by_path), read(&abstracted)), ("READY=1".into(), "STOPPING=1".into()));
        assert!(tell(OsStr::new("/nowhere/notify"), "READY=1").is_err());
    }

    #[test]
    fn nothing_is_taken_that_was_not_passed_to_this_process() {
        assert!(listeners().is_empty());
        assert!(notify("READY=1").is_ok());
    }
}
