//! The loop behind both kinds of stream.
//!
//! One answer is on its way at a time: while the connection takes none, no
//! request is read and no update looked at, and when it does, the latest update
//! is the one that counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body::Frame;
use http_body_util::StreamBody;
use steeple_agent_core::cache::{Subscription, Update};
use steeple_runtime::Watcher;
use tonic::Status;
use tonic::body::Body;

use super::Scribe;
use super::message::Message;
use super::requests::{Requests, response, trailers};
use crate::share::Share;

/// The books of one stream.
pub(super) trait Protocol: Send + 'static {
    /// What the caller sends.
    type Request: prost::Message + Default + Send + 'static;

    /// Takes in a request; gives what is to be sent, if anything. There is no
    /// update before the caller's SVIDs are there.
    fn request(
        &mut self,
        request: Self::Request,
        update: Option<&Update>,
    ) -> Result<Option<Message>, Status>;

    /// Takes in what is new.
    fn update(&mut self, update: &Update) -> Result<Option<Message>, Status>;
}

pub(super) struct Session<P: Protocol> {
    pub(super) protocol: P,
    pub(super) requests: Requests<P::Request>,
    pub(super) subscription: Subscription,
    pub(super) update: Option<Arc<Update>>,
    pub(super) drain: Watcher,
    /// Whether the caller has got something.
    pub(super) answered: bool,
    pub(super) scribe: Scribe,
    /// Of the calls that its user may have open.
    pub(super) _share: Share,
}

impl<P: Protocol> Session<P> {
    /// The answer whose body is this session.
    pub(super) fn response(self) -> http::Response<Body> {
        let frames = unfold(State::Open(self, VecDeque::new()), |state| async move {
            let State::Open(mut session, mut sending) = state else { return None };
            if sending.is_empty() {
                match session.next().await {
                    Ok(Some(message)) => sending = message.into_frames().into(),
                    Ok(None) => return Some((ended(&Status::ok("")), State::Closed)),
                    Err(status) => return Some((ended(&status), State::Closed)),
                }
            }
            let data = sending.pop_front().unwrap_or_default();
            if sending.is_empty() {
                // A buffer of its own is what a waiting stream has not got.
                sending = VecDeque::new();
            }
            Some((Ok::<_, Status>(Frame::data(data)), State::Open(session, sending)))
        });
        response(Body::new(StreamBody::new(Box::pin(frames))))
    }

    /// The next message for the caller; `None` when it wants no more.
    async fn next(&mut self) -> Result<Option<Message>, Status> {
        loop {
            let answer = tokio::select! {
                biased;
                () = stopping(&mut self.drain, self.answered) => {
                    return Err(Status::unavailable("the agent is stopping"));
                }
                update = next_update(&mut self.subscription, self.update.is_some()) => {
                    let answer = self.protocol.update(&update);
                    self.update = Some(update);
                    answer
                }
                request = self.requests.next() => match request {
                    Ok(Some(request)) => self.protocol.request(request, self.update.as_deref()),
                    Ok(None) => return Ok(None),
                    Err(status) => {
                        self.scribe.error("Received error from stream secrets server", &status);
                        return Err(status);
                    }
                },
            };
            if let Some(message) = answer? {
                self.answered = true;
                return Ok(Some(message));
            }
        }
    }
}

/// The end of the agent, with a moment for a caller that came just then: another process may be
/// serving already, but this stream is ours.
async fn stopping(drain: &mut Watcher, answered: bool) {
    drain.signalled().await;
    if !answered {
        tokio::time::sleep(LAST_ANSWER).await;
    }
}

async fn next_update(subscription: &mut Subscription, is_open: bool) -> Arc<Update> {
    if is_open { subscription.changed().await } else { subscription.ready().await }
}

enum State<S> {
    Open(S, VecDeque<Bytes>),
    Closed,
}

/// The answer to a call that has one.
pub(super) fn unary(message: Message) -> http::Response<Body> {
    let data = message.into_frames().into_iter().map(Frame::data);
    let frames = data.chain(std::iter::once(trailers(&Status::ok("")))).map(Ok::<_, Status>);
    response(Body::new(StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()))))
}

fn ended(status: &Status) -> Result<Frame<Bytes>, Status> {
    Ok(trailers(status))
}

const LAST_ANSWER: Duration = Duration::from_secs(1);
