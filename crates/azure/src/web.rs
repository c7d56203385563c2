//! Calls to Azure's services: one seam, behind which is the network, or what was recorded.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use serde::de::DeserializeOwned;
use steeple_net::https::{self, FetchError, FetchLimits, Reply, Request, Trust};

/// How much of an answer that was not wanted an error shows, in bytes.
const EXCERPT: usize = 512;

/// Makes calls.
#[async_trait]
pub(crate) trait Web: Send + Sync {
    /// Makes one call; any status is an answer.
    async fn call(&self, request: Request, limits: FetchLimits) -> Result<Reply, FetchError>;
}

/// The network, with servers verified against the system's roots.
pub(crate) struct Network;

#[async_trait]
impl Web for Network {
    async fn call(&self, request: Request, limits: FetchLimits) -> Result<Reply, FetchError> {
        https::call(request, &Trust::System, limits).await
    }
}

/// Why something was not had from Azure.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CloudError {
    /// No answer.
    #[error("{0}")]
    Fetch(Arc<FetchError>),
    /// An answer with another status than 200.
    #[error("unexpected status code {status}: {excerpt}")]
    Status {
        /// The status.
        status: u16,
        /// How its body begins.
        excerpt: String,
    },
    /// The body is not what it should be.
    #[error("unable to decode response: {0}")]
    Decode(String),
    /// The answer lacks something, or has too much of it; says what.
    #[error("{0}")]
    Answer(String),
}

impl CloudError {
    pub(crate) fn answer(text: impl Into<String>) -> Self {
        Self::Answer(text.into())
    }
}

impl From<FetchError> for CloudError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(Arc::new(error))
    }
}

/// A deadline in seconds, and a size in KiB.
pub(crate) const fn limits(seconds: u64, kib: usize) -> FetchLimits {
    FetchLimits { deadline: Duration::from_secs(seconds), size: kib * 1024 }
}

/// The body of an answer with status 200.
pub(crate) fn ok(reply: Reply) -> Result<bytes::Bytes, CloudError> {
    match reply.status {
        StatusCode::OK => Ok(reply.body),
        other => Err(CloudError::Status { status: other.as_u16(), excerpt: excerpt(&reply.body) }),
    }
}

/// The JSON in an answer with status 200.
pub(crate) fn json<T: DeserializeOwned>(reply: Reply) -> Result<T, CloudError> {
    decode(&ok(reply)?)
}

/// Reads a JSON object, with Go's words for text that ends too early.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CloudError> {
    // serde would take a list for the fields of a struct.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(CloudError::Decode("it is a list".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| {
        CloudError::Decode(match error.is_eof() {
            true if body.trim_ascii().is_empty() => "EOF".to_owned(),
            true => "unexpected EOF".to_owned(),
            false => cut(&error.to_string(), EXCERPT).into_owned(),
        })
    })
}

/// How a body begins, on one line.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let beginning = &body[..body.len().min(EXCERPT)];
    let text = String::from_utf8_lossy(beginning);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The beginning of `text`, of at most `len` characters.
pub(crate) fn cut(text: &str, len: usize) -> Cow<'_, str> {
    match text.char_indices().nth(len) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Borrowed(&text[..end]),
    }
}

/// A text as Go's `%q` shows it, cut short, since it may be a stranger's.
pub(crate) fn quoted(text: &str) -> String {
    const MAX: usize = 200;
    format!("{:?}", cut(text, MAX))
}

/// Percent-encodes `text` for one segment of a path, or a value in a query or form. A segment
/// that URLs give a meaning (`.` and `..`) has no encoding: `None`.
pub(crate) fn encode_segment(text: &str) -> Option<String> {
    if text.is_empty() || text == "." || text == ".." { None } else { Some(encode(text)) }
}

/// Percent-encodes everything but unreserved characters (RFC 3986 §2.3).
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
        out
    })
}

#[cfg(test)]
pub(crate) mod recorded;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn nothing_but_unreserved_characters_goes_into_a_url() {
        assert_eq!(encode("a-b_c.d~e"), "a-b_c.d~e");
        assert_eq!(encode("a b/c'&=?#%é"), "a%20b%2Fc%27%26%3D%3F%23%25%C3%A9");
        assert_eq!(encode_segment(".."), None);
        assert_eq!(encode_segment("..."), Some("...".to_owned()));
    }

    #[test]
    fn words_of_strangers_are_cut_and_stay_on_one_line() {
        assert_eq!(excerpt(b"a\r\nb\x1b[2J"), "a  b [2J");
        assert_eq!(excerpt(&vec![b'x'; 10_000]).len(), EXCERPT);
        assert_eq!(quoted(&"é".repeat(1000)).chars().count(), 202);
    }

    #[test]
    fn text_that_ends_early_is_told_as_go_tells_it() {
        let refusal =
            |body: &str| decode::<HashMap<String, u8>>(body.as_bytes()).unwrap_err().to_string();
        assert_eq!(refusal(""), "unable to decode response: EOF");
        assert_eq!(refusal("{"), "unable to decode response: unexpected EOF");
        assert!(refusal("7").starts_with("unable to decode response: invalid type"));
        assert_eq!(refusal("[]"), "unable to decode response: it is a list");
    }
}
