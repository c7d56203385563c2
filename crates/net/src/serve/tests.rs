mod hostile;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use steeple_peer::Peer;
use steeple_proto::plugin::grpc_stdio_client::GrpcStdioClient;
use steeple_proto::plugin::grpc_stdio_server::{GrpcStdio, GrpcStdioServer};
use steeple_proto::plugin::{Empty, StdioData};
use steeple_proto::spire::service::private::init::v1::init_client::InitClient;
use steeple_proto::spire::service::private::init::v1::init_server::{Init, InitServer};
use steeple_proto::spire::service::private::init::v1::{
    DeinitRequest, DeinitResponse, InitRequest, InitResponse,
};
use steeple_runtime::drain::{self, Drain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::test_wire::{Field, Form, Naming, PREFACE, block, frame, headers};
use crate::{channel, unix};

/// Answers with the names it was sent, and the caller's process id.
#[derive(Default)]
struct Echo {
    connections: AtomicUsize,
}

#[tonic::async_trait]
impl Init for Echo {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let pid = request.extensions().get::<Peer>().map(Peer::pid);
        let mut plugin_service_names = request.into_inner().host_service_names;
        plugin_service_names.push(format!("{pid:?}"));
        Ok(Response::new(InitResponse { plugin_service_names }))
    }

    async fn deinit(&self, _: Request<DeinitRequest>) -> Result<Response<DeinitResponse>, Status> {
        std::future::pending().await
    }
}

/// One message, and then none for ever.
struct Endless;

#[tonic::async_trait]
impl GrpcStdio for Endless {
    type StreamStdioStream = futures_util::stream::BoxStream<'static, Result<StdioData, Status>>;

    async fn stream_stdio(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::StreamStdioStream>, Status> {
        let first = StdioData { channel: 1, data: Bytes::from_static(b"first") };
        let stream = tokio_stream::once(Ok(first)).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(stream)))
    }
}

struct Server {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    drain: Drain,
    tasks: Tasks,
}

fn start(limits: Limits) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sockets/api.sock");
    let incoming = unix::bind(&path, 0o777, 0o755).unwrap();
    let router = Router::new()
        .add_service(InitServer::new(Echo::default()))
        .add_service(GrpcStdioServer::new(Endless));
    let (drain, watcher) = drain::channel();
    let tasks = Tasks::new();
    tasks.spawn("server", serve(incoming, router, limits, watcher));
    Server { _directory: directory, path, drain, tasks }
}

#[test]
fn the_future_of_a_connection_is_little_more_than_what_hyper_keeps() {
    let size = size_of::<connection::Run<unix::PeerStream, Router>>();
    assert!(size <= 2048, "{size} bytes");
    let rare = size_of::<connection::Run<unix::PeerStream, Router>>()
        - size_of::<connection::Http2<unix::PeerStream, Router>>();
    assert!(rare <= 8, "what is rare takes {rare} bytes of every connection");
}

#[tokio::test]
async fn a_handler_sees_the_process_that_calls() {
    let server = start(Limits::unix());
    let mut client = InitClient::new(channel::unix(&server.path));
    let request = InitRequest { host_service_names: vec!["a".into()] };
    let names = client.init(request).await.unwrap().into_inner().plugin_service_names;
    assert_eq!(names, ["a".to_owned(), format!("Some({})", std::process::id())]);
}

#[tokio::test]
async fn unknown_services_and_methods_are_named_as_grpc_go_does() {
    let server = start(Limits::unix());
    let call = async |path: &'static str| {
        let mut grpc = Grpc::new(channel::unix(&server.path));
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<Empty, Empty>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let status = grpc.unary(Request::new(Empty {}), path, codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        status.message().to_owned()
    };
    assert_eq!(call("/a.b.C/D").await, "unknown service a.b.C");
    assert_eq!(
        call("/spire.service.private.init.v1.Init/Nothing").await,
        "unknown method Nothing for service spire.service.private.init.v1.Init"
    );
    assert_eq!(call("/nothing").await, "malformed method name: \"/nothing\"");
}

#[tokio::test]
async fn a_message_above_four_mebibytes_is_refused_in_grpc_gos_words() {
    let server = start(Limits::unix());
    let mut client = InitClient::new(channel::unix(&server.path));
    let request = InitRequest { host_service_names: vec!["x".repeat(4 << 20)] };
    let status = client.init(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "grpc: received message larger than max (4194309 vs. 4194304)");
}

#[tokio::test]
async fn a_drain_ends_idle_connections_at_once() {
    let server = start(Limits::unix());
    let mut client = InitClient::new(channel::unix(&server.path));
    client.init(InitRequest::default()).await.unwrap();
    assert!(server.drain.drain(Duration::from_secs(5)).await);
    server.tasks.join().await.unwrap();
    assert!(!server.path.exists(), "the socket is removed");
}

