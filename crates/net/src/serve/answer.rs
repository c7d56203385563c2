//! What every request goes through: gRPC's rules on headers, the caller's deadline, and grpc-go's
//! words where tonic has its own.

use std::convert::Infallible;
use std::future::{Future, ready};

use futures_util::FutureExt as _;
use futures_util::future::Either;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt;
use tower_service::Service;

use crate::deadline::{self, Timely};

/// Answers one request, within the deadline that it brings. Not `async`, so that there is room for
/// the request once.
pub(super) fn answer<S>(
    service: S,
    request: Request<Body>,
) -> impl Future<Output = Result<Response<Body>, Infallible>>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    if let Some(refusal) = refuse(&request) {
        return Either::Left(ready(Ok(refusal)));
    }
    let deadline = match request.headers().get(deadline::HEADER).map(deadline::parse) {
        None => None,
        Some(Some(timeout)) => Instant::now().checked_add(timeout),
        Some(None) => {
            let malformed = Status::internal("malformed grpc-timeout");
            return Either::Left(ready(Ok(malformed.into_http())));
        }
    };
    let answered = service.oneshot(request);
    Either::Right(match deadline {
        None => Either::Left(answered.map(|answer| answer.map(reword))),
        Some(deadline) => {
            Either::Right(timeout_at(deadline, answered).map(move |outcome| match outcome {
                Ok(answer) => answer.map(|response| timely(reword(response), deadline)),
                Err(_) => Ok(deadline::exceeded().into_http()),
            }))
        }
    })
}

