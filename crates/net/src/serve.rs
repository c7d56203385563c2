//! gRPC servers: from accepted connections to a service, with limits, and drained in the end.
//!
//! hyper speaks HTTP/2; this module decides what a peer may cost. Start at [`serve`].

mod answer;
mod connection;
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

pub(crate) use connection::Spawner;
pub use router::Router;

/// Where connections come from.
pub trait Accept: Send {
    /// A connection, ready for HTTP/2.
    type Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;

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
    /// How long a client may take from connecting to the end of its HTTP/2 preface.
    pub preface_deadline: Duration,
    /// After this long (±10 %) a client is asked to connect anew, so that load spreads out.
    pub max_connection_age: Option<Duration>,
    /// How long requests may go on after that.
    pub max_connection_age_grace: Duration,
    /// How often to ask an idle client whether it is there, and how long to wait for the answer.
    pub keepalive: Option<(Duration, Duration)>,
    /// How long requests may go on once the process drains.
    pub drain_grace: Duration,
}

impl Limits {
    /// For Unix sockets, where clients are local and may watch for months.
    pub const fn unix() -> Self {
        Self {
            max_connections: 16_384,
            max_concurrent_streams: 2_048,
            max_header_list_size: 16 * 1024,
            preface_deadline: Duration::from_secs(20),
            max_connection_age: None,
            max_connection_age_grace: Duration::from_secs(180),
            keepalive: None,
            drain_grace: Duration::from_secs(10),
        }
    }

    /// For TCP: connections are renewed every three minutes.
    pub const fn tcp() -> Self {
        let max_connection_age = Some(Duration::from_secs(180));
        let keepalive = Some((Duration::from_secs(30), Duration::from_secs(20)));
        Self { max_connection_age, keepalive, ..Self::unix() }
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
        let (service, drain) = (service.clone(), drain.clone());
        let (limits, streams) = (Arc::clone(&limits), tasks.clone());
        tasks.spawn_isolated("grpc_connection", async move {
            connection::run(io, service, &limits, drain, streams).await;
            drop(slot);
        });
    }
    drop(incoming);
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
