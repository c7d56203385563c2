//! How a call ends: the status that is in the answer's head, or after its body.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

/// Tells `end` the code of the answer once it is known; a client that goes away
/// before has `Cancelled` the call.
pub fn watch<F>(response: Response<Body>, end: F) -> Response<Body>
where
    F: FnOnce(Code) + Send + Unpin + 'static,
{
    if let Some(code) = code(response.headers()) {
        end(code);
        return response;
    }
    let (head, body) = response.into_parts();
    Response::from_parts(head, Body::new(Watched { body, end: Some(end) }))
}

/// The name that Go has for a code.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// The code among an answer's headers: that of a call that failed at once, whose answer is nothing
/// else. Nothing but the code is looked at.
pub fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

struct Watched<F: FnOnce(Code)> {
    body: Body,
    end: Option<F>,
}

impl<F: FnOnce(Code)> Watched<F> {
    fn ended(&mut self, code: Code) {
        if let Some(end) = self.end.take() {
            end(code);
        }
    }
}

impl<F: FnOnce(Code)> Drop for Watched<F> {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

impl<F: FnOnce(Code) + Unpin> HttpBody for Watched<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.ended(code(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(status))) => self.ended(status.code()),
            Poll::Ready(None) => self.ended(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    fn frames(last: Option<&'static str>) -> Response<Body> {
        let mut frames = vec![Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))];
        if let Some(code) = last {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            frames.push(Ok(Frame::trailers(trailers)));
        }
        Response::new(Body::new(StreamBody::new(tokio_stream::iter(frames))))
    }

    #[tokio::test]
    async fn the_status_is_found_wherever_it_stands() {
        let (sender, codes) = mpsc::channel();
        let tell = || {
            let sender = sender.clone();
            move |code| sender.send(code).unwrap()
        };
        let watched = watch(Status::not_found("no").into_http(), tell());
        assert_eq!(codes.try_recv(), Ok(Code::NotFound));
        drop(watched);

        let watched = watch(frames(Some("7")), tell());
        assert!(codes.try_recv().is_err(), "not over");
        watched.into_body().collect().await.unwrap();
        assert_eq!(codes.try_recv(), Ok(Code::PermissionDenied));

        let watched = watch(frames(Some("0")), tell());
        drop(watched);
        assert_eq!(codes.try_recv(), Ok(Code::Cancelled));

        let plain = Response::new(Body::new(Full::new(Bytes::from_static(b"x"))));
        watch(plain, tell()).into_body().collect().await.unwrap();
        assert_eq!(codes.try_recv(), Ok(Code::Unknown));
        assert!(codes.try_recv().is_err(), "each is told once");
    }
}
