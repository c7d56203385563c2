//! The instance metadata service, version 2; an instance that only knows version 1 is asked by that,
//! as AWS's SDKs do.

use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, StatusCode};
use steeple_net::https::{self, FetchError, FetchLimits, Request, Trust};
use url::Url;

use crate::environment::Environment;
use crate::error::Attempts;
use crate::session::pause;

/// How long one answer may take, and how large it may be.
const LIMITS: FetchLimits = FetchLimits { deadline: Duration::from_secs(5), size: 64 * 1024 };

/// How long a token may take: where it cannot come (a container behind one hop too many), none
/// does.
const TOKEN_LIMITS: FetchLimits = FetchLimits { deadline: Duration::from_secs(2), size: MAX_TOKEN };

/// How often something is asked.
const MAX_ATTEMPTS: u32 = 3;

/// How long a token is asked for; it is used for the few requests that follow.
const TOKEN_SECONDS: HeaderValue = HeaderValue::from_static("300");

/// The longest token that is taken, in bytes.
const MAX_TOKEN: usize = 1024;

/// Why the service did not say it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImdsError {
    #[error(
        "access disabled to EC2 IMDS via client option, or \"AWS_EC2_METADATA_DISABLED\" environment variable"
    )]
    Disabled,
    #[error("failed to parse endpoint URL")]
    Endpoint,
    #[error("operation error ec2imds: {operation}, {attempts}{reason}")]
    Operation { operation: &'static str, attempts: Attempts, reason: ImdsReason },
}

/// What went wrong with an operation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImdsReason {
    #[error("http response error StatusCode: {0}, request to EC2 IMDS failed")]
    Status(u16),
    #[error(
        "failed to get API token, operation error ec2imds: getToken, http response error StatusCode: 400, request to EC2 IMDS failed"
    )]
    Token,
    #[error("request send failed, {method} {url:?}: {error}")]
    Send { method: &'static str, url: String, error: FetchError },
    #[error("the answer is not text")]
    Text,
}

/// A client of the service.
pub(crate) struct Imds {
    /// Scheme, host and port.
    base: Url,
    disabled: bool,
    v1_disabled: bool,
    /// How long one answer may take.
    deadline: Duration,
}

impl Imds {
    /// The service at `endpoint`, of which scheme, host and port count; without one, where the
    /// variables say, or where it always is.
    pub(crate) fn new(
        endpoint: Option<&str>,
        environment: &Environment,
    ) -> Result<Self, ImdsError> {
        let configured = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let ipv6 = environment
            .get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
            .is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
        let default = if ipv6 { "http://[fd00:ec2::254]" } else { "http://169.254.169.254" };
        let endpoint = endpoint.map(str::to_owned).or(configured);
        let mut base =
            Url::parse(endpoint.as_deref().unwrap_or(default)).map_err(|_| ImdsError::Endpoint)?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(ImdsError::Endpoint);
        }
        base.set_path("");
        base.set_query(None);
        base.set_fragment(None);
        Ok(Self {
            base,
            disabled: environment.is_true("AWS_EC2_METADATA_DISABLED"),
            v1_disabled: environment.is_true("AWS_EC2_METADATA_V1_DISABLED"),
            deadline: LIMITS.deadline,
        })
    }

    /// Waits no longer than this for an answer.
    #[cfg(test)]
    pub(crate) fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// A session with a token of its own.
    pub(crate) fn open(&self, operation: &'static str) -> Open<'_> {
        Open { imds: self, operation, token: None }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        header: Option<(&'static str, HeaderValue)>,
        limits: FetchLimits,
    ) -> Result<Bytes, ImdsReason> {
        let mut url = self.base.clone();
        url.set_path(path);
        let verb = if method == Method::PUT { "Put" } else { "Get" };
        let mut request = Request { method, ..Request::get(url.as_str()) };
        if let Some((name, mut value)) = header {
            value.set_sensitive(true);
            request.headers.insert(name, value);
        }
        let limits = FetchLimits { deadline: limits.deadline.min(self.deadline), ..limits };
        let reply = Box::pin(https::call(request, &Trust::System, limits)).await;
        let reply =
            reply.map_err(|error| ImdsReason::Send { method: verb, url: url.into(), error })?;
        match reply.status.is_success() {
            true => Ok(reply.body),
            false => Err(ImdsReason::Status(reply.status.as_u16())),
        }
    }
}

/// What is asked one after the other, with one token.
pub(crate) struct Open<'a> {
    imds: &'a Imds,
    operation: &'static str,
    /// The token, or that there is none to be had; unknown before the first question.
    token: Option<Option<HeaderValue>>,
}

impl Open<'_> {
    /// What is at a path below `/latest`.
    pub(crate) async fn get(&mut self, path: &str) -> Result<String, ImdsError> {
        if self.imds.disabled {
            return Err(ImdsError::Disabled);
        }
        let operation = self.operation;
        let failed = |attempts, reason| ImdsError::Operation { operation, attempts, reason };
        let mut attempt = 1;
        loop {
            let reason = match self.attempt(path).await {
                Ok(body) => {
                    let text = String::from_utf8(body.to_vec());
                    return text.map_err(|_| failed(Attempts::One, ImdsReason::Text));
                }
                Err(reason) => reason,
            };
            let again = match &reason {
                ImdsReason::Status(status) => {
                    // A token that expired is replaced.
                    let expired = *status == StatusCode::UNAUTHORIZED.as_u16();
                    if expired {
                        self.token = None;
                    }
                    expired || matches!(status, 500 | 502 | 503 | 504)
                }
                ImdsReason::Send { error, .. } => {
                    !matches!(error, FetchError::Url(_) | FetchError::TooLarge(_))
                }
                ImdsReason::Token | ImdsReason::Text => false,
            };
            if !again {
                return Err(failed(Attempts::One, reason));
            }
            if attempt == MAX_ATTEMPTS {
                return Err(failed(Attempts::All(MAX_ATTEMPTS), reason));
            }
            pause(attempt).await;
            attempt += 1;
        }
    }

    async fn attempt(&mut self, path: &str) -> Result<Bytes, ImdsReason> {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => {
                let token = self.fetch_token().await?;
                self.token = Some(token.clone());
                token
            }
        };
        let header = token.map(|token| ("x-aws-ec2-metadata-token", token));
        self.imds.ask(Method::GET, &format!("/latest{path}"), header, LIMITS).await
    }

    /// A token; none from a service that has none to give.
    async fn fetch_token(&self) -> Result<Option<HeaderValue>, ImdsReason> {
        let header = ("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
        let asked =
            self.imds.ask(Method::PUT, "/latest/api/token", Some(header), TOKEN_LIMITS).await;
        match asked {
            Ok(token) => Ok(HeaderValue::from_bytes(token.trim_ascii()).ok()),
            Err(ImdsReason::Status(400)) => Err(ImdsReason::Token),
            Err(reason) if self.imds.v1_disabled => Err(reason),
            Err(_) => Ok(None),
        }
    }
}
