//! The kubelet: where it is, who we are to it, and its list of pods.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use steeple_net::https::FetchError;
use steeple_net::https::session::{ClientIdentity, ServerCheck, Session, certificates};
use steeple_runtime::gotext;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::config::{KubeletAuth, KubeletConfig};
use super::pods::{Pod, PodError, Pods};
use crate::kube::{Found, Items, ScanError};

/// How large one may be: many times what the largest nodes have.
const MAX_LIST: u64 = 512 * 1024 * 1024;
/// How large the files may be.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// As much of an answer as an error repeats.
const EXCERPT: usize = 1024;

/// Why there is no list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KubeletError {
    #[error("unable to load {what}: {reason}")]
    Load { what: &'static str, reason: String },
    #[error("unable to parse kubelet CA: {0}")]
    Authorities(String),
    #[error("{0}")]
    Config(String),
    #[error("unable to perform request: Get {url:?}: {reason}")]
    Request { url: String, reason: String },
    #[error("unexpected status code on pods response: {0} {1}")]
    Status(u16, String),
    #[error("unable to read pods response: {0}")]
    Read(String),
    #[error("unable to read pods response: it is larger than {MAX_LIST} bytes")]
    TooLarge,
    #[error("unable to parse kubelet response: {0}")]
    Parse(ScanError),
    #[error("invalid kubelet response: {0}")]
    NoList(ScanError),
}

/// A kubelet, as the files said at some time.
pub(crate) struct Kubelet {
    config: KubeletConfig,
    files: Files,
    session: Session,
    loaded: Instant,
}

/// What the files held; a session is made anew when any but the token changed.
#[derive(PartialEq, Eq)]
struct Files {
    authorities: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    token: Option<Zeroizing<String>>,
}

/// Reads what a configuration names. Blocks for as long as the disk does.
impl Files {
    fn load(config: &KubeletConfig) -> Result<Self, KubeletError> {
        let mut files = Self { authorities: None, identity: None, token: None };
        if !config.secure {
            return Ok(files);
        }
        if config.verify {
            files.authorities = Some(read(&config.ca_path, "kubelet CA")?);
        }
        match &config.auth {
            KubeletAuth::Anonymous => {}
            KubeletAuth::Half(problem) => return Err(KubeletError::Config((*problem).to_owned())),
            KubeletAuth::Certificate { certificate, key } => {
                let certificate = read(certificate, "certificate")?;
                let key = Zeroizing::new(read(key, "private key")?);
                files.identity = Some((certificate, key));
            }
            KubeletAuth::Token(path) => {
                let text = Zeroizing::new(read(path, "token")?);
                let text = String::from_utf8_lossy(&text).trim().to_owned();
                files.token = Some(Zeroizing::new(text));
            }
        }
        Ok(files)
    }

    fn session(&self, config: &KubeletConfig) -> Result<Session, KubeletError> {
        if !config.secure {
            return Ok(Session::plain(LOCAL, config.port));
        }
        let check = match &self.authorities {
            None => ServerCheck::Nobody,
            Some(pem) => {
                let authorities =
                    certificates(pem).map_err(|it| KubeletError::Authorities(it.to_string()))?;
                match config.node_name.as_str() {
                    "" => ServerCheck::Chain(authorities),
                    _ => ServerCheck::Name(authorities),
                }
            }
        };
        let unpaired =
            |reason: String| KubeletError::Config(format!("unable to load keypair: {reason}"));
        let identity = match &self.identity {
            None => None,
            Some((certificate, key)) => Some(
                ClientIdentity::from_pem(certificate, key)
                    .map_err(|reason| unpaired(reason.to_string()))?,
            ),
        };
        let host = if config.node_name.is_empty() { LOCAL } else { &config.node_name };
        Session::tls(host, config.port, &check, identity.as_ref())
            .map_err(|error| KubeletError::Config(error.to_string()))
    }
}

const LOCAL: &str = "127.0.0.1";

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, KubeletError> {
    let reason = match steeple_runtime::fsx::read_limited(path, MAX_FILE) {
        Ok(Some(contents)) => return Ok(contents),
        Ok(None) => format!("open {}: no such file or directory", path.display()),
        Err(error) => gotext::system(&error),
    };
    Err(KubeletError::Load { what, reason })
}

