//! One HTTP/2 connection, from preface to the end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use steeple_runtime::drain::{Tasks, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower_service::Service;

use super::{Limits, answer};

/// The client's first 24 bytes.
const PREFACE_LEN: usize = 24;

/// Serves one connection until it ends, is told to, or has had its time.
pub(super) async fn run<I, S>(
    io: I,
    service: S,
    limits: &Limits,
    mut drain: Watcher,
    streams: Tasks,
) where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let info = io.connect_info();
    let service = hyper::service::service_fn(move |request: http::Request<_>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(info.clone());
        answer::answer(service.clone(), request)
    });
    let io = TokioIo::new(Punctual::new(io, limits.preface_deadline));
    let mut connection = pin!(builder(limits, streams).serve_connection(io, service));

    let mut aged = pin!(sleep(limits.max_connection_age.map_or(FOREVER, jittered)));
    let mut end: Option<Instant> = None;
    let mut draining = false;
    loop {
        let close_at = end.unwrap_or_else(|| Instant::now() + FOREVER);
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "Connection ended");
                }
                return;
            }
            () = drain.signalled(), if !draining => {
                draining = true;
                let grace = Instant::now() + limits.drain_grace;
                end = Some(end.map_or(grace, |end| end.min(grace)));
                connection.as_mut().graceful_shutdown();
            }
            () = aged.as_mut(), if end.is_none() => {
                end = Some(Instant::now() + limits.max_connection_age_grace);
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(close_at), if end.is_some() => return,
        }
    }
}

/// Longer than any process runs, and short enough for a timer.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

fn builder(limits: &Limits, streams: Tasks) -> hyper::server::conn::http2::Builder<Spawner> {
    let mut builder = hyper::server::conn::http2::Builder::new(Spawner(streams));
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_list_size)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024);
    if let Some((interval, timeout)) = limits.keepalive {
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
    }
    builder
}

/// What hyper spawns are tasks of whoever has the connection.
#[derive(Clone)]
pub(crate) struct Spawner(pub(crate) Tasks);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        self.0.spawn_isolated("grpc_request", request);
    }
}

/// Spreads the ages of connections that began together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// Fails the reads of a client that does not send its preface in time.
struct Punctual<I> {
    inner: I,
    waiting: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<I> Punctual<I> {
    fn new(inner: I, deadline: Duration) -> Self {
        Self { inner, waiting: Some((Box::pin(sleep(deadline)), PREFACE_LEN)) }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Punctual<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Some((deadline, missing)) = &mut self.waiting {
            *missing = missing.saturating_sub(buf.filled().len() - before);
            if *missing == 0 {
                self.waiting = None;
            } else if read.is_pending() && deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Punctual<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
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
