//! SyncAuthorizedEntries: all at once when they fit a page; else revisions first, and then what
//! the agent lacks (facts CH-12..CH-14).

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};
use steeple_proto::spire::api::server::entry::v1 as pb;
use steeple_proto::spire::api::types;
use steeple_store::model::Entry;
use tonic::{Code, Status, Streaming};

use crate::convert::entry_message;

/// Entries, or revisions, in one message.
const PAGE: usize = 500;

/// What the agent receives.
pub(crate) type Answers =
    Pin<Box<dyn Stream<Item = Result<pb::SyncAuthorizedEntriesResponse, Status>> + Send>>;

type Requests = Streaming<pb::SyncAuthorizedEntriesRequest>;

enum State {
    /// Nothing was received yet.
    Begin(Requests, Vec<Arc<Entry>>),
    /// The revisions from this place on are still to be sent.
    Revisions(Requests, Vec<Arc<Entry>>, usize, Option<types::EntryMask>),
    /// Of a request, these entries are still to be sent.
    Entries(Requests, Wanted),
    /// The next request is awaited.
    Idle(Requests, Wanted),
}

/// The entries, in order of id once somebody asked for one, and those that were asked for and not
/// sent yet, last first.
struct Wanted {
    entries: Vec<Arc<Entry>>,
    sorted: bool,
    mask: Option<types::EntryMask>,
    pending: Vec<Arc<Entry>>,
}

impl Wanted {
    /// Each entry once and in order of id, however they were asked for.
    fn ask(&mut self, mut ids: Vec<String>) {
        if !self.sorted {
            self.entries.sort_unstable_by(|a, b| a.entry_id.cmp(&b.entry_id));
            self.sorted = true;
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.dedup();
        let place = |id: &String| self.entries.binary_search_by(|entry| entry.entry_id.cmp(id));
        self.pending =
            ids.iter().filter_map(|id| Some(Arc::clone(&self.entries[place(id).ok()?]))).collect();
    }
}

/// Answers a stream of requests about `entries`.
pub(super) fn answers(requests: Requests, entries: Vec<Arc<Entry>>) -> Answers {
    let answers =
        stream::unfold(
            Some(State::Begin(requests, entries)),
            |state| async move { step(state?).await },
        );
    Box::pin(answers)
}

type Step = Option<(Result<pb::SyncAuthorizedEntriesResponse, Status>, Option<State>)>;

async fn step(state: State) -> Step {
    match state {
        State::Begin(requests, entries) => begin(requests, entries).await,
        State::Revisions(requests, entries, sent, mask) => {
            Some(revisions(requests, entries, sent, mask))
        }
        State::Entries(requests, wanted) => Some(next_entries(requests, wanted)),
        State::Idle(requests, wanted) => idle(requests, wanted).await,
    }
}

async fn begin(mut requests: Requests, entries: Vec<Arc<Entry>>) -> Step {
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
    if entries.len() > PAGE {
        return Some(revisions(requests, entries, 0, first.output_mask));
    }
    let mask = first.output_mask.as_ref();
    let response = pb::SyncAuthorizedEntriesResponse {
        entries: entries.iter().map(|entry| entry_message(entry, mask)).collect(),
        ..pb::SyncAuthorizedEntriesResponse::default()
    };
    Some((Ok(response), None))
}

fn revisions(
    requests: Requests,
    entries: Vec<Arc<Entry>>,
    sent: usize,
    mask: Option<types::EntryMask>,
) -> (Result<pb::SyncAuthorizedEntriesResponse, Status>, Option<State>) {
    let end = entries.len().min(sent + PAGE);
    let response = pb::SyncAuthorizedEntriesResponse {
        entry_revisions: entries[sent..end]
            .iter()
            .map(|entry| pb::EntryRevision {
                id: entry.entry_id.clone(),
                revision_number: entry.revision_number,
                created_at: entry.created_at,
            })
            .collect(),
        entries: Vec::new(),
        more: end < entries.len(),
    };
    let next = if end < entries.len() {
        State::Revisions(requests, entries, end, mask)
    } else {
        State::Idle(requests, Wanted { entries, sorted: false, mask, pending: Vec::new() })
    };
    (Ok(response), Some(next))
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

fn next_entries(
    requests: Requests,
    mut wanted: Wanted,
) -> (Result<pb::SyncAuthorizedEntriesResponse, Status>, Option<State>) {
    let rest = wanted.pending.len().saturating_sub(PAGE);
    let batch = wanted.pending.split_off(rest);
    let entries =
        batch.iter().rev().map(|entry| entry_message(entry, wanted.mask.as_ref())).collect();
    let more = !wanted.pending.is_empty();
    let response = pb::SyncAuthorizedEntriesResponse { entry_revisions: Vec::new(), entries, more };
    let next = if more { State::Entries(requests, wanted) } else { State::Idle(requests, wanted) };
    (Ok(response), Some(next))
}