impl Kubelet {
    /// Reads the files that a configuration names, and keeps what `before` has if they are the
    /// same. Blocks for as long as the disk does.
    pub(crate) fn load(
        config: &KubeletConfig,
        before: Option<Arc<Self>>,
        now: Instant,
    ) -> Result<Arc<Self>, KubeletError> {
        let files = Files::load(config)?;
        if let Some(before) = before
            && before.files == files
            && let Ok(mut before) = Arc::try_unwrap(before)
        {
            before.loaded = now;
            return Ok(Arc::new(before));
        }
        let session = files.session(config)?;
        Ok(Arc::new(Self { config: config.clone(), files, session, loaded: now }))
    }

    /// Whether the files are due to be read again.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        now.duration_since(self.loaded) >= self.config.reload_interval
    }

    /// Asks for the pods of the node, and reads them as they come.
    pub(crate) async fn pods(&self) -> Result<Pods, KubeletError> {
        match tokio::time::timeout(self.config.deadline, self.fetch()).await {
            Ok(result) => result,
            Err(_) => Err(self.failed("context deadline exceeded")),
        }
    }

    async fn fetch(&self) -> Result<Pods, KubeletError> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        if let Some(token) = self.files.token.as_ref().filter(|token| !token.is_empty()) {
            let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut value = HeaderValue::from_str(&bearer).map_err(|_| {
                self.failed("net/http: invalid header field value for \"Authorization\"")
            })?;
            value.set_sensitive(true);
            headers.push((AUTHORIZATION, value));
        }
        let mut reply = self
            .session
            .send(&Method::GET, "/pods", &headers, &Bytes::new())
            .await
            .map_err(|error| self.failed(&reason(&error)))?;
        if reply.status != StatusCode::OK {
            let text = reply.excerpt(EXCERPT).await;
            return Err(KubeletError::Status(reply.status.as_u16(), text));
        }
        let mut items = Items::new();
        let mut pods = Pods::default();
        let mut length = 0;
        while let Some(chunk) =
            reply.chunk().await.map_err(|error| KubeletError::Read(reason(&error)))?
        {
            length += chunk.len() as u64;
            if length > MAX_LIST {
                return Err(KubeletError::TooLarge);
            }
            items.push(&chunk, |found| add(&mut pods, found)).map_err(wrong)?;
        }
        items.finish().map_err(wrong)?;
        Ok(pods)
    }

    fn failed(&self, reason: &str) -> KubeletError {
        let scheme = if self.config.secure { "https" } else { "http" };
        let url = format!("{scheme}://{}/pods", self.session.authority());
        KubeletError::Request { url, reason: reason.to_owned() }
    }
}

/// Adds what was found to `pods`; tells of what is not usable.
pub(crate) fn add(pods: &mut Pods, found: Found<'_>) {
    match found {
        Found::Item(text) => {
            let pod = Pod::parse(text);
            if matches!(pod, Err(PodError::NoUid)) {
                tracing::warn!(
                    plugin_name = super::NAME,
                    plugin_type = "WorkloadAttestor",
                    "Pod has no UID"
                );
            }
            pods.insert(pod);
        }
        Found::TooLarge => tracing::warn!(
            plugin_name = super::NAME,
            plugin_type = "WorkloadAttestor",
            limit = crate::kube::MAX_ITEM,
            "Pod is larger than may be, and left out"
        ),
    }
}

fn wrong(error: ScanError) -> KubeletError {
    match error {
        ScanError::NoObject | ScanError::NoItems => KubeletError::NoList(error),
        ScanError::Truncated | ScanError::Syntax(_) => KubeletError::Parse(error),
    }
}

/// Why, without the peer's own words at length.
pub(crate) fn reason(error: &FetchError) -> String {
    match error {
        FetchError::Connect(error) => gotext::system(error),
        FetchError::Http(error) if error.is_incomplete_message() => "EOF".to_owned(),
        other => other.to_string().chars().take(EXCERPT).collect(),
    }
}
