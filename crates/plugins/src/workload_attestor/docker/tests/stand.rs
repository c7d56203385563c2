//! A daemon of a test's own, which answers what it is told to, with a process table beside it.

use std::fs;
use std::sync::{Arc, Mutex};

use steeple_hcl::Block;
use steeple_plugin::{HostContext, PluginError, WorkloadAttestor};
use steeple_runtime::Tasks;
use steeple_spiffe::TrustDomain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::super::{Docker, NAME, Settings};
use super::{FIRST, ID, PID};

/// What a request's path gets for an answer.
pub(super) type Answers = Vec<(String, Reply)>;

#[derive(Clone)]
pub(super) enum Reply {
    Json(u16, String),
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// Nothing, ever.
    Silence,
    /// Bytes without an end.
    Endless,
}

/// A daemon of our own, with the process table that goes with it.
pub(super) struct Stand {
    pub(super) folder: tempfile::TempDir,
    requests: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl Stand {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, requests: Arc::default(), tasks: Tasks::new() }
            .with(PID, "0::/docker/<id>\n")
            .with(FIRST, "0::/docker/<id>\n")
    }

    pub(super) fn with(self, pid: i32, cgroup: &str) -> Self {
        let process = self.folder.path().join("proc").join(pid.to_string());
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("cgroup"), cgroup.replace("<id>", ID)).unwrap();
        self
    }

    pub(super) fn socket(&self, name: &str) -> String {
        format!("unix://{}", self.folder.path().join(name).display())
    }

    /// Serves `answers` on the socket `name`; a path's answers in turn, the last for ever.
    pub(super) fn serve(&self, name: &str, answers: Answers) {
        let listener = UnixListener::bind(self.folder.path().join(name)).unwrap();
        let (requests, tasks) = (Arc::clone(&self.requests), self.tasks.clone());
        let answers = Arc::new(Mutex::new(answers));
        let inner = tasks.clone();
        tasks.spawn("daemon", async move {
            while let Ok((stream, _)) = listener.accept().await {
                inner.spawn(
                    "conversation",
                    converse(stream, Arc::clone(&requests), Arc::clone(&answers)),
                );
            }
        });
    }

    pub(super) fn attestor(&self, settings: &str) -> Docker {
        let host = HostContext::new(TrustDomain::parse("example.org").unwrap())
            .with_proc_root(Some(self.folder.path().join("proc")));
        let settings =
            format!("docker_socket_path = \"{}\"\n{settings}", self.socket("docker.sock"));
        Docker::new(Settings::read(Some(&Block::parse(&settings).unwrap())).unwrap().0, &host)
    }

    pub(super) async fn values(&self) -> Vec<String> {
        values(&self.attestor("")).await
    }

    pub(super) async fn failure(&self) -> PluginError {
        self.attestor("").attest(PID).await.unwrap_err()
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

pub(super) async fn values(attestor: &Docker) -> Vec<String> {
    let selectors = attestor.attest(PID).await.unwrap();
    assert!(selectors.iter().all(|it| &*it.kind == NAME));
    selectors.iter().map(|it| it.value.to_string()).collect()
}

async fn converse(
    mut stream: UnixStream,
    requests: Arc<Mutex<Vec<String>>>,
    answers: Arc<Mutex<Answers>>,
) {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let end = loop {
            match read.windows(4).position(|it| it == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => match stream.read(&mut buffer).await {
                    Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
                    _ => return,
                },
            }
        };
        let request: Vec<u8> = read.drain(..end).collect();
        let request = String::from_utf8(request).unwrap();
        let line = request.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        let (method, path) = line.split_once(' ').unwrap();
        requests.lock().unwrap().push(line.clone());
        let reply = if path == "/_ping" {
            let head = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\n";
            let body = if method == "GET" { "OK" } else { "" };
            Reply::Raw(format!("{head}{body}").into_bytes())
        } else {
            next(&mut answers.lock().unwrap(), path)
        };
        let bytes = match reply {
            Reply::Json(status, body) => format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
            Reply::Raw(bytes) => bytes,
            Reply::Silence => return std::future::pending().await,
            Reply::Endless => {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                if stream.write_all(head).await.is_err() {
                    return;
                }
                let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
                while stream.write_all(chunk.as_bytes()).await.is_ok() {}
                return;
            }
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn next(answers: &mut Answers, path: &str) -> Reply {
    let at = answers.iter().position(|(known, _)| known == path);
    let Some(at) = at else {
        return Reply::Json(404, format!("{{\"message\":\"no such thing: {path}\"}}"));
    };
    let more = answers.iter().filter(|(known, _)| known == path).count() > 1;
    if more { answers.remove(at).1 } else { answers[at].1.clone() }
}
