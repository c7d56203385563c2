//! With real sockets and real processes.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::*;

/// Connects, forks, and does what it is told: `parent` or `child` writes a line, `exit` ends the
/// parent while the child keeps the connection.
const FORKED: &str = "import os, socket, sys, time\n\
    s = socket.socket(socket.AF_UNIX)\n\
    s.connect(sys.argv[1])\n\
    r, w = os.pipe()\n\
    if os.fork() == 0:\n\
    \x20   os.close(w)\n\
    \x20   while os.read(r, 1):\n\
    \x20       s.send(b'child')\n\
    \x20   time.sleep(60)\n\
    for word in sys.stdin:\n\
    \x20   if word == 'exit\\n': os._exit(0)\n\
    \x20   if word == 'child\\n': os.write(w, b'x')\n\
    \x20   if word == 'parent\\n': s.send(b'parent')\n";

struct Caller(Child);

impl Caller {
    fn tell(&mut self, word: &str) {
        use std::io::Write as _;
        writeln!(self.0.stdin.as_mut().unwrap(), "{word}").unwrap();
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn forked() -> (Caller, PeerStream) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mut incoming = bind(&path, 0o777, 0o755).unwrap();
    let mut command = Command::new("python3");
    let caller = command.args(["-c", FORKED]).arg(&path).stdin(Stdio::piped()).spawn();
    (Caller(caller.expect("python3 is installed")), incoming.accept().await)
}

async fn read(stream: &mut PeerStream) -> io::Result<Vec<u8>> {
    let mut bytes = [0; 64];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut bytes));
    let read = read.await.expect("a word or the end")?;
    Ok(bytes[..read].to_vec())
}

#[tokio::test]
async fn what_another_process_writes_is_not_read() {
    let (mut caller, mut stream) = forked().await;
    caller.tell("parent");
    assert_eq!(read(&mut stream).await.unwrap(), b"parent");
    caller.tell("child");
    let error = read(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn a_connection_ends_with_the_process_that_opened_it() {
    let (mut caller, mut stream) = forked().await;
    caller.tell("parent");
    assert_eq!(read(&mut stream).await.unwrap(), b"parent");
    caller.tell("exit");
    let error = read(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn a_path_that_is_replaced_never_vanishes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mut current = bind(&path, 0o777, 0o755).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let looking = {
        let (path, done) = (path.clone(), done.clone());
        std::thread::spawn(move || {
            let mut looks = 0_u64;
            // At least once, however late the thread begins.
            while looks == 0 || !done.load(Ordering::SeqCst) {
                assert!(path.exists(), "after {looks} looks");
                let mode = path.metadata().unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o777, "after {looks} looks");
                looks += 1;
            }
            looks
        })
    };
    for _ in 0..200 {
        let next = bind(&path, 0o777, 0o755).unwrap();
        drop(std::mem::replace(&mut current, next));
    }
    done.store(true, Ordering::SeqCst);
    assert!(looking.join().unwrap() > 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
}

#[tokio::test]
async fn the_remains_of_a_replacement_are_not_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(std::os::unix::net::UnixListener::bind(directory.path().join(".socket.new")).unwrap());
    let _incoming = bind(&path, 0o770, 0o755).unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_path_as_long_as_may_be_is_bound_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let room = 107 - directory.path().as_os_str().len() - 1;
    let path = directory.path().join("s".repeat(room));
    let _first = bind(&path, 0o770, 0o755).unwrap();
    let _second = bind(&path, 0o770, 0o755).unwrap();
    UnixStream::connect(&path).await.unwrap();
    let error = bind(&path.with_file_name("s".repeat(room + 1)), 0o770, 0o755).unwrap_err();
    assert!(matches!(error, BindError::Listen { .. }), "{error}");
}

fn given(held: Held) -> Given {
    Given { path: held.path, name: None, inode: held.inode, listener: held.fd.into() }
}

#[tokio::test]
async fn who_waits_in_the_queue_is_served_by_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let (old, new) = (Sockets::new(), Sockets::new());
    let first = old.open("workload", &path, 0o777, 0o755).unwrap();
    let inode = path.metadata().unwrap().ino();
    let _waiting = UnixStream::connect(&path).await.unwrap();
    for held in old.held().unwrap() {
        new.give(given(held));
    }
    let mut second = new.open("workload", &path, 0o777, 0o755).unwrap();
    old.release(std::slice::from_ref(&path));
    drop(first);
    assert_eq!(path.metadata().unwrap().ino(), inode, "the same file");
    let stream = second.accept().await;
    assert_eq!(stream.caller.pid(), i32::try_from(std::process::id()).unwrap());
    UnixStream::connect(&path).await.unwrap();
    assert!(new.close_unused().is_empty());
    drop(second);
    assert!(!path.exists(), "the last one removes it");
}

#[tokio::test]
async fn a_socket_whose_file_is_gone_or_whose_path_is_not_asked_for_is_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("one"), directory.path().join("two"));
    let (old, new) = (Sockets::new(), Sockets::new());
    let _first = old.open("workload", &path, 0o777, 0o755).unwrap();
    let _second = old.open("admin", &other, 0o770, 0o755).unwrap();
    let held = old.held().unwrap();
    assert_eq!(held.len(), 2);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(old.held().unwrap().len(), 1, "nobody can reach the first any more");
    held.into_iter().for_each(|held| new.give(given(held)));
    let _again = new.open("workload", &path, 0o777, 0o755).unwrap();
    UnixStream::connect(&path).await.unwrap();
    assert_eq!(new.close_unused(), [path, other]);
}

#[tokio::test]
async fn a_supervisors_socket_is_known_by_its_name_and_left_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("systemd");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let sockets = Sockets::new();
    let name = Some("workload".to_owned());
    sockets.give(Given { path: path.clone(), name, inode: None, listener });
    let asked = directory.path().join("configured");
    let incoming = sockets.open("workload", &asked, 0o777, 0o755).unwrap();
    assert_eq!(incoming.path(), path);
    let flags = nix::fcntl::fcntl(&incoming.listening.listener, nix::fcntl::FcntlArg::F_GETFL);
    assert!(flags.unwrap() & nix::libc::O_NONBLOCK != 0);
    assert!(incoming.listening.listener.as_raw_fd() > 2);
    drop(incoming);
    assert!(path.exists(), "systemd keeps it");
    assert!(!asked.exists());
}
