//! Asks an agent for the nonce, and bounds what asking may cost.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use steeple_runtime::gotext;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::config::ServerConfig;
use super::payload::Place;

/// For everything, from looking up the name to the last byte.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// As much of an answer as is read, in bytes: a nonce and a line's end fit.
const MAX_BODY: usize = 64;

/// What the head of an answer may have, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Names that are looked up at once. Looking up takes a thread, and cannot be given up.
const LOOKUPS: usize = 32;

/// Agents that are asked at once.
const CALLS: usize = 256;

/// Why the nonce was not had. Nothing in it is from the answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("context deadline exceeded")]
    Deadline,
    #[error("dial tcp: {0}")]
    Lookup(String),
    #[error("dial tcp: the address of {0} is not one that may be called")]
    Address(String),
    #[error("dial tcp {0}: connect: {1}")]
    Connect(SocketAddr, String),
    #[error("no HTTP response that can be read")]
    Http(#[source] hyper::Error),
    #[error("http redirects are disabled")]
    Redirect,
}

/// Who asks.
pub(super) struct Fetcher {
    deadline: Duration,
    lookups: Arc<Semaphore>,
    calls: Semaphore,
}

impl Fetcher {
    pub(super) fn new(deadline: Duration) -> Self {
        let (lookups, calls) = (Arc::new(Semaphore::new(LOOKUPS)), Semaphore::new(CALLS));
        Self { deadline, lookups, calls }
    }

    /// The beginning of what is answered at `place`, whatever its status, if it is no redirect.
    pub(super) async fn fetch(
        &self,
        place: &Place,
        config: &ServerConfig,
    ) -> Result<Vec<u8>, FetchError> {
        let ends = Instant::now() + self.deadline;
        let fetched = timeout(self.deadline, async {
            let _call = self.calls.acquire().await;
            let addresses = self.addresses(place, config).await?;
            ask(connect(&addresses, ends).await?, place).await
        });
        fetched.await.map_err(|_elapsed| FetchError::Deadline)?
    }

    /// The addresses of a host that may be called. No name is looked up again after this, so that
    /// what was looked at is what is called.
    async fn addresses(
        &self,
        place: &Place,
        config: &ServerConfig,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        let absent = || FetchError::Lookup(format!("lookup {}: no such host", place.host));
        // The C library takes `127.1`, `0x7f.1` and `2130706433` for addresses, Go does not.
        let last = place.host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let number = last.starts_with(|first: char| first.is_ascii_digit())
            && (last.bytes().all(|byte| byte.is_ascii_digit())
                || last.starts_with("0x")
                || last.starts_with("0X"));
        if number && place.host.parse::<std::net::Ipv4Addr>().is_err() {
            return Err(absent());
        }
        let permit = Arc::clone(&self.lookups).acquire_owned().await;
        let (host, port) = (place.host.clone(), place.port);
        let found = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
        });
        let found = match found.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                return Err(FetchError::Lookup(gotext::lookup(&place.host, &error)));
            }
            Err(_stopped) => return Err(absent()),
        };
        if found.is_empty() {
            return Err(absent());
        }
        let allowed: Vec<_> = found.into_iter().filter(|it| config.allows(it.ip())).collect();
        if allowed.is_empty() {
            return Err(FetchError::Address(place.host.clone()));
        }
        Ok(allowed)
    }
}

/// Connects to the first address that answers; each has its share of the time.
async fn connect(addresses: &[SocketAddr], ends: Instant) -> Result<TcpStream, FetchError> {
    let mut failure = FetchError::Deadline;
    for (index, address) in addresses.iter().enumerate() {
        let left = ends.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let error = match timeout(left / others, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_elapsed) => io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"),
        };
        failure = FetchError::Connect(*address, gotext::system(&error));
    }
    Err(failure)
}

async fn ask(stream: TcpStream, place: &Place) -> Result<Vec<u8>, FetchError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    let request = Request::get(&place.path)
        .header(HOST, host_header(place))
        .header(USER_AGENT, concat!("steeple/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("a checked place makes a request");
    let answer = async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        if is_redirect(&response) {
            return Err(FetchError::Redirect);
        }
        beginning(response.into_body()).await
    };
    // The connection does the reading; it ends with the answer, or this with it.
    tokio::pin!(connection, answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

fn host_header(place: &Place) -> String {
    match place.port {
        80 => place.host.clone(),
        port => format!("{}:{port}", place.host),
    }
}

/// As Go's client judges it: these two need somewhere to go.
fn is_redirect<B>(response: &Response<B>) -> bool {
    match response.status().as_u16() {
        301..=303 => true,
        307 | 308 => response.headers().contains_key(LOCATION),
        _ => false,
    }
}

async fn beginning(mut body: Incoming) -> Result<Vec<u8>, FetchError> {
    let mut read = Vec::with_capacity(MAX_BODY);
    while read.len() < MAX_BODY {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.map_err(FetchError::Http)?.into_data() else { continue };
        read.extend_from_slice(&data[..data.len().min(MAX_BODY - read.len())]);
    }
    Ok(read)
}
