//! The server's half.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use steeple_pki::digest::Sha256;
use steeple_pki::ssh::{Blob, Certificate};
use steeple_plugin::{
    AgentAttributes, Challenger, Code, HostContext, HostServices, NodeAttestor, PluginError,
};
use steeple_runtime::Clock;
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_template::Value;

use super::config::ServerConfig;
use super::payload::{self, Challenge, Response};
use super::{NAME, error};
use crate::node_attestor::forms::Forms;

/// Judges host certificates.
pub(super) struct Server {
    config: ServerConfig,
    trust_domain: TrustDomain,
    services: HostServices,
    clock: Arc<dyn Clock>,
    forms: Forms,
}

/// A certificate that is trusted. Whatever is told of the agent comes from here.
struct Trusted {
    certificate: Certificate,
    hostname: String,
}

impl Server {
    pub(super) fn new(config: ServerConfig, host: &HostContext) -> Self {
        Self {
            config,
            trust_domain: host.trust_domain.clone(),
            services: host.services.clone(),
            clock: Arc::clone(&host.clock),
            forms: Forms::default(),
        }
    }

    /// Nothing but forms is looked at before the authority is known to be one, and its key is the
    /// only one that is used before a challenge.
    fn trusted(&self, payload: &[u8]) -> Result<Trusted, PluginError> {
        let encoded = payload::certificate(payload)
            .map_err(|reason| refused(format!("failed to unmarshal data: {reason}")))?;
        if encoded.is_empty() {
            return Err(refused("no certificate in response"));
        }
        let parsed = Blob::parse(&encoded)
            .map_err(|reason| refused(format!("failed to parse public key: {reason}")))?;
        let Blob::Certificate(certificate) = parsed else {
            return Err(refused("pubkey in response is not a certificate"));
        };
        let Some(host) = certificate.principals().first().cloned() else {
            return Err(refused("cert has no valid principals"));
        };
        let checked = certificate.check_host(
            &host,
            |key| self.config.authorities.contains(&key.fingerprint()),
            self.clock.now(),
        );
        checked.map_err(|reason| refused(format!("failed to check host key: {reason}")))?;
        if host.contains([':', '[', ']']) {
            let shown: String = host.chars().take(255).collect();
            let text = format!("address {shown}:22: too many colons in address");
            return Err(refused(format!("failed to check host key: {text}")));
        }
        let hostname = self.hostname(&host)?;
        Ok(Trusted { certificate: *certificate, hostname })
    }

    /// The host's name in the domain where all are, or the whole name.
    fn hostname(&self, host: &str) -> Result<String, PluginError> {
        if self.config.canonical_domain.is_empty() {
            return Ok(host.to_owned());
        }
        let suffix = format!(".{}", self.config.canonical_domain);
        host.strip_suffix(&suffix).map(str::to_owned).ok_or_else(|| {
            let text = format!("cert principal is not in domain {suffix:?}");
            refused(format!("failed to decanonicalize hostname: {text}"))
        })
    }

    fn agent_id(&self, trusted: &Trusted, blob: &[u8]) -> Result<SpiffeId, PluginError> {
        let rendered = self.config.path.render(&self.trust_domain, &template_data(trusted, blob));
        rendered.map_err(|reason| refused(format!("failed to create AgentID: {reason}")))
    }

    async fn attributes(&self, trusted: &Trusted) -> Result<AgentAttributes, PluginError> {
        let agent_id = self.agent_id(trusted, trusted.certificate.blob())?;
        // A certificate with an ECDSA signature has two forms, and so two fingerprints. Whoever
        // is known by the one must not come again by the other, past a ban or as a second agent.
        if let Some(other) = trusted.certificate.blob_in_other_form() {
            let other = self.agent_id(trusted, &other)?;
            if other != agent_id
                && (self.services.is_attested(other.as_str()).await?
                    || !self.forms.take(&agent_id, other))
            {
                let text = "certificate has attested before with another form of its signature";
                return Err(error(Code::PermissionDenied, text));
            }
        }
        Ok(AgentAttributes { agent_id, selector_values: Vec::new(), can_reattest: true })
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
        let trusted = self.trusted(payload)?;
        let challenge = Challenge::new();
        let response = challenger.challenge(&challenge.to_json()).await?;
        let response = Response::parse(&response).map_err(|reason| {
            refused(format!("failed to unmarshal challenge response: {reason}"))
        })?;
        challenge
            .verify(trusted.certificate.key(), &response)
            .map_err(|reason| refused(reason.to_string()))?;
        self.attributes(&trusted).await
    }
}

/// Upstream has one code for every refusal.
fn refused(message: impl AsRef<str>) -> PluginError {
    error(Code::Internal, message)
}

fn template_data(trusted: &Trusted, blob: &[u8]) -> Value {
    let Trusted { certificate, hostname } = trusted;
    let fingerprint = URL_SAFE_NO_PAD.encode(Sha256::of(blob));
    let options = |list: &[(String, Vec<u8>)]| {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Value::string_map(list.iter().map(|(name, value)| (name.clone(), text(value))))
    };
    let valid_before = certificate.valid_before().unwrap_or(u64::MAX);
    Value::record(
        "sshpop.agentPathTemplateData",
        [
            ("PluginName", Value::from(NAME)),
            ("Fingerprint", fingerprint.into()),
            ("Hostname", hostname.into()),
            ("Serial", certificate.serial().into()),
            ("CertType", u64::from(certificate.kind()).into()),
            ("KeyId", certificate.key_id().into()),
            ("ValidPrincipals", Value::strings(certificate.principals().iter().cloned())),
            ("ValidAfter", certificate.valid_after().into()),
            ("ValidBefore", valid_before.into()),
            ("CriticalOptions", options(certificate.critical_options())),
            ("Extensions", options(certificate.extensions())),
        ],
    )
}