#[tokio::test]
async fn an_open_stream_delays_a_drain_by_the_grace_and_no_more() {
    let grace = Duration::from_millis(200);
    let server = start(Limits { drain_grace: grace, ..Limits::unix() });
    let mut client = GrpcStdioClient::new(channel::unix(&server.path));
    let mut stream = client.stream_stdio(()).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().data, "first");
    let begun = Instant::now();
    assert!(server.drain.drain(Duration::from_secs(5)).await);
    assert!(begun.elapsed() >= grace, "requests had {:?}", begun.elapsed());
    assert!(stream.message().await.is_err());
}

#[tokio::test]
async fn an_old_connection_is_replaced_without_its_client_noticing() {
    let age = Duration::from_millis(50);
    let grace = Duration::from_millis(300);
    let server = start(Limits {
        max_connection_age: Some(age),
        max_connection_age_grace: grace,
        ..Limits::unix()
    });
    let channel = channel::unix(&server.path);
    let mut streaming = GrpcStdioClient::new(channel.clone());
    let mut stream = streaming.stream_stdio(()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    let begun = Instant::now();
    let ended = async {
        assert!(stream.message().await.is_err());
        assert!(begun.elapsed() >= grace, "the stream had {:?}", begun.elapsed());
    };
    let called = async {
        let mut client = InitClient::new(channel);
        for _ in 0..40 {
            client.init(InitRequest::default()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::join!(ended, called);
}

#[tokio::test]
async fn a_connection_serves_on_after_a_thousand_refusals_of_what_it_had_not_sent_to_its_end() {
    let server = start(Limits::unix());
    let stream = UnixStream::connect(&server.path).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut ask = async |path: &str, length: usize| {
        let mut message = vec![0];
        message.extend(u32::try_from(length).unwrap().to_be_bytes());
        message.resize(message.len() + length, 0);
        let request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "30S")
            .body(Full::new(Bytes::from(message)));
        sender.send_request(request.unwrap()).await.expect("an answer, no reset")
    };
    for number in 0..1_000 {
        // More than a stream's window, which is the client's for as long as nobody reads.
        let length = if number % 10 == 0 { 300_000 } else { 4_000 };
        let refused = ask("/a.b.C/D", length).await;
        assert_eq!(refused.headers()["grpc-status"], "12");
        assert_eq!(refused.headers()["grpc-message"], "unknown%20service%20a.b.C");
        assert!(refused.body().is_end_stream());
    }
    let served = ask("/spire.service.private.init.v1.Init/Init", 0).await;
    let collected = served.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert!(!connection.is_finished());
}

/// Writes `bytes` and reads until the server closes; how much came back.
async fn send(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("it closes");
    answer
}

#[tokio::test]
async fn hostile_bytes_end_their_connection_and_nothing_else() {
    let limits = Limits { preface_deadline: Duration::from_millis(100), ..Limits::unix() };
    let server = start(limits);
    let settings = frame(4, 0, 0, &[]);
    let after_preface = |frames: &[u8]| [PREFACE, &settings, frames].concat();
    let half_open = [0x82];
    let mut flood = vec![frame(1, 0, 1, &[0x82])];
    flood.extend(vec![frame(9, 0, 1, &[0; 16_000]); 200]);
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("half a preface", PREFACE[..10].to_vec()),
        ("noise", vec![0xa5; 4096]),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an oversize frame", after_preface(&frame(0, 0, 1, &vec![0; 20_000]))),
        ("a frame for stream 0", after_preface(&frame(1, 4, 0, &half_open))),
        ("a broken header block", after_preface(&frame(1, 5, 1, &[0xff; 64]))),
        ("continuations without end", after_preface(&flood.concat())),
        ("settings of an odd length", after_preface(&frame(4, 0, 0, &[1; 7]))),
        ("a window beyond its bounds", after_preface(&frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]))),
    ] {
        send(&server, &bytes).await;
        let mut client = InitClient::new(channel::unix(&server.path));
        client.init(InitRequest::default()).await.unwrap_or_else(|it| panic!("{what}: {it}"));
    }
}

/// A call of Init as the C core of gRPC sends it.
fn call_with_authority(authority: Field) -> Vec<u8> {
    let literal = |naming, value: &str| Field::Literal {
        form: Form::Incremental,
        naming,
        value: value.into(),
        coded: false,
    };
    let fields = [
        literal(Naming::Plain(":path"), "/spire.service.private.init.v1.Init/Init"),
        authority,
        Field::Indexed(3), // :method POST
        Field::Indexed(6), // :scheme http
        literal(Naming::Plain("content-type"), "application/grpc"),
        literal(Naming::Plain("te"), "trailers"),
    ];
    let mut out = [PREFACE, &frame(4, 0, 0, &[])].concat();
    out.extend(headers(1, &[&block(&fields)], None, false, false));
    out.extend(frame(0, 1, 1, &[0, 0, 0, 0, 0]));
    out
}

