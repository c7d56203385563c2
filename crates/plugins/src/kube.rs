//! A client of the Kubernetes API server, as small as what plugins ask of it: objects and their
//! metadata, lists read item by item, watches, discovery, reviews.
//!
//! Names that come from others become parts of paths only through [`segment`].

mod config;
mod exec;
mod items;
mod mapper;
mod reflector;
#[cfg(test)]
pub(crate) mod stand;
#[cfg(test)]
mod tests;
mod yaml;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use steeple_net::https::FetchError;
use steeple_net::https::session::{Reply, Session};
use steeple_runtime::gotext;
use tokio::time::Instant;
use zeroize::Zeroizing;

pub(crate) use config::{ClusterError, Environment, SERVICE_ACCOUNT};
pub(crate) use items::{Found, Items, MAX_ITEM, ScanError, member};
pub(crate) use mapper::{Mapper, Resource};
pub(crate) use reflector::{Progress, Reflector, Sink};

/// How long one question may take, a list's pages each by themselves.
const DEADLINE: Duration = Duration::from_secs(15);
/// How large an object may be.
const MAX_OBJECT: usize = MAX_ITEM;
/// How large a page of a list may be.
const MAX_PAGE: u64 = 512 * 1024 * 1024;
/// Items of one page.
const PAGE: usize = 500;
/// How long files that were read are good for.
const RELOAD: Duration = Duration::from_secs(60);
/// A watch on which nothing came for so long is made anew; servers send a bookmark each minute.
const IDLE: Duration = Duration::from_secs(150);
/// As much of an answer as an error repeats.
const EXCERPT: usize = 1024;

/// What an answer should be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Whole objects.
    Whole,
    /// Metadata alone.
    Metadata,
    /// A list of metadata.
    MetadataList,
}

/// Why there is no answer, or which one there is instead.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum KubeError {
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    /// The server says no; in its words.
    #[error("{message}")]
    Status { code: u16, reason: String, message: String },
    #[error("{method} {url:?}: {reason}")]
    Request { method: &'static str, url: String, reason: String },
    #[error("unable to decode the answer of the Kubernetes API server: {0}")]
    Decode(String),
    #[error("invalid resource name {0:?}")]
    Name(String),
}

impl KubeError {
    /// Whether there is no such object.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code, reason, .. } if reason == "NotFound" || *code == 404)
    }

    /// Whether a list or watch has to begin anew.
    fn is_expired(&self) -> bool {
        matches!(self, Self::Status { code, reason, .. }
            if *code == 410 || reason == "Expired" || reason == "Gone")
    }
}

/// Names and paths that a stranger chose, as one part of a path.
///
/// # Errors
/// When it could be anything but one part.
pub(crate) fn segment(name: &str) -> Result<String, KubeError> {
    let usable = !matches!(name, "" | "." | "..")
        && name.len() <= 253
        && !name.contains(['/', '%'])
        && !name.contains(char::is_control);
    if !usable {
        return Err(KubeError::Name(name.chars().take(64).collect()));
    }
    Ok(escape(name))
}

/// Escapes all that a path or a query does not take as it is.
pub(crate) fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").expect("a string takes any text"),
        }
        out
    })
}

/// The API server of the cluster that we are in, or that the environment names. Nothing is read
/// or asked before the first question.
pub(crate) struct Client {
    environment: Environment,
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// What a program of the kubeconfig made last.
    made: tokio::sync::Mutex<Option<exec::Made>>,
    max_object: usize,
}

/// The cluster as the files said at some time.
struct Loaded {
    session: Session,
    base: String,
    scheme: &'static str,
    token: Option<Zeroizing<String>>,
    files: config::Cluster,
    at: Instant,
}

/// What a list says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ListMetadata {
    #[serde(rename = "resourceVersion")]
    pub(crate) resource_version: String,
    #[serde(rename = "continue")]
    pub(crate) next: String,
}

impl Client {
    pub(crate) fn new(environment: Environment) -> Self {
        Self {
            environment,
            loaded: Mutex::default(),
            made: tokio::sync::Mutex::default(),
            max_object: MAX_OBJECT,
        }
    }

    /// Reads no object that is larger than this, in bytes.
    #[must_use]
    pub(crate) fn with_limit(mut self, bytes: usize) -> Self {
        self.max_object = bytes;
        self
    }

