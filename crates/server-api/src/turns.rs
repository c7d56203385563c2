//! How many calls of one caller are under way at once.
//!
//! An answer that nobody reads stays in memory, and work asked for in bulk keeps the threads from
//! others. So each SPIFFE ID has a number of turns, and a call keeps its turn until its answer was
//! read; more calls wait, and more than that are refused. Local callers are operators and free;
//! those without an identity are held back by the rate limits.

use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use steeple_net::outcome;
use steeple_runtime::PerKey;
use steeple_spiffe::SpiffeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::limit::retry_later;
use crate::status::Answer;

/// Calls under way for one caller. An agent has a sync stream, a batch and some tokens open.
const AT_ONCE: usize = 32;

/// Calls that wait beside those.
const WAITING: usize = 1024;

/// The turns of every caller.
#[derive(Debug)]
pub(crate) struct Turns<K = SpiffeId> {
    callers: PerKey<K, Seats>,
    at_once: usize,
}

#[derive(Debug)]
struct Seats {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// One call's turn.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    /// Kept in the map for as long as somebody has a turn.
    _seats: Arc<Seats>,
}

/// A caller has more calls open than any agent needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many calls at once: {0} are under way and {WAITING} wait")]
pub(crate) struct TooMany(usize);

impl Answer for TooMany {
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }

    fn status(&self) -> Status {
        retry_later(self.text(), Duration::from_secs(1))
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new(AT_ONCE)
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// So many turns for each caller.
    pub(crate) fn new(at_once: usize) -> Self {
        Self { callers: PerKey::default(), at_once }
    }

    /// Waits for a turn of this caller's.
    ///
    /// # Errors
    /// [`TooMany`], at once.
    pub(crate) async fn take(&self, caller: &K) -> Result<Turn, TooMany> {
        let seats = self.seats(caller);
        let permit = match Arc::clone(&seats.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_taken) => {
                let _waiter = Waiter::begin(&seats).ok_or(TooMany(self.at_once))?;
                let free = Box::pin(Arc::clone(&seats.free).acquire_owned());
                free.await.expect("nobody closes the semaphore")
            }
        };
        Ok(Turn { _permit: permit, _seats: seats })
    }

    fn seats(&self, caller: &K) -> Arc<Seats> {
        let new =
            || Seats { free: Arc::new(Semaphore::new(self.at_once)), waiting: AtomicUsize::new(0) };
        self.callers.get(caller, new)
    }
}

/// A call that waits, counted until it has its turn or is given up.
struct Waiter<'a>(&'a Seats);

impl<'a> Waiter<'a> {
    fn begin(seats: &'a Seats) -> Option<Self> {
        let waiter = Self(seats);
        (seats.waiting.fetch_add(1, Ordering::Relaxed) < WAITING).then_some(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets a response keep the call's turn until it was read.
pub(crate) fn keep(turn: Option<Turn>, response: Response<Body>) -> Response<Body> {
    match turn {
        // A call that fails at once has its status among the headers, and no body.
        Some(turn) if outcome::code(response.headers()).is_none() => {
            response.map(|inner| Body::new(Kept { inner, turn: Arc::new(turn) }))
        }
        _ => response,
    }
}

pin_project! {
    struct Kept {
        #[pin]
        inner: Body,
        turn: Arc<Turn>,
    }
}

/// A part of an answer. It has the turn too, as it stays when the body has ended: in the buffers
/// of HTTP/2, until the peer makes room for it.
struct Part {
    data: Bytes,
    _turn: Arc<Turn>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let turn = this.turn;
        this.inner.poll_frame(context).map_ok(|frame| {
            frame.map_data(|data| Bytes::from_owner(Part { data, _turn: Arc::clone(turn) }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::Future;
    use std::task::Waker;

    use http_body_util::BodyExt;

    use super::*;

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
    }

    /// What a future that is asked once answers.
    fn once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_caller_with_all_its_turns_taken_waits_and_others_do_not() {
        let turns = Turns::default();
        let agent = id("/spire/agent/a");
        let mut taken: Vec<Turn> = (0..AT_ONCE)
            .map(|_| once(Box::pin(turns.take(&agent)).as_mut()).unwrap().unwrap())
            .collect();
        let mut next = Box::pin(turns.take(&agent));
        assert!(once(next.as_mut()).is_none());
        assert!(once(Box::pin(turns.take(&id("/spire/agent/b"))).as_mut()).is_some());
        taken.pop();
        assert!(once(next.as_mut()).unwrap().is_ok());
    }

    #[test]
    fn a_queue_of_any_length_is_refused_and_one_that_was_given_up_is_none() {
        let turns = Turns::default();
        let agent = id("/spire/agent/a");
        let _taken: Vec<Turn> = (0..AT_ONCE)
            .map(|_| once(Box::pin(turns.take(&agent)).as_mut()).unwrap().unwrap())
            .collect();
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(turns.take(&agent))).collect();
        for waiter in &mut waiting {
            assert!(once(waiter.as_mut()).is_none());
        }
        assert_eq!(
            once(Box::pin(turns.take(&agent)).as_mut()).unwrap().unwrap_err(),
            TooMany(AT_ONCE)
        );
        waiting.clear();
        assert!(once(Box::pin(turns.take(&agent)).as_mut()).is_none());
    }

    #[test]
    fn an_answer_keeps_its_turn_until_the_last_byte_was_sent() {
        let turns = Turns::default();
        let agent = id("/spire/agent/a");
        let turn = once(Box::pin(turns.take(&agent)).as_mut()).unwrap().unwrap();
        let free = || turns.seats(&agent).free.available_permits();
        let _other = once(Box::pin(turns.take(&agent)).as_mut()).unwrap().unwrap();
        let body = http_body_util::Full::new(Bytes::from_static(b"answer"));
        let body = body.map_err(|never: Infallible| match never {});
        let mut response = keep(Some(turn), Response::new(Body::new(body)));
        let frame = once(Box::pin(response.body_mut().frame()).as_mut()).unwrap();
        let data = frame.unwrap().unwrap().into_data().unwrap();
        drop(response);
        assert_eq!((&*data, free()), (&b"answer"[..], AT_ONCE - 2));
        drop(data);
        assert_eq!(free(), AT_ONCE - 1);
    }
}
