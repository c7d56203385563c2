//! The two methods that agents call all the time, whose answers are put together from bytes that
//! the index has ready (ADR 15). All other methods go on to the generated service.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{BoxFuture, Either};
use http::{Request, Response};
use prost::Message;
use steeple_proto::spire::api::server::entry::v1 as pb;
use steeple_proto::spire::api::server::entry::v1::entry_server::EntryServer;
use steeple_server_core::entries::Entries;
use steeple_server_core::index::{EntryRef, Fields};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Status, Streaming};
use tower_service::Service;

use super::{EntryService, sync};
use crate::GZIP;
use crate::call::Call;
use crate::convert::fields;

/// The field of `GetAuthorizedEntriesResponse` that entries are in.
const ENTRIES: u32 = 1;

/// The Entry service with prepared answers.
#[derive(Clone)]
pub(crate) struct PreparedService {
    plain: EntryServer<EntryService>,
    entries: Arc<Entries>,
}

impl PreparedService {
    pub(crate) fn new(entries: Entries) -> Self {
        let entries = Arc::new(entries);
        let plain = EntryService { entries: Arc::clone(&entries) };
        Self { plain: EntryServer::new(plain).accept_compressed(GZIP), entries }
    }
}

impl NamedService for PreparedService {
    const NAME: &'static str = <EntryServer<EntryService> as NamedService>::NAME;
}

type Answering = BoxFuture<'static, Result<Response<Body>, Infallible>>;

impl Service<Request<Body>> for PreparedService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<<EntryServer<EntryService> as Service<Request<Body>>>::Future, Answering>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let entries = Arc::clone(&self.entries);
        let answering: Answering = match request.uri().path().rsplit('/').next() {
            Some("GetAuthorizedEntries") => Box::pin(async move {
                let mut grpc = Grpc::new(Prepared::default()).accept_compressed(GZIP);
                Ok(grpc.unary(GetAuthorizedEntries(entries), request).await)
            }),
            Some("SyncAuthorizedEntries") => Box::pin(async move {
                let mut grpc = Grpc::new(Prepared::default()).accept_compressed(GZIP);
                Ok(grpc.streaming(SyncAuthorizedEntries(entries), request).await)
            }),
            _ => return Either::Left(self.plain.call(request)),
        };
        Either::Right(answering)
    }
}

struct GetAuthorizedEntries(Arc<Entries>);

impl UnaryService<pb::GetAuthorizedEntriesRequest> for GetAuthorizedEntries {
    type Response = Bytes;
    type Future = Ready<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<pb::GetAuthorizedEntriesRequest>) -> Self::Future {
        ready(self.answer(&request).map(tonic::Response::new))
    }
}

impl GetAuthorizedEntries {
    fn answer(
        &self,
        request: &tonic::Request<pb::GetAuthorizedEntriesRequest>,
    ) -> Result<Bytes, Status> {
        let call = Call::of(request)?;
        let authorized = self.0.authorized(call.agent()?, call.now());
        let asked = fields(request.get_ref().output_mask.as_ref());
        Ok(messages(authorized.iter(), ENTRIES, asked, 0).freeze())
    }
}

struct SyncAuthorizedEntries(Arc<Entries>);

impl StreamingService<pb::SyncAuthorizedEntriesRequest> for SyncAuthorizedEntries {
    type Response = Bytes;
    type ResponseStream = sync::Answers;
    type Future = Ready<Result<tonic::Response<sync::Answers>, Status>>;

    fn call(
        &mut self,
        request: tonic::Request<Streaming<pb::SyncAuthorizedEntriesRequest>>,
    ) -> Self::Future {
        ready(self.answers(request).map(tonic::Response::new))
    }
}

impl SyncAuthorizedEntries {
    fn answers(
        &self,
        request: tonic::Request<Streaming<pb::SyncAuthorizedEntriesRequest>>,
    ) -> Result<sync::Answers, Status> {
        let call = Call::of(&request)?;
        let authorized = self.0.authorized(call.agent()?, call.now());
        Ok(sync::answers(request.into_inner(), authorized))
    }
}

/// Entries as field `tag` of a message that may become `more` bytes longer.
pub(super) fn messages<'a>(
    entries: impl Iterator<Item = EntryRef<'a>> + Clone,
    tag: u32,
    asked: Fields,
    more: usize,
) -> BytesMut {
    // A key and a length of up to three bytes, mostly.
    let most: usize = entries.clone().map(|entry| entry.message_len() + 4).sum();
    let mut answer = BytesMut::with_capacity(most + more);
    for entry in entries {
        entry.put_message(&mut answer, tag, asked);
    }
    answer
}

/// Requests are decoded, answers are there already.
struct Prepared<T>(PhantomData<T>);

impl<T> Default for Prepared<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Default + 'static> Codec for Prepared<T> {
    type Encode = Bytes;
    type Decode = T;
    type Encoder = Copying;
    type Decoder = Self;

    fn encoder(&mut self) -> Copying {
        Copying
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T: Message + Default> Decoder for Prepared<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        // As the generated services have it.
        T::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Copies an answer into the connection's buffer.
struct Copying;

impl Encoder for Copying {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, answer: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(answer.len());
        to.put_slice(&answer);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
