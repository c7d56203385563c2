//! Calls of AWS's APIs: where they go, signed with what, tried how often.

mod endpoint;
mod sign;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use steeple_net::https::{self, FetchLimits, Request, Trust};
use steeple_runtime::Clock;

use crate::credentials::Provider;
use crate::environment::Environment;
use crate::error::{ApiError, Attempts, Reason, Refusal, words};

pub(crate) use endpoint::{AUTO_SCALING, EC2, EKS, IAM, ORGANIZATIONS, STS, Service, is_region};

/// How long one attempt may take, and how large an answer may be.
const LIMITS: FetchLimits =
    FetchLimits { deadline: Duration::from_secs(20), size: 8 * 1024 * 1024 };

/// How often a call is tried, as AWS's SDKs do.
const MAX_ATTEMPTS: u32 = 3;

/// The longest pause between two attempts, in units.
const MAX_PAUSE: u32 = 20;

/// Up to how long the first pause is.
const UNIT: Duration = if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(1) };

/// The world as seen by whoever calls AWS.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) environment: Environment,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) trust: Trust,
}

/// Where a region's APIs are, and what to sign calls with.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) region: String,
    pub(crate) credentials: Arc<Provider>,
    pub(crate) world: World,
}

/// One call.
pub(crate) struct Call {
    pub(crate) service: &'static Service,
    pub(crate) operation: &'static str,
    pub(crate) method: Method,
    /// Path and query, percent-encoded.
    pub(crate) target: String,
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) body: String,
    /// Whether it is signed; AssumeRoleWithWebIdentity is not.
    pub(crate) signed: bool,
}

impl Call {
    /// A call in the query protocol, which EC2, IAM, STS and Auto Scaling speak.
    pub(crate) fn query(
        service: &'static Service,
        operation: &'static str,
        version: &str,
        parameters: &[(String, String)],
    ) -> Self {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.append_pair("Action", operation).append_pair("Version", version);
        for (name, value) in parameters {
            body.append_pair(name, value);
        }
        Self {
            service,
            operation,
            method: Method::POST,
            target: "/".to_owned(),
            headers: &[("content-type", "application/x-www-form-urlencoded")],
            body: body.finish(),
            signed: true,
        }
    }

    pub(crate) fn malformed(&self, what: &'static str) -> ApiError {
        self.failed(Attempts::One, Reason::Malformed(what))
    }

    fn failed(&self, attempts: Attempts, reason: Reason) -> ApiError {
        ApiError { service: self.service.id, operation: self.operation, attempts, reason }
    }
}

