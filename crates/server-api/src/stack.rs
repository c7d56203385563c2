//! What every call passes before its handler, in this order: request id,
//! authentication, authorisation by the table or by a policy, limits; and after
//! it: the audit record.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, request};
use steeple_net::outcome;
use steeple_net::tls::TlsPeer;
use steeple_runtime::Clock;
use steeple_server_core::access::{AccessError, AgentFault, Caller, Gatekeeper, PeerSvid, Permit};
use steeple_server_core::bundles::Bundles;
use steeple_server_core::peers::{self, PeerError};
use steeple_spiffe::TrustDomain;
use steeple_telemetry::rpc;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use crate::audit::{Audit, Open};
use crate::call::{Call, Facts, RequestId};
use crate::judge::{Case, Judge};
use crate::limit::{Bucket, Limits, Toll, site};
use crate::load::{Held, Load, Sender};
use crate::refusal::Refusal;
use crate::status::{Answer, denied};
use crate::table::{self, Row};
use crate::tap;
use crate::turns::{self, Turn, Turns};

/// What the stack decides with; shared by both listeners.
pub(crate) struct Stack {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) gatekeeper: Gatekeeper,
    pub(crate) judge: Option<Judge>,
    pub(crate) bundles: Bundles,
    pub(crate) limits: Arc<Limits>,
    pub(crate) load: Arc<Load>,
    pub(crate) turns: Turns,
    pub(crate) audit: Audit,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A service behind the stack.
#[derive(Clone)]
pub(crate) struct Gate<S> {
    stack: Arc<Stack>,
    local: bool,
    inner: S,
}

impl<S> Gate<S> {
    /// Puts the stack before `inner`, on the Unix socket (`local`) or on TCP.
    pub(crate) fn new(stack: Arc<Stack>, local: bool, inner: S) -> Self {
        Self { stack, local, inner }
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let later = self.inner.clone();
        // The clone that was polled ready is the one to call.
        let mut inner = std::mem::replace(&mut self.inner, later);
        let Some(row) = table::row(request.uri().path(), self.local) else {
            // The router behind has the words for what does not exist.
            return Box::pin(inner.call(request));
        };
        let stack = Arc::clone(&self.stack);
        let local = self.local;
        // The client counts from when it asked, not from when there was time to look.
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        Box::pin(async move {
            let traceparent = head.headers.get("traceparent").and_then(|it| it.to_str().ok());
            let rpc = rpc::call(row.path, traceparent);
            let door = rpc.scope(stack.before(row, local, &head, body, arrived)).await;
            let response = match door {
                // Boxed, so that what is refused does not pay for the room of what is not.
                Ok(passed) => rpc.scope(Box::pin(served(inner, head, passed))).await?,
                Err(refusal) => refusal.into_http(),
            };
            if !rpc.is_recorded() {
                return Ok(response);
            }
            Ok(outcome::watch(response, move |code| rpc.status(outcome::code_name(code))))
        })
    }
}

/// A call that may go to its handler.
struct Passed {
    call: Call,
    turn: Option<Turn>,
    /// Its audit record.
    open: Option<Open>,
    body: Body,
    /// The room that its messages have.
    held: Held,
}

/// What the handler answers to a call that passed.
async fn served<S>(
    mut inner: S,
    mut head: request::Parts,
    passed: Box<Passed>,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let Passed { call, turn, open, body, held } = *passed;
    head.extensions.insert(call.clone());
    let response = inner.call(Request::from_parts(head, body)).await?;
    call.leave();
    let response = words_of_grpc(response);
    let response = match open {
        Some(open) => open.follow(response).await,
        None => response,
    };
    drop(held);
    Ok(turns::keep(turn, response))
}

impl Stack {
    /// Bounds what all requests weigh together. The room of one is its own while this is held, and
    /// while its messages are read.
    fn meter(&self, local: bool, head: &request::Parts, body: Body) -> (Body, Held) {
        let peer = head.extensions.get::<TlsPeer>().filter(|_| !local);
        let sender = Sender {
            site: peer.map(|peer| site(peer.remote_addr().ip())),
            known: local || peer.is_some_and(|peer| !peer.chain_der().is_empty()),
        };
        self.load.meter(sender, body)
    }

