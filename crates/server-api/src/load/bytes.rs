//! The memory of requests: who may have how much of it.
//!
//! A message is up to 4 MiB, and is held from its first byte until its call is answered. Before a
//! larger one is read on, room for all of it is set aside, so that the sum is bounded and no two
//! half-read messages wait for one another. Until then the client's window stays shut.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tonic::Status;
use tonic::body::Body;

use crate::limit::retry_later;
use crate::tap::MAX_MESSAGE;

/// What is counted in.
const UNIT: usize = 1024;
/// Smaller messages are not counted: there are no more of them than calls.
const SMALL: usize = 16 * 1024;
/// What one compressed byte becomes at most.
const DEFLATED: usize = 1032;
/// Before each message: whether it is compressed, and its length.
const HEAD: usize = 5;
/// How long a message may wait for room.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a message that has its room may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);

/// The room that there is.
#[derive(Debug)]
pub(super) struct Budget {
    all: Arc<Semaphore>,
    /// What those without an identity may have of it, together.
    strangers: Arc<Semaphore>,
    sites: Mutex<Sites>,
    per_site: usize,
    most: usize,
}

#[derive(Debug, Default)]
struct Sites {
    shares: HashMap<IpAddr, Weak<Semaphore>>,
    /// The size at which those that have gone are looked for.
    sweep_at: usize,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// The address; none for a local caller.
    pub(crate) site: Option<IpAddr>,
    /// Whether it showed a certificate.
    pub(crate) known: bool,
}

/// The room of one message.
#[derive(Debug)]
struct Room {
    _all: OwnedSemaphorePermit,
    _stranger: Option<OwnedSemaphorePermit>,
    _site: Option<(OwnedSemaphorePermit, Arc<Semaphore>)>,
}

/// The room of a call's message, given back when nobody holds this any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<Mutex<Option<Room>>>);

impl Held {
    fn set(&self, room: Option<Room>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = room;
    }
}

impl Budget {
    /// `all` bytes, of which one address may have `per_site`, and strangers half.
    pub(super) fn new(all: usize, per_site: usize) -> Self {
        // Room for one message there must be, or nobody could send it.
        let units = |bytes: usize| (bytes.max(MAX_MESSAGE + UNIT) / UNIT).min(MAX_UNITS);
        let most = units(all).min(units(per_site));
        Self {
            all: Arc::new(Semaphore::new(units(all))),
            strangers: Arc::new(Semaphore::new(units(all / 2))),
            sites: Mutex::default(),
            per_site: units(per_site),
            most,
        }
    }

    /// What one address may have, known for as long as it has some of it.
    fn share(&self, site: IpAddr) -> Arc<Semaphore> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = sites.shares.get(&site).and_then(Weak::upgrade) {
            return share;
        }
        if sites.shares.len() >= sites.sweep_at {
            sites.shares.retain(|_, share| share.strong_count() > 0);
            sites.sweep_at = 2 * sites.shares.len() + 64;
        }
        let share = Arc::new(Semaphore::new(self.per_site));
        sites.shares.insert(site, Arc::downgrade(&share));
        share
    }

    async fn room(&self, sender: Sender, bytes: usize) -> Room {
        let units = bytes.div_ceil(UNIT).min(self.most);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let take = |from: Arc<Semaphore>| async move {
            from.acquire_many_owned(units).await.expect("nobody closes the semaphore")
        };
        // The own share first: who waits for that keeps nothing from others.
        let site = match sender.site {
            Some(site) => {
                let share = self.share(site);
                Some((take(Arc::clone(&share)).await, share))
            }
            None => None,
        };
        let stranger = match sender.known {
            true => None,
            false => Some(take(Arc::clone(&self.strangers)).await),
        };
        let all = take(Arc::clone(&self.all)).await;
        Room { _all: all, _stranger: stranger, _site: site }
    }
}

/// More than a machine has.
const MAX_UNITS: usize = 1 << 30;

/// A request's body that waits for room.
pub(super) struct Metered {
    inner: Body,
    budget: Arc<Budget>,
    sender: Sender,
    held: Held,
    head: [u8; HEAD],
    seen: usize,
    /// Bytes of the message still to come.
    left: usize,
    /// Counts for the message under way, if it is a large one.
    due: Option<Pin<Box<Sleep>>>,
    waiting: Option<Pin<Box<dyn Future<Output = Option<Room>> + Send>>>,
    /// What was read and may not be passed on before there is room for the rest.
    stashed: Option<Bytes>,
}

impl Metered {
    pub(super) fn new(inner: Body, budget: Arc<Budget>, sender: Sender, held: Held) -> Self {
        Self {
            inner,
            budget,
            sender,
            held,
            head: [0; HEAD],
            seen: 0,
            left: 0,
            due: None,
            waiting: None,
            stashed: None,
        }
    }

    /// Follows the messages in what was read; gives the size of the largest that begins there.
    fn follow(&mut self, mut data: &[u8]) -> usize {
        let mut largest = 0;
        while !data.is_empty() {
            let skipped = data.len().min(self.left);
            self.left -= skipped;
            data = &data[skipped..];
            let missing = (HEAD - self.seen).min(data.len());
            self.head[self.seen..self.seen + missing].copy_from_slice(&data[..missing]);
            self.seen += missing;
            data = &data[missing..];
            if self.seen == HEAD {
                let [_, length @ ..] = self.head;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.seen = 0;
                // One above the limit is refused by its head, and never read.
                if self.left <= MAX_MESSAGE {
                    let ratio = if self.head[0] == 0 { 1 } else { DEFLATED };
                    largest = largest.max((self.left * ratio).min(MAX_MESSAGE));
                }
            }
        }
        largest
    }

