//! Deadlines for a client that begins something and does not go on: its greeting, a block of
//! headers, or reading what it asked for.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The client's first 24 bytes, and the head of the SETTINGS frame that must follow.
const PREFACE_LEN: usize = 24;
const GREETING_LEN: usize = PREFACE_LEN + 9;
const HEAD_LEN: u8 = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Whether the preface has arrived.
pub(super) struct Greeted(Arc<AtomicBool>);

impl Greeted {
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Fails the reads of a client that does not send in time what it began, and the writes to one
/// that does not read.
pub(super) struct Punctual<I> {
    inner: I,
    greeted: Arc<AtomicBool>,
    /// Bytes of the greeting that are missing.
    missing: usize,
    frames: Frames,
    begun: Option<Pin<Box<Sleep>>>,
    begun_deadline: Duration,
    patience: Patience,
}

/// How long a client that does not read may keep a write waiting.
#[derive(Default)]
pub(super) struct Patience {
    limit: Option<Duration>,
    full: Option<Pin<Box<Sleep>>>,
}

impl<I> Punctual<I> {
    pub(super) fn new(
        inner: I,
        begun_deadline: Duration,
        full_deadline: Duration,
    ) -> (Self, Greeted) {
        let greeted = Arc::new(AtomicBool::new(false));
        let this = Self {
            inner,
            greeted: greeted.clone(),
            missing: GREETING_LEN,
            frames: Frames::default(),
            begun: Some(Box::pin(sleep(begun_deadline))),
            begun_deadline,
            patience: Patience::new(full_deadline),
        };
        (this, Greeted(greeted))
    }

    fn took(&mut self, bytes: &[u8]) {
        let missing = PREFACE_LEN.saturating_sub(GREETING_LEN - self.missing);
        self.frames.follow(&bytes[missing.min(bytes.len())..]);
        self.missing = self.missing.saturating_sub(bytes.len());
        if self.missing <= GREETING_LEN - PREFACE_LEN {
            self.greeted.store(true, Ordering::Relaxed);
        }
        let waiting = self.missing > 0 || self.frames.in_headers();
        match (waiting, &self.begun) {
            (false, _) => self.begun = None,
            // From the first byte of it: sending a byte now and then is no progress.
            (true, None) => self.begun = Some(Box::pin(sleep(self.begun_deadline))),
            (true, Some(_)) => {}
        }
    }
}

/// Where in a sequence of frames the client is. What does not look like one is hyper's to refuse.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD_LEN as usize],
    seen: u8,
    /// Bytes of the frame's payload still to come.
    left: u32,
    is_headers: bool,
    /// Whether a block of headers goes on in another frame.
    open: bool,
}

impl Frames {
    /// Whether a block of headers has begun and not ended.
    const fn in_headers(&self) -> bool {
        self.open || (self.is_headers && self.left > 0)
    }

    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = bytes.len().min(self.left as usize);
            self.left -= u32::try_from(skipped).unwrap_or(self.left);
            bytes = &bytes[skipped..];
            while self.left == 0 && self.seen < HEAD_LEN {
                let Some((&byte, rest)) = bytes.split_first() else { return };
                self.head[usize::from(self.seen)] = byte;
                self.seen += 1;
                bytes = rest;
            }
            if self.seen == HEAD_LEN {
                self.seen = 0;
                let [l0, l1, l2, kind, flags, ..] = self.head;
                self.left = u32::from_be_bytes([0, l0, l1, l2]);
                self.is_headers = matches!(kind, HEADERS | CONTINUATION);
                if self.is_headers {
                    self.open = flags & END_HEADERS == 0;
                }
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Punctual<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        this.took(&buf.filled()[before..]);
        if read.is_pending()
            && let Some(deadline) = &mut this.begun
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit: Some(limit), full: None }
    }

    /// What a write came to, unless it has waited for too long.
    pub(super) fn wrote<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(limit) = self.limit.filter(|_| write.is_pending()) else {
            self.full = None;
            return write;
        };
        let full = self.full.get_or_insert_with(|| Box::pin(sleep(limit)));
        if full.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Punctual<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.patience.wrote(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.patience.wrote(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.resize(9 + usize::from(length), 0xff);
        bytes
    }

    #[test]
    fn a_block_of_headers_is_followed_to_its_end_however_it_is_cut() {
        let mut bytes = frame(4, 0, 6);
        let settings = bytes.len();
        bytes.extend(frame(HEADERS, 0, 20));
        bytes.extend(frame(CONTINUATION, 0, 0));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 7));
        let block = bytes.len();
        bytes.extend(frame(0, 0, 200));
        bytes.extend(frame(6, 0, 8));
        for step in [1, 2, 3, 5, 8, 13, 1000] {
            let mut frames = Frames::default();
            let mut at = 0;
            for chunk in bytes.chunks(step) {
                frames.follow(chunk);
                at += chunk.len();
                let expected = at >= settings + 9 && at < block;
                assert_eq!(frames.in_headers(), expected, "after {at} bytes in steps of {step}");
            }
        }
    }
}
