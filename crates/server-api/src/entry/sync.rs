//! SyncAuthorizedEntries: all at once when they fit a page; else revisions first, and then what
//! the agent lacks (facts CH-12..CH-14).

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt};
use prost::Message;
use steeple_proto::spire::api::server::entry::v1 as pb;
use steeple_server_core::index::{Authorized, Fields};
use tonic::{Code, Status, Streaming};

use super::prepared::messages;
use crate::convert::fields;

/// Entries, or revisions, in one message.
const PAGE: usize = 500;

/// Fields of `SyncAuthorizedEntriesResponse`.
const REVISIONS: u32 = 1;
const ENTRIES: u32 = 2;

/// What the agent receives: messages, encoded.
pub(crate) type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

type Requests = Streaming<pb::SyncAuthorizedEntriesRequest>;

enum State {
    /// Nothing was received yet.
    Begin(Requests, Authorized),
    /// The revisions from this place on are still to be sent.
    Revisions(Requests, Authorized, usize, Fields),
    /// Of a request, these entries are still to be sent.
    Entries(Requests, Wanted),
    /// The next request is awaited.
    Idle(Requests, Wanted),
}

/// The entries, in order of id once somebody asked for one, and the places of those that were
/// asked for and not sent yet, last first.
struct Wanted {
    entries: Authorized,
    sorted: bool,
    asked: Fields,
    pending: Vec<usize>,
}

impl Wanted {
    /// Each entry once and in order of id, however they were asked for.
    fn ask(&mut self, mut ids: Vec<String>) {
        if !self.sorted {
            self.entries.sort_by_id();
            self.sorted = true;
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.dedup();
        self.pending = ids.iter().filter_map(|id| self.entries.find(id)).collect();
    }
}

/// Answers a stream of requests about `entries`.
pub(super) fn answers(requests: Requests, entries: Authorized) -> Answers {
    let answers =
        stream::unfold(
            Some(State::Begin(requests, entries)),
            |state| async move { step(state?).await },
        );
    Box::pin(answers)
}

type Step = Option<(Result<Bytes, Status>, Option<State>)>;

async fn step(state: State) -> Step {
    match state {
        State::Begin(requests, entries) => begin(requests, entries).await,
        State::Revisions(requests, entries, sent, asked) => {
            Some(revisions(requests, entries, sent, asked))
        }
        State::Entries(requests, wanted) => Some(next_entries(requests, wanted)),
        State::Idle(requests, wanted) => idle(requests, wanted).await,
    }
}

async fn begin(mut requests: Requests, entries: Authorized) -> Step {
    let first = match requests.next().await {
        Some(Ok(first)) => first,
        Some(Err(status)) => return Some((Err(status), None)),
        None => return Some((Err(Status::unknown("EOF")), None)),
    };
    if !first.ids.is_empty() {
        let text = "specifying IDs on initial request is not supported";
        return Some((Err(Status::invalid_argument(text)), None));
    }
    if first.output_mask.as_ref().is_some_and(|mask| !mask.revision_number) {
        let text = "revision number cannot be masked";
        return Some((Err(Status::invalid_argument(text)), None));
    }
    let asked = fields(first.output_mask.as_ref());
    if entries.len() > PAGE {
        return Some(revisions(requests, entries, 0, asked));
    }
    Some((Ok(messages(entries.iter(), ENTRIES, asked, 0).freeze()), None))
}

fn revisions(
    requests: Requests,
    entries: Authorized,
    sent: usize,
    asked: Fields,
) -> (Result<Bytes, Status>, Option<State>) {
    /// An id is a UUID, mostly.
    const ROOM: usize = 64;
    let end = entries.len().min(sent + PAGE);
    let mut answer = BytesMut::with_capacity((end - sent) * ROOM);
    for entry in entries.iter().take(end).skip(sent) {
        entry.put_revision(&mut answer, REVISIONS);
    }
    let more = end < entries.len();
    put_more(&mut answer, more);
    let next = if more {
        State::Revisions(requests, entries, end, asked)
    } else {
        State::Idle(requests, Wanted { entries, sorted: false, asked, pending: Vec::new() })
    };
    (Ok(answer.freeze()), Some(next))
}

/// Appends the last field of the message.
fn put_more(answer: &mut BytesMut, more: bool) {
    let rest = pb::SyncAuthorizedEntriesResponse { more, ..Default::default() };
    rest.encode(answer).expect("the buffer grows");
}

async fn idle(mut requests: Requests, mut wanted: Wanted) -> Step {
    match requests.next().await {
        // The agent has all it wants.
        None => None,
        Some(Err(status)) if status.code() == Code::Cancelled => None,
        Some(Err(status)) => Some((Err(status), None)),
        Some(Ok(request)) => {
            wanted.ask(request.ids);
            Some(next_entries(requests, wanted))
        }
    }
}

fn next_entries(requests: Requests, mut wanted: Wanted) -> (Result<Bytes, Status>, Option<State>) {
    /// The last field.
    const MORE: usize = 2;
    let rest = wanted.pending.len().saturating_sub(PAGE);
    let batch = wanted.pending.split_off(rest);
    let entries = batch.iter().rev().map(|place| wanted.entries.at(*place));
    let mut answer = messages(entries, ENTRIES, wanted.asked, MORE);
    let more = !wanted.pending.is_empty();
    put_more(&mut answer, more);
    let next = if more { State::Entries(requests, wanted) } else { State::Idle(requests, wanted) };
    (Ok(answer.freeze()), Some(next))
}
