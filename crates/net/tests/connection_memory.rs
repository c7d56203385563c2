//! What an idle connection holds, counted: a program of its own, since the allocator that counts
//! is the process's.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::alloc::System;
use std::convert::Infallible;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Ready, ready};
use futures_util::stream::{StreamExt as _, once, pending};
use http::{HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::StreamBody;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use steeple_net::serve::{Accept, Limits, serve};
use steeple_net::unix::{self, PeerStream, UnixIncoming};
use steeple_runtime::Tasks;
use steeple_runtime::drain;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// As the agent's socket: the connections of one user share their turns.
struct Owned(UnixIncoming);

impl Accept for Owned {
    type Io = PeerStream;

    fn owner(_: &PeerStream) -> Option<u32> {
        Some(7)
    }

    async fn accept(&mut self) -> PeerStream {
        self.0.accept().await
    }
}

/// Answers with one message, and then none for ever.
#[derive(Clone)]
struct Endless;

impl Service<Request<Body>> for Endless {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let first = Frame::data(Bytes::from_static(MESSAGE));
        let frames = once(ready(Ok::<_, Status>(first))).chain(pending());
        let mut response = Response::new(Body::new(StreamBody::new(frames)));
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        ready(Ok(response))
    }
}

const MESSAGE: &[u8] = &[0, 0, 0, 0, 2, b'h', b'i'];

/// A preface, empty SETTINGS, and a call in stream 1, as an eager client sends them.
fn call() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    // `:authority: localhost`, coded as all clients code texts: decoding takes a buffer.
    block.extend([0x41, 0x86, 0xa0, 0xe4, 0x1d, 0x13, 0x9d, 0x09]);
    for (name, value) in [
        (&[0x44][..], &b"/SpiffeWorkloadAPI/FetchX509SVID"[..]),
        (&[0x5f], b"application/grpc"),
        (b"\x40\x02te", b"trailers"),
        (b"\x40\x12workload.spiffe.io", b"true"),
        (&[0x7a], b"grpc-rust/0.14"),
    ] {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes.extend([0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    bytes
}

/// Opens a stream and waits for its first message.
async fn open(path: &Path, call: &[u8]) -> UnixStream {
    let mut client = UnixStream::connect(path).unwrap();
    client.set_nonblocking(true).unwrap();
    client.write_all(call).unwrap();
    let mut answer = [0; 4096];
    let mut seen = 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !answer[..seen].ends_with(MESSAGE) {
        match client.read(&mut answer[seen..]) {
            Ok(0) => panic!("the server closed the connection"),
            Ok(read) => seen += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "no answer");
    }
    client
}

fn live() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn an_idle_connection_stays_within_its_budget_and_gives_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let incoming = Owned(unix::bind(&path, 0o777, 0o755).unwrap());
    let (drain, watcher) = drain::channel();
    let tasks = Tasks::new();
    tasks.spawn("server", serve(incoming, Endless, Limits::unix(), watcher));
    let call = call();
    let mut clients = Vec::with_capacity(2 * CONNECTIONS);
    for _ in 0..CONNECTIONS {
        clients.push(open(&path, &call).await);
    }
    let (before, resident_before) = (live(), resident());
    for _ in 0..CONNECTIONS {
        clients.push(open(&path, &call).await);
    }
    let each = (live() - before) / CONNECTIONS;
    let resident = resident().saturating_sub(resident_before) / CONNECTIONS;
    println!("an idle connection: {each} bytes allocated, {resident} of them resident");
    assert!(each <= BUDGET, "an idle connection holds {each} bytes, not {BUDGET}");

    clients.truncate(CONNECTIONS);
    let deadline = Instant::now() + Duration::from_secs(30);
    while live() > before + SLACK {
        assert!(Instant::now() < deadline, "{} bytes are kept", live() - before);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(clients);
    drain.drain(Duration::from_secs(30)).await;
    tasks.join().await.unwrap();
}

const CONNECTIONS: usize = 200;

/// What h2 reads into, writes from and decodes with, which it allocates at once and keeps: not ours
/// to choose, and resident only as far as it is used (ADR 17).
const BUFFERS: usize = (16 + 8 + 4) * 1024;
/// All else: streams, tables, tasks, and the connection itself.
const BUDGET: usize = BUFFERS + 8_800;
/// Tables that grew for the connections that are gone.
const SLACK: usize = 64 * 1024;
