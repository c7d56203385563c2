//! The one loop behind every stream.
//!
//! A stream waits for its group's next update, shows it, and sends the shared
//! bytes if they differ from what it sent last. Between updates it holds one
//! subscription and one reference to the last message; it owns no buffer.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body::Frame as BodyFrame;
use http_body_util::StreamBody;
use steeple_agent_core::cache::{Subscription, Update};
use steeple_agent_core::wire::Frame;
use steeple_runtime::Watcher;
use tonic::Status;
use tonic::body::Body;
use tracing::{debug, warn};

use super::call::{Call, SERVICE, SUBSYSTEM};
use super::{StreamKind, WorkloadApi};
use crate::share::Share;

pub(super) struct Stream {
    pub(super) api: Arc<WorkloadApi>,
    pub(super) kind: &'static StreamKind,
    pub(super) caller: Call,
    pub(super) subscription: Subscription,
    pub(super) drain: Watcher,
    /// Of the calls that its user may have open.
    pub(super) _share: Share,
}

/// The answer whose body begins with `first` and goes on with every update.
pub(super) fn response(stream: Stream, first: Frame) -> http::Response<Body> {
    let frames = unfold(State::First(stream, first), |state| async move {
        match state {
            State::First(stream, first) => {
                let frame = BodyFrame::data(first.bytes());
                Some((Ok::<_, Status>(frame), State::Open(stream, first)))
            }
            State::Open(mut stream, sent) => match stream.next(&sent).await {
                Ok(next) => Some((Ok(BodyFrame::data(next.bytes())), State::Open(stream, next))),
                Err(status) => Some((Ok(trailers(&status)), State::Closed)),
            },
            State::Closed => None,
        }
    });
    let mut response = http::Response::new(Body::new(StreamBody::new(Box::pin(frames))));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    response
}

enum State {
    First(Stream, Frame),
    Open(Stream, Frame),
    Closed,
}

impl Stream {
    async fn next(&mut self, sent: &Frame) -> Result<Frame, Status> {
        loop {
            let update = tokio::select! {
                update = self.subscription.changed() => update,
                () = self.drain.signalled() => return Err(stopping()),
            };
            let frame = entitled(&self.api, self.kind, &self.caller, &update)?;
            if !frame.same(sent) {
                log_sent(&self.api, self.kind, &self.caller, &update);
                return Ok(frame.clone());
            }
        }
    }
}

/// What the caller gets of an update: a message, or the end of its stream.
pub(super) fn show(
    api: &WorkloadApi,
    kind: &StreamKind,
    caller: &Call,
    update: &Update,
) -> Result<Frame, Status> {
    let frame = entitled(api, kind, caller, update)?.clone();
    log_sent(api, kind, caller, update);
    Ok(frame)
}

fn entitled<'u>(
    api: &WorkloadApi,
    kind: &StreamKind,
    caller: &Call,
    update: &'u Update,
) -> Result<&'u Frame, Status> {
    let verifier = kind.open_to_verifiers && api.allow_unauthenticated_verifiers;
    if update.has_identity() || verifier {
        Ok((kind.render)(update))
    } else {
        Err(caller.no_identity(api))
    }
}

fn log_sent(api: &WorkloadApi, kind: &StreamKind, caller: &Call, update: &Update) {
    if caller.is_agent || kind.method != super::X509_SVIDS.method {
        return;
    }
    let (method, pid) = (kind.method, caller.pid);
    for hidden in update.hidden() {
        warn!(subsystem_name = SUBSYSTEM, service = SERVICE, method, pid,
            entry_id = %hidden.entry().id, hint = %hidden.entry().hint,
            "Ignoring entry with duplicate hint");
    }
    let now = api.clock.now();
    let count = update.identities().count();
    for identity in update.identities() {
        let ttl = identity.expires_at().duration_since(now).unwrap_or_default().as_secs_f64();
        debug!(subsystem_name = SUBSYSTEM, service = SERVICE, method, pid, registered = true, count, spiffe_id = %identity.entry().spiffe_id,
            ttl, "Fetched X.509 SVID");
    }
}

/// How a stream ends when the agent does: the client will try again.
pub(super) fn stopping() -> Status {
    Status::unavailable("the agent is stopping")
}

fn trailers(status: &Status) -> BodyFrame<Bytes> {
    let mut headers = http::HeaderMap::with_capacity(2);
    if status.add_header(&mut headers).is_err() {
        headers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
    }
    BodyFrame::trailers(headers)
}
