//! Taking over from the agent that runs on the same data directory, and giving way to the next
//! (ADR 13).
//!
//! To protect: at most one agent writes to the data directory, and whoever listens goes on to
//! accept until another process does.

mod wire;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::fs::{FlockOperation, flock};
use steeple_config::AgentConfig;
use steeple_net::unix::{Given, Sockets, UnixIncoming, bind_over};
use steeple_runtime::{VERSION, fsx, systemd};
use tokio::net::UnixStream;
use tracing::{info, warn};

use self::wire::{Message, SHORT, Socket, Wire};
use crate::error::AgentError;

/// An agent's hold on its data directory.
pub(crate) struct Handover {
    trust_domain: String,
    door_path: PathBuf,
    /// None where the directory cannot be locked, or handing over is switched off.
    lock: Option<OwnedFd>,
    predecessor: Option<Wire>,
    door: Option<UnixIncoming>,
}

impl Handover {
    /// Takes hold of the data directory, from the agent that has it if there is one. After this
    /// nobody else writes to it.
    ///
    /// # Errors
    /// When an agent has it and does not give way.
    pub(crate) async fn begin(config: &AgentConfig) -> Result<Self, AgentError> {
        let directory = &config.data_dir;
        let trust_domain = config.trust_domain.to_string();
        let door_path = directory.join(DOOR);
        let mut handover =
            Self { trust_domain, door_path, lock: None, predecessor: None, door: None };
        if config.experimental.disable_handover {
            return Ok(handover);
        }
        let file = match open_lock(directory) {
            Ok(file) => file,
            Err(error) => {
                warn!(data_dir = %directory.display(), %error,
                    "Cannot lock the data directory; a second agent on it would not be noticed");
                return Ok(handover);
            }
        };
        let since = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => handover.lock = Some(file.into()),
                Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                    if !handover.ask().await? {
                        let error = io::Error::other("it does not answer");
                        patience(since, directory, error).await?;
                        continue;
                    }
                }
                Err(error) => {
                    warn!(data_dir = %directory.display(), %error,
                        "Cannot lock the data directory; a second agent on it would not be noticed");
                }
            }
            return Ok(handover);
        }
    }

    /// Asks the agent that runs to give way; `false` when there is none to ask, yet or any more.
    async fn ask(&mut self) -> Result<bool, AgentError> {
        let Ok(stream) = UnixStream::connect(&self.door_path).await else { return Ok(false) };
        let refused = |reason: String| AgentError::Running { reason };
        let wire = Wire::new(stream).map_err(|error| refused(error.to_string()))?;
        let pid = wire.pid();
        info!(pid, "Asking the agent that runs on the same data directory to give way");
        let hello =
            Message::Hello { version: VERSION.to_owned(), trust_domain: self.trust_domain.clone() };
        let answer = async {
            wire.send(&hello, &[]).await?;
            wire.receive(SHORT).await
        };
        match answer.await {
            Ok(Some((Message::Welcome { version }, mut files))) => {
                info!(pid, version, "The agent that runs will give way");
                self.lock = files.pop();
                self.predecessor = Some(wire);
                Ok(true)
            }
            Ok(Some((Message::Refused { reason }, _))) => Err(refused(reason)),
            Ok(Some(_)) => Err(refused("it says something else than expected".into())),
            // It ended, as far as one can see: its lock will tell.
            Ok(None) => Ok(false),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Resolves when the agent before gave up on this process, which must then touch nothing that
    /// is the other's again. One that ended leaves everything to this process.
    pub(crate) async fn forsaken(&self) -> AgentError {
        let Some(wire) = &self.predecessor else { return std::future::pending().await };
        loop {
            match wire.receive(PREPARING).await {
                Ok(Some((Message::Refused { reason }, _))) => {
                    return AgentError::Running { reason };
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                _ => return std::future::pending().await,
            }
        }
    }

    /// Gets the sockets of the agent before, now that they can be served.
    ///
    /// # Errors
    /// When it gave up on this process.
    pub(crate) async fn take_sockets(&self, sockets: &Sockets) -> Result<(), AgentError> {
        let Some(wire) = &self.predecessor else { return Ok(()) };
        let answer = async {
            wire.send(&Message::Ready, &[]).await?;
            wire.receive(SHORT).await
        };
        match answer.await {
            Ok(Some((Message::Sockets(list), files))) if list.len() == files.len() => {
                for (Socket { path, inode, tcp }, file) in list.into_iter().zip(files) {
                    // Only what listens is served.
                    if !getsockopt(&file, sockopt::AcceptConn).is_ok_and(|listens| listens) {
                        continue;
                    }
                    if tcp {
                        sockets.give_tcp(path.to_string_lossy().into_owned(), file.into());
                    } else {
                        sockets.give(Given { path, name: None, inode, listener: file.into() });
                    }
                }
                Ok(())
            }
            Ok(Some((Message::Refused { reason }, _))) => Err(AgentError::Running { reason }),
            outcome => {
                let error = outcome.err().map(|error| error.to_string());
                warn!(error, "The agent before ended without handing over its sockets");
                Ok(())
            }
        }
    }

    /// Tells whoever waits for it that the sockets are served: the agent before, and systemd.
    pub(crate) async fn serving(&mut self, sockets: &Sockets) {
        for path in sockets.close_unused() {
            info!(path = %path.display(), "Not serving a socket that is not configured any more");
        }
        if let Some(wire) = self.predecessor.take() {
            let paths = sockets.held().unwrap_or_default().into_iter().map(|held| held.path);
            if let Err(error) = wire.send(&Message::Serving(paths.collect()), &[]).await {
                warn!(%error, "The agent before ended before it was told to");
            } else {
                info!(pid = wire.pid(), "Took over from the agent before");
            }
        }
        tell_systemd(&format!("READY=1\nMAINPID={}", std::process::id()));
        if self.lock.is_some() {
            match bind_over(&self.door_path, 0o600, 0o755) {
                Ok(door) => self.door = Some(door),
                Err(error) => warn!(%error, "No later agent can take over from this one"),
            }
        }
    }

    /// The one that took over makes a door of its own in this moment: what is there is its, and not
    /// to be removed.
    pub(crate) fn leave_door(&self) {
        if let Some(door) = &self.door {
            door.release();
        }
    }

    /// Waits for an agent that wants to take over.
    pub(crate) async fn asked(&self) -> Successor {
        let (Some(door), Some(lock)) = (&self.door, &self.lock) else {
            return std::future::pending().await;
        };
        loop {
            let hello = async {
                let wire = Wire::new(door.accept_untracked().await?)?;
                let hello = wire.receive(HELLO).await?;
                Ok::<_, io::Error>((wire, hello))
            };
            let (wire, hello) = match hello.await {
                Ok((wire, Some((hello, _)))) => (wire, hello),
                Ok((_, None)) => continue,
                Err(error) => {
                    warn!(%error, "Nobody to hand over to");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let refusal = match &hello {
                Message::Hello { trust_domain, .. } if *trust_domain != self.trust_domain => {
                    Some(format!("it is an agent of trust domain {:?}", self.trust_domain))
                }
                Message::Hello { .. } => None,
                _ => Some("hello was expected".to_owned()),
            };
            if let Some(reason) = refusal {
                warn!(pid = wire.pid(), reason, "Not handing over");
                let _ = wire.send(&Message::Refused { reason }, &[]).await;
                continue;
            }
            match lock.try_clone() {
                Ok(lock) => return Successor { wire, lock },
                Err(error) => warn!(%error, "Cannot hand over"),
            }
        }
    }
}

/// An agent that asked to take over.
pub(crate) struct Successor {
    wire: Wire,
    lock: OwnedFd,
}

impl Successor {
    /// Hands over to it, once it is ready. To be called when nothing more is written to the data
    /// directory; `false` means that we stay.
    pub(crate) async fn give_way(self, sockets: &Sockets) -> bool {
        let pid = self.wire.pid();
        info!(pid, "Giving way to another agent once it is ready");
        match self.converse(sockets).await {
            Ok(true) => {
                info!(pid, "Handed over to another agent");
                true
            }
            Ok(false) => {
                warn!(pid, "The other agent ended before it was ready; going on");
                false
            }
            Err(error) => {
                warn!(pid, %error, "Could not hand over to the other agent; going on");
                let reason = "the agent that runs does not give way any more".to_owned();
                let _ = self.wire.send(&Message::Refused { reason }, &[]).await;
                false
            }
        }
    }

    async fn converse(&self, sockets: &Sockets) -> io::Result<bool> {
        let unexpected = || io::Error::other("it says something else than expected");
        let welcome = Message::Welcome { version: VERSION.to_owned() };
        self.wire.send(&welcome, &[self.lock.as_fd()]).await?;
        match self.wire.receive(PREPARING).await? {
            None => return Ok(false),
            Some((Message::Ready, _)) => {}
            Some(_) => return Err(unexpected()),
        }
        let (held, tcp) = (sockets.held()?, sockets.held_tcp()?);
        let fds = held.iter().map(|held| held.fd.as_fd());
        let fds: Vec<_> = fds.chain(tcp.iter().map(|(_, fd)| fd.as_fd())).collect();
        let unix = held.iter().map(|held| (held.path.clone(), held.inode, false));
        let tcp = tcp.iter().map(|(address, _)| (address.into(), None, true));
        let list = unix.chain(tcp).map(|(path, inode, tcp)| Socket { path, inode, tcp });
        self.wire.send(&Message::Sockets(list.collect()), &fds).await?;
        match self.wire.receive(SHORT).await? {
            None => Ok(false),
            Some((Message::Serving(paths), _)) => {
                sockets.release(&paths);
                Ok(true)
            }
            Some(_) => Err(unexpected()),
        }
    }
}

/// Says to systemd how the process is; there need not be one.
pub(crate) fn tell_systemd(state: &str) {
    if let Err(error) = systemd::notify(state) {
        warn!(%error, "Cannot tell systemd");
    }
}

fn open_lock(directory: &Path) -> io::Result<File> {
    fsx::create_dir_all(directory, 0o755)?;
    let path = directory.join(LOCK);
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// An agent that starts cannot be asked yet, and one that stops will let go in a moment.
async fn patience(since: Instant, directory: &Path, error: io::Error) -> Result<(), AgentError> {
    if since.elapsed() > UNANSWERED {
        let reason = format!("{error} at {}", directory.join(DOOR).display());
        return Err(AgentError::Running { reason });
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

const LOCK: &str = "agent.lock";
const DOOR: &str = "handover.sock";
const PAUSE: Duration = Duration::from_millis(50);
/// How long an agent may have the lock without an ear for others.
const UNANSWERED: Duration = Duration::from_secs(30);
/// Who connects speaks at once; meanwhile nobody else can ask.
const HELLO: Duration = Duration::from_secs(2);
/// How long the next agent may take to attest and sync. Our own SVID is not renewed meanwhile.
const PREPARING: Duration = Duration::from_secs(180);
