//! One connection out of many addresses: who answers first, and what to make of those who do not.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::dial::ConnectError;
use crate::tls::{ClientTls, find_peer_error};

/// How long the next address waits for the TCP handshake of the one before it.
const TCP_HEAD_START: Duration = Duration::from_millis(250);
/// How long it waits for the TLS handshake: a loaded server takes its time, and is not helped by
/// clients that turn to others at once.
const TLS_HEAD_START: Duration = Duration::from_secs(2);
/// For the TCP handshake with one address.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// For the TLS handshake with one address.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(20);
/// How long an address that failed has to wait until the others were tried.
const FAULT_MEMORY: Duration = Duration::from_secs(60);
/// More addresses than a name should have are not looked at.
const MAX_ADDRESSES: usize = 64;
/// How long a connection is idle before the kernel probes it, and how often it does then.
const KEEPALIVE_SECONDS: u32 = 10;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 5;
/// How long the peer's kernel may leave what was sent unacknowledged.
const USER_TIMEOUT_MILLIS: u32 = 10_000;

pub(super) type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Servers that are as good as one another, each with a name of one or several addresses.
pub(super) struct Servers {
    list: Vec<Server>,
    tls: ClientTls,
    /// How many connections were begun, so that each begins with another of the addresses.
    begun: AtomicUsize,
    /// How many addresses there were the last time.
    seen: AtomicUsize,
    faults: Mutex<HashMap<SocketAddr, Instant>>,
}

struct Server {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

#[derive(Clone)]
struct Candidate {
    address: SocketAddr,
    name: ServerName<'static>,
}

/// An attempt under way.
struct Attempt {
    begun: Instant,
    connected: Arc<AtomicBool>,
}

impl Servers {
    /// None if some host is neither a DNS name nor an IP address, or there is none. The first
    /// connection begins with the address number `seed`.
    pub(super) fn new(servers: &[(String, u16)], tls: ClientTls, seed: u64) -> Option<Self> {
        let list = servers.iter().map(|(host, port)| {
            // SPIFFE names servers, not DNS; rustls still wants to be told which one is meant.
            let name = ServerName::try_from(host.clone()).ok()?;
            Some(Server { host: host.clone(), port: *port, name })
        });
        let list: Vec<Server> = list.collect::<Option<_>>()?;
        // The high bits: a hash is as good there, and the sum cannot overflow for long.
        let begun = AtomicUsize::new((seed >> 33) as usize);
        let seen = AtomicUsize::new(list.len());
        (!list.is_empty()).then(|| Self { list, tls, begun, seen, faults: Mutex::default() })
    }

    pub(super) fn version(&self) -> u64 {
        self.tls.version()
    }

    /// How many addresses there were when they were last looked up.
    pub(super) fn count(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    /// The first server, for messages.
    pub(super) fn address(&self) -> String {
        self.list[0].address()
    }

    /// The first of all addresses that completes a handshake.
    pub(super) async fn connect(&self) -> Result<ClientStream, ConnectError> {
        let turn = self.begun.fetch_add(1, Ordering::Relaxed);
        let mut lookups: FuturesUnordered<_> =
            self.list.iter().map(|server| server.look_up()).collect();
        let mut found: Vec<Candidate> = Vec::new();
        let mut verdict = Verdict::default();
        // A name server that hangs does not keep the other names' addresses waiting for long.
        let patience = Instant::now() + TCP_HEAD_START;
        while !lookups.is_empty() && (found.is_empty() || Instant::now() < patience) {
            tokio::select! {
                Some(answer) = lookups.next() => match answer {
                    Ok(addresses) => found.extend(addresses),
                    Err(error) => verdict.add(error),
                },
                () = sleep_until(patience), if !found.is_empty() => {}
            }
        }
        let mut waiting = self.in_order(found, turn);
        self.seen.store(waiting.len(), Ordering::Relaxed);
        let mut attempts = FuturesUnordered::new();
        let mut latest: Option<Attempt> = None;
        loop {
            let due = match &latest {
                Some(latest) if !attempts.is_empty() => latest.patience(),
                _ => Instant::now(),
            };
            if due <= Instant::now()
                && let Some(candidate) = waiting.pop_front()
            {
                let connected = Arc::new(AtomicBool::new(false));
                latest = Some(Attempt { begun: Instant::now(), connected: connected.clone() });
                attempts.push(self.attempt(candidate, connected));
                continue;
            }
            if attempts.is_empty() && lookups.is_empty() {
                return Err(verdict.error(self));
            }
            tokio::select! {
                Some(answer) = lookups.next() => match answer {
                    Ok(addresses) => waiting.extend(addresses),
                    Err(error) => verdict.add(error),
                },
                Some((address, outcome)) = attempts.next() => match outcome {
                    Ok(stream) => {
                        self.faults().remove(&address);
                        tracing::debug!(%address, "Connected to server");
                        return Ok(stream);
                    }
                    Err(error) => {
                        self.faults().insert(address, Instant::now());
                        if !waiting.is_empty() || !attempts.is_empty() {
                            tracing::debug!(%address, %error, "Server not reached; trying another");
                        }
                        verdict.add(error);
                        latest = None;
                    }
                },
                () = sleep_until(due), if !waiting.is_empty() => {}
            }
        }
    }

    /// From `turn` on, round and round; what failed lately comes last, the longest ago first.
    fn in_order(&self, mut found: Vec<Candidate>, turn: usize) -> VecDeque<Candidate> {
        found.truncate(MAX_ADDRESSES);
        if found.is_empty() {
            return VecDeque::new();
        }
        let first = turn % found.len();
        found.rotate_left(first);
        let mut faults = self.faults();
        faults.retain(|_, at| at.elapsed() < FAULT_MEMORY);
        found.sort_by_key(|candidate| faults.get(&candidate.address).copied());
        found.into()
    }

    async fn attempt(
        &self,
        candidate: Candidate,
        connected: Arc<AtomicBool>,
    ) -> (SocketAddr, Result<ClientStream, ConnectError>) {
        let Candidate { address, name } = candidate;
        let network = "tcp";
        let dialing = async {
            let timed_out = || ConnectError::Timeout { network, address: address.to_string() };
            let stream = match timeout(DIAL_DEADLINE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(source)) => {
                    return Err(ConnectError::Dial {
                        network,
                        address: address.to_string(),
                        source,
                    });
                }
                Err(_) => return Err(timed_out()),
            };
            connected.store(true, Ordering::Relaxed);
            keep_alive(&stream);
            let connector = TlsConnector::from(self.tls.config());
            match timeout(HANDSHAKE_DEADLINE, connector.connect(name, stream)).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(match find_peer_error(&error) {
                    Some(peer) => ConnectError::Peer(peer),
                    None => ConnectError::Handshake(error),
                }),
                Err(_) => Err(timed_out()),
            }
        };
        (address, dialing.await)
    }

