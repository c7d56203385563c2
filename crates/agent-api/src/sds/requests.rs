//! The requests of a caller, one after the other, and how calls are answered.
//!
//! Between requests nothing is held: tonic's decoder would keep a buffer for
//! every stream that is open.

use std::marker::PhantomData;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::streaming;

/// The body of a call, read message by message.
pub(super) struct Requests<R> {
    body: Body,
    held: BytesMut,
    max: usize,
    kind: PhantomData<fn() -> R>,
}

impl<R: Message + Default> Requests<R> {
    /// Messages of at most `max` bytes.
    pub(super) fn new(body: Body, max: usize) -> Self {
        Self { body, held: BytesMut::new(), max, kind: PhantomData }
    }

    /// The next request; `None` when the caller sends no more, or is gone. May
    /// be dropped while it waits, without losing anything.
    pub(super) async fn next(&mut self) -> Result<Option<R>, Status> {
        loop {
            if let Some(request) = self.take()? {
                return Ok(Some(request));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                None if self.held.is_empty() => return Ok(None),
                None => return Err(Status::internal("unexpected EOF")),
                // Whoever breaks the connection needs no answer.
                Some(Err(_)) => return Ok(None),
            }
        }
    }

    fn take(&mut self) -> Result<Option<R>, Status> {
        let Some((prefix, rest)) = self.held.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Status::unimplemented("grpc: compressed requests are not understood here"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.max {
            let text =
                format!("grpc: received message larger than max ({length} vs. {})", self.max);
            return Err(Status::resource_exhausted(text));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.held.advance(PREFIX);
        let message = self.held.split_to(length);
        let request = R::decode(&message[..]).map_err(|error| streaming::unreadable(&error))?;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
        Ok(Some(request))
    }
}

/// Whether a call says that it is gRPC, which no page in a browser can without
/// asking first, and no web server's client does by accident.
pub(super) fn is_grpc(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    match kind.and_then(|kind| kind.strip_prefix(GRPC.as_bytes())) {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// The answer to a call that is not gRPC.
pub(super) fn not_grpc() -> http::Response<Body> {
    let mut response =
        Status::invalid_argument("invalid gRPC request content-type").into_http::<Body>();
    *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// An answer with this body.
pub(super) fn response(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    let kind = http::HeaderValue::from_static(GRPC);
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// How a call ends.
pub(super) fn trailers(status: &Status) -> Frame<Bytes> {
    let mut headers = http::HeaderMap::with_capacity(2);
    if status.add_header(&mut headers).is_err() {
        let code = http::HeaderValue::from(Code::Internal as i32);
        headers.insert(Status::GRPC_STATUS, code);
    }
    Frame::trailers(headers)
}

const GRPC: &str = "application/grpc";
/// Compressed or not, and four bytes of length.
const PREFIX: usize = 5;

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;
    use steeple_proto::envoy::service::discovery::v3::DiscoveryRequest;

    use super::*;

    fn framed(name: &str) -> Vec<u8> {
        let request = DiscoveryRequest { resource_names: vec![name.into()], ..Default::default() };
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap();
        [&[0][..], &length.to_be_bytes(), &message].concat()
    }

    fn requests(chunks: Vec<Vec<u8>>) -> Requests<DiscoveryRequest> {
        let frames =
            chunks.into_iter().map(|chunk| Ok::<_, Status>(Frame::data(Bytes::from(chunk))));
        Requests::new(Body::new(StreamBody::new(stream::iter(frames))), 64)
    }

    #[tokio::test]
    async fn requests_may_come_in_any_pieces() {
        let bytes = [framed("a"), framed("b"), framed("c")].concat();
        for size in [1, 3, 7, bytes.len()] {
            let mut requests = requests(bytes.chunks(size).map(<[u8]>::to_vec).collect());
            for name in ["a", "b", "c"] {
                let request = requests.next().await.unwrap().unwrap();
                assert_eq!(request.resource_names, [name]);
            }
            assert!(requests.next().await.unwrap().is_none());
            assert_eq!(requests.held.capacity(), 0, "nothing is held between requests");
        }
    }

    #[tokio::test]
    async fn what_is_no_request_has_its_status() {
        let code =
            |chunk: Vec<u8>| async { requests(vec![chunk]).next().await.unwrap_err().code() };
        assert_eq!(code(vec![0, 0xff, 0, 0, 0]).await, Code::ResourceExhausted);
        assert_eq!(code(vec![1, 0, 0, 0, 0]).await, Code::Unimplemented);
        assert_eq!(code(vec![0, 0, 0, 0, 1, 0xff]).await, Code::Internal);
        assert_eq!(code(vec![0, 0, 0, 0, 9, 1]).await, Code::Internal);
    }

    #[test]
    fn only_grpc_is_grpc() {
        let says = |kind: &'static str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("content-type", http::HeaderValue::from_static(kind));
            is_grpc(&headers)
        };
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc;v=1"] {
            assert!(says(kind), "{kind}");
        }
        for kind in ["text/plain", "application/grpc-web", "application/x-www-form-urlencoded"] {
            assert!(!says(kind), "{kind}");
        }
        assert!(!is_grpc(&http::HeaderMap::new()));
    }
}
