//! One connection, from its first byte to the end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, StatusCode, Version};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use steeple_runtime::drain::{Tasks, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::{Client, Limits, Request, Response};
use crate::body::Body;
use crate::guard::{Activity, Guarded};
use crate::reply;

/// How often to ask a silent HTTP/2 client whether it is there, and how long to wait.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Serves one connection until it ends, is idle for too long, or is told to end.
pub(super) async fn run<S, H, F>(
    stream: S,
    client: Client,
    http2: bool,
    handler: Arc<H>,
    limits: Limits,
    drain: Watcher,
    tasks: Tasks,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let activity = Activity::new();
    let deadlines = (limits.head_deadline, limits.write_deadline);
    let io = TokioIo::new(Guarded::new(stream, Arc::clone(&activity), deadlines, http2));
    let (seen, body) = (Arc::clone(&activity), (limits.body_size, limits.body_deadline));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let open = seen.begin();
        let mut request = request.map(|it| Body::new(it, body.0, body.1));
        request.extensions_mut().insert(client.clone());
        let handler = Arc::clone(&handler);
        async move {
            let response = answer(&*handler, request).await;
            drop(open);
            Ok::<_, Infallible>(response)
        }
    });
    if http2 {
        let mut builder = http2::Builder::new(Spawner(tasks));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.head_size)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1);
        drive(pin!(builder.serve_connection(io, service)), &activity, &limits, drain).await;
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // As Go writes them, for whoever compares by the letter.
            .title_case_headers(true)
            // The guard does that, and lets a connection idle for longer.
            .header_read_timeout(None)
            .max_buf_size(limits.head_size.max(8192) as usize);
        drive(pin!(builder.serve_connection(io, service)), &activity, &limits, drain).await;
    }
}

/// A connection of either version.
trait Connection: Future<Output = hyper::Result<()>> {
    fn end(self: Pin<&mut Self>);
}

impl<I, S> Connection for http1::Connection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = Full<bytes::Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Connection for http2::Connection<I, S, Spawner>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = Full<bytes::Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

async fn drive<C: Connection>(
    mut connection: Pin<&mut C>,
    activity: &Activity,
    limits: &Limits,
    mut drain: Watcher,
) {
    let mut close_at: Option<Instant> = None;
    let mut draining = false;
    loop {
        // An open request ends the wait no sooner than a whole idle time from now.
        let idle_since = activity.idle_since().unwrap_or_else(Instant::now);
        let idle_until = idle_since + limits.idle;
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
                close_at = Some(close_at.map_or(grace, |it| it.min(grace)));
                connection.as_mut().end();
            }
            () = sleep_until(idle_until), if close_at.is_none() => {
                if activity.idle_since().is_some_and(|it| it.elapsed() >= limits.idle) {
                    close_at = Some(Instant::now() + limits.drain_grace);
                    connection.as_mut().end();
                }
            }
            () = sleep_until(close_at.unwrap_or(idle_until)), if close_at.is_some() => return,
        }
    }
}

async fn answer<H, F>(handler: &H, request: Request) -> Response
where
    H: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    if let Some(refused) = refuse(&request) {
        return refused;
    }
    let head = request.method() == Method::HEAD;
    let mut response = handler(request).await;
    if head {
        let len = response.body().size_hint().exact().unwrap_or_default();
        *response.body_mut() = Full::default();
        response.headers_mut().insert(CONTENT_LENGTH, len.into());
    }
    response
}

/// What Go's server does not hand to handlers: a target that is no path, and HTTP/1.1 without its
/// one well-formed Host header (RFC 9112 section 3.2).
fn refuse(request: &Request) -> Option<Response> {
    if request.version() > Version::HTTP_11 {
        return None;
    }
    let uri = request.uri();
    let mut hosts = request.headers().get_all(HOST).iter();
    let text = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => "400 Bad Request",
        _ if uri.scheme().is_none()
            && uri.authority().is_some()
            && *request.method() != Method::CONNECT =>
        {
            "400 Bad Request"
        }
        (None, _) if request.version() == Version::HTTP_11 => {
            "400 Bad Request: missing required Host header"
        }
        (Some(host), _) if !host.as_bytes().iter().all(|it| is_host_byte(*it)) => {
            "400 Bad Request: malformed Host header"
        }
        _ => return None,
    };
    let mut response = reply::content("text/plain; charset=utf-8", text);
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

/// What may be in a host, with its port (RFC 3986 section 3.2.2).
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&()*+,-.:;='[]_~".contains(&byte)
}

/// What hyper spawns are tasks of the server.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        self.0.spawn_isolated("http_request", request);
    }
}
