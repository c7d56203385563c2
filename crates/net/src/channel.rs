//! Client channels over our own connections: a Unix socket, or TLS by SPIFFE ID.
//!
//! A [`Channel`] connects when it is first used, and again whenever its connection is gone, or the
//! identity or roots that it was made with have changed. A call that met a connection on its way
//! out is sent once more on a new one: servers end connections every few minutes, and nobody
//! should notice.

mod dial;
mod race;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::USER_AGENT;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use steeple_runtime::drain::Tasks;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use crate::deadline::{self, Timely};
use crate::serve::Spawner;
use crate::tls::ClientTls;

pub use dial::ConnectError;
use dial::Target;
use race::Servers;

/// How often a call is sent anew because its connection ended before it was sent.
const MAX_ATTEMPTS: usize = 4;
/// What we say we are.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("steeple/", env!("CARGO_PKG_VERSION")));

/// A connection to a server, made when needed. Clones share it. Generated clients take it.
#[derive(Clone)]
pub struct Channel(Arc<Inner>, Used);

/// The number of the latest connection that was used.
type Used = Arc<AtomicU64>;

struct Inner {
    target: Target,
    scheme: Scheme,
    authority: Authority,
    tasks: Tasks,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Connection>,
    /// When the last attempt to connect began, if it failed, and why.
    failed: Option<(Instant, Arc<ConnectError>)>,
    made: u64,
}

#[derive(Clone)]
struct Connection {
    number: u64,
    version: u64,
    sender: SendRequest<Body>,
}

/// A channel to the server that listens on the Unix socket `path`. Its authority is `localhost`.
pub fn unix(path: &Path) -> Channel {
    let target = Target::Unix(path.to_owned());
    Channel::new(target, Scheme::HTTP, Authority::from_static("localhost"))
}

/// A channel to the server at `address`, without TLS: for one on this machine.
pub fn tcp(address: SocketAddr) -> Channel {
    let authority = address.to_string().parse().expect("a socket address is an authority");
    Channel::new(Target::Tcp(address), Scheme::HTTP, authority)
}

/// A channel to `host` (a DNS name or an IP address, without brackets) at `port`.
///
/// # Errors
/// When that does not make an address.
pub fn tls(host: &str, port: u16, tls: ClientTls) -> Result<Channel, InvalidAddress> {
    tls_any(&[(host.to_owned(), port)], tls, 0)
}

/// A channel to whichever of `servers` (each as for [`tls`]) answers: they are as good as one
/// another, as are the addresses of each. `seed` says where to begin; each further connection
/// begins one later.
///
/// # Errors
/// When one of them is no address, or there is none.
pub fn tls_any(
    servers: &[(String, u16)],
    tls: ClientTls,
    seed: u64,
) -> Result<Channel, InvalidAddress> {
    let mut authority = Err(InvalidAddress(String::new()));
    for (host, port) in servers.iter().rev() {
        let invalid = || InvalidAddress(host.chars().take(100).collect());
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        authority = Ok(format!("{bracketed}:{port}").parse().map_err(|_| invalid())?);
        if Servers::new(&[(host.clone(), *port)], tls.clone(), 0).is_none() {
            return Err(invalid());
        }
    }
    let authority = authority?;
    let target = Servers::new(servers, tls, seed).expect("each of them is an address");
    Ok(Channel::new(Target::Tls(target), Scheme::HTTPS, authority))
}

/// A server's address that is no host and port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid server address {0:?}")]
pub struct InvalidAddress(String);

/// Why the call that ended in `status` had no connection, if that was the reason.
pub fn connect_error(status: &Status) -> Option<&ConnectError> {
    std::error::Error::source(status)?.downcast_ref()
}

impl Channel {
    fn new(target: Target, scheme: Scheme, authority: Authority) -> Self {
        let (tasks, state) = (Tasks::new(), Mutex::default());
        Self(Arc::new(Inner { target, scheme, authority, tasks, state }), Used::default())
    }

    /// Connects now, if there is no connection.
    ///
    /// # Errors
    /// `UNAVAILABLE`, with the [`ConnectError`] as its source.
    pub async fn connect(&self) -> Result<(), Status> {
        self.0.connection().await.map(|_| ()).map_err(unavailable)
    }

    /// Whether there are several addresses to go to, as far as is known.
    pub fn has_alternatives(&self) -> bool {
        self.0.target.count() > 1
    }

