//! A listener that no users can fill.
//!
//! Every open connection takes a few of the process's file descriptors. A user
//! may hold as many connections as are left for all others: the first to come
//! half of them, the next a quarter, and so on, so that there is always room
//! for one more user. A connection beyond that is closed unanswered.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use steeple_net::serve::Accept;
use steeple_peer::Peer;
use steeple_runtime::Throttle;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tracing::warn;

/// Connections of another listener, counted by the caller's user.
pub(super) struct FairIncoming<I> {
    incoming: I,
    places: Arc<Places>,
    refusals: Throttle,
}

/// How often a refusal is logged: a storm of them is one line a second.
const PERIOD: Duration = Duration::from_secs(1);

impl<I> FairIncoming<I> {
    /// `max` connections in all.
    pub(super) fn new(incoming: I, max: usize) -> Self {
        let places = Arc::new(Places { max, held: Mutex::default() });
        Self { incoming, places, refusals: Throttle::new(PERIOD) }
    }
}

impl<I> Accept for FairIncoming<I>
where
    I: Accept,
    I::Io: Connected<ConnectInfo = Peer>,
{
    type Io = Counted<I::Io>;

    fn owner(io: &Counted<I::Io>) -> Option<u32> {
        Some(io.connect_info().uid())
    }

    async fn accept(&mut self) -> Counted<I::Io> {
        loop {
            let stream = self.incoming.accept().await;
            let uid = stream.connect_info().uid();
            match self.places.take(uid) {
                Ok(place) => return Counted { stream, _place: place },
                Err(held) => {
                    if let Some(unsaid) = self.refusals.admit(Instant::now()) {
                        warn!(
                            subsystem_name = "endpoints",
                            uid,
                            held,
                            limit = self.places.max,
                            unsaid = (unsaid > 0).then_some(unsaid),
                            "Closing a connection: this user holds too many"
                        );
                    }
                }
            }
        }
    }
}

/// A connection with its place.
pub(super) struct Counted<S> {
    stream: S,
    _place: Place,
}

/// What there is room for, and who has how much of it.
struct Places {
    max: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    total: usize,
    by_user: HashMap<u32, usize>,
}

impl Places {
    /// A place for this user; how many it has when it has too many.
    fn take(self: &Arc<Self>, uid: u32) -> Result<Place, usize> {
        let mut held = self.lock();
        let own = held.by_user.get(&uid).copied().unwrap_or_default();
        if own >= self.max.saturating_sub(held.total) {
            return Err(own);
        }
        held.total += 1;
        held.by_user.insert(uid, own + 1);
        drop(held);
        Ok(Place { places: Arc::clone(self), uid })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no code panics while it holds the counts")
    }
}

/// A place that is given back when it is dropped.
struct Place {
    places: Arc<Places>,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        held.total -= 1;
        if let Some(own) = held.by_user.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                held.by_user.remove(&self.uid);
            }
        }
    }
}

impl<S: Connected> Connected for Counted<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixStream;

    use super::*;

    #[test]
    fn there_is_always_room_for_one_more_user() {
        let places = Arc::new(Places { max: 1000, held: Mutex::default() });
        let mut all = Vec::new();
        let mut fill = |uid| {
            let taken: Vec<_> = std::iter::from_fn(|| places.take(uid).ok()).collect();
            let count = taken.len();
            all.push(taken);
            count
        };
        assert_eq!((fill(1), fill(2), fill(3)), (500, 250, 125));
        assert_eq!(fill(1), 0);
        assert!((4..10).all(|uid| fill(uid) > 0));
        drop(all);
        assert_eq!(places.lock().total, 0);
        assert!(places.lock().by_user.is_empty());
        assert!(places.take(1).is_ok());
    }

    #[tokio::test]
    async fn one_user_cannot_fill_the_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let incoming = steeple_net::unix::bind(&path, 0o777, 0o755).unwrap();
        let mut fair = FairIncoming::new(incoming, 4);
        let _first = UnixStream::connect(&path).await.unwrap();
        let _second = UnixStream::connect(&path).await.unwrap();
        let (one, _two) = (fair.accept().await, fair.accept().await);
        let mut third = UnixStream::connect(&path).await.unwrap();
        let mut byte = [0; 1];
        let closed = tokio::select! {
            _ = fair.accept() => panic!("one too many"),
            read = third.read(&mut byte) => matches!(read, Ok(0) | Err(_)),
        };
        assert!(closed, "unanswered");
        drop(one);
        let _fourth = UnixStream::connect(&path).await.unwrap();
        fair.accept().await;
    }
}
