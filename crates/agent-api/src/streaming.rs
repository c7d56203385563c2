//! gRPC by hand, for answers whose bytes exist already: one message in, frames out.
//!
//! Between two messages a stream holds what its source holds and a reference to the frame that it
//! sent last; it owns no buffer.

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body::Frame as BodyFrame;
use http_body_util::StreamBody;
use steeple_agent_core::wire::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{Codec as _, Streaming};
use tonic_prost::ProstCodec;

/// A request of a stream that is no message, in grpc-go's words.
pub(crate) fn unreadable(error: &prost::DecodeError) -> Status {
    let why = if error.to_string().contains("UTF-8") {
        "string field contains invalid UTF-8"
    } else {
        "proto: cannot parse invalid wire-format data"
    };
    Status::internal(format!("grpc: failed to unmarshal the received message: {why}"))
}

/// Where a stream's messages come from.
pub(crate) trait Frames: Send + 'static {
    /// The message after `sent`, once there is one that says something else.
    fn next(&mut self, sent: &Frame) -> impl Future<Output = Result<Frame, Status>> + Send;
}

/// The one message of a request, of at most [`MAX_MESSAGE`] bytes.
pub(crate) async fn message<T>(body: Body) -> Result<T, Status>
where
    T: prost::Message + Default + Send + 'static,
{
    let mut messages = messages(body);
    let message = messages.message().await?.ok_or_else(|| Status::internal("missing message"))?;
    match messages.message().await? {
        None => Ok(message),
        Some(_) => Err(Status::internal("too many messages")),
    }
}

/// The messages of a request as they come.
pub(crate) fn messages<T>(body: Body) -> Streaming<T>
where
    T: prost::Message + Default + Send + 'static,
{
    let decoder = ProstCodec::<(), T>::default().decoder();
    Streaming::new_request(decoder, body, None, Some(MAX_MESSAGE))
}

/// The answer with one message.
pub(crate) fn unary(message: &impl prost::Message) -> http::Response<Body> {
    let encoded = message.encode_to_vec();
    let Ok(length) = u32::try_from(encoded.len()) else {
        return Status::resource_exhausted("the answer is too large").into_http();
    };
    let mut out = Vec::with_capacity(encoded.len() + 5);
    out.push(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&encoded);
    let frames = [BodyFrame::data(Bytes::from(out)), trailers(&Status::ok(""))];
    respond(StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Status>))))
}

/// The answer that begins with `first` and goes on for as long as `source` has something to say.
pub(crate) fn streamed(first: Frame, source: impl Frames) -> http::Response<Body> {
    let frames = unfold(State::First(source, first), |state| async move {
        match state {
            State::First(source, first) => {
                let frame = BodyFrame::data(first.bytes());
                Some((Ok::<_, Status>(frame), State::Open(source, first)))
            }
            State::Open(mut source, sent) => match source.next(&sent).await {
                Ok(next) => Some((Ok(BodyFrame::data(next.bytes())), State::Open(source, next))),
                Err(status) => Some((Ok(trailers(&status)), State::Closed)),
            },
            State::Closed => None,
        }
    });
    respond(StreamBody::new(Box::pin(frames)))
}

enum State<S> {
    First(S, Frame),
    Open(S, Frame),
    Closed,
}

pub(crate) fn respond<B>(body: B) -> http::Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Send + 'static,
{
    let mut response = http::Response::new(Body::new(body));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    response
}

/// How a stream ends.
pub(crate) fn trailers(status: &Status) -> BodyFrame<Bytes> {
    let mut headers = http::HeaderMap::with_capacity(2);
    if status.add_header(&mut headers).is_err() {
        headers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
    }
    BodyFrame::trailers(headers)
}

/// How a stream ends when the agent does: the client will try again.
pub(crate) fn stopping() -> Status {
    Status::unavailable("the agent is stopping")
}

/// What a caller may send in one message: what a Go server takes.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
