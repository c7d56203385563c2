//! The filter in front of a stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::AuthorityFilter;

/// A stream whose reader sees the filtered bytes. Writes are the inner stream's.
#[derive(Debug)]
pub struct Filtered<S> {
    inner: S,
    filter: AuthorityFilter,
    /// Bytes read but not handed out; empty but for a symbol split between two reads.
    held: Vec<u8>,
    /// How many of them, from the front, are final.
    ready: usize,
}

impl<S> Filtered<S> {
    /// Filters what is read from `inner`, from its first byte on.
    pub const fn new(inner: S) -> Self {
        Self { inner, filter: AuthorityFilter::new(), held: Vec::new(), ready: 0 }
    }

    /// The stream below.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Filtered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.ready > 0 {
                this.hand_out(buf);
                return Poll::Ready(Ok(()));
            }
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.held.is_empty() {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
                let fresh = &mut buf.filled_mut()[before..];
                if fresh.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let last = this.filter.rewrite(fresh);
                this.held.extend_from_slice(&fresh[last..]);
                buf.set_filled(before + last);
                if last > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut chunk = [0; 256];
                let mut chunk = ReadBuf::new(&mut chunk);
                ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
                this.held.extend_from_slice(chunk.filled());
                this.ready = match chunk.filled() {
                    [] => this.held.len(),
                    _ => this.filter.rewrite(&mut this.held),
                };
            }
        }
    }
}

impl<S> Filtered<S> {
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..len]);
        self.held.drain(..len);
        self.ready -= len;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Filtered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
