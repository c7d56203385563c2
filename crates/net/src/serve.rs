//! gRPC servers: from accepted connections to a service, with limits, and drained in the end.
//!
//! hyper speaks HTTP/2; this module decides what a peer may cost. Start at [`serve`].

mod answer;
mod connection;
mod http1;
mod lanes;
mod punctual;
mod router;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use steeple_runtime::drain::{Tasks, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower_service::Service;

use connection::Means;
pub(crate) use connection::Spawner;
use lanes::Lanes;
pub use router::Router;

/// Where connections come from.
pub trait Accept: Send {
    /// A connection, ready for HTTP/2.
    type Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;

    /// Whose connection this is, if that is known before it says anything: connections of one owner
    /// share their turns on the processor.
    fn owner(_io: &Self::Io) -> Option<u32> {
        None
    }

    /// The next connection. Failures concern one connection or pass: they are logged, not returned.
    fn accept(&mut self) -> impl Future<Output = Self::Io> + Send;
}

/// What a peer may cost, and how connections end.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections served at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Open requests on one connection; announced to the client, which queues the rest.
    pub max_concurrent_streams: u32,
    /// The bytes of a request's headers, counted as RFC 9113 section 6.5.2 does.
    pub max_header_list_size: u32,
    /// How long a client may take from connecting to the end of its HTTP/2 preface, and to send
    /// the rest of anything else that it began.
    pub preface_deadline: Duration,
    /// How long a client may leave what was written to it unread, once there is no more room.
    pub drain_deadline: Duration,
    /// After this long (±10 %) a client is asked to connect anew, so that load spreads out.
    pub max_connection_age: Option<Duration>,
    /// How long requests may go on after that.
    pub max_connection_age_grace: Duration,
    /// How often to ask an idle client whether it is there, and how long to wait for the answer.
    pub keepalive: Option<(Duration, Duration)>,
    /// How long requests may go on once the process drains.
    pub drain_grace: Duration,
    /// Whether requests in HTTP/1 are served, too: as they are, for the service to tell apart.
    pub http1: bool,
}

impl Limits {
    /// For Unix sockets, where clients are local and may watch for months.
    pub const fn unix() -> Self {
        Self {
            max_connections: 16_384,
            max_concurrent_streams: 2_048,
            max_header_list_size: 16 * 1024,
            preface_deadline: Duration::from_secs(20),
            drain_deadline: Duration::from_secs(60),
            max_connection_age: None,
            max_connection_age_grace: Duration::from_secs(180),
            keepalive: None,
            drain_grace: Duration::from_secs(10),
            http1: false,
        }
    }

    /// For TCP, where clients are many: connections are renewed every three minutes, and have fewer
    /// requests open.
    pub const fn tcp() -> Self {
        let max_connection_age = Some(Duration::from_secs(180));
        let keepalive = Some((Duration::from_secs(30), Duration::from_secs(20)));
        Self { max_concurrent_streams: 512, max_connection_age, keepalive, ..Self::unix() }
    }
}

/// Serves `service` on every connection of `incoming` until `drain` is signalled, then tells the
/// clients to go away, waits for open requests at most [`Limits::drain_grace`], and returns.
///
/// The connection's `ConnectInfo` is among the extensions of every request.
pub async fn serve<A, S>(mut incoming: A, service: S, limits: Limits, mut drain: Watcher)
where
    A: Accept,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let tasks = Tasks::new();
    let lanes = Lanes::new(tasks.clone());
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let limits = Arc::new(limits);
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot.expect("the semaphore is never closed"), incoming.accept().await)
        };
        let (slot, io) = tokio::select! {
            biased;
            () = drain.signalled() => break,
            accepted = accepted => accepted,
        };
        let spawner = match A::owner(&io) {
            Some(owner) => Spawner::Lane(lanes.of(owner)),
            None => Spawner::Tasks(tasks.clone()),
        };
        let means = Means {
            service: service.clone(),
            limits: Arc::clone(&limits),
            drain: drain.clone(),
            streams: spawner.clone(),
            slot,
        };
        spawner.spawn("grpc_connection", connection::run(io, means));
    }
    drop(incoming);
    drop(lanes);
    // A task that panicked was logged when it did.
    let _ = tasks.join().await;
}

/// Waits a little after a failure of `accept`, such as having no file descriptor left, so that it
/// does not spin.
pub(crate) async fn pause_after(error: &io::Error) {
    let transient = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    );
    if !transient {
        tracing::warn!(%error, "Failed to accept a connection");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