    /// Gets an object.
    ///
    /// # Errors
    /// When there is none, or no answer.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        form: Form,
    ) -> Result<T, KubeError> {
        self.whole(&Method::GET, path, form, &Bytes::new()).await
    }

    /// Creates an object; gives what the server made of it.
    ///
    /// # Errors
    /// When it does not want it, or there is no answer.
    pub(crate) async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        object: &(impl Serialize + Sync),
    ) -> Result<T, KubeError> {
        let body = Bytes::from(serde_json::to_vec(object).map_err(undecodable)?);
        self.whole(&Method::POST, path, Form::Whole, &body).await
    }

    /// Lists all objects at `path`, page by page, and hands each to `found`.
    ///
    /// # Errors
    /// When the server has no list, or something else.
    pub(crate) async fn list(
        &self,
        path: &str,
        form: Form,
        found: &mut (dyn FnMut(Found<'_>) + Send),
    ) -> Result<ListMetadata, KubeError> {
        let mut next = String::new();
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let mut page = format!("{path}{join}limit={PAGE}");
            if !next.is_empty() {
                page.push_str("&continue=");
                page.push_str(&escape(&next));
            }
            let metadata = self.page(&page, form, found).await?;
            if metadata.next.is_empty() {
                return Ok(metadata);
            }
            next = metadata.next;
        }
    }

    async fn page(
        &self,
        target: &str,
        form: Form,
        found: &mut (dyn FnMut(Found<'_>) + Send),
    ) -> Result<ListMetadata, KubeError> {
        let loaded = self.loaded().await?;
        let work = async {
            let mut reply = self.ask(&loaded, &Method::GET, target, form, &Bytes::new()).await?;
            let mut items = Items::new();
            let mut length = 0;
            while let Some(chunk) =
                reply.chunk().await.map_err(|error| loaded.failed(&Method::GET, target, &error))?
            {
                length += chunk.len() as u64;
                if length > MAX_PAGE {
                    return Err(KubeError::Decode(format!("larger than {MAX_PAGE} bytes")));
                }
                items.push(&chunk, &mut *found).map_err(undecodable)?;
            }
            match items.finish().map_err(undecodable)? {
                none if none.is_empty() => Ok(ListMetadata::default()),
                text => serde_json::from_slice(&text).map_err(undecodable),
            }
        };
        within(DEADLINE, &loaded, &Method::GET, target, work).await
    }

    /// Watches `path` until the server ends it; each event is handed to `event` as text, which
    /// may end it too. `begun` is told when the server agreed.
    ///
    /// # Errors
    /// When the server does not agree, or breaks off.
    pub(crate) async fn watch(
        &self,
        path: &str,
        form: Form,
        begun: impl FnOnce() + Send,
        mut event: impl FnMut(&[u8]) -> Result<(), KubeError> + Send,
    ) -> Result<(), KubeError> {
        const METHOD: Method = Method::GET;
        let loaded = self.loaded().await?;
        let nothing = Bytes::new();
        let ask = self.ask(&loaded, &METHOD, path, form, &nothing);
        let mut reply = within(DEADLINE, &loaded, &METHOD, path, ask).await?;
        begun();
        let mut held = Vec::new();
        loop {
            let chunk = match tokio::time::timeout(IDLE, reply.chunk()).await {
                Ok(chunk) => chunk.map_err(|error| loaded.failed(&METHOD, path, &error))?,
                Err(_) => return Ok(()),
            };
            let Some(chunk) = chunk else { return Ok(()) };
            let mut rest = &chunk[..];
            while let Some(end) = memchr::memchr(b'\n', rest) {
                held.extend_from_slice(&rest[..end]);
                rest = &rest[end + 1..];
                if !held.iter().all(u8::is_ascii_whitespace) {
                    event(&held)?;
                }
                held.clear();
            }
            held.extend_from_slice(rest);
            if held.len() > MAX_ITEM {
                return Err(KubeError::Decode(format!("an event is larger than {MAX_ITEM} bytes")));
            }
        }
    }

    async fn whole<T: DeserializeOwned>(
        &self,
        method: &Method,
        target: &str,
        form: Form,
        body: &Bytes,
    ) -> Result<T, KubeError> {
        let loaded = self.loaded().await?;
        let answer = self.once(&loaded, method, target, form, body).await;
        if !matches!(answer, Err(KubeError::Status { code: 401, .. })) {
            return answer;
        }
        // The files may have been replaced since they were read.
        let again = self.loaded().await?;
        if again.files == loaded.files {
            return answer;
        }
        self.once(&again, method, target, form, body).await
    }

    async fn once<T: DeserializeOwned>(
        &self,
        loaded: &Loaded,
        method: &Method,
        target: &str,
        form: Form,
        body: &Bytes,
    ) -> Result<T, KubeError> {
        let work = async {
            let mut reply = self.ask(loaded, method, target, form, body).await?;
            let text = reply
                .whole(self.max_object)
                .await
                .map_err(|error| loaded.failed(method, target, &error))?;
            serde_json::from_slice(&text).map_err(undecodable)
        };
        within(DEADLINE, loaded, method, target, work).await
    }

    async fn ask<'l>(
        &self,
        loaded: &'l Loaded,
        method: &Method,
        target: &str,
        form: Form,
        body: &Bytes,
    ) -> Result<Reply<'l>, KubeError> {
        let headers = loaded.headers(form)?;
        let target = format!("{}{target}", loaded.base);
        let mut reply = loaded
            .session
            .send(method, &target, &headers, body)
            .await
            .map_err(|error| loaded.failed(method, &target, &error))?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        if reply.status == StatusCode::UNAUTHORIZED {
            // The token may have been replaced.
            *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = None;
            if loaded.files.is_made() {
                self.made.lock().await.take_if(|made| made.age() > RELOAD);
            }
        }
        let code = reply.status.as_u16();
        let text = reply.whole(64 * 1024).await.unwrap_or_default();
        Err(refusal(code, &text))
    }

    /// The cluster as the files say, not longer ago than a minute.
    async fn loaded(&self) -> Result<Arc<Loaded>, KubeError> {
        let before = {
            let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            loaded.clone()
        };
        if let Some(loaded) = before.as_ref().filter(|it| it.at.elapsed() < RELOAD) {
            return Ok(Arc::clone(loaded));
        }
        let environment = self.environment.clone();
        let files = match tokio::task::spawn_blocking(move || environment.cluster()).await {
            Ok(files) => files?.complete(&self.made, SystemTime::now()).await?,
            Err(_) => return Err(KubeError::Decode("reading files stopped".to_owned())),
        };
        let loaded = Loaded::new(files, before)?;
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&loaded));
        Ok(loaded)
    }
}

