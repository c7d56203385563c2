//! What StatsD and DogStatsD share: lines in a bounded queue, and a task that
//! packs them into datagrams.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steeple_runtime::Watcher;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Lines that may wait; more are dropped.
const QUEUE: usize = 4096;

/// A line is sent at the latest this long after it was made.
const FLUSH: Duration = Duration::from_millis(100);

/// After a failure, lines are dropped for this long.
const RECONNECT: Duration = Duration::from_secs(5);

/// Where datagrams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `host:port`
    Udp(String),
    /// `unix:///path`
    Unix(PathBuf),
}

impl Target {
    /// An address as it stands in the configuration.
    pub fn parse(address: &str) -> Self {
        match address.strip_prefix("unix://") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Udp(address.to_owned()),
        }
    }
}

/// How a sink's lines are packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    /// The program's name for messages.
    pub(crate) name: &'static str,
    /// The most bytes in a datagram.
    pub(crate) size: usize,
}

/// A value of a series that waits to be sent.
pub(crate) struct Line {
    pub(crate) series: Arc<LineName>,
    pub(crate) value: f64,
}

/// A series, ready to be written.
pub(crate) struct LineName {
    /// What stands before the value, with the colon.
    pub(crate) head: String,
    /// What stands after it, with the newline.
    pub(crate) tail: String,
    /// How the value is written.
    pub(crate) format: fn(f64) -> String,
}

/// Takes lines for a target.
pub(crate) type Lines = mpsc::Sender<Line>;

/// A queue, and the task to run behind it.
pub(crate) fn queue(
    target: Target,
    packing: Packing,
) -> (Lines, impl FnOnce(Watcher) -> Sending + Send) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (sender, move |drain| Box::pin(send(target, packing, receiver, drain)))
}

/// A sink's task.
pub type Sending = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn send(
    target: Target,
    packing: Packing,
    mut lines: mpsc::Receiver<Line>,
    mut drain: Watcher,
) {
    let mut failed = false;
    loop {
        let error = match Socket::open(&target).await {
            Ok(socket) => match pump(&socket, packing, &mut lines, &mut drain, &mut failed).await {
                Ok(()) => return,
                Err(error) => error,
            },
            Err(error) => error,
        };
        if !failed {
            failed = true;
            tracing::warn!(
                subsystem_name = "telemetry",
                sink = packing.name,
                %error,
                "Cannot send metrics; dropping them until this works again"
            );
        }
        let until = Instant::now() + RECONNECT;
        loop {
            tokio::select! {
                () = drain.signalled() => return,
                () = tokio::time::sleep_until(until) => break,
                line = lines.recv() => if line.is_none() { return },
            }
        }
    }
}

/// Sends until the queue or the process ends, or the socket fails.
async fn pump(
    socket: &Socket,
    packing: Packing,
    lines: &mut mpsc::Receiver<Line>,
    drain: &mut Watcher,
    failed: &mut bool,
) -> std::io::Result<()> {
    let mut packet = String::with_capacity(packing.size);
    let mut deadline = None;
    loop {
        let due = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let line = tokio::select! {
            line = lines.recv() => line,
            () = due => {
                flush(socket, &mut packet, failed).await?;
                deadline = None;
                continue;
            }
            () = drain.signalled() => None,
        };
        let Some(Line { series, value }) = line else {
            return flush(socket, &mut packet, failed).await;
        };
        let value = (series.format)(value);
        let length = series.head.len() + value.len() + series.tail.len();
        if packet.len() + length > packing.size {
            flush(socket, &mut packet, failed).await?;
        }
        for part in [&series.head, &value, &series.tail] {
            packet.push_str(part);
        }
        deadline.get_or_insert_with(|| Instant::now() + FLUSH);
    }
}

async fn flush(socket: &Socket, packet: &mut String, failed: &mut bool) -> std::io::Result<()> {
    if packet.is_empty() {
        return Ok(());
    }
    let sent = socket.send(packet.as_bytes()).await;
    packet.clear();
    sent.map(|_| *failed = false)
}

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Socket {
    async fn open(target: &Target) -> std::io::Result<Self> {
        match target {
            Target::Udp(address) => {
                let mut last = std::io::Error::other("the address names no host");
                for peer in tokio::net::lookup_host(address).await? {
                    let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).await?;
                    match socket.connect(peer).await {
                        Ok(()) => return Ok(Self::Udp(socket)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Target::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Ok(Self::Unix(socket))
            }
        }
    }

    async fn send(&self, packet: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.send(packet).await,
            // A full receiver must not hold up the queue for long.
            Self::Unix(socket) => match tokio::time::timeout(FLUSH, socket.send(packet)).await {
                Ok(sent) => sent,
                Err(_elapsed) => Ok(0),
            },
        }
    }
}