    fn wait_for(&mut self, bytes: usize) {
        // What a stream has sent before was dealt with.
        self.held.set(None);
        let (budget, sender) = (Arc::clone(&self.budget), self.sender);
        self.waiting =
            Some(Box::pin(async move { timeout(PATIENCE, budget.room(sender, bytes)).await.ok() }));
    }

    fn passed_on(&mut self, data: Bytes) -> Frame<Bytes> {
        if self.left == 0 {
            self.due = None;
        }
        Frame::data(data)
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(waiting) = &mut this.waiting {
                let room = ready!(waiting.as_mut().poll(context));
                this.waiting = None;
                let Some(room) = room else {
                    this.stashed = None;
                    let text = "the memory for requests is used up";
                    return Poll::Ready(Some(Err(retry_later(text, PATIENCE))));
                };
                this.held.set(Some(room));
                this.due = Some(Box::pin(sleep_until(Instant::now() + ARRIVAL)));
            }
            if let Some(data) = this.stashed.take() {
                return Poll::Ready(Some(Ok(this.passed_on(data))));
            }
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) else {
                if let Some(due) = &mut this.due {
                    ready!(due.as_mut().poll(context));
                    let text = "the request did not arrive in time";
                    return Poll::Ready(Some(Err(Status::deadline_exceeded(text))));
                }
                return Poll::Pending;
            };
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            };
            let largest = this.follow(&data);
            if largest <= SMALL {
                return Poll::Ready(Some(Ok(this.passed_on(data))));
            }
            this.stashed = Some(data);
            this.wait_for(largest);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stashed.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.stashed.is_none() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::task::Waker;

    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const A: Sender = Sender { site: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), known: true };

    fn message(length: usize) -> Bytes {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(HEAD + length, 7);
        bytes.into()
    }

    /// A body that comes in parts of this size.
    fn body(budget: &Arc<Budget>, bytes: &Bytes, part: usize, held: &Held) -> Metered {
        let frame = |part| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(part)));
        let parts: Vec<_> = bytes.chunks(part).map(frame).collect();
        let inner = Body::new(StreamBody::new(stream::iter(parts)));
        Metered::new(inner, Arc::clone(budget), A, held.clone())
    }

    fn free(budget: &Budget) -> usize {
        budget.all.available_permits()
    }

    #[tokio::test]
    async fn every_byte_is_passed_on_and_a_large_message_has_its_room_until_it_is_let_go() {
        let budget = Arc::new(Budget::new(64 << 20, 64 << 20));
        let before = free(&budget);
        for length in [0, 5, SMALL, SMALL + 1, 300_000] {
            for part in [1, 3, 4096, usize::MAX] {
                if length > SMALL && part < 4096 {
                    continue;
                }
                let held = Held::default();
                let bytes = message(length);
                let read = body(&budget, &bytes, part, &held).collect().await.unwrap().to_bytes();
                assert_eq!(read, bytes, "{length} in parts of {part}");
                let expected = if length > SMALL { length.div_ceil(UNIT) } else { 0 };
                assert_eq!(before - free(&budget), expected, "{length} in parts of {part}");
                drop(held);
                assert_eq!(free(&budget), before);
            }
        }
    }

    #[tokio::test]
    async fn of_a_stream_only_the_last_large_message_counts() {
        let budget = Arc::new(Budget::new(64 << 20, 64 << 20));
        let before = free(&budget);
        let held = Held::default();
        let bytes = [message(100_000), message(3), message(200_000)].concat().into();
        body(&budget, &bytes, 50_000, &held).collect().await.unwrap();
        assert_eq!(before - free(&budget), 200_000_usize.div_ceil(UNIT));
    }

    #[tokio::test(start_paused = true)]
    async fn what_there_is_no_room_for_is_not_read_on_and_refused_in_the_end() {
        let budget = Arc::new(Budget::new(0, 0));
        let first = Held::default();
        let most = message(MAX_MESSAGE);
        body(&budget, &most, usize::MAX, &first).collect().await.unwrap();
        let second = Held::default();
        let mut waiting = body(&budget, &most, 1000, &second);
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut waiting).poll_frame(&mut context).is_pending());
        let refused = waiting.collect().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let mut waiting = body(&budget, &most, 1000, &second);
        assert!(Pin::new(&mut waiting).poll_frame(&mut context).is_pending());
        drop(first);
        assert_eq!(waiting.collect().await.unwrap().to_bytes(), most);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_arrive_gives_its_room_back() {
        let budget = Arc::new(Budget::new(0, 0));
        let head = message(MAX_MESSAGE).slice(..100);
        let parts = stream::iter([Ok(Frame::data(head))]);
        let inner = Body::new(StreamBody::new(futures_util::StreamExt::chain(
            parts,
            stream::pending::<Result<_, Status>>(),
        )));
        let metered = Metered::new(inner, Arc::clone(&budget), A, Held::default());
        let refused = metered.collect().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(free(&budget), budget.most);
    }

    #[tokio::test]
    async fn strangers_together_have_half_and_one_address_its_share() {
        let budget = Arc::new(Budget::new(64 << 20, 16 << 20));
        let mut rooms = Vec::new();
        for number in 0..2u8 {
            let site = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)));
            let stranger = Sender { site, known: false };
            for _ in 0..4 {
                rooms.push(budget.room(stranger, MAX_MESSAGE).await);
            }
            let mut more = Box::pin(budget.room(Sender { site, known: true }, MAX_MESSAGE));
            assert!(more.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        let site = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3)));
        let mut stranger = Box::pin(budget.room(Sender { site, known: false }, MAX_MESSAGE));
        assert!(stranger.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(stranger);
        let mut known = Box::pin(budget.room(Sender { site, known: true }, MAX_MESSAGE));
        assert!(known.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
}
