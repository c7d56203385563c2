//! A TCP connection to a host of several addresses.

use std::io;
use std::time::{Duration, Instant};

use steeple_runtime::gotext;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::FetchError;

/// Connects to the first address of `host` that answers. One that does not answer at all may take
/// its share of `deadline`, and no more, so that the others have theirs.
pub(super) async fn connect(
    host: &str,
    port: u16,
    deadline: Duration,
) -> Result<TcpStream, FetchError> {
    let ends = Instant::now() + deadline;
    let addresses: Vec<_> = match lookup_host((host, port)).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            let text = format!("dial tcp: {}", gotext::lookup(host, &error));
            return Err(FetchError::Connect(io::Error::new(error.kind(), text)));
        }
    };
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (index, address) in addresses.iter().enumerate() {
        let left = ends.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        error = match timeout(left / others, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => {
                let reason = gotext::system(&error);
                io::Error::new(error.kind(), format!("dial tcp {address}: connect: {reason}"))
            }
            Err(_) => {
                io::Error::new(io::ErrorKind::TimedOut, format!("dial tcp {address}: i/o timeout"))
            }
        };
    }
    Err(FetchError::Connect(error))
}