    async fn before(
        &self,
        row: &'static Row,
        local: bool,
        head: &request::Parts,
        mut body: Body,
        arrived: Instant,
    ) -> Result<Box<Passed>, Refusal> {
        // Boxed: there mostly is none, and it would take room of every refusal.
        let subject = self.audit.is_enabled().then(|| Box::new(self.audit.subject(head)));
        let request_id = RequestId::default();
        let caller = if local { Caller::Local } else { self.authenticate(row, head).await? };
        let (mut message, mut held) = (None, None);
        if self.judge.is_some() {
            let (metered, room) = self.meter(local, head, body);
            (body, held) = (metered, Some(room));
            if !row.is_stream() {
                let taken = Box::pin(tap::take(&head.headers, body)).await?;
                (message, body) = (taken.message, taken.body);
            }
        }
        let permit = match &self.judge {
            None => self.gatekeeper.authorize(row.rule, &caller, self.clock.now()).await,
            Some(judge) => {
                // SPIRE looks at the program of those that have no other name.
                let path = subject.as_ref().and_then(|subject| subject.path.clone());
                let judged = self.judged(judge, row, &caller, &request_id, path, message.clone());
                Box::pin(judged).await?
            }
        };
        let permit = permit.map_err(|refusal| not_let_in(row, &caller, &request_id, &refusal))?;
        let call = Call::new(Facts {
            row,
            request_id,
            caller,
            permit,
            limits: Arc::clone(&self.limits),
            load: Arc::clone(&self.load),
            place: Mutex::default(),
            clock: Arc::clone(&self.clock),
            deadline: timeout(&head.headers).map(|timeout| arrived + timeout),
            notes: self.audit.is_enabled().then(Mutex::default),
            authority: head.uri.authority().cloned(),
        });
        let turn = match self.admit(&call).await {
            Ok(turn) => turn,
            Err(refusal) => {
                if self.audit.is_enabled() {
                    let subject = *subject.unwrap_or_default();
                    let open = Open::new(call, subject, &self.trust_domain, message);
                    open.failed(&refusal.status());
                }
                return Err(refusal);
            }
        };
        // Before, nobody reads of it.
        let (mut body, held) = match held {
            Some(held) => (body, held),
            None => self.meter(local, head, body),
        };
        if !self.audit.is_enabled() {
            return Ok(Box::new(Passed { call, turn, open: None, body, held }));
        }
        if self.judge.is_none() && !row.is_stream() {
            let taken = Box::pin(tap::take(&head.headers, body)).await?;
            (message, body) = (taken.message, taken.body);
        }
        let subject = *subject.unwrap_or_default();
        let open = Open::new(call.clone(), subject, &self.trust_domain, message);
        Ok(Box::new(Passed { call, turn, open: Some(open), body, held }))
    }

    /// The limits.
    async fn admit(&self, call: &Call) -> Result<Option<Turn>, Refusal> {
        match call.facts().row.toll {
            Toll::PerCall(..) => call.spend(1).await?,
            // It pays when its request was read, which is of no use if it will be refused then.
            Toll::PerItem(..) => call.glance()?,
            Toll::Free => {}
        }
        if call.facts().row.path == "/grpc.health.v1.Health/List" {
            // tonic's service does not know it, SPIRE's knows no more than its name.
            return Err(Status::unimplemented("method List not implemented").into());
        }
        let turn = match call.caller_svid() {
            None => None,
            Some(svid) => Some(self.turns.take(&svid.id).await.map_err(|e| call.fail(&e))?),
        };
        match call.facts().row.toll {
            // They have to wait for something else first, and enter when they have it.
            Toll::PerItem(..) | Toll::PerCall(Bucket::Attest, _) => {}
            Toll::Free | Toll::PerCall(..) => call.enter().await?,
        }
        Ok(turn)
    }

    async fn authenticate(&self, row: &Row, head: &request::Parts) -> Result<Caller, Status> {
        let peer = head.extensions.get::<TlsPeer>();
        let peer = peer.ok_or_else(|| Status::internal("no peer information available"))?;
        let address = peer.remote_addr();
        if let Some(svid) = peer.found() {
            return Ok(Caller::Remote { address, svid });
        }
        // A chain is verified once per connection, as a handshake would.
        match Box::pin(peer.finding(self.verify(peer))).await {
            Ok(svid) => Ok(Caller::Remote { address, svid }),
            Err(error) => {
                tracing::error!(
                    subsystem_name = "api",
                    method = row.method(),
                    service = row.service(),
                    caller_addr = %address,
                    %error,
                    "Failed to authenticate caller"
                );
                Err(error.status())
            }
        }
    }

    async fn verify(&self, peer: &TlsPeer) -> Result<Option<PeerSvid>, PeerError> {
        if peer.chain_der().is_empty() {
            return Ok(None);
        }
        // Of tens of thousands of connections, the certificates are not kept in pieces as well.
        let chain = peer.parse_chain().map_err(|_malformed| PeerError::Malformed)?;
        let now = self.clock.now();
        let is_admin = |id: &_| self.gatekeeper.is_admin_id(id);
        let svid = peers::verify(&chain, &self.trust_domain, &self.bundles, is_admin, now).await?;
        Ok(Some(svid))
    }

