//! What every request goes through: gRPC's rules on headers, the caller's deadline, and grpc-go's
//! words where tonic has its own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt;
use tower_service::Service;

/// Answers one request, within the deadline that it brings.
pub(super) async fn answer<S>(
    service: S,
    request: Request<Body>,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    if let Some(refusal) = refuse(&request) {
        return Ok(refusal);
    }
    let deadline = match request.headers().get("grpc-timeout").map(timeout) {
        None => None,
        Some(Some(timeout)) => Instant::now().checked_add(timeout),
        Some(None) => return Ok(Status::internal("malformed grpc-timeout").into_http()),
    };
    let Some(deadline) = deadline else {
        return service.oneshot(request).await.map(reword);
    };
    match timeout_at(deadline, service.oneshot(request)).await {
        Ok(Ok(response)) => Ok(reword(response).map(|body| Body::new(Timely::new(body, deadline)))),
        Err(_) => Ok(late().into_http()),
    }
}

fn late() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// A request that is not gRPC's.
fn refuse(request: &Request<Body>) -> Option<Response<Body>> {
    let is_grpc = |value: &HeaderValue| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.first().is_none_or(|byte| matches!(byte, b'+' | b';')))
    };
    if request.method() != Method::POST {
        let status = Status::internal("Received a HEADERS frame with :method which should be POST");
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, &status);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
        let status = Status::invalid_argument("invalid gRPC request content-type");
        return Some(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, &status));
    }
    None
}

fn plain(code: StatusCode, status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    // The text is ours and fits a header.
    let _ = status.add_header(response.headers_mut());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A `grpc-timeout`: at most eight digits and a unit.
fn timeout(value: &HeaderValue) -> Option<Duration> {
    let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// tonic's answer to a message that is too large, in grpc-go's code and words.
fn reword(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    if let Some((found, limit)) = too_large(headers) {
        let text = format!("grpc: received message larger than max ({found} vs. {limit})");
        headers.remove(Status::GRPC_STATUS);
        headers.remove(Status::GRPC_MESSAGE);
        let _ = Status::resource_exhausted(text).add_header(headers);
    }
    response
}

fn too_large(headers: &HeaderMap) -> Option<(u64, u64)> {
    let status = headers.get(Status::GRPC_STATUS)?;
    if status != HeaderValue::from(Code::OutOfRange as u16) {
        return None;
    }
    let status = Status::from_header_map(headers)?;
    let text = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = text.split_once(" bytes, the limit is: ")?;
    Some((found.parse().ok()?, rest.strip_suffix(" bytes")?.parse().ok()?))
}

/// A response that ends with `DEADLINE_EXCEEDED` when its time is up.
struct Timely {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    over: bool,
}

impl Timely {
    fn new(body: Body, deadline: Instant) -> Self {
        Self { body, deadline: Box::pin(sleep_until(deadline)), over: false }
    }
}

impl http_body::Body for Timely {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.deadline.as_mut().poll(cx));
        self.over = true;
        // What the handler still does is of no use to anybody.
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        let _ = late().add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::new()
    }
}