impl Loaded {
    fn new(files: config::Cluster, before: Option<Arc<Self>>) -> Result<Arc<Self>, KubeError> {
        let at = Instant::now();
        // Kept connections go on serving while nothing changed.
        if let Some(before) = before
            && before.files == files
            && let Ok(before) = Arc::try_unwrap(before)
        {
            return Ok(Arc::new(Self { at, ..before }));
        }
        let session = files.session()?;
        Ok(Arc::new(Self {
            session,
            base: files.base.clone(),
            scheme: files.scheme(),
            token: files.token(),
            files,
            at,
        }))
    }

    fn headers(&self, form: Form) -> Result<Vec<(HeaderName, HeaderValue)>, KubeError> {
        let accept = match form {
            Form::Whole => "application/json",
            Form::Metadata => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
            Form::MetadataList => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
            }
        };
        let mut headers = vec![(ACCEPT, HeaderValue::from_static(accept))];
        if let Some(token) = &self.token {
            let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut value = HeaderValue::from_str(&bearer)
                .map_err(|_| ClusterError::Invalid("the token cannot be sent".to_owned()))?;
            value.set_sensitive(true);
            headers.push((AUTHORIZATION, value));
        }
        Ok(headers)
    }

    fn failed(&self, method: &Method, target: &str, error: &FetchError) -> KubeError {
        let reason = match error {
            FetchError::Connect(error) => gotext::system(error),
            other => other.to_string().chars().take(EXCERPT).collect(),
        };
        self.request_failed(method, target, reason)
    }

    fn request_failed(&self, method: &Method, target: &str, reason: String) -> KubeError {
        let url = format!("{}://{}{target}", self.scheme, self.session.authority());
        let method = if method == Method::POST { "Post" } else { "Get" };
        KubeError::Request { method, url, reason }
    }
}

async fn within<T>(
    deadline: Duration,
    loaded: &Loaded,
    method: &Method,
    target: &str,
    work: impl Future<Output = Result<T, KubeError>>,
) -> Result<T, KubeError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => {
            let reason = "context deadline exceeded".to_owned();
            Err(loaded.request_failed(method, target, reason))
        }
    }
}

fn undecodable(error: impl std::fmt::Display) -> KubeError {
    KubeError::Decode(error.to_string().chars().take(EXCERPT).collect())
}

/// An answer that is none: the server's own status, or what Go's client makes of the number.
fn refusal(code: u16, text: &[u8]) -> KubeError {
    #[derive(Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Status {
        kind: String,
        message: String,
        reason: String,
    }
    let status: Status = serde_json::from_slice(text).unwrap_or_default();
    if status.kind == "Status" && !status.message.is_empty() {
        let message = status.message.chars().take(EXCERPT).collect();
        return KubeError::Status { code, reason: status.reason, message };
    }
    let message = match code {
        409 => "the server reported a conflict".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => "access is forbidden".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later"
            .to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still \
                be processing the request"
            .to_owned(),
        code => format!(
            "the server responded with the status code {code} but did not return more information"
        ),
    };
    KubeError::Status { code, reason: String::new(), message }
}
