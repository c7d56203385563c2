//! A call's deadline, as its caller names it and as both sides keep it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

/// Where a caller says how long it waits.
pub(crate) const HEADER: &str = "grpc-timeout";

/// What is answered after that, in Go's words.
pub(crate) fn exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// A `grpc-timeout`: at most eight digits and a unit.
pub(crate) fn parse(value: &HeaderValue) -> Option<Duration> {
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

/// A response that ends with `DEADLINE_EXCEEDED` when its time is up.
pub(crate) struct Timely {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    over: bool,
}

impl Timely {
    pub(crate) fn new(body: Body, deadline: Instant) -> Self {
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
        let _ = exceeded().add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::new()
    }
}
