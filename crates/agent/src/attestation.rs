//! How this node is attested: at start, and again where that is allowed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use steeple_agent_core::node::{KeySlot, Start, at_start};
use steeple_agent_core::sealed;
use steeple_net::channel::{self, Channel};
use steeple_net::tls::{ClientTls, Roots, TlsPolicy};
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{Bundle, Certificate, KeyType, Signer};
use steeple_plugin::{KeyManager, NodeEvidence};
use steeple_proto::spire::api::server::agent::v1 as agent_api;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use steeple_proto::spire::api::server::agent::v1::attest_agent_response::Step as Answer;
use steeple_proto::spire::api::server::bundle::v1::GetBundleRequest;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::types::AttestationData;
use steeple_runtime::Clock;
use steeple_spiffe::{SpiffeId, TrustDomain};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use crate::convert;
use crate::credentials::AgentSvid;
use crate::data::DataFile;
use crate::error::{AgentError, CallError};
use crate::telemetry;

/// What attesting takes.
pub(crate) struct NodeAttestation {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) servers: Vec<(String, u16)>,
    /// Which TLS handshakes to take part in.
    pub(crate) tls: TlsPolicy,
    pub(crate) key_manager: Arc<dyn KeyManager>,
    pub(crate) evidence: Arc<dyn NodeEvidence>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// How the server is recognised before there is a bundle from it.
pub(crate) enum FirstTrust {
    /// By these authorities.
    Bundle(Vec<Certificate>),
    /// By its word.
    Insecure,
}

impl NodeAttestation {
    /// The identity to begin with: the stored one if it is good, else a new
    /// one. The bundle is the server's, or `trust`'s with a stored identity.
    pub(crate) async fn begin(
        &self,
        data: &DataFile,
        trust: FirstTrust,
    ) -> Result<(AgentSvid, Bundle), AgentError> {
        // Known, and logged, once there is a bundle.
        let trust_domain_id = match &trust {
            FirstTrust::Bundle(_) => Some(self.trust_domain.id_string()),
            FirstTrust::Insecure => None,
        };
        match &trust_domain_id {
            Some(id) => info!(subsystem_name = SUBSYSTEM, trust_domain_id = id, "Bundle loaded"),
            None => info!(subsystem_name = SUBSYSTEM, "Bundle is not found"),
        }
        let stored = data.read();
        if stored.svid.is_empty() {
            debug!(
                subsystem_name = SUBSYSTEM,
                "No pre-existing agent SVID found. Will perform node attestation"
            );
        }
        let mut keys = self.key_manager.keys().await?;
        keys.retain(|(id, _)| !sealed::is_own_key(id));
        let public: Vec<_> =
            keys.iter().map(|(id, key)| (id.clone(), key.public_key().clone())).collect();
        match at_start(stored.svid.first(), &public, self.clock.now()) {
            Start::UseStored { key_id } => {
                let key = keys.into_iter().find(|(id, _)| *id == key_id).map(|(_, key)| key);
                let key = key.expect("the key's id was among them a moment ago");
                let svid = AgentSvid {
                    chain: stored.svid,
                    key,
                    key_id,
                    reattestable: stored.reattestable,
                };
                let FirstTrust::Bundle(authorities) = trust else {
                    return Err(AgentError::Bootstrap("SVID loaded but no bundle in cache".into()));
                };
                info!(
                    subsystem_name = SUBSYSTEM,
                    spiffe_id = svid.id(),
                    trust_domain_id,
                    "SVID loaded"
                );
                Ok((svid, Bundle::from_certificates(self.trust_domain.clone(), authorities)))
            }
            Start::Attest { slot, because } => {
                if let Some(because) = because {
                    warn!(subsystem_name = SUBSYSTEM, "{because}");
                }
                info!(
                    subsystem_name = SUBSYSTEM,
                    trust_domain_id, "SVID is not found. Starting node attestation"
                );
                let (svid, bundle) = self.attest(slot, trust).await?;
                info!(
                    subsystem_name = SUBSYSTEM,
                    spiffe_id = svid.id(),
                    reattestable = svid.reattestable,
                    trust_domain_id,
                    "Node attestation was successful"
                );
                Ok((svid, bundle))
            }
        }
    }

    /// The stored identity, be its time over or not, if its key is at hand.
    pub(crate) async fn stored(&self, data: &DataFile) -> Option<AgentSvid> {
        let stored = data.read();
        let leaf = stored.svid.first()?.clone();
        let mut keys = self.key_manager.keys().await.ok()?.into_iter();
        let (key_id, key) = keys.find(|(_, key)| key.public_key() == leaf.public_key())?;
        Some(AgentSvid { chain: stored.svid, key, key_id, reattestable: stored.reattestable })
    }

    /// Attests with a new key in `slot` and asks for the bundle on the same
    /// connection.
    pub(crate) async fn attest(
        &self,
        slot: KeySlot,
        trust: FirstTrust,
    ) -> Result<(AgentSvid, Bundle), AgentError> {
        let mut call = steeple_telemetry::call(&["node", "attestor", "new_svid"]);
        call.label("attestor", self.evidence.name().to_owned());
        let outcome = self.attest_once(slot, trust).await;
        telemetry::end(call, &outcome);
        outcome
    }

