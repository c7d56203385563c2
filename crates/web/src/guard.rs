//! Deadlines on a connection's bytes: for a request's head to arrive, and for an answer to leave.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The bytes of an HTTP/2 client's preface.
const PREFACE_LEN: usize = 24;

/// What a connection is doing, shared by its bytes and its requests.
#[derive(Debug)]
pub(crate) struct Activity {
    phase: AtomicU8,
    open: AtomicUsize,
    since: Mutex<Instant>,
}

/// A head is awaited, or part of it has arrived.
const HEAD: u8 = 0;
/// Between two requests.
const IDLE: u8 = 1;
/// A request is being answered, or the protocol keeps watch itself.
const BUSY: u8 = 2;

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        let since = Mutex::new(Instant::now());
        Arc::new(Self { phase: AtomicU8::new(HEAD), open: AtomicUsize::new(0), since })
    }

    /// A request's head is complete; it is open for as long as the answer lives.
    pub(crate) fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.phase.store(BUSY, Ordering::Release);
        Open(Arc::clone(self))
    }

    /// Since when no request is open; `None` if one is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let idle = self.open.load(Ordering::Acquire) == 0;
        idle.then(|| *self.since.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An open request.
pub(crate) struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.phase.store(IDLE, Ordering::Release);
        }
    }
}

/// A connection that fails when its peer dawdles.
pub(crate) struct Guarded<S> {
    stream: S,
    activity: Arc<Activity>,
    /// How long a head may take.
    head: Duration,
    /// How long a write may wait for the peer to read.
    write: Duration,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
    /// HTTP/2: bytes of the preface that have not arrived; it keeps watch itself after that.
    preface: Option<usize>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(
        stream: S,
        activity: Arc<Activity>,
        (head, write): (Duration, Duration),
        http2: bool,
    ) -> Self {
        let reading = Some(Box::pin(sleep(head)));
        let preface = http2.then_some(PREFACE_LEN);
        Self { stream, activity, head, write, reading, writing: None, preface }
    }

    fn received(&mut self, count: usize) {
        if let Some(missing) = &mut self.preface {
            *missing = missing.saturating_sub(count);
            if *missing == 0 {
                self.reading = None;
            }
            return;
        }
        if count > 0 && self.activity.phase.load(Ordering::Acquire) == IDLE {
            self.activity.phase.store(HEAD, Ordering::Release);
            self.reading = Some(Box::pin(sleep(self.head)));
        }
    }

    /// Whether a head has been awaited for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.preface.is_none() && self.activity.phase.load(Ordering::Acquire) != HEAD {
            self.reading = None;
        }
        self.reading.as_mut().is_some_and(|it| it.as_mut().poll(cx).is_ready())
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.writing = None;
            return poll;
        }
        let write = self.write;
        let timer = self.writing.get_or_insert_with(|| Box::pin(sleep(write)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.received(buf.filled().len() - before);
        // Also when bytes came: a head in drops does not get more time.
        if self.is_late(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.written(cx, poll)
    }
}
