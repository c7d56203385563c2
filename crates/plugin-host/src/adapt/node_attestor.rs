//! Both halves of node attestors.

use std::time::Duration;

use async_trait::async_trait;
use steeple_plugin::{AgentAttributes, Challenger, Code, NodeAttestor, NodeEvidence, PluginError};
use steeple_proto::spire::plugin::agent::nodeattestor::v1 as agent;
use steeple_proto::spire::plugin::server::nodeattestor::v1 as server;
use steeple_spiffe::SpiffeId;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use super::workload_attestor::checked_values;
use crate::plugin::{MAX_MESSAGE, Plugin};

/// For each answer of the plugin.
const STEP: Duration = Duration::from_secs(60);

/// The most questions that a judge may ask of one agent.
const MAX_CHALLENGES: usize = 64;

/// The name that an agent called us by, which nobody has checked.
const FORWARDED_HOST: &str = "x-untrusted-forwarded-host";

/// The address that an agent called from.
const CLIENT_IP: &str = "x-forwarded-client-ip";

/// The server's half.
pub(super) struct Judge(pub(super) Plugin);

#[async_trait]
impl NodeAttestor for Judge {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        use server::attest_request::Request as Step;
        use server::attest_response::Response as Answer;
        if payload.is_empty() {
            let message = "payload cannot be empty".to_owned();
            return Err(PluginError { code: Code::InvalidArgument, message });
        }
        let request = |step| server::AttestRequest { request: Some(step) };
        let (sender, receiver) = mpsc::channel(1);
        // The first request waits in the channel before the call is made: a Go server sends
        // nothing, not even headers, before it has read it.
        let _ = sender.try_send(request(Step::Payload(payload.to_vec().into())));
        let mut outgoing = Request::new(ReceiverStream::new(receiver));
        let caller = challenger.caller();
        for (key, value) in [(FORWARDED_HOST, caller.host), (CLIENT_IP, caller.ip)] {
            if let Ok(value) = MetadataValue::try_from(value) {
                outgoing.metadata_mut().insert(key, value);
            }
        }
        let mut client = server::node_attestor_client::NodeAttestorClient::new(self.0.channel())
            .max_decoding_message_size(MAX_MESSAGE);
        let mut answers = self.0.call(STEP, client.attest(outgoing)).await?;
        for _ in 0..=MAX_CHALLENGES {
            let answer = next(&self.0, &mut answers).await?;
            match answer.and_then(|answer| answer.response) {
                Some(Answer::AgentAttributes(found)) => return self.checked(found),
                Some(Answer::Challenge(challenge)) => {
                    let response = challenger.challenge(&challenge).await?;
                    let step = request(Step::ChallengeResponse(response.into()));
                    // If the plugin hung up, the next read says why.
                    let _ = sender.send(step).await;
                }
                None => {
                    let message = "plugin response missing challenge or agent attributes";
                    return Err(self.0.error(Code::Internal, message));
                }
            }
        }
        Err(self.0.error(Code::Internal, "plugin asks without end"))
    }

    /// A plugin that never asked who has attested lets an agent in as often as it likes, as with
    /// SPIRE.
    fn once(&self, agent: &SpiffeId) -> bool {
        self.0.asked_whether_attested(agent.as_str())
    }
}

impl Judge {
    fn checked(&self, found: server::AgentAttributes) -> Result<AgentAttributes, PluginError> {
        if found.spiffe_id.is_empty() {
            return Err(self.0.error(Code::Internal, "plugin response missing agent ID"));
        }
        let agent_id = SpiffeId::parse(&found.spiffe_id).map_err(|error| PluginError {
            code: Code::Internal,
            message: format!("invalid agent ID: {error}"),
        })?;
        Ok(AgentAttributes {
            agent_id,
            selector_values: checked_values(&self.0, found.selector_values)?,
            can_reattest: found.can_reattest,
        })
    }
}

async fn next<T>(plugin: &Plugin, answers: &mut Streaming<T>) -> Result<Option<T>, PluginError> {
    match tokio::time::timeout(STEP, answers.message()).await {
        Ok(Ok(Some(answer))) => Ok(Some(answer)),
        Ok(Ok(None)) => Err(plugin.error(Code::Internal, "plugin closed stream unexpectedly")),
        Ok(Err(status)) => Err(plugin.failed(&status)),
        Err(_) => Err(plugin.too_late()),
    }
}

/// The agent's half. An attestation is one stream, from the payload to the last response.
pub(super) struct Evidence {
    plugin: Plugin,
    current: Mutex<Option<Session>>,
}

struct Session {
    challenges: mpsc::Sender<agent::Challenge>,
    answers: Streaming<agent::PayloadOrChallengeResponse>,
}

impl Evidence {
    pub(super) fn new(plugin: Plugin) -> Self {
        Self { plugin, current: Mutex::new(None) }
    }

    /// The plugin's next word; `closed` is what it means that there is none.
    async fn hear(
        &self,
        session: &mut Session,
        closed: &str,
    ) -> Result<Option<agent::payload_or_challenge_response::Data>, PluginError> {
        match tokio::time::timeout(STEP, session.answers.message()).await {
            Ok(Ok(Some(answer))) => Ok(answer.data),
            Ok(Ok(None)) => Err(self.plugin.error(Code::Internal, closed)),
            Ok(Err(status)) => Err(self.plugin.failed(&status)),
            Err(_) => Err(self.plugin.too_late()),
        }
    }
}

#[async_trait]
impl NodeEvidence for Evidence {
    fn name(&self) -> &str {
        self.plugin.name()
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        use agent::payload_or_challenge_response::Data;
        let mut current = self.current.lock().await;
        *current = None;
        let (challenges, receiver) = mpsc::channel(1);
        let mut client =
            agent::node_attestor_client::NodeAttestorClient::new(self.plugin.channel())
                .max_decoding_message_size(MAX_MESSAGE);
        let call = client.aid_attestation(ReceiverStream::new(receiver));
        let answers = self.plugin.call(STEP, call).await?;
        let mut session = Session { challenges, answers };
        let closed = "plugin closed stream before returning attestation data";
        match self.hear(&mut session, closed).await? {
            Some(Data::Payload(payload)) if !payload.is_empty() => {
                *current = Some(session);
                Ok(payload.to_vec())
            }
            _ => {
                let message = "plugin response missing attestation payload";
                Err(self.plugin.error(Code::Internal, message))
            }
        }
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        use agent::payload_or_challenge_response::Data;
        let mut current = self.current.lock().await;
        let closed = "plugin closed stream before handling the challenge";
        let Some(mut session) = current.take() else {
            return Err(self.plugin.error(Code::Internal, closed));
        };
        let challenge = agent::Challenge { challenge: challenge.to_vec().into() };
        // If the plugin hung up, the next read says why.
        let _ = session.challenges.send(challenge).await;
        match self.hear(&mut session, closed).await? {
            Some(Data::ChallengeResponse(response)) if !response.is_empty() => {
                *current = Some(session);
                Ok(response.to_vec())
            }
            _ => {
                let message = "plugin response missing challenge response";
                Err(self.plugin.error(Code::Internal, message))
            }
        }
    }
}
