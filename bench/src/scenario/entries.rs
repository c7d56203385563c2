//! Registration entries created one by one and in batches, listed, updated and deleted.
//!
//! The counts are fixed, so that every program has the same entries in its database afterwards.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use steeple_net::channel::Channel;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest,
    ListEntriesRequest,
};
use steeple_proto::spire::api::types::{Entry, EntryMask, Status};

use super::{Context, Scenario};
use crate::deployment::{self, Deployment};
use crate::error::{Error, Result};
use crate::figures::{SYNC_RATE, cost, rate};
use crate::load::{Gate, Spent, answer, drive};

const CREATE: &str = "BatchCreateEntry";
const UPDATE: &str = "BatchUpdateEntry";
const DELETE: &str = "BatchDeleteEntry";
const LIST: &str = "ListEntries";
/// How many entries go into a call that creates them, and of how many such calls' entries as many
/// are created as of the first kind.
const BATCHES: [(usize, usize); 3] = [(1, 1), (50, 2), (200, 4)];
/// How many are updated, and deleted, in a call.
const UPDATED: usize = 50;
const DELETED: usize = 200;
/// How many entries a page has, where they are listed in pages.
const PAGE: i32 = 500;
/// How long each part may take.
const LIMIT: Duration = Duration::from_secs(120);
/// The largest message that is taken: a list of all entries.
const MOST: usize = 256 << 20;
/// Each entry has a selector of its own, as entries of different workloads do.
const FIRST_UID: usize = 100_000;
/// Of another agent, so that what is measured is the writing.
const PARENT: &str = "/spire/agent/bench/other";

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "entries",
    "creating entries, one and many a call, listing, updating, deleting them",
    &[
        rate("entries.rate", "Entries created, one a call").limit(SYNC_RATE),
        cost("entries.cpu", "Entries created, one a call, server CPU each"),
        rate("entries50.rate", "Entries created, 50 a call"),
        cost("entries50.cpu", "Entries created, 50 a call, server CPU each"),
        rate("entries200.rate", "Entries created, 200 a call"),
        cost("entries200.cpu", "Entries created, 200 a call, server CPU each"),
        rate("entries.pages.rate", "Entries listed, 500 a page"),
        cost("entries.pages.cpu", "Entries listed, 500 a page, server CPU each"),
        rate("entries.list.rate", "Entries listed, all at once"),
        cost("entries.list.cpu", "Entries listed, all at once, server CPU each"),
        rate("entries.update.rate", "Entries updated, 50 a call"),
        cost("entries.update.cpu", "Entries updated, 50 a call, server CPU each"),
        rate("entries.delete.rate", "Entries deleted, 200 a call"),
        cost("entries.delete.cpu", "Entries deleted, 200 a call, server CPU each"),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
);

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let before = count(deployment.server_channel()).await?;
    let mut made = Vec::new();
    let ids = [
        ("entries.rate", "entries.cpu"),
        ("entries50.rate", "entries50.cpu"),
        ("entries200.rate", "entries200.cpu"),
    ];
    for ((batch, share), (rate, cpu)) in BATCHES.into_iter().zip(ids) {
        let wanted = (context.args.entries * share).next_multiple_of(batch);
        let entries = (made.len()..made.len() + wanted).map(|number| {
            deployment::entry(&format!("/created/{number}"), PARENT, (FIRST_UID + number) as u32)
        });
        let entries: Vec<Entry> = entries.collect();
        let spent = batches(deployment, context, &entries, batch, |channel, entries| async {
            create_all(channel, entries).await
        });
        let (spent, created) = spent.await?;
        add(context, spent, rate, cpu);
        made.extend(created);
    }

    for (page, rate, cpu) in [
        (PAGE, "entries.pages.rate", "entries.pages.cpu"),
        (0, "entries.list.rate", "entries.list.cpu"),
    ] {
        let spent = list(deployment, context, page, before + made.len()).await?;
        add(context, spent, rate, cpu);
    }

    for entry in &mut made {
        entry.hint = "updated".into();
    }
    let work = |channel, entries| async { update_all(channel, entries).await };
    let (spent, updated) = batches(deployment, context, &made, UPDATED, work).await?;
    add(context, spent, "entries.update.rate", "entries.update.cpu");
    if updated.iter().any(|entry| entry.hint != "updated") {
        return Err(Error::Wrong { call: UPDATE, what: "an entry without its new hint".into() });
    }

    let ids: Vec<String> = made.into_iter().map(|entry| entry.id).collect();
    let work = |channel, ids| async { delete_all(channel, ids).await };
    let (spent, _) = batches(deployment, context, &ids, DELETED, work).await?;
    add(context, spent, "entries.delete.rate", "entries.delete.cpu");
    let left = count(deployment.server_channel()).await?;
    if left != before {
        let what = format!("{left} entries instead of {before} after all");
        return Err(Error::Wrong { call: DELETE, what });
    }
    Ok(())
}

