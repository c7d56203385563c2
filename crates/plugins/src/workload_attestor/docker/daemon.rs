//! A conversation with a daemon: a connection, and the two or three questions that are asked on
//! it. Every answer has a limit; the deadline is the caller's.

use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use steeple_runtime::gotext;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::answer::{ContainerAnswer, ImageAnswer};
use super::container::shorten;
use super::endpoint::{Address, Endpoint};

/// The newest version of the protocol that we ask for; for what we ask, all are the same.
const NEWEST: Version = Version(1, 55);
/// The oldest that SPIRE's client speaks.
const OLDEST: Version = Version(1, 40);
/// Of one answer, in bytes. Labels and variables are what makes one large.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// Of an answer that is a complaint.
const MAX_COMPLAINT: usize = 16 * 1024;

const AGENT: &str = concat!("steeple/", env!("CARGO_PKG_VERSION"));

/// A version of Docker's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32);

impl Version {
    /// `1.41`, or `v1.41`; says what is wrong with it otherwise.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (major, minor) = text.split_once('.').ok_or("must be formatted <major>.<minor>")?;
        let major = major.parse();
        let minor = minor.parse();
        Ok(Self(
            major.map_err(|_| "invalid major version: must be formatted <major>.<minor>")?,
            minor.map_err(|_| "invalid minor version: must be formatted <major>.<minor>")?,
        ))
    }
}

/// Why a daemon's answer was not had.
#[derive(Debug, thiserror::Error)]
pub(super) enum DaemonError {
    #[error(
        "failed to connect to the docker API at {host}; check if the path is correct and if the \
         daemon is running: dial unix {path}: connect: no such file or directory"
    )]
    NoSocket { host: String, path: String },
    #[error("permission denied while trying to connect to the docker API at {host}")]
    Denied { host: String },
    #[error("Cannot connect to the Docker daemon at {host}. Is the docker daemon running?")]
    NotRunning { host: String },
    #[error("error during connect: {}", gotext::system(.0))]
    Connect(#[source] io::Error),
    #[error(
        "error during connect: the docker API at {host} broke off or does not speak HTTP: {error}"
    )]
    Http { host: String, error: hyper::Error },
    #[error("Error response from daemon: {0}")]
    Refused(String),
    #[error("the docker API's answer is larger than {MAX_ANSWER} bytes")]
    TooLarge,
    #[error("the docker API's answer about {what} cannot be read: {reason}")]
    Malformed { what: &'static str, reason: String },
    #[error("invalid container name or ID: value is empty")]
    NoId,
    #[error("{0:?} cannot be asked for")]
    Unspeakable(String),
}

/// An open connection.
pub(super) struct Session<'a> {
    endpoint: &'a Endpoint,
    sender: SendRequest<Empty<Bytes>>,
    /// Until it has ended; nobody but whoever waits for an answer drives it.
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    version: Version,
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

#[derive(Deserialize)]
struct Complaint {
    message: String,
}

