//! The server's half: asks at the place that an agent names.

use async_trait::async_trait;
use steeple_pki::envelope;
use steeple_plugin::{
    AgentAttributes, Challenger, Code, HostContext, HostServices, NodeAttestor, PluginError,
};
use steeple_spiffe::{SpiffeId, TrustDomain};

use super::config::{NotAllowed, ServerConfig};
use super::fetch::{DEADLINE, Fetcher};
use super::payload::{AttestationData, Challenge, json};
use super::{NAME, error};

pub(super) struct Server {
    config: ServerConfig,
    trust_domain: TrustDomain,
    services: HostServices,
    fetcher: Fetcher,
}

impl Server {
    pub(super) fn new(config: ServerConfig, host: &HostContext) -> Self {
        Self {
            config,
            trust_domain: host.trust_domain.clone(),
            services: host.services.clone(),
            fetcher: Fetcher::new(DEADLINE),
        }
    }

    fn data(&self, payload: &[u8]) -> Result<AttestationData, PluginError> {
        let invalid = |text: String| error(Code::InvalidArgument, text);
        if payload.is_empty() {
            return Err(PluginError {
                code: Code::InvalidArgument,
                message: "payload cannot be empty".to_owned(),
            });
        }
        let data = AttestationData::parse(payload)
            .map_err(|reason| invalid(format!("failed to unmarshal data: {reason}")))?;
        let refused = |reason: NotAllowed| match reason {
            NotAllowed::OtherPort(_) | NotAllowed::FreePort(_) => invalid(reason.to_string()),
            NotAllowed::Localhost | NotAllowed::Host => {
                error(Code::PermissionDenied, reason.to_string())
            }
        };
        self.config.check_port(data.port).map_err(refused)?;
        if !data.has_agent_name() {
            return Err(invalid("agent name is not valid".to_owned()));
        }
        self.config.check_host(&data.host_name).map_err(refused)?;
        Ok(data)
    }
}

#[async_trait]
impl NodeAttestor for Server {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        let data = self.data(payload)?;
        let place = data.check().map_err(unverified)?;
        let agent_id =
            SpiffeId::from_segments(&self.trust_domain, &["spire", "agent", NAME, &data.host_name])
                .map_err(|reason| {
                    error(Code::Internal, format!("failed to make spiffe id: {reason}"))
                })?;

        let challenge = Challenge::random();
        // What it answers says no more than that it has begun to serve the nonce.
        challenger.challenge(&json(&challenge)).await?;
        tracing::debug!(plugin_name = NAME, host = data.host_name, "Verifying challenge");
        let fetched = self.fetcher.fetch(&place, &self.config).await;
        let body = fetched.map_err(|reason| {
            tracing::debug!(plugin_name = NAME, error = ?reason, "Challenge was not fetched");
            unverified(format!("Get {:?}: {reason}", place.url()))
        })?;
        if !envelope::same(trim(&body), challenge.nonce.as_bytes()) {
            return Err(unverified("expected nonce was not found in HTTP response"));
        }
        if self.config.tofu {
            self.services.refuse_attested(NAME, &agent_id).await?;
        }
        Ok(AgentAttributes {
            agent_id,
            selector_values: vec![format!("hostname:{}", data.host_name)],
            can_reattest: !self.config.tofu,
        })
    }
}

fn unverified(reason: impl std::fmt::Display) -> PluginError {
    error(Code::PermissionDenied, format!("challenge verification failed: {reason}"))
}

/// Without white space at either end; a nonce has none of Unicode's.
fn trim(body: &[u8]) -> &[u8] {
    std::str::from_utf8(body).map_or(body, |text| text.trim().as_bytes())
}
