//! A listener that no single user can fill.
//!
//! Every open connection takes a few of the process's file descriptors. One
//! user's processes may hold half of what there is room for; a connection
//! beyond that is closed unanswered, and the other users never notice.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use steeple_net::serve::Accept;
use steeple_peer::Peer;
use steeple_runtime::Throttle;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::share::{Share, Shares};

/// Connections of another listener, counted by the caller's user.
pub(super) struct FairIncoming<I> {
    incoming: I,
    held: Shares,
    per_user: usize,
    refusals: Throttle,
}

/// How often a refusal is logged: a storm of them is one line a second.
const PERIOD: Duration = Duration::from_secs(1);

impl<I> FairIncoming<I> {
    pub(super) fn new(incoming: I, per_user: usize) -> Self {
        Self { incoming, held: Shares::new(per_user), per_user, refusals: Throttle::new(PERIOD) }
    }
}

impl<I> Accept for FairIncoming<I>
where
    I: Accept,
    I::Io: Connected<ConnectInfo = Peer>,
{
    type Io = Counted<I::Io>;

    async fn accept(&mut self) -> Counted<I::Io> {
        loop {
            let stream = self.incoming.accept().await;
            let uid = stream.connect_info().uid();
            match self.held.take(uid) {
                Some(share) => return Counted { stream, _share: share },
                None => {
                    if let Some(unsaid) = self.refusals.admit(Instant::now()) {
                        warn!(
                            subsystem_name = "endpoints",
                            uid,
                            limit = self.per_user,
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
    _share: Share,
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

    #[tokio::test]
    async fn one_user_cannot_fill_the_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let incoming = steeple_net::unix::bind(&path, 0o777, 0o755).unwrap();
        let mut fair = FairIncoming::new(incoming, 2);
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
