//! One look at a bundle endpoint.

use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use steeple_net::https::{self, FetchError, FetchLimits, Trust};
use steeple_pki::bundle::{self, Bundle, BundleError, MAX_DOCUMENT_LEN};
use steeple_spiffe::{SpiffeId, TrustDomain};

use crate::relationship::Relationship;

/// From looking up the endpoint's name to the last byte of its answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// As much of an endpoint's own words as an error repeats, in characters.
const EXCERPT: usize = 100;

/// Gets bundles from endpoints.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// The bundle of `of`, from the endpoint of `from`, if `trust` accepts who answers there.
    async fn fetch(
        &self,
        of: &TrustDomain,
        from: &Relationship,
        trust: &Trust,
    ) -> Result<Bundle, FetchBundleError>;
}

/// Why an endpoint gave no bundle. The texts are SPIRE's as far as it has one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchBundleError {
    /// No answer; holds the URL and the reason.
    #[error("failed to fetch bundle: Get \"{0}\": {1}")]
    Get(String, String),
    /// The endpoint of a web server shows an SVID.
    #[error(
        "failed to authenticate bundle endpoint using web authentication but the server \
         certificate contains SPIFFE ID \"{id}\": maybe use https_spiffe instead of https_web: \
         Get \"{url}\": {reason}"
    )]
    MaybeSpiffe {
        /// Whose SVID it is.
        id: SpiffeId,
        /// The URL.
        url: String,
        /// Why web PKI refused it.
        reason: String,
    },
    /// An answer that is not the bundle; holds the status and the beginning of the answer.
    #[error("unexpected status {status} fetching bundle: {excerpt}")]
    Status {
        /// The status.
        status: u16,
        /// The answer's first words.
        excerpt: String,
    },
    /// The document is none.
    #[error("failed to decode bundle: {0}")]
    Decode(BundleError),
    /// The document is one, of no use.
    #[error("{0}")]
    Bundle(BundleError),
}

/// Gets bundles over HTTPS.
#[derive(Clone, Copy, Debug)]
pub struct HttpsFetch(FetchLimits);

impl HttpsFetch {
    /// With the limits that a peer is held to.
    #[must_use]
    pub fn new() -> Self {
        Self(FetchLimits { deadline: DEADLINE, size: MAX_DOCUMENT_LEN })
    }
}

impl Default for HttpsFetch {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Fetch for HttpsFetch {
    async fn fetch(
        &self,
        of: &TrustDomain,
        from: &Relationship,
        trust: &Trust,
    ) -> Result<Bundle, FetchBundleError> {
        let answer = https::ask(&from.url, trust, self.0).await;
        let answer = answer.map_err(|error| no_answer(from, error))?;
        if answer.status != StatusCode::OK {
            let (status, excerpt) = (answer.status.as_u16(), excerpt(&answer.body));
            return Err(FetchBundleError::Status { status, excerpt });
        }
        parse(of, &answer.body)
    }
}

fn parse(of: &TrustDomain, document: &[u8]) -> Result<Bundle, FetchBundleError> {
    bundle::parse(of.clone(), document).map_err(|error| match error {
        BundleError::Json(_) | BundleError::Key(..) => FetchBundleError::Decode(error),
        error => FetchBundleError::Bundle(error),
    })
}

fn no_answer(from: &Relationship, error: FetchError) -> FetchBundleError {
    let url = from.shown_url();
    match error {
        FetchError::SpiffeServer { id, reason } => {
            FetchBundleError::MaybeSpiffe { id, url, reason: reason.to_string() }
        }
        other => FetchBundleError::Get(url, other.to_string()),
    }
}

/// The beginning of an answer, fit for a log.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let show = |character: char| match character {
        '\n' => vec!['\n'],
        other if other.is_control() => other.escape_default().collect(),
        other => vec![other],
    };
    text.chars().take(EXCERPT).flat_map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::domain;

    #[test]
    fn documents_that_are_none_are_told_from_those_of_no_use() {
        let why = |text: &str| parse(&domain("a"), text.as_bytes()).unwrap_err().to_string();
        assert!(why("<html>").starts_with("failed to decode bundle: "));
        assert!(why("").starts_with("failed to decode bundle: "));
        let key = r#""kty":"EC","crv":"P-256","x":"fK-wKTnKL7KFLM27lqq5DC-bxrVaH6rDV-IcCSEOeL4","y":"wq-g3TQWxYlV51TCPH030yXsRxvujD4hUUaIQrXk4KI""#;
        assert_eq!(why(&format!("{{\"keys\":[{{{key}}}]}}")), "missing use for key entry 0");
        assert_eq!(
            why(&format!("{{\"keys\":[{{\"use\":\"spiffe\",{key}}}]}}")),
            "unrecognized use \"spiffe\" for key entry 0"
        );
        assert_eq!(
            why(&format!("{{\"keys\":[{{\"use\":\"x509-svid\",{key}}}]}}")),
            "expected a single certificate in x509-svid entry 0; got 0"
        );
        assert_eq!(
            why(&format!("{{\"keys\":[{{\"use\":\"jwt-svid\",{key}}}]}}")),
            "missing key ID in jwt-svid entry 0"
        );
    }

    #[test]
    fn an_answer_is_repeated_in_part_and_without_control_characters() {
        assert_eq!(excerpt(b"404 page not found\n"), "404 page not found\n");
        assert_eq!(excerpt(b"\x1b[31mred"), "\\u{1b}[31mred");
        assert_eq!(excerpt(&[b'x'; 1000]).len(), EXCERPT);
    }
}
