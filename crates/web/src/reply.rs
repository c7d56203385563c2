//! Answers as Go's `net/http` words them, which is what clients of SPIRE's endpoints know.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, StatusCode};
use http_body_util::Full;

use crate::Response;

const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// `body` with the media type `content_type`.
pub fn content(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A status and nothing else.
pub fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// An error as Go's `http.Error` writes one: plain text, ended by a line feed.
pub fn error(status: StatusCode, text: &str) -> Response {
    let mut response = content("text/plain; charset=utf-8", format!("{text}\n"));
    *response.status_mut() = status;
    response.headers_mut().insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    response
}

/// Go's answer for a path that leads nowhere.
pub fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "404 page not found")
}