/// Holds what is still to come of an answer to the deadline.
fn timely(response: Response<Body>, deadline: Instant) -> Response<Body> {
    if response.body().is_end_stream() {
        return response;
    }
    response.map(|body| Body::new(Timely::new(body, deadline)))
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

/// tonic's answers to messages that it cannot take, in grpc-go's code and words.
fn reword(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    if !is_perhaps_tonics(headers) {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else { return response };
    if let Some((code, text)) = in_other_words(status.code(), status.message()) {
        headers.remove(Status::GRPC_STATUS);
        headers.remove(Status::GRPC_MESSAGE);
        // The text fits a header, as the one before it did.
        let _ = Status::new(code, text).add_header(headers);
    }
    response
}

/// Whether the text may be one of tonic's. To take a status apart costs more than most refusals.
fn is_perhaps_tonics(headers: &HeaderMap) -> bool {
    let text = headers.get(Status::GRPC_MESSAGE).map(HeaderValue::as_bytes);
    text.is_some_and(|text| TONICS.iter().any(|begin| text.starts_with(begin)))
}

/// How the texts begin that [`in_other_words`] knows, as they are in a header.
const TONICS: [&[u8]; 2] = [b"Error", b"failed"];

fn in_other_words(code: Code, text: &str) -> Option<(Code, String)> {
    match code {
        Code::OutOfRange => {
            let text = text.strip_prefix("Error, decoded message length too large: found ")?;
            let (found, rest) = text.split_once(" bytes, the limit is: ")?;
            let (found, limit): (u64, u64) =
                (found.parse().ok()?, rest.strip_suffix(" bytes")?.parse().ok()?);
            let text = format!("grpc: received message larger than max ({found} vs. {limit})");
            Some((Code::ResourceExhausted, text))
        }
        Code::ResourceExhausted => {
            let text = text.strip_prefix("Error decompressing: size limit, of ")?;
            let limit: u64 = text.split_once(" bytes")?.0.parse().ok()?;
            let text =
                format!("grpc: received message after decompression larger than max {limit}");
            Some((Code::ResourceExhausted, text))
        }
        Code::Internal if text.starts_with("Error decompressing: ") => {
            let why =
                text["Error decompressing: ".len()..].trim_end_matches(", while sending request");
            Some((Code::Internal, format!("grpc: failed to decompress the message: {why}")))
        }
        Code::Internal => {
            let why = text.strip_prefix("failed to decode Protobuf message: ")?;
            let why = if why.contains("UTF-8") {
                "string field contains invalid UTF-8"
            } else {
                "proto: cannot parse invalid wire-format data"
            };
            Some((Code::Internal, format!("grpc: error unmarshalling request: {why}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body::Frame;
    use http_body_util::BodyExt;

    use super::*;

    fn request(timeout: Option<&str>) -> Request<Body> {
        let mut request = Request::post("/a.B/C").header(CONTENT_TYPE, "application/grpc+proto");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        request.body(Body::empty()).unwrap()
    }

    async fn ask<F>(request: Request<Body>, respond: impl FnOnce() -> F + Clone) -> Response<Body>
    where
        F: Future<Output = Response<Body>>,
    {
        let service = tower::service_fn(move |_: Request<Body>| {
            let respond = respond.clone();
            async move { Ok(respond().await) }
        });
        let Ok(response) = answer(service, request).await;
        response
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_takes_longer_than_its_caller_waits_is_cut_off() {
        let response = ask(request(Some("250m")), std::future::pending).await;
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "context deadline exceeded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_caller_stops_waiting() {
        let stream = futures_util::stream::pending::<Result<Frame<bytes::Bytes>, Status>>();
        let body = http_body_util::StreamBody::new(stream);
        let respond = || std::future::ready(Response::new(Body::new(body)));
        let once = std::sync::Mutex::new(Some(respond));
        let once = std::sync::Arc::new(once);
        let response =
            ask(request(Some("2S")), move || once.lock().unwrap().take().unwrap()()).await;
        let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_malformed_timeout_is_refused() {
        for text in ["", "S", "1", "123456789S", "-1S", "1x", "1.5S"] {
            let response = ask(request(Some(text)), std::future::pending).await;
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(status.code(), Code::Internal, "{text:?}");
        }
        assert_eq!(
            deadline::parse(&HeaderValue::from_static("99999999H")).unwrap().as_secs(),
            359_999_996_400
        );
        assert_eq!(
            deadline::parse(&HeaderValue::from_static("7u")),
            Some(Duration::from_micros(7))
        );
    }

    #[tokio::test]
    async fn what_is_not_grpc_is_told_so() {
        let get = Request::get("/a.B/C").body(Body::empty()).unwrap();
        assert_eq!(ask(get, std::future::pending).await.status(), StatusCode::METHOD_NOT_ALLOWED);
        for kind in ["application/json", "application/grpcx", "text/plain"] {
            let post = Request::post("/a.B/C").header(CONTENT_TYPE, kind).body(Body::empty());
            let response = ask(post.unwrap(), std::future::pending).await;
            assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
        }
    }

    #[test]
    fn what_a_decoder_refuses_is_said_in_grpc_gos_words() {
        let said = |status: Status| {
            let response = reword(status.into_http());
            let status = Status::from_header_map(response.headers()).unwrap();
            (status.code(), status.message().to_owned())
        };
        let limit =
            "Error decompressing: size limit, of 4 bytes, exceeded while decompressing message";
        for (status, code, text) in [
            (
                Status::out_of_range(
                    "Error, decoded message length too large: found 7 bytes, the limit is: 4 bytes",
                ),
                Code::ResourceExhausted,
                "grpc: received message larger than max (7 vs. 4)",
            ),
            (
                Status::resource_exhausted(limit),
                Code::ResourceExhausted,
                "grpc: received message after decompression larger than max 4",
            ),
            (
                Status::internal("failed to decode Protobuf message: buffer underflow"),
                Code::Internal,
                "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
            ),
            (
                Status::internal(
                    "failed to decode Protobuf message: X.id: invalid string value: data is not \
                     UTF-8 encoded",
                ),
                Code::Internal,
                "grpc: error unmarshalling request: string field contains invalid UTF-8",
            ),
            (
                Status::internal("Error decompressing: bad header, while sending request"),
                Code::Internal,
                "grpc: failed to decompress the message: bad header",
            ),
            (Status::internal("something else"), Code::Internal, "something else"),
        ] {
            assert_eq!(said(status), (code, text.to_owned()));
        }
    }
}
