//! One HTTP/2 connection, from preface to the end.

use std::convert::Infallible;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use steeple_runtime::drain::{Tasks, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower_service::Service;

use super::http1::{self, Spoken};
use super::lanes::Lane;
use super::punctual::Punctual;
use super::{Limits, answer};

/// Serves one connection until it ends, is told to, or has had its time.
pub(super) async fn run<I, S>(
    io: I,
    service: S,
    limits: &Limits,
    mut drain: Watcher,
    streams: Spawner,
) where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let io = match http1::sniff(io, limits, &drain).await {
        Some(Spoken::Http2(io)) => io,
        Some(Spoken::Http1(io)) => return http1::run(io, service, limits, drain).await,
        None => return,
    };
    let info = io.connect_info();
    let service = hyper::service::service_fn(move |request: http::Request<_>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(info.clone());
        answer::answer(service.clone(), request)
    });
    let (io, greeted) = Punctual::new(io, limits.preface_deadline, limits.drain_deadline);
    let io = TokioIo::new(io);
    let mut connection = pin!(builder(limits, streams).serve_connection(io, service));

    let mut aged = pin!(sleep(limits.max_connection_age.map_or(FOREVER, jittered)));
    let mut end: Option<Instant> = None;
    let mut draining = false;
    // hyper drops a connection that is told to end before its handshake is done, and the client
    // finds its first call failed. So the handshake comes first.
    let mut end_when_greeted = false;
    loop {
        let close_at = end.unwrap_or_else(|| Instant::now() + FOREVER);
        let progress = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if end_when_greeted && greeted.is_over() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        tokio::select! {
            ended = progress => {
                match ended {
                    Some(Ok(())) => return,
                    Some(Err(error)) => {
                        tracing::debug!(%error, "Connection ended");
                        return;
                    }
                    None => {
                        end_when_greeted = false;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
            () = drain.signalled(), if !draining => {
                draining = true;
                let grace = Instant::now() + limits.drain_grace;
                end = Some(end.map_or(grace, |end| end.min(grace)));
                end_when_greeted = true;
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

fn builder(limits: &Limits, streams: Spawner) -> hyper::server::conn::http2::Builder<Spawner> {
    let mut builder = hyper::server::conn::http2::Builder::new(streams);
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

/// Where the tasks of a connection run: those that hyper spawns, and its own.
#[derive(Clone)]
pub(crate) enum Spawner {
    /// Each for itself.
    Tasks(Tasks),
    /// With the others of the same owner.
    Lane(Arc<Lane>),
}

impl Spawner {
    pub(super) fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self {
            Self::Tasks(tasks) => tasks.spawn_isolated(name, work),
            Self::Lane(lane) => lane.spawn(name, work),
        }
    }
}

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        self.spawn("grpc_request", request);
    }
}

/// Spreads the ages of connections that began together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * fastrand::f64())
}
