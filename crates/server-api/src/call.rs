//! One call: who makes it, by what right, and how it is logged.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use steeple_proto::spire::api::types;
use steeple_runtime::Clock;
use steeple_server_core::access::{
    AgentCaller, Caller, DownstreamCaller, Operator, Permit, Reader,
};
use tonic::{Code, Request, Status};

use crate::limit::{LimitError, Limits, Toll};
use crate::status::Answer;
use crate::table::Row;

/// What the stack found out about a call. Handlers get it from the request.
#[derive(Clone)]
pub(crate) struct Call(Arc<Facts>);

/// The parts of a [`Call`].
pub(crate) struct Facts {
    pub(crate) row: &'static Row,
    pub(crate) request_id: String,
    pub(crate) caller: Caller,
    pub(crate) permit: Permit,
    pub(crate) limits: Arc<Limits>,
    pub(crate) clock: Arc<dyn Clock>,
    /// When the client stops waiting.
    pub(crate) deadline: Option<Instant>,
}

/// Logs an event of a call, with all that is known of the call.
macro_rules! log_call {
    ($level:ident, $call:expr, { $($field:tt)* }, $($message:tt)+) => {{
        let call: &$crate::call::Call = &$call;
        tracing::$level!(
            subsystem_name = "api",
            method = call.facts().row.method(),
            service = call.facts().row.service(),
            request_id = call.facts().request_id.as_str(),
            caller_addr = call.caller_addr(),
            caller_id = call.caller_id(),
            authorized_as = call.facts().permit.authorized_as(),
            authorized_via = call.facts().permit.authorized_via(),
            $($field)*
            $($message)+
        )
    }};
}
pub(crate) use log_call;

impl Call {
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(facts))
    }

    /// The call that a request belongs to.
    ///
    /// # Errors
    /// When the request did not come through the stack, which is a bug and answers nothing else.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(misconfigured)
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.0
    }

    /// The time to use for all of this call.
    pub(crate) fn now(&self) -> SystemTime {
        self.0.clock.now()
    }

    pub(crate) fn operator(&self) -> Result<&Operator, Status> {
        self.0.permit.operator().ok_or_else(misconfigured)
    }

    pub(crate) fn agent(&self) -> Result<&AgentCaller, Status> {
        self.0.permit.agent().ok_or_else(misconfigured)
    }

    pub(crate) fn downstream(&self) -> Result<&DownstreamCaller, Status> {
        self.0.permit.downstream().ok_or_else(misconfigured)
    }

    pub(crate) fn reader(&self) -> Result<Reader, Status> {
        self.0.permit.reader().ok_or_else(misconfigured)
    }

    /// The client's address, for the log; none on the Unix socket.
    pub(crate) fn caller_addr(&self) -> Option<String> {
        match &self.0.caller {
            Caller::Local => None,
            Caller::Remote { address, .. } => Some(address.to_string()),
        }
    }

    /// The client's SPIFFE ID, for the log.
    pub(crate) fn caller_id(&self) -> Option<&str> {
        match &self.0.caller {
            Caller::Remote { svid: Some(svid), .. } => Some(svid.id.as_str()),
            _ => None,
        }
    }

    /// Waits until the client's bucket has given tokens for `items`, on methods that cost per
    /// item.
    pub(crate) async fn spend_per_item(&self, items: usize) -> Result<(), Status> {
        match self.0.row.toll {
            Toll::PerItem(..) => self.spend(u32::try_from(items).unwrap_or(u32::MAX)).await,
            Toll::Free | Toll::PerCall(..) => Err(misconfigured()),
        }
    }

    /// Waits until the client's bucket has given tokens.
    pub(crate) async fn spend(&self, tokens: u32) -> Result<(), Status> {
        let (Toll::PerCall(bucket, what) | Toll::PerItem(bucket, what)) = self.0.row.toll else {
            return Ok(());
        };
        let Caller::Remote { address, .. } = &self.0.caller else { return Ok(()) };
        let now = Instant::now();
        let patience = self
            .0
            .deadline
            .map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
        let wait = self
            .0
            .limits
            .take(bucket, address.ip(), tokens, patience, now)
            .map_err(|reason| self.fail(&LimitRefusal { what, reason }))?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Logs an error and makes it the call's status.
    pub(crate) fn fail(&self, error: &impl Answer) -> Status {
        self.log_error(error);
        error.status()
    }

    /// Logs an error and makes it the status of one item of a batch.
    pub(crate) fn fail_item(&self, error: &impl Answer) -> types::Status {
        self.log_error(error);
        error.item()
    }

    fn log_error(&self, error: &impl Answer) {
        let reason = error.source().map(ToString::to_string);
        match error.code() {
            Code::InvalidArgument => {
                log_call!(error, self, { error = reason, }, "Invalid argument: {error}");
            }
            Code::NotFound => {
                log_call!(error, self, {}, "{}", capitalized(&error.to_string()));
            }
            _ => {
                log_call!(error, self, { error = reason, }, "{}", capitalized(&error.to_string()));
            }
        }
    }
}

/// A refusal by a limit.
#[derive(Debug, thiserror::Error)]
#[error("rejecting request due to {what}")]
struct LimitRefusal {
    what: &'static str,
    #[source]
    reason: LimitError,
}

impl Answer for LimitRefusal {
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }
}

/// A method and the stack disagree about its row: never the caller's fault.
pub(crate) fn misconfigured() -> Status {
    Status::internal("authorization misconfigured for this method")
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
