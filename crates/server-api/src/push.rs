//! `steeple.server.push.v1.Push`: our own, for our own agents (ADR 12).
//!
//! Every agent has a stream of it open for as long as it lives. So it does not pass through tonic,
//! which keeps a buffer of 8 KiB for each: a hint is a few bytes, written as they are.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use steeple_net::status::{retry_info, with_details};
use steeple_proto::steeple::server::push::v1::Hint;
use steeple_server_core::push::{End, Listening, News, Push};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower_service::Service;

use crate::call::{Call, misconfigured};
use crate::status::denied;

/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Agents that are to open their streams anew in a second, of a server that stopped.
const BACK_A_SECOND: f64 = 500.0;
/// A stream ends before the connection does that it is on, and not together with all others.
const SHORTEST: Duration = Duration::from_secs(120);
const LONGEST: Duration = Duration::from_secs(170);

/// The Push service.
#[derive(Clone)]
pub(crate) struct PushService {
    pub(crate) push: Push,
}

impl NamedService for PushService {
    const NAME: &'static str = "steeple.server.push.v1.Push";
}

impl Service<Request<Body>> for PushService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ready(Ok(self.watch(&request).unwrap_or_else(Status::into_http)))
    }
}

impl PushService {
    /// The request says nothing that would have to be read: whose stream it is, the stack knows.
    fn watch(&self, request: &Request<Body>) -> Result<Response<Body>, Status> {
        if !request.uri().path().ends_with("/Watch") {
            return Err(Status::unimplemented("unknown method"));
        }
        let call = request.extensions().get::<Call>().ok_or_else(misconfigured)?;
        let listening = self.push.listen(call.agent()?);
        let life = SHORTEST + (LONGEST - SHORTEST).mul_f64(fastrand::f64());
        let mut response = Response::new(Body::new(StreamBody::new(hints(listening, life))));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        Ok(response)
    }
}

/// What is sent, to the trailers.
fn hints(
    listening: Listening,
    life: Duration,
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send {
    let end = Instant::now() + life;
    stream::unfold(Some(listening), move |listening| async move {
        let listening = listening?;
        Some(match hint(&listening, end).await {
            Ok(hint) => (Ok(Frame::data(message(hint))), Some(listening)),
            Err(status) => (trailers(&status).map(Frame::trailers), None),
        })
    })
}

/// What the agent is sent next, or how the stream ends.
async fn hint(listening: &Listening, end: Instant) -> Result<Hint, Status> {
    let news = tokio::select! {
        news = listening.news() => news,
        () = sleep(HEARTBEAT) => News::default(),
        () = sleep_until(end) => return Err(Status::new(Code::Ok, "")),
    };
    match news.end {
        Some(End::Closed) => return Err(stopping(listening.company())),
        Some(End::Replaced) => return Err(Status::aborted("the agent has opened another stream")),
        None => {}
    }
    match listening.fault().filter(|_| news.standing) {
        Some(fault) => Err(denied(fault, "the agent is no longer in good standing")),
        None => {
            let News { entries, bundles, standing, .. } = news;
            Ok(Hint { entries, bundles, standing })
        }
    }
}

/// All agents are told so at the same moment, and are to come back at different ones.
fn stopping(agents: usize) -> Status {
    let wait = Duration::from_secs_f64(agents as f64 / BACK_A_SECOND * fastrand::f64());
    let hint = vec![retry_info(wait)];
    with_details(Code::Unavailable, "the server is stopping", hint)
}

/// A hint as gRPC frames it: not compressed, its length, itself.
fn message(hint: Hint) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(hint.encoded_len()).expect("three booleans are short"));
    hint.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}

fn trailers(status: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_framed_as_grpc_wants_it() {
        let hint = Hint { entries: true, bundles: false, standing: true };
        assert_eq!(message(hint)[..], [0, 0, 0, 0, 4, 8, 1, 24, 1]);
        assert_eq!(message(Hint::default())[..], [0, 0, 0, 0, 0]);
    }

    #[test]
    fn agents_of_a_server_that_stops_come_back_one_after_the_other() {
        let waits: Vec<_> = (0..100)
            .map(|_| steeple_net::status::retry_delay(&stopping(5_000)).unwrap_or_default())
            .collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(10)));
        assert!(waits.iter().any(|wait| *wait >= Duration::from_secs(3)));
    }

    #[test]
    fn an_end_has_its_status_and_its_details() {
        let ended = trailers(&Status::new(Code::Ok, "")).unwrap();
        assert_eq!(ended["grpc-status"], "0");
        let fault = steeple_server_core::access::AgentFault::Banned;
        let banned = trailers(&denied(fault, "no longer")).unwrap();
        assert_eq!(banned["grpc-status"], "7");
        assert!(banned.contains_key("grpc-status-details-bin"));
    }
}
