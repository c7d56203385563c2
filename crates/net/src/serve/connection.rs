//! One connection, from its first byte to the end.
//!
//! An idle connection is one future, and this is it: what is rare (HTTP/1, looking at the first
//! bytes, a deadline) is boxed, and no timer runs that is not needed, so that the future is little
//! more than what hyper and h2 keep (ADR 17).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use steeple_runtime::drain::{Tasks, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower_service::Service;

use super::http1::{self, Rewound, Spoken};
use super::lanes::Lane;
use super::punctual::{Greeted, Punctual};
use super::{Limits, answer};

/// What a connection is served with.
pub(super) struct Means<S> {
    pub(super) service: S,
    pub(super) limits: Arc<Limits>,
    pub(super) drain: Watcher,
    /// Where its requests run.
    pub(super) streams: Spawner,
    /// Its place among those that are served at once.
    pub(super) slot: OwnedSemaphorePermit,
}

/// Serves one connection until it ends, is told to, or has had its time.
pub(super) fn run<I, S>(io: I, means: Means<S>) -> Run<I, S>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    if !means.limits.http1 {
        return Run::Http2(Http2::new(Rewound::fresh(io), means));
    }
    Run::Rare(Box::pin(async move {
        let spoken = http1::sniff(io, &means.limits, &means.drain).await;
        match spoken {
            Some(Spoken::Http2(io)) => Some(Http2::new(io, means)),
            Some(Spoken::Http1(io)) => {
                let Means { service, limits, drain, streams: _, slot } = means;
                http1::run(io, service, &limits, drain).await;
                drop(slot);
                None
            }
            None => None,
        }
    }))
}

/// The future of one connection.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub(super) enum Run<I, S>
where
    I: Connected,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    /// Until it is known to speak HTTP/2, which it may never do.
    Rare(BoxFuture<'static, Option<Http2<I, S>>>),
    Http2(Http2<I, S>),
    Over,
}

/// Nothing in it is pinned where it lies.
impl<I, S> Unpin for Run<I, S>
where
    I: Connected,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
}

impl<I, S> Future for Run<I, S>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            *this = match this {
                Self::Rare(begin) => match begin.poll_unpin(cx) {
                    Poll::Ready(Some(connection)) => Self::Http2(connection),
                    Poll::Ready(None) => Self::Over,
                    Poll::Pending => return Poll::Pending,
                },
                Self::Http2(connection) => match connection.poll(cx) {
                    Poll::Ready(()) => Self::Over,
                    Poll::Pending => return Poll::Pending,
                },
                Self::Over => return Poll::Ready(()),
            };
        }
    }
}

/// What hyper reads and writes.
type Wire<I> = TokioIo<Punctual<Rewound<I>>>;

/// An HTTP/2 connection and when it is to end.
pub(super) struct Http2<I, S>
where
    I: Connected,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    connection: http2::Connection<Wire<I>, Answering<S, I::ConnectInfo>, Spawner>,
    greeted: Greeted,
    limits: Arc<Limits>,
    drain: Drain,
    /// When it is asked to end for its age; none for one that may stay.
    aged: Option<Pin<Box<Sleep>>>,
    /// When what is still open is cut off, once it was asked to end.
    end: Option<Pin<Box<Sleep>>>,
    /// hyper drops a connection that is told to end before its handshake is done, and the client
    /// finds its first call failed. So the handshake comes first.
    end_when_greeted: bool,
    _slot: OwnedSemaphorePermit,
}

/// The drain is waited for by those who hold a watcher, so it is held to the end.
enum Drain {
    Awaited(BoxFuture<'static, Watcher>),
    Signalled(#[expect(dead_code, reason = "held, not used")] Watcher),
}

impl<I, S> Http2<I, S>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    fn new(io: Rewound<I>, means: Means<S>) -> Self {
        let Means { service, limits, mut drain, streams, slot } = means;
        let service = Answering { service, info: io.connect_info() };
        let (io, greeted) = Punctual::new(io, limits.preface_deadline, limits.drain_deadline);
        let aged = limits.max_connection_age.map(|age| Instant::now() + jittered(age));
        Self {
            connection: builder(&limits, streams).serve_connection(TokioIo::new(io), service),
            greeted,
            limits,
            drain: Drain::Awaited(Box::pin(async move {
                drain.signalled().await;
                drain
            })),
            aged: aged.map(|at| Box::pin(sleep_until(at))),
            end: None,
            end_when_greeted: false,
            _slot: slot,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.connection.poll_unpin(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(()),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "Connection ended");
                    return Poll::Ready(());
                }
                Poll::Pending => {}
            }
            if self.end_when_greeted && self.greeted.is_over() {
                self.end_when_greeted = false;
                Pin::new(&mut self.connection).graceful_shutdown();
                continue;
            }
            if let Drain::Awaited(drain) = &mut self.drain
                && let Poll::Ready(drain) = drain.poll_unpin(cx)
            {
                self.drain = Drain::Signalled(drain);
                let grace = Instant::now() + self.limits.drain_grace;
                let end = self.end.as_ref().map_or(grace, |end| end.deadline().min(grace));
                self.end = Some(Box::pin(sleep_until(end)));
                self.end_when_greeted = true;
                continue;
            }
            if self.end.is_none()
                && let Some(aged) = &mut self.aged
                && aged.as_mut().poll(cx).is_ready()
            {
                let end = Instant::now() + self.limits.max_connection_age_grace;
                self.end = Some(Box::pin(sleep_until(end)));
                Pin::new(&mut self.connection).graceful_shutdown();
                continue;
            }
            return match &mut self.end {
                Some(end) => end.as_mut().poll(cx),
                None => Poll::Pending,
            };
        }
    }
}

/// The service as hyper calls it: told whose connection it is, and held to gRPC's rules.
struct Answering<S, C> {
    service: S,
    info: C,
}

impl<S, C> hyper::service::Service<http::Request<Incoming>> for Answering<S, C>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    C: Clone + Send + Sync + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    /// Boxed, so that a stream does not keep the room of the call that opened it.
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.info.clone());
        let answer = answer::answer(self.service.clone(), request);
        Box::pin(answer.map(|answer| answer.map(unindexed)))
    }
}

/// Keeps headers out of the connection's table of them. The content type: for most connections,
/// which have one answer, that table would hold this entry and nothing else. When a refused call is
/// to come again: it hardly is the same twice, and each is compared with all that are there.
fn unindexed(mut response: http::Response<Body>) -> http::Response<Body> {
    let headers = response.headers_mut();
    for name in [CONTENT_TYPE, RETRY_AFTER, DETAILS] {
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
    response
}

/// Details of a status, which only those have that are told among the headers.
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

fn builder(limits: &Limits, streams: Spawner) -> http2::Builder<Spawner> {
    let mut builder = http2::Builder::new(streams);
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
