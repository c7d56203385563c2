//! What tests of the server, the agent and what is between them share: a CA of another make, a
//! clock that stands still, processes that do not outlive their test, ports and directories.
//!
//! Not here: fakes of our own traits; those are beside the traits.
//!
//! The invariant to protect: nothing here uses our own crypto, so that a mistake in it cannot
//! cancel itself out in a test.
//!
//! Start reading at [`TestCa`] and [`ChildGuard`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ca;
mod child;
mod databases;
mod instructions;
mod statements;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

pub use ca::{TestCa, TestSvid};
pub use child::ChildGuard;
pub use databases::{DATABASE_USER, DatabaseKind, DatabaseServer};
pub use instructions::{InstructionCounter, Instructions, count_instructions, hold_instructions};
pub use statements::StatementCounter;
pub use steeple_runtime::ManualClock;

/// A directory that goes away with the value. Its path is short enough for Unix sockets.
///
/// # Panics
/// When it cannot be made.
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new().prefix("st").tempdir_in("/tmp").expect("/tmp can be written to")
}

/// The ports that tests listen on: below those that the kernel gives to outgoing connections, one
/// of which might be taken between a look here and the moment when a server binds it.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// A TCP port of the loopback interface that nobody listens on at the moment, and that this
/// process has not been given before.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = PORTS.end - PORTS.start;
    let first = std::process::id().wrapping_mul(97);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..count {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + first.wrapping_add(step) % count;
        let port = u16::try_from(port).expect("a port of the range");
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks `condition` every 10 ms until it gives something, at most for `limit`; what it gave.
///
/// # Panics
/// When it gives nothing in time; `what` says what was waited for.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let attempts = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(limit, attempts).await {
        Ok(found) => found,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_listened_on() {
        let port = free_port().unwrap();
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
        assert_ne!(free_port().unwrap(), port);
    }

    #[tokio::test]
    async fn eventually_gives_what_comes_late() {
        let mut count = 0;
        let found = eventually("the third", Duration::from_secs(5), || {
            count += 1;
            let now = (count == 3).then_some(count);
            async move { now }
        });
        assert_eq!(found.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "nothing: not within")]
    async fn eventually_gives_up() {
        eventually("nothing", Duration::from_millis(20), || async { None::<()> }).await;
    }
}
