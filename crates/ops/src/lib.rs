//! What an operator looks at from outside: metrics, health and profiles, the
//! same for either program.
//!
//! [`telemetry::start`] puts the configured sinks behind `steeple_telemetry`
//! and runs their tasks and the Prometheus listener; [`health`] answers
//! `/live` and `/ready`; [`profiling`] serves `/debug/pprof/` and writes dumps.
//!
//! Not here: what is counted or checked, which the programs and the cores know.
//! To protect: nothing here can stop the program or slow its work down; what
//! cannot be served or sent is said in the log, once.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bundles;
pub mod health;
pub mod keys;
mod otlp;
pub mod profiling;
mod prometheus;
pub mod telemetry;
mod unknown;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use steeple_net::tls::IdentitySlot;
use steeple_runtime::{Clock, Watcher, gotext};
use steeple_spiffe::TrustDomain;
use steeple_web::Listener;
use tokio::net::{TcpListener, lookup_host};

pub use bundles::BundleBook;
pub use unknown::tell_unknown;

/// The program that is looked at.
#[derive(Clone)]
pub struct Program {
    /// `server` or `agent`.
    pub name: &'static str,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its own SVID, as soon as there is one.
    pub identity: IdentitySlot,
    /// The bundles that clients are checked against.
    pub bundles: BundleBook,
    /// Its time.
    pub clock: Arc<dyn Clock>,
    /// Whether TLS insists on post-quantum key exchange.
    pub require_pq_kem: bool,
}

impl Program {
    /// `spire_server` or `spire_agent`.
    pub(crate) fn service(&self) -> String {
        format!("spire_{}", self.name)
    }
}

/// Listens on `host:port`; of a name's addresses those of IPv4 come first, as
/// in Go.
pub(crate) async fn bind(address: String) -> io::Result<Listener> {
    match bind_first(address.clone()).await {
        Ok(listener) => Ok(Listener::from(listener)),
        Err(error) => {
            let text = format!("listen tcp {address}: bind: {}", gotext::system(&error));
            Err(io::Error::new(error.kind(), text))
        }
    }
}

/// As [`bind`]. An address that somebody else has is tried again and again, since that may be the
/// process that this one is about to replace; `tell` hears of it once. None when the drain begins
/// before.
pub(crate) async fn bind_in_time(
    address: String,
    mut drain: Watcher,
    tell: impl FnOnce(&io::Error),
) -> io::Result<Option<Listener>> {
    let mut tell = Some(tell);
    loop {
        match bind(address.clone()).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if let Some(tell) = tell.take() {
                    tell(&error);
                }
            }
            outcome => return outcome.map(Some),
        }
        tokio::select! {
            () = drain.signalled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

const RETRY: Duration = Duration::from_millis(500);

async fn bind_first(address: String) -> io::Result<TcpListener> {
    let mut found: Vec<SocketAddr> = lookup_host(address).await?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    let mut outcome = Err(io::Error::other("the address names no host"));
    for address in found {
        outcome = TcpListener::bind(address).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use steeple_runtime::drain;

    use super::*;

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_once_and_had_later() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let (_drain, watcher) = drain::channel();
        let (sender, told) = tokio::sync::oneshot::channel();
        let tell = |error: &io::Error| sender.send(error.to_string()).unwrap();
        let waiting = bind_in_time(address.clone(), watcher, tell);
        let free = async {
            let error = told.await.unwrap();
            assert_eq!(error, format!("listen tcp {address}: bind: address already in use"));
            drop(taken);
        };
        let (listener, ()) = tokio::join!(waiting, free);
        assert!(listener.unwrap().is_some());
    }

    #[tokio::test]
    async fn nobody_waits_for_an_address_when_the_drain_begins() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let (drain, watcher) = drain::channel();
        drop(drain);
        assert!(bind_in_time(address, watcher, |_| {}).await.unwrap().is_none());
    }
}
