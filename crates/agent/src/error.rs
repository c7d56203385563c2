//! How the agent fails.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use steeple_agent_core::node::Refusal;
use steeple_agent_core::storage::StorageError;
use steeple_net::channel::{ConnectError, InvalidAddress, connect_error};
use steeple_net::status::{detail, retry_delay};
use steeple_net::unix::BindError;
use steeple_ops::telemetry::TelemetryError;
use steeple_plugin::PluginError;
use steeple_proto::spire::api::types::PermissionDeniedDetails;
use steeple_proto::spire::api::types::permission_denied_details::Reason;
use tonic::Status;

/// Why the agent stopped, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file or directory cannot be used.
    #[error("{what} {path:?}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `agent-data.json` is there but makes no sense.
    #[error("failed to open storage: {0}")]
    Storage(#[from] StorageError),
    /// Another agent has the data directory.
    #[error("another agent runs on the same data directory and does not give way: {reason}")]
    Running {
        /// What it says.
        reason: String,
    },
    /// The plugins of the configuration cannot be used.
    #[error("{0}")]
    Plugins(String),
    /// A plugin failed while the agent ran.
    #[error("{}", as_rpc(.0))]
    Plugin(#[from] PluginError),
    /// The server's address cannot be one.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// The bundle for the first contact cannot be had.
    #[error("{0}")]
    Bootstrap(String),
    /// A call to the server failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The server's answer makes no sense.
    #[error("{0}")]
    Answer(String),
    /// A request for a certificate cannot be made.
    #[error("failed to generate CSR: {0}")]
    Csr(#[from] steeple_pki::csr::CsrError),
    /// The agent's own SVID ended before it could be replaced.
    #[error("current SVID has already expired and {what} failed: {source}")]
    Expired {
        /// `rotate agent SVID` or `reattest agent`.
        what: &'static str,
        /// Why.
        source: Box<AgentError>,
    },
    /// The server wants a new attestation, which this method does not allow.
    #[error("attestation method is not re-attestable")]
    NotReattestable,
    /// The server cannot be recognised any more.
    #[error("failed to sync with SPIRE Server: {0}")]
    Sync(#[source] Box<AgentError>),
    /// The agent stops to start anew with a new bundle.
    #[error("shutting down for rebootstrapping")]
    Rebootstrap,
    /// A socket cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The SPIFFE Broker API cannot be opened.
    #[error("{0}")]
    Broker(String),
    /// Telemetry cannot be started.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A part of the agent broke.
    #[error("task {0} panicked")]
    Panicked(&'static str),
    /// The agent was told to stop before it had started.
    #[error("stopped while starting")]
    Stopped,
}

impl AgentError {
    /// What it means for the agent's identity.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Call(call) => call.refusal(),
            Self::Expired { source, .. } | Self::Sync(source) => source.refusal(),
            _ => Refusal::Transient,
        }
    }

    /// The name of the gRPC code that it stands for.
    pub(crate) fn code_name(&self) -> &'static str {
        match self {
            Self::Call(call) => code_name(&call.status),
            Self::Plugin(error) => error.code.name(),
            Self::Expired { source, .. } | Self::Sync(source) => source.code_name(),
            _ => "Unknown",
        }
    }

    /// After how long the server wants to be asked again, if it is overloaded and says so.
    pub(crate) fn asked_to_wait(&self) -> Option<Duration> {
        match self {
            Self::Call(call) => call.asked_to_wait(),
            Self::Expired { source, .. } | Self::Sync(source) => source.asked_to_wait(),
            _ => None,
        }
    }

    /// Whether it is for want of a server, and not a server's word.
    pub(crate) fn is_outage(&self) -> bool {
        use tonic::Code;
        match self {
            Self::Call(call) => {
                matches!(
                    call.status.code(),
                    Code::Unavailable
                        | Code::DeadlineExceeded
                        | Code::ResourceExhausted
                        | Code::Aborted
                        | Code::Internal
                        | Code::Unknown
                ) && !call.unknown_authority
            }
            Self::Expired { source, .. } | Self::Sync(source) => source.is_outage(),
            _ => false,
        }
    }

    /// Whether no server was asked at all, as when there is nothing to attest with.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Plugin(_))
    }

    /// Whether the server said that this node may not be an agent.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Call(call) if call.status.code() == tonic::Code::PermissionDenied)
    }
}

/// A failed call: what was asked for, and the status.
#[derive(Debug)]
pub struct CallError {
    what: &'static str,
    status: Status,
    unknown_authority: bool,
}

impl CallError {
    pub(crate) fn new(what: &'static str, status: Status) -> Self {
        let unknown_authority = matches!(
            connect_error(&status),
            Some(ConnectError::Peer(peer)) if peer.is_unknown_authority()
        );
        Self { what, status, unknown_authority }
    }

    /// A failed attestation: for want of a connection, or by the server's word.
    pub(crate) fn of_attestation(status: Status) -> Self {
        let what = match connect_error(&status) {
            Some(_) => "could not open attestation stream to SPIRE server",
            None => "failed to receive attestation response",
        };
        Self::new(what, status)
    }

    /// The status, in grpc-go's words.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The failure as grpc-go prints it, without what was asked for.
    pub(crate) fn rpc(&self) -> String {
        let code = code_name(&self.status);
        format!("rpc error: code = {code} desc = {}", self.status.message())
    }

    /// See [`AgentError::asked_to_wait`].
    pub(crate) fn asked_to_wait(&self) -> Option<Duration> {
        asked_to_wait(&self.status)
    }

    pub(crate) fn into_status(self) -> Status {
        self.status
    }

    pub(crate) fn refusal(&self) -> Refusal {
        if self.unknown_authority {
            return Refusal::UnknownAuthority;
        }
        if self.status.code() != tonic::Code::PermissionDenied {
            return Refusal::Transient;
        }
        let details: Option<PermissionDeniedDetails> =
            detail(&self.status, "spire.api.types.PermissionDeniedDetails");
        match details.map(|details| details.reason()) {
            Some(Reason::AgentBanned) => Refusal::Banned,
            Some(
                Reason::AgentExpired
                | Reason::AgentNotActive
                | Reason::AgentNotAttested
                | Reason::AgentMustReattest,
            ) => Refusal::Reattest,
            Some(Reason::Unknown) | None => Refusal::Transient,
        }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.rpc())
    }
}

impl std::error::Error for CallError {}

/// What a server that will not serve now says about later.
pub(crate) fn asked_to_wait(status: &Status) -> Option<Duration> {
    use tonic::Code::{ResourceExhausted, Unavailable};
    matches!(status.code(), ResourceExhausted | Unavailable).then(|| retry_delay(status))?
}

/// The status code as Go prints it.
pub(crate) fn code_name(status: &Status) -> &'static str {
    match status.code() {
        tonic::Code::Ok => "OK",
        code => steeple_plugin::Code::from_number(code as i32).name(),
    }
}

/// A plugin's error as SPIRE prints it, whose plugins answer with a status.
pub(crate) fn as_rpc(error: &PluginError) -> String {
    format!("rpc error: code = {} desc = {}", error.code.name(), error.message)
}