fn add(context: &mut Context<'_>, spent: Spent, rate: &'static str, cpu: &'static str) {
    context.samples.beside(spent);
    context.add(rate, spent.per_second());
    context.add(cpu, spent.per_call(spent.server));
}

/// Lets the callers work on all of `items`, so many a call; what that took, by item, and gave.
async fn batches<T, R, F, Fut>(
    deployment: &Deployment,
    context: &Context<'_>,
    items: &[T],
    batch: usize,
    work: F,
) -> Result<(Spent, Vec<R>)>
where
    T: Clone + Send + Sync + 'static,
    R: Send + 'static,
    F: Fn(Channel, Vec<T>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<R>>> + Send,
{
    let batches: Arc<[Vec<T>]> = items.chunks(batch).map(<[T]>::to_vec).collect();
    let callers = callers(deployment, context).await?;
    let (give, mut given) = tokio::sync::mpsc::unbounded_channel();
    let gate = Gate::new(LIMIT, batches.len() as u64);
    let spent = drive(deployment, callers, gate, |channel, gate| {
        let (batches, give) = (Arc::clone(&batches), give.clone());
        async move {
            let mut calls = 0;
            while let Some(number) = gate.next() {
                let items = batches[number as usize].clone();
                calls += items.len() as u64;
                // The receiver outlives every caller.
                let _ = give.send(work(channel.clone(), items).await?);
            }
            Ok(calls)
        }
    })
    .await?;
    drop(give);
    let mut all = Vec::with_capacity(items.len());
    while let Some(some) = given.recv().await {
        all.extend(some);
    }
    if spent.calls != items.len() as u64 {
        let what = format!("{} entries of {} within {LIMIT:?}", spent.calls, items.len());
        return Err(Error::Wrong { call: "entries", what });
    }
    Ok((spent, all))
}

/// Channels that are connected.
async fn callers(deployment: &Deployment, context: &Context<'_>) -> Result<Vec<Channel>> {
    let mut callers = Vec::new();
    for _ in 0..context.args.connections {
        let channel = deployment.server_channel();
        count(channel.clone()).await?;
        callers.push(channel);
    }
    Ok(callers)
}

/// Lists all entries again and again; what that took, by entry.
async fn list(
    deployment: &Deployment,
    context: &Context<'_>,
    page_size: i32,
    expected: usize,
) -> Result<Spent> {
    let callers = callers(deployment, context).await?;
    let gate = Gate::new(context.args.load, u64::MAX);
    drive(deployment, callers, gate, |channel, gate| async move {
        let mut listed = 0;
        while gate.next().is_some() {
            let found = walk(channel.clone(), page_size).await?;
            if found != expected {
                let what = format!("{found} entries instead of {expected}");
                return Err(Error::Wrong { call: LIST, what });
            }
            listed += found as u64;
        }
        Ok(listed)
    })
    .await
}

/// How many entries a listing from the first page to the last has.
///
/// # Errors
/// When the server does not say.
pub async fn walk(channel: Channel, page_size: i32) -> Result<usize> {
    let mut client = EntryClient::new(channel).max_decoding_message_size(MOST);
    let mut found = 0;
    let mut page_token = String::new();
    loop {
        let request = ListEntriesRequest { page_size, page_token, ..Default::default() };
        let page = answer(LIST, client.list_entries(request)).await?.into_inner();
        found += page.entries.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// How many entries there are.
///
/// # Errors
/// When the server does not say.
pub async fn count(channel: Channel) -> Result<usize> {
    let mut client = EntryClient::new(channel);
    let pending = client.count_entries(CountEntriesRequest::default());
    Ok(answer("CountEntries", pending).await?.into_inner().count as usize)
}

/// Creates entries with one call and returns them as the server has them.
///
/// # Errors
/// When the server refuses one.
pub async fn create_all(channel: Channel, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let wanted = entries.len();
    let request = BatchCreateEntryRequest { entries, output_mask: None };
    let mut client = EntryClient::new(channel);
    let response = answer(CREATE, client.batch_create_entry(request)).await?.into_inner();
    let mut created = Vec::with_capacity(wanted);
    for result in response.results {
        accepted(CREATE, result.status)?;
        created.push(result.entry.unwrap_or_default());
    }
    complete(CREATE, created, wanted)
}

async fn update_all(channel: Channel, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let wanted = entries.len();
    let input_mask = Some(EntryMask { hint: true, ..Default::default() });
    let request = BatchUpdateEntryRequest { entries, input_mask, output_mask: None };
    let mut client = EntryClient::new(channel);
    let response = answer(UPDATE, client.batch_update_entry(request)).await?.into_inner();
    let mut updated = Vec::with_capacity(wanted);
    for result in response.results {
        accepted(UPDATE, result.status)?;
        updated.push(result.entry.unwrap_or_default());
    }
    complete(UPDATE, updated, wanted)
}

fn complete(call: &'static str, entries: Vec<Entry>, wanted: usize) -> Result<Vec<Entry>> {
    if entries.len() != wanted || entries.iter().any(|entry| entry.id.is_empty()) {
        let what = format!("{} entries instead of {wanted}, each with its ID", entries.len());
        return Err(Error::Wrong { call, what });
    }
    Ok(entries)
}

/// Deletes entries with one call.
///
/// # Errors
/// When the server refuses to.
pub async fn delete_all(channel: Channel, ids: Vec<String>) -> Result<Vec<()>> {
    let wanted = ids.len();
    let request = BatchDeleteEntryRequest { ids };
    let mut client = EntryClient::new(channel);
    let response = answer(DELETE, client.batch_delete_entry(request)).await?.into_inner();
    if response.results.len() != wanted {
        let what = format!("{} results instead of {wanted}", response.results.len());
        return Err(Error::Wrong { call: DELETE, what });
    }
    response.results.into_iter().map(|result| accepted(DELETE, result.status)).collect()
}

/// Creates an entry and returns its ID.
///
/// # Errors
/// When the server refuses it.
pub async fn create(channel: Channel, entry: Entry) -> Result<String> {
    let created = create_all(channel, vec![entry]).await?;
    Ok(created.into_iter().map(|entry| entry.id).collect())
}

/// Deletes an entry.
///
/// # Errors
/// When the server refuses to.
pub async fn delete(channel: Channel, id: String) -> Result<()> {
    delete_all(channel, vec![id]).await.map(|_| ())
}

fn accepted(call: &'static str, status: Option<Status>) -> Result<()> {
    match status {
        Some(Status { code: 0, .. }) => Ok(()),
        Some(status) => Err(Error::Call { call, status: status.message }),
        None => Err(Error::Wrong { call, what: "no result".into() }),
    }
}
