//! One call: who makes it, by what right, and how it is logged.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::uri::Authority;
use steeple_proto::spire::api::types;
use steeple_runtime::Clock;
use steeple_runtime::log::Extra;
use steeple_server_core::access::{
    AgentCaller, Caller, DownstreamCaller, Operator, PeerSvid, Permit, Reader,
};
use steeple_store::StoreError;
use tonic::{Code, Request, Status};

use crate::limit::{LimitRefusal, Limits, Toll};
use crate::load::{Class, Load, Overloaded, Place};
use crate::status::Answer;
use crate::table::Row;

/// The longest text of a caller that the log repeats: a SPIFFE ID fits.
const MAX_SHOWN: usize = 2048;

/// The longest name of ours in a client's mouth that is kept (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 255;

/// What the stack found out about a call. Handlers get it from the request.
#[derive(Clone)]
pub(crate) struct Call(Arc<Facts>);

/// The parts of a [`Call`].
pub(crate) struct Facts {
    pub(crate) row: &'static Row,
    pub(crate) request_id: RequestId,
    pub(crate) caller: Caller,
    pub(crate) permit: Permit,
    pub(crate) limits: Arc<Limits>,
    pub(crate) load: Arc<Load>,
    /// Its place among the calls that are worked on, while it has one.
    pub(crate) place: Mutex<Option<Place>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// When the client stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// What a handler adds to the audit record; none when there is no record.
    pub(crate) notes: Option<Mutex<Extra>>,
    /// What the client meant to call, in its own words.
    pub(crate) authority: Option<Authority>,
}

/// By what the log knows a call; made when it is first written.
#[derive(Default)]
pub(crate) struct RequestId(OnceLock<String>);

impl RequestId {
    pub(crate) fn text(&self) -> &str {
        self.0.get_or_init(|| uuid::Uuid::new_v4().to_string())
    }
}

/// What an error is about: more fields for its line in the log, by upstream's names.
#[derive(Clone, Copy, Default)]
pub(crate) struct About<'a> {
    pub(crate) agent_id: Option<&'a str>,
    pub(crate) delete_mode: Option<&'a str>,
    pub(crate) entry_id: Option<&'a str>,
    pub(crate) node_attestor_type: Option<&'a str>,
    pub(crate) spiffe_id: Option<&'a str>,
    pub(crate) trust_domain_id: Option<&'a str>,
}

