use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn request(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let mut byte = [0; 1];
        if stream.read(&mut byte).await.unwrap() == 0 {
            break;
        }
        read.extend(byte);
    }
    String::from_utf8(read).unwrap()
}

async fn local() -> (TcpListener, Session) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let session = Session::plain("127.0.0.1", listener.local_addr().unwrap().port());
    (listener, session)
}

async fn get(session: &Session) -> Result<Vec<u8>, FetchError> {
    session.send(&Method::GET, "/x", &[], &Bytes::new()).await?.whole(1000).await
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let (listener, session) = local().await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..3 {
            assert!(request(&mut stream).await.starts_with("GET /x HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        }
    };
    let client = async {
        for _ in 0..3 {
            assert_eq!(get(&session).await.unwrap(), b"hi");
        }
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_is_replaced() {
    let (listener, session) = local().await;
    let server = async {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        }
    };
    let client = async {
        for _ in 0..3 {
            assert_eq!(get(&session).await.unwrap(), b"hi");
        }
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_none() {
    let (listener, session) = local().await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi").await.unwrap();
        drop(stream);
    };
    let (answer, ()) = tokio::join!(get(&session), server);
    assert!(matches!(answer, Err(FetchError::Body(_))), "{answer:?}");
}

#[tokio::test]
async fn more_than_the_limit_is_not_read() {
    let (listener, session) = local().await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n").await;
        let _ = stream.write_all(&[b'x'; 90_000]).await;
    };
    let (answer, ()) = tokio::join!(get(&session), server);
    assert!(matches!(answer, Err(FetchError::TooLarge(1000))), "{answer:?}");
}