    async fn attest_once(
        &self,
        slot: KeySlot,
        trust: FirstTrust,
    ) -> Result<(AgentSvid, Bundle), AgentError> {
        let key = self.key_manager.generate_key(slot.id(), KeyType::EcP256).await?;
        let csr = agent_csr(&key).await?;
        let server = SpiffeId::server(&self.trust_domain);
        let tls = match trust {
            FirstTrust::Bundle(authorities) => {
                ClientTls::new(server, Roots::new(authorities), None)
            }
            FirstTrust::Insecure => {
                warn!(
                    subsystem_name = SUBSYSTEM,
                    "Insecure bootstrap enabled; skipping server certificate verification"
                );
                ClientTls::insecure(server, None)
            }
        };
        let tls = tls.with_policy(self.tls);
        let channel = channel::tls_any(&self.servers, tls, fastrand::u64(..))?;
        let exchange = self.exchange(channel.clone(), csr, &key);
        let exchanged = tokio::time::timeout(ATTEST_TIMEOUT, exchange).await;
        self.evidence.end().await;
        let result = match exchanged {
            Ok(result) => result?,
            Err(_) => return Err(no_answer("failed to receive attestation response")),
        };
        let svid = result.svid.ok_or_else(|| {
            AgentError::Answer(
                "failed to parse attestation response: attest response is missing SVID".into(),
            )
        })?;
        let chain = convert::chain(svid).map_err(|error| {
            AgentError::Answer(format!("failed to parse attestation response: {error}"))
        })?;
        self.check(&chain, &key)?;
        let mut client = BundleClient::new(channel);
        let bundle = client.get_bundle(GetBundleRequest { output_mask: None });
        let bundle = match tokio::time::timeout(ATTEST_TIMEOUT, bundle).await {
            Ok(bundle) => bundle
                .map_err(|status| CallError::new("failed to get updated bundle", status))?
                .into_inner(),
            Err(_) => return Err(no_answer("failed to get updated bundle")),
        };
        let bundle = convert::bundle(bundle).map_err(|error| {
            AgentError::Answer(format!("failed to parse trust domain bundle: {error}"))
        })?;
        if bundle.trust_domain != self.trust_domain || bundle.x509_authorities.is_empty() {
            return Err(AgentError::Answer(
                "the server's bundle is not that of the trust domain".into(),
            ));
        }
        let (key_id, reattestable) = (slot.id().to_owned(), result.reattestable);
        Ok((AgentSvid { chain, key, key_id, reattestable }, bundle))
    }

    /// Evidence, and answers to what the server asks about it.
    async fn exchange(
        &self,
        channel: Channel,
        csr: Vec<u8>,
        key: &Arc<dyn Signer>,
    ) -> Result<agent_api::attest_agent_response::Result, AgentError> {
        let payload = self.evidence.payload_for(key.as_ref()).await?;
        let first = Step::Params(Params {
            data: Some(AttestationData {
                r#type: self.evidence.name().to_owned(),
                payload: payload.into(),
            }),
            params: Some(agent_api::AgentX509svidParams { csr: csr.into() }),
        });
        let (requests, outgoing) = mpsc::channel(1);
        let request = |step| agent_api::AttestAgentRequest { step: Some(step) };
        // The first request waits in the channel before the call is made: the
        // server may send nothing, not even headers, before it has read it.
        requests.try_send(request(first)).expect("the channel has room for the first request");
        let mut answers = AgentClient::new(channel)
            .attest_agent(ReceiverStream::new(outgoing))
            .await
            .map_err(CallError::of_attestation)?
            .into_inner();
        loop {
            match next(&mut answers).await? {
                Answer::Result(result) => return Ok(result),
                Answer::Challenge(challenge) => {
                    let response = self.evidence.respond(&challenge).await?;
                    let response = Step::ChallengeResponse(Bytes::from(response));
                    // If the server hung up, the next read says why.
                    let _ = requests.send(request(response)).await;
                }
            }
        }
    }

    /// What was signed is for the key that asked, and for an agent.
    fn check(&self, chain: &[Certificate], key: &Arc<dyn Signer>) -> Result<(), AgentError> {
        let leaf = &chain[0];
        let id = match leaf.uri_sans() {
            [uri] => SpiffeId::parse(uri).ok(),
            _ => None,
        };
        let ours = id.is_some_and(|id| id.is_member_of(&self.trust_domain));
        if leaf.public_key() != key.public_key() || !ours {
            return Err(AgentError::Answer(
                "failed to parse attestation response: the SVID is not for this agent".into(),
            ));
        }
        Ok(())
    }
}

async fn next(
    answers: &mut Streaming<agent_api::AttestAgentResponse>,
) -> Result<Answer, AgentError> {
    let failed = |status| CallError::new("failed to receive attestation response", status);
    let answer = answers.message().await.map_err(failed)?;
    let answer = answer.ok_or_else(|| failed(Status::new(Code::Unknown, "EOF")))?;
    answer.step.ok_or_else(|| AgentError::Answer("the attestation response is empty".into()))
}

fn no_answer(what: &'static str) -> AgentError {
    CallError::new(what, Status::deadline_exceeded("context deadline exceeded")).into()
}

/// A request that names nobody: who the agent is follows from its attestation.
pub(crate) async fn agent_csr(key: &Arc<dyn Signer>) -> Result<Vec<u8>, AgentError> {
    Ok(steeple_pki::csr::create_with_signer(key.as_ref(), &request_subject(), &[]).await?)
}

/// The subject that SPIRE's agents put into their requests; no server reads it.
pub(crate) fn request_subject() -> DistinguishedName {
    DistinguishedName {
        country: vec!["US".into()],
        organization: vec!["SPIRE".into()],
        ..DistinguishedName::default()
    }
}

const SUBSYSTEM: &str = "attestor";
const ATTEST_TIMEOUT: Duration = Duration::from_secs(60);