    fn faults(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    async fn look_up(&self) -> Result<Vec<Candidate>, ConnectError> {
        let addresses = tokio::net::lookup_host((&*self.host, self.port)).await;
        let addresses = addresses.and_then(|found| {
            let found: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
            let none = || io::Error::new(io::ErrorKind::NotFound, "no such host");
            if found.is_empty() { Err(none()) } else { Ok(found) }
        });
        let named = |address| Candidate { address, name: self.name.clone() };
        addresses
            .map(|addresses| addresses.into_iter().map(named).collect())
            .map_err(|source| ConnectError::Resolve { host: self.address(), source })
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Attempt {
    /// Until when the next address waits for this one.
    fn patience(&self) -> Instant {
        let connected = self.connected.load(Ordering::Relaxed);
        self.begun + if connected { TLS_HEAD_START } else { TCP_HEAD_START }
    }
}

/// What there is to say when nobody answered: the weightiest of the failures, the latest of
/// several. That a server is unknown counts only if nobody else might have been a known one.
#[derive(Default)]
struct Verdict(Option<(u8, ConnectError)>);

impl Verdict {
    fn add(&mut self, error: ConnectError) {
        let weight = match &error {
            ConnectError::Dial { source, .. } if is_elsewhere(source) => 0,
            ConnectError::Peer(peer) if peer.is_unknown_authority() => 1,
            _ => 2,
        };
        if self.0.as_ref().is_none_or(|(held, _)| *held <= weight) {
            self.0 = Some((weight, error));
        }
    }

    fn error(self, servers: &Servers) -> ConnectError {
        let nobody = || ConnectError::Timeout { network: "tcp", address: servers.address() };
        self.0.map_or_else(nobody, |(_, error)| error)
    }
}

/// An address of a kind that this machine has no way to, as IPv6 where there is only IPv4.
fn is_elsewhere(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENETUNREACH | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT))
}

/// By the kernel: HTTP/2 pings more often than every five minutes make a Go server end the
/// connection. It works without any.
fn keep_alive(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS);
    let _ = setsockopt(stream, sockopt::TcpUserTimeout, &USER_TIMEOUT_MILLIS);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dial(errno: Errno) -> ConnectError {
        let (network, address) = ("tcp", String::new());
        ConnectError::Dial { network, address, source: io::Error::from_raw_os_error(errno as i32) }
    }

    #[test]
    fn an_address_of_a_kind_that_is_not_here_says_least() {
        let text = |errors: [Errno; 2]| {
            let mut verdict = Verdict::default();
            errors.into_iter().for_each(|errno| verdict.add(dial(errno)));
            verdict.0.unwrap().1.to_string()
        };
        assert!(text([Errno::ECONNREFUSED, Errno::ENETUNREACH]).contains("refused"));
        assert!(text([Errno::ENETUNREACH, Errno::ECONNREFUSED]).contains("refused"));
        assert!(text([Errno::ENETUNREACH, Errno::ENETUNREACH]).contains("unreachable"));
    }
}