impl Session {
    /// Makes a call, again where it may help, and gives the body of the answer. The caller limits
    /// the time that all of it may take.
    pub(crate) async fn call(&self, call: &Call) -> Result<Bytes, ApiError> {
        let mut attempt = 1;
        loop {
            let reason = match Box::pin(self.attempt(call)).await {
                Ok(body) => return Ok(body),
                Err(reason) => reason,
            };
            if !reason.is_transient() {
                return Err(call.failed(Attempts::One, reason));
            }
            if attempt == MAX_ATTEMPTS {
                return Err(call.failed(Attempts::All(MAX_ATTEMPTS), reason));
            }
            pause(attempt).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, call: &Call) -> Result<Bytes, Reason> {
        let place =
            call.service.endpoint(&self.region, &self.world.environment).ok_or(Reason::Endpoint)?;
        let url = format!("{}{}", place.url, call.target);
        let mut headers = HeaderMap::new();
        for (name, value) in call.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        if call.signed {
            let credentials = self.credentials.credentials(self).await.map_err(Box::new)?;
            let request = sign::Signable {
                method: &call.method,
                url: &url,
                headers: &headers,
                body: call.body.as_bytes(),
            };
            let now = self.world.clock.now();
            let signature =
                sign::sign(&request, &credentials, call.service.signing, &place.region, now)
                    .map_err(Reason::Sign)?;
            headers.extend(signature);
        }
        let method = if call.method == Method::GET { "Get" } else { "Post" };
        // A query may hold what is not for everybody's eyes.
        let shown = url.split('?').next().unwrap_or_default().to_owned();
        let body = Bytes::from(call.body.clone());
        let request = Request { method: call.method.clone(), url, headers, body };
        let reply = https::call(request, &self.world.trust, LIMITS)
            .await
            .map_err(|error| Reason::Send { method, url: shown, error })?;
        if reply.status.is_success() {
            return Ok(reply.body);
        }
        Err(refusal(reply.status.as_u16(), &reply.headers, &reply.body))
    }
}

/// Waits before the next attempt: up to a unit after the first, up to twice that after the second.
pub(crate) async fn pause(attempt: u32) {
    let most = 1_u32.checked_shl(attempt - 1).unwrap_or(MAX_PAUSE).min(MAX_PAUSE);
    tokio::time::sleep((UNIT * most).mul_f64(fastrand::f64())).await;
}

/// What an answer other than success says, in whichever of the protocols.
fn refusal(status: u16, headers: &HeaderMap, body: &[u8]) -> Reason {
    let header = |name: &str| headers.get(name)?.to_str().ok().map(words);
    let is_json = headers
        .get(CONTENT_TYPE)
        .and_then(|it| it.to_str().ok())
        .is_some_and(|it| it.contains("json"));
    let (found, request) = match is_json {
        true => (json_refusal(header("x-amzn-errortype"), body), None),
        false => xml_refusal(body),
    };
    let request = header("x-amzn-requestid").or(request).unwrap_or_default();
    let what = match found {
        Some((code, message)) => Refusal::Api { code: words(&code), message: words(&message) },
        None => Refusal::Unknown,
    };
    Reason::Answer { status, request, what }
}

fn json_refusal(kind: Option<String>, body: &[u8]) -> Option<(String, String)> {
    #[derive(serde::Deserialize, Default)]
    struct Body {
        #[serde(rename = "__type")]
        kind: Option<String>,
        code: Option<String>,
        #[serde(alias = "Message", alias = "errorMessage")]
        message: Option<String>,
    }
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    let kind = kind.or(body.kind).or(body.code)?;
    // `aws.protocol#Code:http://…` says no more than `Code`.
    let code = kind.split(':').next().unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default();
    Some((code.to_owned(), body.message.unwrap_or_default()))
}

fn xml_refusal(body: &[u8]) -> (Option<(String, String)>, Option<String>) {
    let Some(document) = crate::xml::parse(body) else { return (None, None) };
    let root = document.root_element();
    let text = |path: &[&str]| crate::xml::text(root, path);
    let request = text(&["RequestId"]).or_else(|| text(&["RequestID"])).map(|it| words(&it));
    let found = [&["Error"][..], &["Errors", "Error"]].into_iter().find_map(|path| {
        let error = crate::xml::at(root, path)?;
        let code = crate::xml::text(error, &["Code"])?;
        Some((code, crate::xml::text(error, &["Message"]).unwrap_or_default()))
    });
    (found, request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: &'static str, body: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        refusal(403, &headers, body.as_bytes()).to_string()
    }

    #[test]
    fn refusals_are_repeated_in_the_sdks_words() {
        let ec2 = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are \
                   not authorized.</Message></Error></Errors><RequestID>r-1</RequestID></Response>";
        let expected = "https response error StatusCode: 403, RequestID: r-1, \
                        api error UnauthorizedOperation: You are not authorized.";
        assert_eq!(said("text/xml", ec2), expected);
        let iam = "<ErrorResponse xmlns='https://iam/'><Error><Type>Sender</Type><Code>NoSuchEntity\
                   </Code><Message>none</Message></Error><RequestId>r-2</RequestId></ErrorResponse>";
        let expected =
            "https response error StatusCode: 403, RequestID: r-2, api error NoSuchEntity: none";
        assert_eq!(said("text/xml", iam), expected);
        let json = r#"{"__type":"x.y#AccessDeniedException:http://x","Message":"no"}"#;
        let expected = "https response error StatusCode: 403, RequestID: , api error AccessDeniedException: no";
        assert_eq!(said("application/x-amz-json-1.1", json), expected);
        for (kind, body) in [("text/html", "<html>"), ("application/json", "x"), ("a", "\u{1}")] {
            assert!(said(kind, body).ends_with("api error UnknownError: UnknownError"), "{body}");
        }
    }

    #[test]
    fn a_servers_words_are_repeated_on_one_line_and_not_at_length() {
        let long = format!(
            "<E><Error><Code>C</Code><Message>a\nb{}</Message></Error></E>",
            "x".repeat(9000)
        );
        let said = said("text/xml", &long);
        assert!(said.len() < 700 && !said.contains('\n') && said.contains("a bx"), "{said}");
    }
}
