//! How calls fail, in the words that AWS's SDK for Go has for it, which SPIRE's users know.

use steeple_net::https::FetchError;

use crate::credentials::CredentialsError;

/// As much of an answer's words as is repeated, in characters.
const MAX_ECHO: usize = 512;

/// Why an operation of an API failed.
#[derive(Debug, thiserror::Error)]
#[error("operation error {service}: {operation}, {attempts}{reason}")]
pub(crate) struct ApiError {
    pub(crate) service: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) attempts: Attempts,
    pub(crate) reason: Reason,
}

/// How often it was tried, where it was tried as often as may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempts {
    One,
    All(u32),
}

impl std::fmt::Display for Attempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One => Ok(()),
            Self::All(count) => write!(f, "exceeded maximum number of attempts, {count}, "),
        }
    }
}

/// What failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    /// There is nothing to sign with.
    #[error("get identity: get credentials: failed to refresh cached credentials, {0}")]
    Credentials(#[from] Box<CredentialsError>),
    /// The request could not be signed.
    #[error("failed to sign request: {0}")]
    Sign(String),
    /// There is no server to ask in this region.
    #[error("not found, ResolveEndpointV2")]
    Endpoint,
    /// The server did not answer.
    #[error("request send failed, {method} {url:?}: {error}")]
    Send { method: &'static str, url: String, error: FetchError },
    /// The server refused.
    #[error("https response error StatusCode: {status}, RequestID: {request}, {what}")]
    Answer { status: u16, request: String, what: Refusal },
    /// The answer is not what it should be.
    #[error("deserialization failed, {0}")]
    Malformed(&'static str),
}

/// What a server says when it refuses.
#[derive(Debug)]
pub(crate) enum Refusal {
    Api {
        code: String,
        message: String,
    },
    /// It is not AWS's way of saying it.
    Unknown,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Api { code, message } => write!(f, "api error {code}: {message}"),
            Self::Unknown => f.write_str("api error UnknownError: UnknownError"),
        }
    }
}

impl Reason {
    /// Whether the same request may succeed soon.
    pub(crate) fn is_transient(&self) -> bool {
        const THROTTLED: [&str; 14] = [
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "RequestThrottledException",
            "TooManyRequestsException",
            "ProvisionedThroughputExceededException",
            "TransactionInProgressException",
            "RequestLimitExceeded",
            "BandwidthLimitExceeded",
            "LimitExceededException",
            "RequestThrottled",
            "SlowDown",
            "EC2ThrottledException",
            "RequestTimeout",
        ];
        match self {
            Self::Send { error, .. } => {
                !matches!(error, FetchError::Url(_) | FetchError::TooLarge(_))
            }
            Self::Answer { status, what, .. } => {
                matches!(status, 500 | 502 | 503 | 504)
                    || matches!(what, Refusal::Api { code, .. } if THROTTLED.contains(&&**code))
            }
            _ => false,
        }
    }
}

/// Words of a server that may be repeated: short, and on one line.
pub(crate) fn words(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ECHO).collect()
}
