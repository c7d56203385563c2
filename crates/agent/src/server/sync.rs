//! What this agent is authorised for, by difference where the server can.

use futures_util::StreamExt as _;
use steeple_agent_core::sync::{EntryDelta, EntrySync, KnownEntries, SyncStep};
use steeple_net::channel::Channel;
use steeple_proto::spire::api::server::entry::v1 as entry_api;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::types::EntryMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use tonic::{Code, Status};

use super::{ServerClient, log_failure};
use crate::convert;
use crate::error::AgentError;

impl ServerClient {
    /// What changed since `known`. A server without the incremental call, or a
    /// configuration against it, gets the plain one.
    pub(crate) async fn sync_entries(
        &self,
        known: &KnownEntries,
        incremental: bool,
    ) -> Result<EntryDelta, AgentError> {
        if incremental {
            let outcome = self.call(|channel| sync(channel, known)).await;
            match outcome {
                Err(status) if status.code() == Code::Unimplemented => {}
                Ok(delta) => return Ok(delta),
                Err(status) => return Err(failed(status)),
            }
        }
        let request = entry_api::GetAuthorizedEntriesRequest { output_mask: Some(output_mask()) };
        let answer = self
            .call(|channel| async move {
                EntryClient::new(channel).get_authorized_entries(request).await
            })
            .await
            .map_err(failed)?;
        Ok(EntryDelta::between(known, convert::entries(answer.into_inner().entries)))
    }
}

/// The first request is on its way before the answer is awaited: a server may
/// send nothing, not even headers, until it has something to say.
async fn sync(channel: Channel, known: &KnownEntries) -> Result<EntryDelta, Status> {
    let (requests, outgoing) = mpsc::channel(1);
    let first = entry_api::SyncAuthorizedEntriesRequest {
        output_mask: Some(output_mask()),
        ids: Vec::new(),
    };
    requests.try_send(first).expect("the channel has room for the first request");
    let mut client = EntryClient::new(channel);
    let call = client.sync_authorized_entries(ReceiverStream::new(outgoing));
    let mut pages = call.await?.into_inner();
    let mut exchange = EntrySync::new(known);
    loop {
        let page = match pages.next().await {
            Some(page) => convert::sync_page(page?),
            None => return Err(Status::unknown("EOF")),
        };
        match exchange.on_page(page).map_err(|error| Status::unknown(error.to_string()))? {
            SyncStep::Receive => {}
            SyncStep::Request(ids) => {
                let request = entry_api::SyncAuthorizedEntriesRequest { output_mask: None, ids };
                // If the server hung up, the next read says why.
                let _ = requests.send(request).await;
            }
            SyncStep::Done(delta) => return Ok(delta),
        }
    }
}

fn output_mask() -> EntryMask {
    EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
        created_at: true,
        ..EntryMask::default()
    }
}

fn failed(status: Status) -> AgentError {
    log_failure("failed to fetch authorized entries", "Failed to fetch authorized entries", status)
        .into()
}
