//! A unary request's message, read before its handler: for a policy, and for the audit record.
//!
//! Only those two need it; without them a request goes straight to its handler.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use flate2::read::GzDecoder;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use tonic::Status;
use tonic::body::Body;

/// The largest message, compressed or not: what gRPC servers take unless told otherwise.
pub(crate) const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Before each message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// A request that was read.
pub(crate) struct Taken {
    /// Its message; none if it is not whole, which the handler's decoder has the words for.
    pub(crate) message: Option<Bytes>,
    /// All of it again.
    pub(crate) body: Body,
}

/// Reads a request's only message.
pub(crate) async fn take(headers: &HeaderMap, mut body: Body) -> Result<Taken, Status> {
    let mut read = BytesMut::new();
    while missing(&read)? > 0 {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    read.extend_from_slice(data);
                }
            }
            Some(Err(status)) => return Err(status),
            None => break,
        }
    }
    let read = read.freeze();
    let message = if missing(&read)? == 0 { message(headers, &read) } else { None };
    Ok(Taken { message, body: Body::new(Full::new(read)) })
}

/// How many more bytes there have to be, at least.
fn missing(read: &[u8]) -> Result<usize, Status> {
    let Some(length) = read.get(1..HEAD) else { return Ok(HEAD - read.len()) };
    let length = u32::from_be_bytes(length.try_into().expect("four bytes were taken"));
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        let text = format!("grpc: received message larger than max ({length} vs. {MAX_MESSAGE})");
        return Err(Status::resource_exhausted(text));
    }
    Ok((HEAD + length).saturating_sub(read.len()))
}

fn message(headers: &HeaderMap, read: &Bytes) -> Option<Bytes> {
    let length = u32::from_be_bytes(read.get(1..HEAD)?.try_into().ok()?);
    let message = read.slice(HEAD..HEAD + usize::try_from(length).ok()?);
    if read[0] == 0 {
        return Some(message);
    }
    if headers.get("grpc-encoding").is_none_or(|name| name != "gzip") {
        return None;
    }
    let mut unpacked = Vec::new();
    let limit = u64::try_from(MAX_MESSAGE).unwrap_or(u64::MAX) + 1;
    GzDecoder::new(&*message).take(limit).read_to_end(&mut unpacked).ok()?;
    (unpacked.len() <= MAX_MESSAGE).then(|| unpacked.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn framed(flag: u8, message: &[u8]) -> Bytes {
        let mut bytes = vec![flag];
        bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend(message);
        bytes.into()
    }

    fn gzip() -> HeaderMap {
        [("grpc-encoding".parse().unwrap(), "gzip".parse().unwrap())].into_iter().collect()
    }

    fn packed(message: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(message).unwrap();
        framed(1, &encoder.finish().unwrap())
    }

    async fn taken(headers: &HeaderMap, bytes: &Bytes) -> Result<Taken, Status> {
        take(headers, Body::new(Full::new(bytes.clone()))).await
    }

    #[tokio::test]
    async fn a_message_is_read_and_its_request_stays_whole() {
        for bytes in [framed(0, b"abc"), framed(0, b"")] {
            let taken = taken(&HeaderMap::new(), &bytes).await.unwrap();
            assert_eq!(taken.message.unwrap(), bytes.slice(5..));
            assert_eq!(taken.body.collect().await.unwrap().to_bytes(), bytes);
        }
        let taken = taken(&gzip(), &packed(b"abc")).await.unwrap();
        assert_eq!(&*taken.message.unwrap(), b"abc");
    }

    #[tokio::test]
    async fn a_message_that_is_not_whole_is_none_and_is_passed_on() {
        let whole = framed(0, b"abc");
        for bytes in [whole.slice(..7), whole.slice(..3), Bytes::new(), framed(1, b"abc")] {
            let taken = taken(&gzip(), &bytes).await.unwrap();
            assert_eq!(taken.message, None);
            assert_eq!(taken.body.collect().await.unwrap().to_bytes(), bytes);
        }
    }

    #[tokio::test]
    async fn neither_a_large_message_nor_a_bomb_is_taken() {
        let mut head = vec![0];
        head.extend(u32::MAX.to_be_bytes());
        let refused = taken(&HeaderMap::new(), &head.into()).await.err().unwrap();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let bomb = packed(&vec![0; MAX_MESSAGE + 1]);
        assert_eq!(taken(&gzip(), &bomb).await.unwrap().message, None);
        let bound = packed(&vec![0; MAX_MESSAGE]);
        assert_eq!(taken(&gzip(), &bound).await.unwrap().message.unwrap().len(), MAX_MESSAGE);
    }
}