/// Logs an event of a call, with all that is known of the call.
macro_rules! log_call {
    ($level:ident, $call:expr, { $($field:tt)* }, $($message:tt)+) => {{
        let call: &$crate::call::Call = &$call;
        tracing::$level!(
            subsystem_name = "api",
            method = call.facts().row.method(),
            service = call.facts().row.service(),
            request_id = call.facts().request_id.text(),
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

impl Facts {
    /// The host that the client meant to call.
    pub(crate) fn host(&self) -> Option<String> {
        self.authority.as_ref().map(|it| it.host().chars().take(MAX_HOST).collect())
    }
}

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

    /// The client's SVID, if it showed one.
    pub(crate) fn caller_svid(&self) -> Option<&PeerSvid> {
        match &self.0.caller {
            Caller::Remote { svid, .. } => svid.as_ref(),
            Caller::Local => None,
        }
    }

    /// The client's SPIFFE ID, for the log.
    pub(crate) fn caller_id(&self) -> Option<&str> {
        self.caller_svid().map(|svid| svid.id.as_str())
    }

    /// Adds fields to the audit record, if there is one.
    pub(crate) fn note(&self, add: impl FnOnce(&mut Extra)) {
        if let Some(notes) = &self.0.notes {
            add(&mut notes.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// What was added to the audit record.
    pub(crate) fn noted(&self) -> Extra {
        let mut noted = Extra::new();
        self.note(|notes| noted = notes.clone());
        noted
    }

    /// Waits until the client's bucket has given tokens for `items`, on methods that cost per
    /// item.
    pub(crate) async fn spend_per_item(&self, items: usize) -> Result<(), Status> {
        match self.0.row.toll {
            Toll::PerItem(..) => self.spend(u32::try_from(items).unwrap_or(u32::MAX)).await?,
            Toll::Free | Toll::PerCall(..) => return Err(misconfigured()),
        }
        Ok(self.enter().await?)
    }

    /// Waits for a place among the calls of its class that are worked on, and keeps it until
    /// [`Self::leave`]. That there is none is logged for all such calls together.
    pub(crate) async fn enter(&self) -> Result<(), Overloaded> {
        let Some(class) = Class::of(self.0.row) else { return Ok(()) };
        let place = self.0.load.enter(class, &self.0.caller, self.0.deadline).await?;
        self.put(Some(place));
        Ok(())
    }

    /// Refuses a call for which there will be no place in time, before its request is read.
    pub(crate) fn glance(&self) -> Result<(), Overloaded> {
        let Some(class) = Class::of(self.0.row) else { return Ok(()) };
        self.0.load.glance(class, &self.0.caller, self.0.deadline)
    }

    /// Takes a place again that it left for a while: it was let in once.
    pub(crate) fn enter_again(&self) {
        let place = Class::of(self.0.row).map(|class| self.0.load.again(class, &self.0.caller));
        self.put(place);
    }

    /// What is left to do is not work: to wait for the client, or for nothing.
    pub(crate) fn leave(&self) {
        self.put(None);
    }

    fn put(&self, place: Option<Place>) {
        let mut own = self.0.place.lock().unwrap_or_else(PoisonError::into_inner);
        // Dropped when the lock is open again.
        let _last = std::mem::replace(&mut *own, place);
        drop(own);
    }

    /// Waits until the client's bucket has given tokens.
    pub(crate) async fn spend(&self, tokens: u32) -> Result<(), Status> {
        let (Toll::PerCall(bucket, what) | Toll::PerItem(bucket, what)) = self.0.row.toll else {
            return Ok(());
        };
        let Caller::Remote { address, svid } = &self.0.caller else { return Ok(()) };
        let now = Instant::now();
        let patience = self
            .0
            .deadline
            .map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
        let id = svid.as_ref().map(|svid| &svid.id);
        let wait = self
            .0
            .limits
            .take(bucket, address.ip(), id, tokens, patience, now)
            .map_err(|reason| self.fail(&LimitRefusal { what, reason }))?;
        if !wait.is_zero() {
            Box::pin(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }

    /// Logs an error and makes it the call's status.
    pub(crate) fn fail(&self, error: &impl Answer) -> Status {
        self.fail_about(error, About::default())
    }

    /// As [`Self::fail`], for an error about something.
    pub(crate) fn fail_about(&self, error: &impl Answer, about: About<'_>) -> Status {
        self.log_error(error, about);
        error.status()
    }

    /// Logs an error and makes it the status of one item of a batch.
    pub(crate) fn fail_item(&self, error: &impl Answer, about: About<'_>) -> types::Status {
        self.log_error(error, about);
        error.item()
    }

    /// Logs a status that no use case has an error for, and returns it.
    pub(crate) fn refuse(&self, status: Status) -> Status {
        let text = status.message();
        match status.code() {
            Code::InvalidArgument => log_call!(error, self, {}, "Invalid argument: {text}"),
            _ => log_call!(error, self, {}, "{}", capitalized(text)),
        }
        status
    }

    fn log_error(&self, error: &impl Answer, about: About<'_>) {
        let reason = match error.code() {
            Code::NotFound => None,
            _ => error.source().map(reason),
        };
        let invalid = error.code() == Code::InvalidArgument;
        let message = error.to_string();
        let message =
            if invalid { format!("Invalid argument: {message}") } else { capitalized(&message) };
        log_call!(
            error,
            self,
            {
                error = reason,
                agent_id = about.agent_id.map(shown),
                delete_federated_bundle_mode = about.delete_mode,
                entry_id = about.entry_id.map(shown),
                node_attestor_type = about.node_attestor_type.map(shown),
                spiffe_id = about.spiffe_id.map(shown),
                trust_domain_id = about.trust_domain_id.map(shown),
            },
            "{message}"
        );
    }
}

/// A reason as upstream's log has it: that of the datastore is a status there.
fn reason(source: &(dyn std::error::Error + 'static)) -> String {
    let text = source.to_string();
    let code = match source.downcast_ref::<StoreError>() {
        Some(StoreError::AlreadyExists(_)) => "AlreadyExists",
        Some(StoreError::Invalid(_)) => "InvalidArgument",
        Some(StoreError::Precondition(_)) => "FailedPrecondition",
        _ => return text,
    };
    if text.contains("rpc error: ") {
        text
    } else {
        format!("rpc error: code = {code} desc = {text}")
    }
}

/// As much of a caller's words as the log repeats.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_SHOWN)]
}

/// A method and the stack disagree about its row: never the caller's fault.
pub(crate) fn misconfigured() -> Status {
    Status::internal("authorization misconfigured for this method")
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
