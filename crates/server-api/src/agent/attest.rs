//! The conversation of AttestAgent: evidence, challenges and responses, a result.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::Stream;
use steeple_pki::PublicKey;
use steeple_pki::csr::Csr;
use steeple_plugin::{Caller, Challenger, PluginError};
use steeple_proto::spire::api::server::agent::v1 as pb;
use steeple_proto::spire::api::server::agent::v1::attest_agent_request as request;
use steeple_proto::spire::api::server::agent::v1::attest_agent_response as response;
use steeple_server_core::access;
use steeple_server_core::agents::{AgentError, Agents, Evidence, EvidenceRule};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::call::{About, Call, log_call};
use crate::limit::site;
use crate::stack::too_large;
use crate::turns::{Turn, Turns};

/// How long an agent may take for its next message.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long all of it may take: an agent of SPIRE's has given up long before.
const LONGEST: Duration = Duration::from_secs(180);

/// Attestations of one address that are under way at once; more wait, since a rack of agents may
/// be behind it.
const AT_ONCE: usize = 128;

/// The largest evidence, and the largest response to a challenge, in bytes. What attestors take
/// is less.
const MAX_EVIDENCE: usize = 1024 * 1024;
const MAX_RESPONSE: usize = 256 * 1024;

/// The longest name of an attestor that is looked at, in characters. Of a longer one, which names
/// nobody, this much goes on to logs, audit records and explanations.
const MAX_KIND: usize = 256;

/// The most that an attestor may ask of one agent.
const MAX_CHALLENGES: usize = 64;

type Requests = Streaming<pb::AttestAgentRequest>;
type Answer = Result<pb::AttestAgentResponse, Status>;

/// Who attests from where; shared by all calls.
#[derive(Clone)]
pub(crate) struct Attestations(Arc<Turns<IpAddr>>);

impl Default for Attestations {
    fn default() -> Self {
        Self(Arc::new(Turns::new(AT_ONCE)))
    }
}

impl Attestations {
    /// Waits until this call may begin; local callers are operators and free.
    async fn turn(&self, call: &Call) -> Result<Option<Turn>, Status> {
        let access::Caller::Remote { address, .. } = &call.facts().caller else { return Ok(None) };
        let turn = self.0.take(&site(address.ip())).await;
        turn.map(Some).map_err(|error| call.fail(&error))
    }
}

/// The answers of one attestation, which goes on while they are read and ends when nobody does.
pub(crate) struct Conversation {
    attestation: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    answers: mpsc::Receiver<Answer>,
}

/// Begins to attest whoever sends `requests`.
pub(super) fn begin(
    call: Call,
    agents: Arc<Agents>,
    attestations: Attestations,
    requests: Requests,
) -> Conversation {
    let (answer, answers) = mpsc::channel(1);
    let attestation = async move {
        let attested = timeout(LONGEST, async {
            let _turn = attestations.turn(&call).await?;
            attest(&call, &agents, requests, &answer).await
        });
        let last = attested.await.unwrap_or_else(|_elapsed| {
            Err(call.refuse(Status::deadline_exceeded("the attestation took too long")))
        });
        call.leave();
        // The agent may have gone; then the answer has no reader.
        let _ = answer.send(last).await;
    };
    Conversation { attestation: Some(Box::pin(attestation)), answers }
}

impl Stream for Conversation {
    type Item = Answer;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        let this = self.get_mut();
        loop {
            if let Poll::Ready(answer) = this.answers.poll_recv(context) {
                return Poll::Ready(answer);
            }
            let Some(attestation) = &mut this.attestation else { return Poll::Pending };
            if attestation.as_mut().poll(context).is_pending() {
                // It may have sent a challenge before it began to wait.
                return this.answers.poll_recv(context);
            }
            this.attestation = None;
        }
    }
}

async fn attest(
    call: &Call,
    agents: &Agents,
    mut requests: Requests,
    answer: &mpsc::Sender<Answer>,
) -> Answer {
    let first = next(&mut requests).await.map_err(|lost| {
        let reason = match lost {
            Lost::TooLarge(status) => return call.refuse(status),
            Lost::Other(reason) => reason,
        };
        let text = format!("failed to receive request from stream: {reason}");
        log_call!(error, call, { error = reason, }, "Invalid argument: failed to receive request from stream");
        Status::invalid_argument(text)
    })?;
    call.enter().await?;
    let evidence = evidence(first).map_err(|rule| call.fail(&AgentError::Evidence(rule)))?;
    let kind = evidence.kind.clone();
    call.note(|fields| fields.text("node_attestor_type", &kind));
    // Read once more when it is signed: only attestors whose evidence speaks of the key ask.
    let csr = evidence.csr.clone();
    let mut dialogue = Dialogue { call, requests, answer, csr, asked: 0 };
    let attested = agents.attest(evidence, &mut dialogue, call.now()).await;
    let svid = attested.map_err(|error| {
        let agent_id = match &error {
            AgentError::Banned(id) => Some(id.as_str()),
            _ => None,
        };
        call.note(|fields| agent_id.iter().for_each(|id| fields.text("agent_id", id)));
        let about = About { agent_id, node_attestor_type: Some(&kind), ..About::default() };
        call.fail_about(&error, about)
    })?;
    call.note(|fields| fields.text("agent_id", &svid.id));
    log_call!(
        info,
        call,
        { agent_id = %svid.id, node_attestor_type = kind, address = call.caller_addr(), },
        "Agent attestation request completed"
    );
    let result = response::Result {
        svid: Some(super::svid_message(&svid)),
        reattestable: svid.can_reattest,
    };
    Ok(pb::AttestAgentResponse { step: Some(response::Step::Result(result)) })
}