impl<'a> Session<'a> {
    /// Connects; without a `version`, agrees on one with the daemon.
    pub(super) async fn open(
        endpoint: &'a Endpoint,
        version: Option<Version>,
    ) -> Result<Self, DaemonError> {
        let mut session = match &endpoint.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                Self::start(endpoint, stream.map_err(|error| refused(endpoint, error))?).await?
            }
            Address::Tcp(authority) => {
                let stream = TcpStream::connect(authority).await;
                Self::start(endpoint, stream.map_err(|error| refused(endpoint, error))?).await?
            }
        };
        session.version = match version {
            Some(version) => version,
            None => session.agree().await?,
        };
        Ok(session)
    }

    async fn start<S>(endpoint: &'a Endpoint, stream: S) -> Result<Self, DaemonError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| DaemonError::Http { host: endpoint.host.clone(), error })?;
        let connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>> =
            Box::pin(connection);
        Ok(Self { endpoint, sender, connection: Some(connection), version: NEWEST })
    }

    /// The lower of our version and the daemon's. A daemon that does not say gets ours.
    async fn agree(&mut self) -> Result<Version, DaemonError> {
        let path = format!("{}/_ping", self.endpoint.base);
        let mut answer = self.exchange(Method::HEAD, &path).await?;
        if answer.status != StatusCode::OK {
            answer = self.exchange(Method::GET, &path).await?;
        }
        let theirs = answer
            .headers
            .get("api-version")
            .and_then(|version| Version::parse(version.to_str().ok()?).ok());
        Ok(theirs.filter(|version| *version >= OLDEST).unwrap_or(NEWEST).min(NEWEST))
    }

    /// What the daemon knows of a container.
    pub(super) async fn container(&mut self, id: &str) -> Result<ContainerAnswer, DaemonError> {
        let id = id.trim();
        if id.is_empty() {
            return Err(DaemonError::NoId);
        }
        let body = self.get("containers", id).await?;
        read("the container", &body)
    }

    /// What the daemon knows of an image, by its id or name.
    pub(super) async fn image(&mut self, name: &str) -> Result<ImageAnswer, DaemonError> {
        let body = self.get("images", name).await?;
        read("the image", &body)
    }

    async fn get(&mut self, kind: &str, name: &str) -> Result<Bytes, DaemonError> {
        let Version(major, minor) = self.version;
        let path = format!(
            "{}/v{major}.{minor}/{kind}/{}/json",
            self.endpoint.base,
            escape(name).ok_or_else(|| DaemonError::Unspeakable(shorten(name).to_owned()))?
        );
        let answer = self.exchange(Method::GET, &path).await?;
        match answer.status.as_u16() {
            200..400 => Ok(answer.body),
            _ => Err(DaemonError::Refused(complaint(&answer))),
        }
    }

    async fn exchange(&mut self, method: Method, path: &str) -> Result<Answer, DaemonError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.endpoint.authority())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|_| DaemonError::Unspeakable(shorten(path).to_owned()))?;
        let Self { endpoint, sender, connection, .. } = self;
        let http = |error| DaemonError::Http { host: endpoint.host.clone(), error };
        let exchange = async {
            sender.ready().await.map_err(http)?;
            let response = sender.send_request(request).await.map_err(http)?;
            let (parts, body) = response.into_parts();
            let limit = match parts.status.as_u16() {
                200..400 => MAX_ANSWER,
                _ => MAX_COMPLAINT,
            };
            let body = collect(body, limit).await;
            let body = match body {
                Err(Collect::Http(error)) => return Err(http(error)),
                // Its beginning says enough of a complaint.
                Err(Collect::TooLarge(beginning)) if limit == MAX_COMPLAINT => beginning,
                Err(Collect::TooLarge(_)) => return Err(DaemonError::TooLarge),
                Ok(body) => body,
            };
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        let mut exchange = std::pin::pin!(exchange);
        loop {
            let Some(running) = connection.as_mut() else { return exchange.await };
            tokio::select! {
                biased;
                answer = exchange.as_mut() => return answer,
                ended = running => {
                    *connection = None;
                    ended.map_err(http)?;
                }
            }
        }
    }
}

enum Collect {
    Http(hyper::Error),
    TooLarge(Bytes),
}

async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes, Collect> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Collect::Http)?.into_data() else { continue };
        let room = limit - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return Err(Collect::TooLarge(read.freeze()));
        }
    }
    Ok(read.freeze())
}

fn read<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, DaemonError> {
    serde_json::from_slice(body).map_err(|error| DaemonError::Malformed {
        what,
        // The reason may quote the answer.
        reason: shorten(&error.to_string()).to_owned(),
    })
}

/// What a daemon said, as far as anybody wants to read it.
fn complaint(answer: &Answer) -> String {
    let json = answer
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let said = match json {
        true => serde_json::from_slice::<Complaint>(&answer.body).ok().map(|it| it.message),
        false => Some(String::from_utf8_lossy(&answer.body).into_owned()),
    };
    match said.as_deref().map(str::trim).filter(|said| !said.is_empty()) {
        Some(said) => shorten(said).to_owned(),
        None => format!(
            "API returned a {} ({}) but provided no error-message",
            answer.status.as_u16(),
            answer.status.canonical_reason().unwrap_or_default()
        ),
    }
}

fn refused(endpoint: &Endpoint, error: io::Error) -> DaemonError {
    let host = endpoint.host.clone();
    match (error.kind(), &endpoint.address) {
        (io::ErrorKind::NotFound, Address::Unix(path)) => {
            DaemonError::NoSocket { host, path: path.display().to_string() }
        }
        (io::ErrorKind::PermissionDenied, _) => DaemonError::Denied { host },
        (io::ErrorKind::ConnectionRefused, _) | (_, Address::Unix(_)) => {
            DaemonError::NotRunning { host }
        }
        _ => DaemonError::Connect(error),
    }
}

/// A name as a part of a path; none for one that would make another path of it.
fn escape(name: &str) -> Option<String> {
    if name.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return None;
    }
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'~'
            | b'/'
            | b':'
            | b'@'
            | b'+' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_the_path() {
        assert_eq!(escape("a/b:1@sha256:0").unwrap(), "a/b:1@sha256:0");
        assert_eq!(escape("a?b#c d%").unwrap(), "a%3Fb%23c%20d%25");
        for name in ["", ".", "..", "a//b", "../containers/x", "a/", "/a", "a/../b"] {
            assert_eq!(escape(name), None, "{name}");
        }
    }

    #[test]
    fn versions_are_two_numbers() {
        assert_eq!(Version::parse("v1.41").unwrap(), Version(1, 41));
        assert!(Version::parse("1.9").unwrap() < Version::parse("1.40").unwrap());
        assert_eq!(Version::parse("1").unwrap_err(), "must be formatted <major>.<minor>");
        assert!(Version::parse("x.1").unwrap_err().starts_with("invalid major version"));
        assert!(Version::parse("1.x").unwrap_err().starts_with("invalid minor version"));
    }
}
