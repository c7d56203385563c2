//! What stands in for Google and for metadata servers in tests: a real HTTP server on a port of
//! the kernel's choice, which answers what a test says and keeps what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use steeple_net::https::Trust;
use steeple_runtime::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::web::Web;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Method and target.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }
}

/// What comes of one.
#[derive(Clone)]
pub(crate) enum Answer {
    /// A status, further headers, each with its line end, and a body.
    Whole(u16, String, String),
    /// A body that does not end.
    Endless,
    /// A byte a moment.
    Slow,
    /// Nothing.
    Hang,
}

pub(crate) fn ok(body: impl Into<String>) -> Answer {
    Answer::Whole(200, "Metadata-Flavor: Google\r\n".to_owned(), body.into())
}

pub(crate) fn status(code: u16) -> Answer {
    Answer::Whole(code, String::new(), "{}".to_owned())
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A server.
pub(crate) struct Stand {
    pub(crate) host: String,
    handler: Arc<Mutex<Arc<Handler>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: Tasks,
}

impl Stand {
    pub(crate) async fn start(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let handler: Arc<Handler> = Arc::new(handler);
        let handler = Arc::new(Mutex::new(handler));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let tasks = Tasks::new();
        let (own, handlers, log) = (tasks.clone(), Arc::clone(&handler), Arc::clone(&asked));
        tasks.spawn("stand", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handlers, log) = (Arc::clone(&handlers), Arc::clone(&log));
                own.spawn("stand-connection", async move {
                    serve(stream, &handlers, &log).await;
                });
            }
        });
        Self { host, handler, asked, _tasks: tasks }
    }

    /// Answers otherwise from now on.
    pub(crate) fn answer(&self, handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) {
        *self.handler.lock().unwrap() = Arc::new(handler);
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }
}

/// Calls in the clear, with a deadline that a test can wait for.
pub(crate) fn web(deadline: Duration) -> Web {
    Web { trust: Trust::System, deadline, plain: true }
}

async fn serve(mut stream: TcpStream, handler: &Mutex<Arc<Handler>>, log: &Mutex<Vec<Asked>>) {
    let Some(asked) = request(&mut stream).await else { return };
    log.lock().unwrap().push(asked.clone());
    let handler = Arc::clone(&*handler.lock().unwrap());
    match handler(&asked) {
        Answer::Whole(status, headers, body) => {
            let head =
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
        Answer::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
        }
        Answer::Slow => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n").await;
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Answer::Hang => {
            let _ = stream.read(&mut [0; 1]).await;
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let line = lines.next()?.strip_suffix(" HTTP/1.1")?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { line, headers, body: String::from_utf8(body).unwrap() })
}
