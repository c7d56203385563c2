//! Both halves of node attestors.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{Stream, stream};
use steeple_plugin::{Caller, Challenger, Code, NodeAttestor, NodeEvidence, PluginError};
use steeple_proto::spire::plugin::agent::nodeattestor::v1 as agent;
use steeple_proto::spire::plugin::server::nodeattestor::v1 as server;
use steeple_runtime::Tasks;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::wire;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct Judge(pub(crate) Arc<dyn NodeAttestor>);

#[tonic::async_trait]
impl server::node_attestor_server::NodeAttestor for Judge {
    type AttestStream = Messages<server::AttestResponse>;

    async fn attest(
        &self,
        request: Request<Streaming<server::AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        use server::attest_request::Request as Step;
        use server::attest_response::Response as Answer;
        let text = |key| {
            let value = request.metadata().get(key).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let caller =
            Caller { host: text("x-untrusted-forwarded-host"), ip: text("x-forwarded-client-ip") };
        let (answers, receiver) = mpsc::channel(1);
        let judge = Arc::clone(&self.0);
        let mut agent = Agent { steps: request.into_inner(), answers, caller };
        // One attestation; it ends when the host hangs up, at the next word at the latest.
        Tasks::new().spawn_isolated("attestation", async move {
            let payload = match agent.steps.message().await {
                Ok(Some(server::AttestRequest { request: Some(Step::Payload(payload)) })) => {
                    payload
                }
                _ => {
                    let status = Status::invalid_argument("missing attestation payload");
                    let _ = agent.answers.send(Err(status)).await;
                    return;
                }
            };
            let outcome = judge.attest(&payload, &mut agent).await;
            let answer = outcome.map_err(|error| wire::status(&error)).map(|found| {
                let attributes = server::AgentAttributes {
                    spiffe_id: found.agent_id.as_str().to_owned(),
                    selector_values: found.selector_values,
                    can_reattest: found.can_reattest,
                };
                server::AttestResponse { response: Some(Answer::AgentAttributes(attributes)) }
            });
            let _ = agent.answers.send(answer).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// The agent, behind the host.
struct Agent {
    steps: Streaming<server::AttestRequest>,
    answers: mpsc::Sender<Result<server::AttestResponse, Status>>,
    caller: Caller,
}

#[async_trait]
impl Challenger for Agent {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        use server::attest_request::Request as Step;
        use server::attest_response::Response as Answer;
        let gone = || PluginError {
            code: Code::Cancelled,
            message: "the agent did not respond to the challenge".to_owned(),
        };
        let response = Some(Answer::Challenge(challenge.to_vec().into()));
        let asked = self.answers.send(Ok(server::AttestResponse { response })).await;
        asked.map_err(|_| gone())?;
        match self.steps.message().await {
            Ok(Some(server::AttestRequest { request: Some(Step::ChallengeResponse(it)) })) => {
                Ok(it.to_vec())
            }
            _ => Err(gone()),
        }
    }

    fn caller(&self) -> Caller {
        self.caller.clone()
    }
}

pub(crate) struct Evidence(pub(crate) Arc<dyn NodeEvidence>);

#[tonic::async_trait]
impl agent::node_attestor_server::NodeAttestor for Evidence {
    type AidAttestationStream = Messages<agent::PayloadOrChallengeResponse>;

    async fn aid_attestation(
        &self,
        request: Request<Streaming<agent::Challenge>>,
    ) -> Result<Response<Self::AidAttestationStream>, Status> {
        use agent::payload_or_challenge_response::Data;
        let evidence = Arc::clone(&self.0);
        let payload = evidence.payload().await.map_err(|error| wire::status(&error))?;
        let word = |data| agent::PayloadOrChallengeResponse { data: Some(data) };
        let first = stream::iter([Ok(word(Data::Payload(payload.into())))]);
        let state = (evidence, request.into_inner());
        let rest = stream::try_unfold(state, move |(evidence, mut challenges)| async move {
            let Some(asked) = challenges.message().await? else { return Ok(None) };
            let response = evidence.respond(&asked.challenge).await;
            let response = response.map_err(|error| wire::status(&error))?;
            let answer = word(Data::ChallengeResponse(response.into()));
            Ok(Some((answer, (evidence, challenges))))
        });
        Ok(Response::new(Box::pin(futures_util::StreamExt::chain(first, rest))))
    }
}