    /// The same connection, for a caller that wants to know which one it was.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self(Arc::clone(&self.0), Used::default())
    }

    /// Lets go of the connection that calls by this channel used, and of no later one: another
    /// caller may have gone to another server meanwhile.
    pub async fn release_used(&self) {
        let used = self.1.load(Ordering::Relaxed);
        self.0.state.lock().await.current.take_if(|current| current.number <= used);
    }

    /// Lets go of the connection: the next call makes a new one. Calls under way go on.
    pub async fn release(&self) {
        self.0.state.lock().await.current = None;
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("authority", &self.0.authority).finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, used) = (Arc::clone(&self.0), Arc::clone(&self.1));
        Box::pin(async move { inner.call(request, &used).await })
    }
}

impl Inner {
    /// Calls, within the deadline that the request names.
    async fn call(
        &self,
        mut request: Request<Body>,
        used: &AtomicU64,
    ) -> Result<Response<Body>, Status> {
        let timeout = request.headers().get(deadline::HEADER).and_then(deadline::parse);
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        *request.uri_mut() =
            Uri::from_parts(uri).map_err(|error| Status::internal(error.to_string()))?;
        request.headers_mut().insert(USER_AGENT, AGENT);

        let Some(end) = timeout.and_then(|timeout| Instant::now().checked_add(timeout)) else {
            return self.send(request, used).await;
        };
        match timeout_at(end, self.send(request, used)).await {
            Ok(response) => Ok(response?.map(|body| Body::new(Timely::new(body, end)))),
            Err(_) => Err(deadline::exceeded()),
        }
    }

    /// Sends a request, anew if its connection ended before it was sent.
    async fn send(
        &self,
        mut request: Request<Body>,
        used: &AtomicU64,
    ) -> Result<Response<Body>, Status> {
        for attempt in 1.. {
            let mut connection = self.connection().await.map_err(unavailable)?;
            used.fetch_max(connection.number, Ordering::Relaxed);
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(response.map(|body| Body::new(body.map_err(lost))));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if attempt < MAX_ATTEMPTS => {
                        self.forget(&connection).await;
                        request = unsent;
                    }
                    _ => return Err(lost(error.into_error())),
                },
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The connection, made if there is none. One caller connects while the others wait; if it
    /// fails, it fails for all of them.
    async fn connection(&self) -> Result<Connection, Arc<ConnectError>> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let version = self.target.version();
        if let Some(current) = &state.current
            && current.version == version
            && !current.sender.is_closed()
        {
            return Ok(current.clone());
        }
        if let Some((begun, error)) = &state.failed
            && *begun >= asked
        {
            return Err(Arc::clone(error));
        }
        state.current = None;
        let begun = Instant::now();
        match self.connect().await {
            Ok(sender) => {
                state.made += 1;
                let connection = Connection { number: state.made, version, sender };
                state.current = Some(connection.clone());
                state.failed = None;
                Ok(connection)
            }
            Err(error) => {
                let error = Arc::new(error);
                state.failed = Some((begun, Arc::clone(&error)));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, ConnectError> {
        let io = TokioIo::new(self.target.dial().await?);
        let (sender, connection) = Builder::new(Spawner::Tasks(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(2 * 1024 * 1024)
            .handshake(io)
            .await
            .map_err(ConnectError::Http2)?;
        self.tasks.spawn_isolated("grpc_client", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "Connection to server ended");
            }
        });
        Ok(sender)
    }

    async fn forget(&self, connection: &Connection) {
        let mut state = self.state.lock().await;
        if state.current.as_ref().is_some_and(|current| current.number == connection.number) {
            state.current = None;
        }
    }
}

fn unavailable(error: Arc<ConnectError>) -> Status {
    let text = match &*error {
        ConnectError::Resolve { .. } => error.to_string(),
        _ => format!("connection error: desc = {:?}", format!("transport: {error}")),
    };
    let mut status = Status::unavailable(text);
    status.set_source(error);
    status
}

/// A connection that broke: the server's own reason if it gave one, `UNAVAILABLE` otherwise.
fn lost(error: hyper::Error) -> Status {
    match Status::try_from_error(Box::new(error)) {
        Ok(status) if status.code() != Code::Unknown => status,
        Ok(status) => Status::unavailable(format!("error reading from server: {status}")),
        Err(error) => Status::unavailable(format!("error reading from server: {error}")),
    }
}
