//! Clients that mean harm, or are dead: what they begin ends, and the others are served meanwhile.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// A call of Init on `stream`.
fn call(stream: u32) -> Vec<u8> {
    let mut out = opening("/spire.service.private.init.v1.Init/Init", stream);
    out.extend(frame(0, 1, stream, &[0, 0, 0, 0, 0]));
    out
}

/// The headers of a call whose message is still to come.
fn opening(path: &str, stream: u32) -> Vec<u8> {
    let literal = |name: &'static str, value: &str| Field::Literal {
        form: Form::Without,
        naming: Naming::Plain(name),
        value: value.into(),
        coded: false,
    };
    let fields = [
        Field::Indexed(3),
        Field::Indexed(6),
        literal(":path", path),
        literal(":authority", "localhost"),
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
    ];
    headers(stream, &[&block(&fields)], None, false, false)
}

fn greeting(settings: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, settings)].concat()
}

async fn connect(server: &Server, bytes: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads until the server closes the connection.
async fn closed(stream: &mut UnixStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(PATIENCE, reading).await.expect("it closes");
    answer
}

async fn others_are_served(server: &Server) {
    let mut client = InitClient::new(channel::unix(&server.path));
    let call = client.init(InitRequest::default());
    tokio::time::timeout(PATIENCE, call).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_connection_that_is_being_made_when_the_drain_begins_is_served_first() {
    let server = start(Limits { drain_grace: PATIENCE, ..Limits::unix() });
    let mut silent = connect(&server, &[]).await;
    let mut half = connect(&server, &PREFACE[..9]).await;
    // So that both are accepted, which happens in their order.
    others_are_served(&server).await;
    let Server { drain, path, .. } = server;
    let draining = tokio::spawn(drain.drain(PATIENCE));
    while path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rest = [greeting(&[]), call(1)].concat();
    silent.write_all(&rest).await.unwrap();
    half.write_all(&rest[9..]).await.unwrap();
    for stream in [&mut silent, &mut half] {
        assert_eq!(kinds_until_end_of_stream_1(stream).await, [1, 0, 1], "an answer");
    }
    drop((silent, half));
    assert!(draining.await.unwrap());
}

#[tokio::test]
async fn headers_that_are_never_finished_end_their_connection() {
    let limits = Limits { preface_deadline: Duration::from_millis(300), ..Limits::unix() };
    let server = start(limits);
    // No end of the headers, half a frame of them, and nothing after the preface.
    let whole = opening("/a.B/C", 1);
    let mut open = whole.clone();
    open[4] = 0;
    for bytes in [
        [greeting(&[]), open].concat(),
        [greeting(&[]), whole[..20].to_vec()].concat(),
        PREFACE.to_vec(),
    ] {
        let begun = Instant::now();
        let mut stream = connect(&server, &bytes).await;
        closed(&mut stream).await;
        assert!(begun.elapsed() >= Duration::from_millis(300));
        others_are_served(&server).await;
    }
    // A call that takes its time is none of these.
    let mut patient = connect(
        &server,
        &[greeting(&[]), opening("/spire.service.private.init.v1.Init/Init", 1)].concat(),
    )
    .await;
    tokio::time::sleep(SECOND).await;
    patient.write_all(&frame(0, 1, 1, &[0, 0, 0, 0, 0])).await.unwrap();
    assert_eq!(kinds_until_end_of_stream_1(&mut patient).await, [1, 0, 1]);
}

#[tokio::test]
async fn a_byte_of_headers_now_and_then_is_no_progress() {
    let limits = Limits { preface_deadline: Duration::from_millis(500), ..Limits::unix() };
    let server = start(limits);
    let mut stream = connect(&server, &greeting(&[])).await;
    let begun = Instant::now();
    for byte in opening("/a.B/C", 1) {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    closed(&mut stream).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed_and_holds_nobody_up() {
    let limits = Limits { drain_deadline: Duration::from_millis(300), ..Limits::unix() };
    let server = start(limits);
    let mut deaf = connect(&server, &greeting(&[])).await;
    let pings = vec![frame(6, 0, 0, &[7; 8]); 4096].concat();
    let flood = async {
        // Each wants an answer, which finds no room in the end.
        while deaf.write_all(&pings).await.is_ok() {}
    };
    let served = async {
        for _ in 0..5 {
            others_are_served(&server).await;
        }
    };
    tokio::join!(async { tokio::time::timeout(PATIENCE, flood).await.expect("it closes") }, served);
}

#[tokio::test]
async fn streams_without_a_window_cost_one_message_each_and_hold_nobody_up() {
    let server = start(Limits { max_concurrent_streams: 100, ..Limits::unix() });
    let no_window = [0, 4, 0, 0, 0, 0];
    let mut bytes = greeting(&no_window);
    for stream in 0..100 {
        bytes.extend(opening("/plugin.GRPCStdio/StreamStdio", 2 * stream + 1));
        bytes.extend(frame(0, 1, 2 * stream + 1, &[0, 0, 0, 0, 0]));
    }
    let mut stream = connect(&server, &bytes).await;
    others_are_served(&server).await;
    let mut answer = vec![0; 64 * 1024];
    let mut data = 0;
    while let Ok(Ok(read)) =
        tokio::time::timeout(Duration::from_millis(300), stream.read(&mut answer)).await
    {
        assert!(read > 0, "it stays open");
        data += answer[..read].windows(5).filter(|window| window == b"first").count();
    }
    assert_eq!(data, 0, "nothing was asked for");
    others_are_served(&server).await;
}

#[tokio::test]
async fn streams_reset_as_fast_as_they_are_opened_end_the_connection() {
    let server = start(Limits::unix());
    let mut bytes = greeting(&[]);
    for stream in 0..2_000 {
        bytes.extend(opening("/spire.service.private.init.v1.Init/Deinit", 2 * stream + 1));
        bytes.extend(frame(3, 0, 2 * stream + 1, &[0, 0, 0, 8]));
    }
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    let _ = stream.write_all(&bytes).await;
    let answer = closed(&mut stream).await;
    // GOAWAY with ENHANCE_YOUR_CALM.
    assert!(answer.windows(4).any(|window| window == [0, 0, 0, 11]), "{answer:x?}");
    others_are_served(&server).await;
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let server = start(Limits::unix());
    let huge = Field::Literal {
        form: Form::Without,
        naming: Naming::Plain("x-huge"),
        value: "x".repeat(40_000),
        coded: false,
    };
    let block = [block(&[Field::Indexed(3), Field::Indexed(6)]), block(&[huge])].concat();
    let parts: Vec<&[u8]> = block.chunks(16_000).collect();
    let mut bytes = greeting(&[]);
    bytes.extend(headers(1, &parts, None, false, true));
    let mut stream = connect(&server, &bytes).await;
    let kinds = kinds_until_end_of_stream_1(&mut stream).await;
    assert!(matches!(kinds[..], [1] | [3]), "an answer without a call: {kinds:?}");
    others_are_served(&server).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let server = start(Limits { max_connections: 4, ..Limits::unix() });
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&server, &[greeting(&[]), call(1)].concat()).await;
        kinds_until_end_of_stream_1(&mut stream).await;
        idle.push(stream);
    }
    let mut fifth = connect(&server, &[greeting(&[]), call(1)].concat()).await;
    let answer = tokio::time::timeout(Duration::from_millis(200), fifth.readable());
    assert!(answer.await.is_err(), "it waits");
    idle.pop();
    assert_eq!(kinds_until_end_of_stream_1(&mut fifth).await, [1, 0, 1]);
}
