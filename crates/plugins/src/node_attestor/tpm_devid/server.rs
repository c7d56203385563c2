//! The server's half.

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use steeple_pki::verify::{PathRules, paths};
use steeple_pki::{Certificate, digest, envelope};
use steeple_plugin::{AgentAttributes, Challenger, Code, HostContext, NodeAttestor, PluginError};
use steeple_runtime::Clock;
use steeple_spiffe::{SpiffeId, TrustDomain};

use super::config::ServerConfig;
use super::payload::{Blob, Challenge, CredActivation, Request, Response};
use super::residency::Residency;
use super::{NAME, error};

/// The length of what the device identity's key signs.
const NONCE: usize = 32;
/// How many intermediates may come with a device identity.
const MAX_INTERMEDIATES: usize = 8;

/// Judges device identities.
pub(super) struct Server {
    config: ServerConfig,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
}

impl Server {
    pub(super) fn new(config: ServerConfig, host: &HostContext) -> Self {
        let (trust_domain, clock) = (host.trust_domain.clone(), Arc::clone(&host.clock));
        Self { config, trust_domain, clock }
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
        let request = Request::parse(payload)
            .map_err(|err| invalid(format!("unable to unmarshall attestation data: {err}")))?;
        let now = self.clock.now();
        let identity = Identity::verify(&request, &self.config.devid_roots, now)?;

        let mut nonce = [0; NONCE];
        envelope::random(&mut nonce);
        let roots = &self.config.endorsement_roots;
        let residency = Residency::verify(&request, &identity.leaf, roots, now)?;
        let (secret, credential) = residency.secret()?;
        let challenge = Challenge {
            devid: Blob(nonce.to_vec()),
            cred_activation: Some(CredActivation {
                credential: Blob(credential.id_object),
                secret: Blob(credential.secret),
            }),
        };
        let response = challenger.challenge(&challenge.encode()).await.map_err(|err| {
            error(err.code, format!("unable to receive challenges response: {}", err.message))
        })?;
        let response = Response::parse(&response)
            .map_err(|err| invalid(format!("unable to unmarshall challenges response: {err}")))?;
        residency
            .possessed(&nonce, &response.devid.0)
            .map_err(|err| invalid(format!("devID challenge verification failed: {err}")))?;
        if !envelope::same(&secret, &response.cred_activation.0) {
            return Err(invalid("credential activation failed: nonces are different"));
        }
        identity.attributes(&self.trust_domain)
    }
}

/// A device identity that one of the roots issued.
struct Identity {
    leaf: Certificate,
    /// From the leaf to a root each.
    paths: Vec<Vec<Certificate>>,
}

impl Identity {
    fn verify(
        request: &Request,
        roots: &[Certificate],
        now: std::time::SystemTime,
    ) -> Result<Self, PluginError> {
        let certificates = request.devid_cert.as_deref().unwrap_or_default();
        let [leaf, intermediates @ ..] = certificates else {
            return Err(invalid("no DevID certificate to attest"));
        };
        let unverified = |reason: String| {
            invalid(format!("unable to verify DevID signature: verification failed: {reason}"))
        };
        // Before any of them is read.
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(unverified("too many intermediate certificates".into()));
        }
        let leaf = Certificate::from_der(leaf.0.clone())
            .map_err(|err| invalid(format!("unable to parse DevID certificate: {err}")))?;
        let intermediates = intermediates.iter().enumerate().map(|(number, blob)| {
            Certificate::from_der(blob.0.clone()).map_err(|err| {
                let what = "unable to parse DevID intermediate certificate";
                invalid(format!("{what} {number}: {err}"))
            })
        });
        let intermediates: Vec<Certificate> = intermediates.collect::<Result<_, _>>()?;
        let rules = PathRules { max_intermediates: MAX_INTERMEDIATES, ..PathRules::at(now) };
        let paths = paths(&leaf, &intermediates, roots, &rules)
            .map_err(|err| unverified(err.to_string()))?;
        Ok(Self { leaf, paths })
    }

    fn attributes(&self, trust_domain: &TrustDomain) -> Result<AgentAttributes, PluginError> {
        let internal =
            |reason: String| error(Code::Internal, format!("failed to create agent ID: {reason}"));
        let fingerprint = fingerprint(&self.leaf);
        let path = format!("/spire/agent/{NAME}/{fingerprint}");
        let agent_id =
            SpiffeId::from_path(trust_domain, &path).map_err(|err| internal(err.to_string()))?;
        Ok(AgentAttributes { agent_id, selector_values: self.selectors()?, can_reattest: true })
    }

    fn selectors(&self) -> Result<Vec<String>, PluginError> {
        let unreadable = |err| invalid(format!("unable to parse DevID certificate: {err}"));
        let subject = self.leaf.subject().map_err(unreadable)?.common_name;
        let issuer = steeple_pki::x509::DistinguishedName::from_der(self.leaf.issuer_der())
            .map_err(unreadable)?
            .common_name;
        let mut selectors = Vec::new();
        if !subject.is_empty() {
            selectors.push(format!("subject:cn:{subject}"));
        }
        if !issuer.is_empty() {
            selectors.push(format!("issuer:cn:{issuer}"));
        }
        for authority in self.paths.iter().flat_map(|path| &path[1..]) {
            let selector = format!("ca:fingerprint:{}", fingerprint(authority));
            if !selectors.contains(&selector) {
                selectors.push(selector);
            }
        }
        Ok(selectors)
    }
}

/// SHA-1, since SPIRE names agents so; what it names has been verified otherwise.
pub(super) fn fingerprint(certificate: &Certificate) -> String {
    digest::sha1(certificate.der()).iter().fold(String::with_capacity(40), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a String takes every write");
        out
    })
}

fn invalid(message: impl AsRef<str>) -> PluginError {
    error(Code::InvalidArgument, message)
}
