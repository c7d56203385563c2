//! Calls to Google and to the metadata server.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use steeple_net::https::{self, FetchError, FetchLimits, Reply, Request, Trust};

/// How long one call may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// As much of an answer as an error repeats, in characters.
const MAX_ECHO: usize = 512;

/// Marks the question, and the answer, of who knows that it is about metadata.
pub(crate) const FLAVOR: (HeaderName, HeaderValue) =
    (HeaderName::from_static("metadata-flavor"), HeaderValue::from_static("Google"));

/// How calls are made.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    pub(crate) trust: Trust,
    pub(crate) deadline: Duration,
    /// Whether secrets may go to servers without TLS: never but in tests.
    pub(crate) plain: bool,
}

impl Default for Web {
    fn default() -> Self {
        Self { trust: Trust::System, deadline: DEADLINE, plain: false }
    }
}

impl Web {
    /// Makes a call whose answer has at most `size` bytes.
    pub(crate) async fn call(&self, request: Request, size: usize) -> Result<Reply, FetchError> {
        let limits = FetchLimits { deadline: self.deadline, size };
        // TLS and HTTP are large; whoever calls is not to be.
        Box::pin(https::call(request, &self.trust, limits)).await
    }

    /// Whether `url` may be sent a secret.
    pub(crate) fn may_have_secrets(&self, url: &str) -> bool {
        self.plain || url.starts_with("https://")
    }
}

/// The host and port of a metadata server's URLs, which is spoken to in the clear.
pub(crate) fn metadata_url(host: &str, path: &str) -> Result<url::Url, url::ParseError> {
    let mut url = url::Url::parse(&format!("http://{host}/"))?;
    url.set_path(path);
    Ok(url)
}

/// A text of somebody else's, as much of it as an error repeats.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}
