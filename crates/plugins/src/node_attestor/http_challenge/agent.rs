//! The agent's half: listens from the payload on, and answers with the nonce from the challenge
//! to the end of the attestation.

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use steeple_plugin::{Code, NodeEvidence, PluginError};
use steeple_runtime::{Drain, Tasks, Watcher, drain, gotext};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::config::AgentConfig;
use super::payload::{AttestationData, Challenge, json, path};
use super::{NAME, error};

/// Upstream's plugin interface does not let a response be empty.
const RESPONSE: &[u8] = b"\n";

/// For a connection. Nobody but the server has a reason to call, and it asks one thing.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest that an attestation takes; nothing is served for longer, whoever forgot to say
/// that it is over.
const LONGEST: Duration = Duration::from_secs(60);

/// Connections at once; anybody may call.
const AT_ONCE: usize = 16;

pub(super) struct Agent {
    config: AgentConfig,
    session: Mutex<Session>,
    tasks: Tasks,
}

/// An attestation under way, or none.
enum Session {
    None,
    Listening(TcpListener),
    // Dropped, it ends the serving.
    Serving(#[expect(dead_code, reason = "held for its drop")] Drain),
}

impl Agent {
    pub(super) fn new(config: AgentConfig) -> Self {
        Self { config, session: Mutex::new(Session::None), tasks: Tasks::new() }
    }

    fn replace(&self, session: Session) -> Session {
        std::mem::replace(
            &mut *self.session.lock().unwrap_or_else(PoisonError::into_inner),
            session,
        )
    }
}

#[async_trait]
impl NodeEvidence for Agent {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        self.replace(Session::None);
        let port = self.config.port;
        let failed = |failure: std::io::Error| {
            let reason = gotext::system(&failure);
            let text =
                format!("could not listen on port {port}: listen tcp :{port}: bind: {reason}");
            error(Code::Internal, text)
        };
        let listener = listen(port).await.map_err(failed)?;
        let advertised = match self.config.advertised_port {
            0 => listener.local_addr().map_err(failed)?.port(),
            port => port,
        };
        self.replace(Session::Listening(listener));
        Ok(json(&AttestationData {
            host_name: self.config.host_name.clone(),
            agent_name: self.config.agent_name.clone(),
            port: advertised.into(),
        }))
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let Session::Listening(listener) = self.replace(Session::None) else {
            return Err(error(Code::Internal, "server issued unexpected challenge"));
        };
        let challenge = Challenge::parse(challenge).map_err(|reason| {
            error(Code::Internal, format!("unable to unmarshal challenge: {reason}"))
        })?;
        let answer = Answer {
            path: path(&self.config.agent_name),
            nonce: Bytes::from(challenge.nonce + "\n"),
        };
        tracing::debug!(plugin_name = NAME, path = answer.path, "Setting up nonce handler");
        let (drain, watcher) = drain::channel();
        self.tasks.spawn_isolated(NAME, serve(listener, answer, watcher, self.tasks.clone()));
        self.replace(Session::Serving(drain));
        Ok(RESPONSE.to_vec())
    }

    async fn end(&self) {
        self.replace(Session::None);
    }
}

/// On all addresses of this host, of either family where it has both.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        other => other,
    }
}

/// What is served, and where.
#[derive(Clone)]
struct Answer {
    path: String,
    nonce: Bytes,
}

impl Answer {
    fn to(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let found = request.uri().path() == self.path;
        let body =
            if found { self.nonce.clone() } else { Bytes::from_static(b"404 page not found\n") };
        let mut response = Response::new(Full::new(body));
        if !found {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        response
    }
}

async fn serve(listener: TcpListener, answer: Answer, watcher: Watcher, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut over = watcher.clone();
    let accepting = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Too many open files, most likely: it passes.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (answer, mut over) = (answer.clone(), watcher.clone());
            tasks.spawn_isolated(NAME, async move {
                let _slot = slot;
                tokio::select! {
                    biased;
                    () = one(stream, &answer) => {}
                    () = over.signalled() => {}
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = over.signalled() => {}
        () = sleep(LONGEST) => {}
    }
}

async fn one(stream: TcpStream, answer: &Answer) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer.to(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(8 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever calls and does not ask properly gets no answer, and that is all.
    let _ = timeout(PATIENCE, connection).await;
}
