//! The conversation of AttestAgent: evidence, challenges and responses, a result.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::Stream;
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

/// How long an agent may take for its next message.
const PATIENCE: Duration = Duration::from_secs(60);

type Requests = Streaming<pb::AttestAgentRequest>;
type Answer = Result<pb::AttestAgentResponse, Status>;

/// The answers of one attestation, which goes on while they are read and ends when nobody does.
pub(crate) struct Conversation {
    attestation: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    answers: mpsc::Receiver<Answer>,
}

/// Begins to attest whoever sends `requests`.
pub(super) fn begin(call: Call, agents: Arc<Agents>, requests: Requests) -> Conversation {
    let (answer, answers) = mpsc::channel(1);
    let attestation = async move {
        let last = attest(&call, &agents, requests, &answer).await;
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
    let first = next(&mut requests).await.map_err(|reason| {
        let text = format!("failed to receive request from stream: {reason}");
        log_call!(error, call, { error = reason, }, "Invalid argument: failed to receive request from stream");
        Status::invalid_argument(text)
    })?;
    let evidence = evidence(first).map_err(|rule| call.fail(&AgentError::Evidence(rule)))?;
    let kind = evidence.kind.clone();
    call.note(|fields| fields.text("node_attestor_type", &kind));
    let mut dialogue = Dialogue { requests, answer, caller: caller(call) };
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
    Ok(Evidence { kind: data.r#type, payload: data.payload.to_vec(), csr: csr.to_vec() })
}

/// The attestor's way to ask back.
struct Dialogue<'a> {
    requests: Requests,
    answer: &'a mpsc::Sender<Answer>,
    caller: Caller,
}

fn caller(call: &Call) -> Caller {
    let facts = call.facts();
    let ip = match &facts.caller {
        access::Caller::Local => String::new(),
        access::Caller::Remote { address, .. } => address.ip().to_string(),
    };
    Caller { host: facts.host.clone().unwrap_or_default(), ip }
}

#[async_trait]
impl Challenger for Dialogue<'_> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let step = response::Step::Challenge(Bytes::copy_from_slice(challenge));
        let message = pb::AttestAgentResponse { step: Some(step) };
        self.answer
            .send(Ok(message))
            .await
            .map_err(|_gone| internal("failed to send challenge to agent"))?;
        let message = next(&mut self.requests).await.map_err(|reason| {
            internal(&format!("failed to receive challenge from agent: {reason}"))
        })?;
        match message.step {
            Some(request::Step::ChallengeResponse(response)) => Ok(response.to_vec()),
            _ => Ok(Vec::new()),
        }
    }

    fn caller(&self) -> Caller {
        self.caller.clone()
    }
}

async fn next(requests: &mut Requests) -> Result<pb::AttestAgentRequest, String> {
    match timeout(PATIENCE, requests.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err("EOF".to_owned()),
        Ok(Err(status)) => Err(status.message().chars().take(100).collect()),
        Err(_elapsed) => Err("no message came in time".to_owned()),
    }
}

fn internal(message: &str) -> PluginError {
    PluginError { code: steeple_plugin::Code::Internal, message: message.to_owned() }
}