fn evidence(message: pb::AttestAgentRequest) -> Result<Evidence, EvidenceRule> {
    let Some(request::Step::Params(params)) = message.step else {
        return Err(EvidenceRule::Params);
    };
    let data = params.data.ok_or(EvidenceRule::Data)?;
    let csr = params.params.ok_or(EvidenceRule::SvidParams)?.csr;
    if csr.is_empty() {
        return Err(EvidenceRule::Csr);
    }
    if data.r#type.is_empty() {
        return Err(EvidenceRule::Kind);
    }
    if data.payload.is_empty() {
        return Err(EvidenceRule::Payload);
    }
    if data.payload.len() > MAX_EVIDENCE {
        return Err(EvidenceRule::LargePayload);
    }
    let kind = match data.r#type.char_indices().nth(MAX_KIND) {
        Some((end, _)) => data.r#type[..end].to_owned(),
        None => data.r#type,
    };
    Ok(Evidence { kind, payload: data.payload.to_vec(), csr: csr.to_vec() })
}

/// The attestor's way to ask back.
struct Dialogue<'a> {
    call: &'a Call,
    requests: Requests,
    answer: &'a mpsc::Sender<Answer>,
    csr: Vec<u8>,
    asked: usize,
}

fn caller(call: &Call) -> Caller {
    let facts = call.facts();
    let ip = match &facts.caller {
        access::Caller::Local => String::new(),
        access::Caller::Remote { address, .. } => address.ip().to_string(),
    };
    Caller { host: facts.host().unwrap_or_default(), ip }
}

#[async_trait]
impl Challenger for Dialogue<'_> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.asked += 1;
        if self.asked > MAX_CHALLENGES {
            return Err(internal("node attestor asks without end"));
        }
        // Until the agent answers there is nothing to work on.
        self.call.leave();
        let step = response::Step::Challenge(Bytes::copy_from_slice(challenge));
        let message = pb::AttestAgentResponse { step: Some(step) };
        self.answer
            .send(Ok(message))
            .await
            .map_err(|_gone| internal("failed to send challenge to agent"))?;
        let message = next(&mut self.requests).await.map_err(|lost| match lost {
            Lost::TooLarge(status) => PluginError {
                code: steeple_plugin::Code::ResourceExhausted,
                message: status.message().to_owned(),
            },
            Lost::Other(reason) => {
                internal(&format!("failed to receive challenge from agent: {reason}"))
            }
        })?;
        self.call.enter_again();
        match message.step {
            Some(request::Step::ChallengeResponse(response)) if response.len() > MAX_RESPONSE => {
                let message = "challenge response is too large".to_owned();
                Err(PluginError { code: steeple_plugin::Code::InvalidArgument, message })
            }
            Some(request::Step::ChallengeResponse(response)) => Ok(response.to_vec()),
            _ => Ok(Vec::new()),
        }
    }

    fn caller(&self) -> Caller {
        caller(self.call)
    }

    fn requested_key(&self) -> Option<PublicKey> {
        Csr::parse(&self.csr).ok().map(|csr| csr.public_key().clone())
    }
}

/// Why there is no next message.
enum Lost {
    TooLarge(Status),
    Other(String),
}

async fn next(requests: &mut Requests) -> Result<pb::AttestAgentRequest, Lost> {
    let reason = match timeout(PATIENCE, requests.message()).await {
        Ok(Ok(Some(message))) => return Ok(message),
        Ok(Ok(None)) => "EOF".to_owned(),
        Ok(Err(status)) => match too_large(&status) {
            Some(status) => return Err(Lost::TooLarge(status)),
            None => status.message().chars().take(100).collect(),
        },
        Err(_elapsed) => "no message came in time".to_owned(),
    };
    Err(Lost::Other(reason))
}

fn internal(message: &str) -> PluginError {
    PluginError { code: steeple_plugin::Code::Internal, message: message.to_owned() }
}