    /// Authorises a call by the rule that an operator's own policy has for it.
    async fn judged(
        &self,
        judge: &Judge,
        row: &'static Row,
        caller: &Caller,
        request_id: &RequestId,
        path: Option<String>,
        message: Option<Bytes>,
    ) -> Result<Result<Permit, AccessError>, Status> {
        let (caller_addr, caller_id) = named(caller);
        let case = Case {
            row,
            caller: caller_id.unwrap_or_default().to_owned(),
            caller_file_path: path.filter(|_| caller_id.is_none()).unwrap_or_default(),
            message,
        };
        let now = self.clock.now();
        let rule = judge.rule(case).await.map_err(|error| {
            tracing::error!(
                subsystem_name = "api",
                method = row.method(),
                service = row.service(),
                request_id = request_id.text(),
                caller_addr,
                caller_id,
                %error,
                "Authorization failure from OPA auth"
            );
            error.status()
        })?;
        Ok(self.gatekeeper.authorize_by_policy(rule, caller, now).await)
    }
}

/// Logs that a call is not let in, and makes that its status.
fn not_let_in(
    row: &'static Row,
    caller: &Caller,
    request_id: &RequestId,
    refusal: &AccessError,
) -> Status {
    let (caller_addr, caller_id) = named(caller);
    let status = match refusal {
        AccessError::Lookup(_) | AccessError::Activate(_) => refusal.status(),
        AccessError::NoRule => Status::permission_denied(no_rule(row)),
        AccessError::Agent { fault, .. } => denied(*fault, no_rule(row)),
    };
    let log = |error: Option<&str>, message: &str| {
        tracing::error!(
            subsystem_name = "api",
            method = row.method(),
            service = row.service(),
            request_id = request_id.text(),
            caller_addr,
            caller_id,
            authorized_as = error.is_none().then_some("nobody"),
            authorized_via = error.is_none().then_some(""),
            error,
            "{message}"
        );
    };
    if let Some(fault) = fault_line(refusal) {
        log(None, &fault);
    }
    let code = steeple_plugin::Code::from_number(status.code() as i32).name();
    let error = format!("rpc error: code = {code} desc = {}", status.message());
    log(Some(&error), "Failed to authenticate caller");
    status
}

/// Of a remote caller: its address, and its SPIFFE ID if it showed one.
fn named(caller: &Caller) -> (Option<String>, Option<&str>) {
    match caller {
        Caller::Local => (None, None),
        Caller::Remote { address, svid } => {
            (Some(address.to_string()), svid.as_ref().map(|svid| svid.id.as_str()))
        }
    }
}

fn no_rule(row: &Row) -> String {
    format!("authorization denied for method {}", row.path)
}

/// What is wrong with an agent, in the words of upstream's log.
fn fault_line(refusal: &AccessError) -> Option<String> {
    let AccessError::Agent { fault, active_serial, used_serial, .. } = refusal else {
        return None;
    };
    Some(match fault {
        AgentFault::Expired => "Agent SVID is expired".to_owned(),
        AgentFault::NotAttested => "Agent is not attested".to_owned(),
        AgentFault::Banned => "Agent is banned".to_owned(),
        AgentFault::MustReattest => "Agent must reattest".to_owned(),
        AgentFault::NotActive => format!(
            "Agent SVID is not active: expected serial number {active_serial}; has {used_serial}"
        ),
    })
}

/// `grpc-timeout`: at most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let unit = text.len().checked_sub(1)?;
    let (digits, unit) = text.split_at_checked(unit)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// A message over the size limit gets the code and the words that grpc-go has for it.
fn words_of_grpc(mut response: Response<Body>) -> Response<Body> {
    if outcome::code(response.headers()) != Some(Code::OutOfRange) {
        return response;
    }
    let status = Status::from_header_map(response.headers());
    if let Some(status) = status.as_ref().and_then(too_large) {
        // Fails for a text that no header can hold; digits and these words fit.
        let _ = status.add_header(response.headers_mut());
    }
    response
}

/// What grpc-go says of a message over the size limit, if that is what happened.
pub(crate) fn too_large(status: &Status) -> Option<Status> {
    let text = status.message();
    if status.code() != Code::OutOfRange || !text.contains("length too large") {
        return None;
    }
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
    let (found, limit) = (numbers.next()?, numbers.next()?);
    let text = format!("grpc: received message larger than max ({found} vs. {limit})");
    Some(Status::resource_exhausted(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", value.parse().unwrap());
        timeout(&headers)
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        assert_eq!(of("30S"), Some(Duration::from_secs(30)));
        assert_eq!(of("29999991u"), Some(Duration::from_micros(29_999_991)));
        for bad in ["", "S", "1", "123456789S", "-1S", "1s", "xS"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
