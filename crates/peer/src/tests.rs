//! With real processes: a test of liveness without a death proves nothing.

use std::io::Read as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::*;

/// Connects, says so, and waits for its standard input to close.
const CLIENT: &str = "import socket, sys\n\
    s = socket.socket(socket.AF_UNIX)\n\
    s.connect(sys.argv[1])\n\
    s.send(b'x')\n\
    sys.stdin.read()\n";

/// Connects, hands the socket to a child of its own, and exits.
const HAND_OVER: &str = "import os, socket, sys\n\
    s = socket.socket(socket.AF_UNIX)\n\
    s.connect(sys.argv[1])\n\
    if os.fork() == 0:\n\
    \x20   sys.stdin.read()\n";

struct Caller(Child);

impl Caller {
    fn connect(script: &str, socket: &Path) -> Self {
        let child = Command::new("python3")
            .args(["-c", script])
            .arg(socket)
            .stdin(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn accept(script: &str) -> (Caller, UnixStream, Peer) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let caller = Caller::connect(script, &path);
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    (caller, stream, peer)
}

async fn gone(peer: &Peer) -> PeerGone {
    for _ in 0..500 {
        if let Err(gone) = peer.is_alive() {
            return gone;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still alive after five seconds");
}

#[tokio::test]
async fn a_caller_is_known_by_process_user_and_group_while_it_runs() {
    let (mut caller, _stream, peer) = accept(CLIENT).await;
    assert_eq!(peer.pid(), caller.pid());
    assert_eq!(peer.uid(), nix::unistd::getuid().as_raw());
    assert_eq!(peer.gid(), nix::unistd::getgid().as_raw());
    for _ in 0..3 {
        peer.is_alive().unwrap();
    }
    assert!(peer.exe().unwrap().to_string_lossy().contains("python"));
    assert_eq!(peer.proc_dir(), Path::new("/proc").join(caller.pid().to_string()));
    caller.kill();
    assert!(matches!(peer.is_alive(), Err(PeerGone::Exited)));
    assert!(matches!(peer.clone().is_alive(), Err(PeerGone::Exited)));
}

#[tokio::test]
async fn a_dead_caller_whose_parent_has_not_noticed_is_dead() {
    let (mut caller, _stream, peer) = accept(CLIENT).await;
    // Killed but not waited for: its entry in /proc, start time and all, is still there.
    caller.0.kill().unwrap();
    assert!(matches!(gone(&peer).await, PeerGone::Exited));
    assert!(peer.proc_dir().join("stat").exists());
}

/// Connects, and executes another program when it is told to.
const EXEC: &str = "import os, socket, sys\n\
    s = socket.socket(socket.AF_UNIX)\n\
    s.connect(sys.argv[1])\n\
    os.set_inheritable(s.fileno(), True)\n\
    s.send(b'x')\n\
    sys.stdin.readline()\n\
    os.execvp(os.environ['NEXT'], [os.environ['NEXT'], *os.environ['ARGS'].split()])\n";

#[tokio::test]
async fn a_caller_that_executes_another_program_is_not_the_one_that_connected() {
    use std::io::Write as _;
    // The same program once more has the same executable, but not the same memory.
    for (next, args) in [("sleep", "60"), ("python3", "-c input()")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", EXEC]).arg(&path).env("NEXT", next).env("ARGS", args);
        let mut caller = Caller(command.stdin(Stdio::piped()).spawn().unwrap());
        let (stream, _) = listener.accept().await.unwrap();
        let peer = Peer::of(&stream).unwrap();
        peer.is_alive().unwrap();
        caller.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let gone = gone(&peer).await;
        assert!(matches!(gone, PeerGone::OtherProgram), "{next}: {gone}");
    }
}

#[tokio::test]
async fn the_end_of_a_caller_is_told() {
    let (mut caller, _stream, peer) = accept(CLIENT).await;
    let exit = peer.exit().unwrap().expect("the kernel has pidfds");
    assert!(tokio::time::timeout(Duration::from_millis(50), exit.ended()).await.is_err());
    caller.0.kill().unwrap();
    tokio::time::timeout(Duration::from_secs(10), exit.ended()).await.expect("told");
    caller.kill();
}

#[tokio::test]
async fn a_socket_handed_to_a_child_does_not_outlive_the_one_that_connected() {
    let (mut caller, stream, peer) = accept(HAND_OVER).await;
    caller.0.wait().unwrap();
    assert!(matches!(gone(&peer).await, PeerGone::Exited));
    drop(stream);
}

#[tokio::test]
async fn without_a_pidfd_the_directory_in_proc_tells() {
    let (mut caller, _stream, peer) = accept(CLIENT).await;
    let mut process = Process::hold(peer.pid(), peer.uid(), peer.gid(), None).unwrap();
    process.forget_pidfd();
    process.is_alive().unwrap();
    caller.kill();
    assert!(matches!(process.is_alive(), Err(PeerGone::ProcDir)));
}

#[tokio::test]
async fn another_process_under_the_same_id_is_noticed() {
    let (caller, _stream, peer) = accept(CLIENT).await;
    let hold = || {
        let mut process = Process::hold(caller.pid(), peer.uid(), peer.gid(), None).unwrap();
        process.forget_pidfd();
        process
    };
    let mut other_start = hold();
    other_start.pretend_started_at(1);
    assert!(matches!(other_start.is_alive(), Err(PeerGone::Restarted { expected: 1, .. })));
    let mut other_user = hold();
    other_user.uid += 1;
    let text = other_user.is_alive().unwrap_err().to_string();
    assert!(text.starts_with("new process detected: process uid "), "{text}");
    let mut other_group = hold();
    other_group.gid += 1;
    assert!(matches!(other_group.is_alive(), Err(PeerGone::OtherGroup { .. })));
}

/// Starts processes until one has the id `pid`; the kernel can be told to begin just before it,
/// by those who may.
fn recycle(pid: i32) -> Option<Caller> {
    for _ in 0..20 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        let sleeper = Caller(Command::new("sleep").arg("60").spawn().unwrap());
        if sleeper.pid() == pid {
            return Some(sleeper);
        }
    }
    None
}

#[tokio::test]
async fn a_recycled_process_id_is_noticed_with_and_without_a_pidfd() {
    let (mut caller, _stream, peer) = accept(CLIENT).await;
    let mut by_number = Process::hold(peer.pid(), peer.uid(), peer.gid(), None).unwrap();
    by_number.forget_pidfd();
    caller.kill();
    let Some(stranger) = recycle(peer.pid()) else {
        assert!(peer.is_alive().is_err(), "no right to choose process ids here");
        return;
    };
    assert_eq!(stranger.pid(), peer.pid());
    assert!(peer.proc_dir().exists());
    assert!(matches!(peer.is_alive(), Err(PeerGone::Exited)));
    assert!(matches!(by_number.is_alive(), Err(PeerGone::ProcDir)));
}

#[tokio::test]
async fn a_caller_that_died_before_accept_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut caller = Caller::connect(
        "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.connect(sys.argv[1])\n",
        &path,
    );
    caller.0.wait().unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    assert!(Peer::of(&stream).is_err());
}

#[tokio::test]
async fn we_are_our_own_peer() {
    let (ours, mut theirs) = StdStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let stream = UnixStream::from_std(ours).unwrap();
    let peer = Peer::of(&stream).unwrap();
    assert_eq!(peer.pid(), i32::try_from(std::process::id()).unwrap());
    peer.is_alive().unwrap();
    let shown = format!("{peer:?}");
    assert!(shown.starts_with("Peer { pid: "), "{shown}");
    drop(stream);
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "the peer does not hold the connection open");
}
