//! HTTP/1 beside HTTP/2 on one listener, where [`Limits::http1`] asks for it: the first bytes of
//! a connection tell which it is.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use steeple_runtime::drain::Watcher;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower_service::Service;

use super::Limits;
use super::punctual::Patience;

/// How the HTTP/2 preface begins, and no method that anybody uses.
const PREFACE: &[u8; PREFACE_LEN] = b"PRI";
const PREFACE_LEN: usize = 3;

/// How long a client that has said nothing may take once the process drains.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A connection whose first bytes were looked at, and are read again.
pub(super) struct Rewound<I> {
    inner: I,
    first: [u8; PREFACE_LEN],
    /// Of `first`, what is still to be read.
    left: std::ops::Range<usize>,
    /// How long the peer may leave what it asked for unread; for ever if none.
    patience: Patience,
}

impl<I> Rewound<I> {
    /// A connection of which nothing was read, and that [`super::punctual::Punctual`] watches.
    pub(super) fn fresh(inner: I) -> Self {
        Self { inner, first: [0; PREFACE_LEN], left: 0..0, patience: Patience::default() }
    }
}

/// Which protocol a client speaks.
pub(super) enum Spoken<I> {
    Http1(Rewound<I>),
    Http2(Rewound<I>),
}

/// Looks at a client's first bytes; `None` when it says nothing in time.
pub(super) async fn sniff<I>(mut inner: I, limits: &Limits, drain: &Watcher) -> Option<Spoken<I>>
where
    I: AsyncRead + Unpin,
{
    let mut first = [0; PREFACE_LEN];
    let mut seen = 0;
    let mut drain = drain.clone();
    let mut draining = false;
    let mut deadline = Instant::now() + limits.preface_deadline;
    while first[..seen] == PREFACE[..seen] && seen < PREFACE_LEN {
        tokio::select! {
            read = inner.read(&mut first[seen..]) => match read {
                Ok(0) | Err(_) => return None,
                Ok(read) => seen += read,
            },
            () = drain.signalled(), if !draining => {
                draining = true;
                deadline = deadline.min(Instant::now() + LAST_WORD);
            }
            () = sleep_until(deadline) => return None,
        }
    }
    let is_http2 = first[..seen] == PREFACE[..seen];
    // `Punctual` has it for the others.
    let patience =
        if is_http2 { Patience::default() } else { Patience::new(limits.drain_deadline) };
    let rewound = Rewound { inner, first, left: 0..seen, patience };
    Some(if is_http2 { Spoken::Http2(rewound) } else { Spoken::Http1(rewound) })
}

/// Serves HTTP/1 until the connection ends or is told to. gRPC's rules do not apply.
pub(super) async fn run<I, S>(io: Rewound<I>, service: S, limits: &Limits, mut drain: Watcher)
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let info = io.inner.connect_info();
    let service = hyper::service::service_fn(move |request: http::Request<_>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(info.clone());
        let mut service = service.clone();
        async move { service.call(request).await }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.preface_deadline)
        .max_buf_size(
            usize::try_from(limits.max_header_list_size).unwrap_or(0).max(SMALLEST_BUFFER),
        )
        .auto_date_header(false);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut end: Option<Instant> = None;
    loop {
        let close_at = end.unwrap_or_else(Instant::now);
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "Connection ended");
                }
                return;
            }
            () = drain.signalled(), if end.is_none() => {
                end = Some(Instant::now() + limits.drain_grace);
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(close_at), if end.is_some() => return,
        }
    }
}

/// hyper takes no smaller one.
const SMALLEST_BUFFER: usize = 8192;

impl<I: Connected> Connected for Rewound<I> {
    type ConnectInfo = I::ConnectInfo;

    fn connect_info(&self) -> I::ConnectInfo {
        self.inner.connect_info()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewound<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.left.is_empty() {
            let take = this.left.len().min(buf.remaining());
            buf.put_slice(&this.first[this.left.start..this.left.start + take]);
            this.left.start += take;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewound<I> {
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
