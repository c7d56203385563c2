//! A TCP connection to a host of several addresses.

use std::io;
use std::time::{Duration, Instant};

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
    let addresses: Vec<_> = lookup_host((host, port)).await.map_err(FetchError::Connect)?.collect();
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (index, address) in addresses.iter().enumerate() {
        let left = ends.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        error = match timeout(left / others, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => {
                io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no answer in time"))
            }
        };
    }
    Err(FetchError::Connect(error))
}
