//! Creating registration entries one by one.

use steeple_net::channel::Channel;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest,
};
use steeple_proto::spire::api::types::{Entry, Status};

use super::{Context, Scenario};
use crate::deployment::{self, Deployment};
use crate::error::{Error, Result};
use crate::figures::{cost, rate};
use crate::load::{Gate, answer, drive};

const CREATE: &str = "BatchCreateEntry";
const DELETE: &str = "BatchDeleteEntry";
/// The most entries of one load: what there is in the database changes what comes after.
const MOST: u64 = 2000;
/// Each entry has a selector of its own, as entries of different workloads do.
const FIRST_UID: u32 = 100_000;

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "entries",
    "creating entries",
    &[
        rate("entries.rate", "BatchCreateEntry, one entry each"),
        cost("entries.cpu", "BatchCreateEntry, server CPU per entry"),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
);

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    // Of another agent, so that what is measured is the writing.
    let parent = "/spire/agent/bench/other";
    let mut callers = Vec::new();
    for number in 0..context.args.connections {
        let channel = deployment.server_channel();
        let entry = deployment::entry(&format!("/first/{number}"), parent, 1);
        create(channel.clone(), entry).await?;
        callers.push(channel);
    }
    let gate = Gate::new(context.args.load, MOST);
    let spent = drive(deployment, callers, gate, |channel, gate| async move {
        let mut calls = 0;
        while let Some(number) = gate.next() {
            let uid = FIRST_UID + number as u32;
            let entry = deployment::entry(&format!("/created/{number}"), parent, uid);
            create(channel.clone(), entry).await?;
            calls += 1;
        }
        Ok(calls)
    })
    .await?;
    context.samples.beside(spent);
    context.add("entries.rate", spent.per_second());
    context.add("entries.cpu", spent.per_call(spent.server));
    Ok(())
}

/// Creates an entry and returns its ID.
///
/// # Errors
/// When the server refuses it.
pub async fn create(channel: Channel, entry: Entry) -> Result<String> {
    let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    let mut client = EntryClient::new(channel);
    let response = answer(CREATE, client.batch_create_entry(request)).await?.into_inner();
    let result = response.results.into_iter().next().unwrap_or_default();
    accepted(CREATE, result.status)?;
    let id = result.entry.unwrap_or_default().id;
    if id.is_empty() {
        return Err(Error::Wrong { call: CREATE, what: "an entry without ID".into() });
    }
    Ok(id)
}

/// Deletes an entry.
///
/// # Errors
/// When the server refuses to.
pub async fn delete(channel: Channel, id: String) -> Result<()> {
    let request = BatchDeleteEntryRequest { ids: vec![id] };
    let mut client = EntryClient::new(channel);
    let response = answer(DELETE, client.batch_delete_entry(request)).await?.into_inner();
    accepted(DELETE, response.results.into_iter().next().and_then(|it| it.status))
}

fn accepted(call: &'static str, status: Option<Status>) -> Result<()> {
    match status {
        Some(Status { code: 0, .. }) => Ok(()),
        Some(status) => Err(Error::Call { call, status: status.message }),
        None => Err(Error::Wrong { call, what: "no result".into() }),
    }
}
