//! The stream of hints that a server of our own has (ADR 12).

use std::time::Instant;

use steeple_agent_core::node::Refusal;
use steeple_agent_core::push::StreamEnd;
use steeple_proto::steeple::server::push::v1 as push_api;
use steeple_proto::steeple::server::push::v1::push_client::PushClient;
use tonic::{Code, Status, Streaming};

use super::{RPC_TIMEOUT, ServerClient};
use crate::error::CallError;

/// An open stream of hints.
pub(crate) struct Hints {
    stream: Streaming<push_api::Hint>,
    opened: Instant,
}

/// How a stream ended, or why it did not begin.
pub(crate) struct Ended {
    pub(crate) how: StreamEnd,
    /// What the server or the connection said; none if the stream was over in good order.
    pub(crate) error: Option<CallError>,
}

impl ServerClient {
    /// Asks to be told of changes. A failure is no reason to give up the connection.
    pub(crate) async fn watch(&self) -> Result<Hints, Ended> {
        let _calling = self.rotating.read().await;
        let mut client = PushClient::new(self.channel.clone());
        let opening = client.watch(push_api::WatchRequest {});
        match tokio::time::timeout(RPC_TIMEOUT, opening).await {
            Ok(Ok(answer)) => Ok(Hints { stream: answer.into_inner(), opened: Instant::now() }),
            Ok(Err(status)) => Err(ended(status)),
            Err(_) => Err(ended(Status::deadline_exceeded("context deadline exceeded"))),
        }
    }
}

impl Hints {
    /// Waits for the next hint; `false` is a mere sign of life.
    pub(crate) async fn next(&mut self) -> Result<bool, Ended> {
        match self.stream.message().await {
            Ok(Some(hint)) => Ok(hint.entries || hint.bundles || hint.standing),
            Ok(None) => Err(Ended { how: StreamEnd::Over(self.opened.elapsed()), error: None }),
            Err(status) => Err(ended(status)),
        }
    }
}

impl Ended {
    /// The server fell silent.
    pub(crate) fn silent() -> Self {
        ended(Status::deadline_exceeded("no sign of life"))
    }

    /// Whether the server refuses the agent itself, so that a sync will say why.
    pub(crate) fn is_refusal(&self) -> bool {
        let refusal = self.error.as_ref().map_or(Refusal::Transient, CallError::refusal);
        matches!(refusal, Refusal::Reattest | Refusal::Banned)
    }
}

fn ended(status: Status) -> Ended {
    let code = status.code();
    let error = CallError::new("failed to watch for changes", status);
    let how = match (code, error.refusal()) {
        (Code::Unimplemented, _) | (Code::PermissionDenied, Refusal::Transient) => {
            StreamEnd::NotOffered
        }
        (Code::Aborted, _) => StreamEnd::Replaced,
        _ => StreamEnd::Lost,
    };
    Ended { how, error: Some(error) }
}