#[tokio::test]
async fn a_socket_path_as_authority_is_served() {
    let server = start(Limits::unix());
    let forms = [
        (Naming::Index(1), false),
        (Naming::Index(1), true),
        (Naming::Plain(":authority"), false),
        (Naming::Coded(":authority"), true),
    ];
    for (naming, coded) in forms {
        for value in ["tmp%2Fspire-agent%2Fapi.sock", "/tmp/spire-agent/api.sock", "localhost"] {
            let value = if coded { value.replace(['b', 'k'], "a") } else { value.into() };
            let form = Form::Incremental;
            let authority = Field::Literal { form, naming, value: value.clone(), coded };
            let mut stream = UnixStream::connect(&server.path).await.unwrap();
            stream.write_all(&call_with_authority(authority)).await.unwrap();
            let kinds = kinds_until_end_of_stream_1(&mut stream).await;
            // HEADERS, DATA, HEADERS: an answer. A refusal would be RST_STREAM (3).
            assert_eq!(kinds, [1, 0, 1], "{naming:?} {value}");
        }
    }
}

/// What grpcio 1.85.1 (Python) sends for a call of FetchJWTSVID with an empty message, over
/// `unix:///tmp/capdir/api.sock`.
const GRPCIO: &[&[u8]] = &[
    b"PRI * HTTP/2.0\x0d\x0a\x0d\x0aSM\x0d\x0a\x0d\x0a\x00\x00$\x04\x00\x00\x00\x00\x00",
    b"\x00\x02\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x04\x00@\x00\x00\x00\x05\x00",
    b"@\x00\x00\x00\x06\x00\x00@\x00\xfe\x03\x00\x00\x00\x01\x00\x00\x04\x08\x00\x00\x00",
    b"\x00\x00\x00?\x00\x01\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x01\x10\x01\x04\x00",
    b"\x00\x00\x01@\x05:path\x1f/SpiffeWorkloadAPI/FetchJWTSVID@\x0a:authority\x17tmp%2",
    b"Fcapdir%2Fapi.sock\x83\x86@\x0ccontent-type\x10application/grpc@\x02te\x08trailer",
    b"s@\x14grpc-accept-encoding\x17identity, deflate, gzip@\x0cgrpc-timeout\x04997m@\x0a",
    b"user-agent0grpc-python/1.85.1 grpc-c/58.0.0 (linux; chttp2)\x00\x12workload.spiff",
    b"e.io\x04true\x00\x00\x04\x08\x00\x00\x00\x00\x01\x00\x00\x00\x05\x00\x00\x05\x00\x01",
    b"\x00\x00\x00\x01\x00\x00\x00\x00\x00",
];

#[tokio::test]
async fn what_grpcio_sends_over_a_unix_socket_is_served() {
    let server = start(Limits::unix());
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    stream.write_all(&GRPCIO.concat()).await.unwrap();
    // Trailers only: there is no such service here. A refusal would be RST_STREAM (3).
    assert_eq!(kinds_until_end_of_stream_1(&mut stream).await, [1]);
}

async fn kinds_until_end_of_stream_1(stream: &mut UnixStream) -> Vec<u8> {
    let mut kinds = Vec::new();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let [l0, l1, l2, kind, flags, _, _, _, id] = header;
        let len = u32::from_be_bytes([0, l0, l1, l2]);
        let mut payload = vec![0; len as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if id == 1 && kind != 8 {
            kinds.push(kind);
            if kind == 3 || flags & 1 != 0 {
                return kinds;
            }
        }
    }
}

#[test]
fn binding_replaces_sockets_only_and_sets_the_mode() {
    use std::os::unix::fs::PermissionsExt;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "std leaves its socket behind");

    let first = unix::bind(&path, 0o770, 0o750).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o770);
    let second = unix::bind(&path, 0o777, 0o750).unwrap();
    drop(first);
    assert!(path.exists(), "the old server leaves the new one's socket alone");
    drop(second);
    assert!(!path.exists());

    std::fs::write(&path, "precious").unwrap();
    let error = unix::bind(&path, 0o777, 0o750).unwrap_err();
    assert!(matches!(error, unix::BindError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn http_1_and_http_2_are_told_apart_where_both_are_served() {
    let server =
        start(Limits { http1: true, drain_grace: Duration::from_secs(1), ..Limits::unix() });
    let mut client = InitClient::new(channel::unix(&server.path));
    client.init(InitRequest::default()).await.unwrap();
    // The router knows no such path, and answers as it is asked.
    let answer = send(&server, b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("grpc-status: 12"), "{answer}");
    // One that drips is waited for, and one that ends in the middle of it is let go.
    let mut slow = UnixStream::connect(&server.path).await.unwrap();
    slow.write_all(b"P").await.unwrap();
    let mut gone = UnixStream::connect(&server.path).await.unwrap();
    gone.write_all(b"PR").await.unwrap();
    drop(gone);
    slow.write_all(b"UT /x HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer));
    // An idle connection ends with the process.
    let mut idle = UnixStream::connect(&server.path).await.unwrap();
    idle.write_all(b"GET /x HTTP/1.1\r\n").await.unwrap();
    assert!(server.drain.drain(Duration::from_secs(10)).await);
    let ended = idle.read(&mut [0; 1024]).await;
    assert!(matches!(ended, Ok(_) | Err(_)));
}
