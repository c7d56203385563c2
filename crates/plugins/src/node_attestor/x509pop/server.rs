//! The server's half.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use steeple_pki::verify::{self, PathError, PathRules};
use steeple_pki::x509::{CertificateError, DistinguishedName, KeyUsage};
use steeple_pki::{Certificate, DerError, KeyError, KeyKind};
use steeple_plugin::{
    AgentAttributes, Challenger, Code, HostContext, HostServices, NodeAttestor, PluginError,
};
use steeple_runtime::Clock;
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_template::Value;

use super::config::{Mode, ServerConfig};
use super::payload::{self, Challenge, Response};
use super::{NAME, error, san};
use crate::node_attestor::forms::Forms;

/// Judges certificates.
pub(super) struct Server {
    config: ServerConfig,
    trust_domain: TrustDomain,
    services: HostServices,
    clock: Arc<dyn Clock>,
    forms: Forms,
}

/// A certificate that is trusted, and what led to that. Whatever is told of the agent comes from
/// here.
struct Trusted {
    leaf: Certificate,
    /// Every path to a root; each begins with the leaf.
    paths: Vec<Vec<Certificate>>,
    subject: DistinguishedName,
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

    /// Nothing but sizes, forms and counts is looked at before the path leads to a root, and no
    /// key of the agent's is used before that.
    async fn trusted(&self, payload: &[u8]) -> Result<Trusted, PluginError> {
        let chain = payload::certificates(payload, self.config.max_intermediates)
            .map_err(|refusal| error(Code::InvalidArgument, refusal.to_string()))?;
        let (leaf, intermediates) = self.parsed(chain)?;
        let bundle;
        let roots = match &self.config.mode {
            Mode::ExternalPki(roots) => roots,
            Mode::Spiffe { .. } => {
                bundle = self.bundle().await?;
                &bundle
            }
        };
        let rules = PathRules {
            max_intermediates: self.config.max_intermediates,
            max_rsa_bits: self.config.max_rsa_bits,
            ..PathRules::at(self.clock.now())
        };
        let paths = verify::paths(&leaf, &intermediates, roots, &rules);
        let paths = paths.map_err(|reason: PathError| {
            let text = format!("certificate verification failed: {reason}");
            error(Code::PermissionDenied, text)
        })?;
        let subject = leaf.subject().map_err(|reason| unparsable_leaf(&reason.into()))?;
        Ok(Trusted { leaf, paths, subject })
    }

    fn parsed(&self, chain: Vec<Vec<u8>>) -> Result<(Certificate, Vec<Certificate>), PluginError> {
        let invalid = |text: String| error(Code::InvalidArgument, text);
        let mut chain = chain.into_iter();
        let leaf = self.certificate(chain.next().unwrap_or_default());
        let leaf = leaf.map_err(|refusal| match refusal {
            Refusal::TooLarge => invalid("leaf certificate key size too large".to_owned()),
            Refusal::Unparsable(reason) => unparsable_leaf(&reason),
        })?;
        let mut intermediates = Vec::with_capacity(chain.len());
        for (number, der) in chain.enumerate() {
            let parsed = self.certificate(der).map_err(|refusal| match refusal {
                Refusal::TooLarge => {
                    invalid(format!("intermediate certificate {number} key size too large"))
                }
                Refusal::Unparsable(reason) => invalid(format!(
                    "unable to parse intermediate certificate {number}: {}",
                    in_go(&reason)
                )),
            })?;
            intermediates.push(parsed);
        }
        Ok((leaf, intermediates))
    }

    fn certificate(&self, der: Vec<u8>) -> Result<Certificate, Refusal> {
        let parsed = Certificate::from_der(der).map_err(|reason| match reason {
            // Larger than any limit would allow.
            CertificateError::Key(KeyError::RsaSize(bits)) if bits > 8192 => Refusal::TooLarge,
            CertificateError::Key(KeyError::TooLarge { .. }) => Refusal::TooLarge,
            reason => Refusal::Unparsable(reason),
        })?;
        match parsed.public_key().kind() {
            KeyKind::Rsa(bits) if usize::from(bits) > self.config.max_rsa_bits => {
                Err(Refusal::TooLarge)
            }
            _ => Ok(parsed),
        }
    }

    async fn bundle(&self) -> Result<Vec<Certificate>, PluginError> {
        let identity = self.services.x509_identity().await.map_err(|reason| {
            error(Code::Internal, format!("failed to get trust bundle: {reason}"))
        })?;
        let authorities = identity.bundle.x509_authorities;
        if authorities.is_empty() {
            tracing::warn!(plugin_name = NAME, "No trust bundle retrieved from SPIRE");
        }
        Ok(authorities.into_iter().map(|it| it.certificate).collect())
    }

    fn check_address(&self, leaf: &Certificate, caller: &str) -> Result<(), PluginError> {
        if caller.is_empty() {
            let text = "client IP not available for verification";
            return Err(error(Code::Internal, text));
        }
        let address: IpAddr = caller.parse().map_err(|_| {
            let shown: String = caller.chars().take(64).collect();
            error(Code::Internal, format!("invalid client IP {shown:?}"))
        })?;
        let address = address.to_canonical();
        if leaf.ip_sans().iter().any(|it| it.to_canonical() == address) {
            return Ok(());
        }
        let text = format!("client IP {address} does not match any certificate IP SAN");
        Err(error(Code::PermissionDenied, text))
    }

    /// The path of the SVID without the prefix, in the mode where that is what is shown.
    fn svid_path(&self, leaf: &Certificate) -> Result<String, PluginError> {
        let Mode::Spiffe { prefix } = &self.config.mode else { return Ok(String::new()) };
        let denied = |text| error(Code::PermissionDenied, text);
        let id = san::spiffe_id(leaf, &self.trust_domain)
            .ok_or_else(|| denied("valid SVID x509 cert not found"))?;
        let trimmed = id.path().strip_prefix(prefix.as_str());
        trimmed.map(str::to_owned).ok_or_else(|| denied("x509 cert doesnt match SVID prefix"))
    }

    fn agent_id(
        &self,
        trusted: &Trusted,
        leaf: &Certificate,
        sans: &BTreeMap<String, String>,
    ) -> Result<SpiffeId, PluginError> {
        let data = self.template_data(trusted, leaf, self.svid_path(leaf)?, sans)?;
        self.config
            .path
            .render(&self.trust_domain, &data)
            .map_err(|reason| error(Code::Internal, format!("failed to make spiffe id: {reason}")))
    }

    /// A certificate with an ECDSA signature has two forms, and so two fingerprints. Whoever is
    /// known by the one must not come again by the other, past a ban or as a second agent.
    async fn check_other_form(
        &self,
        trusted: &Trusted,
        agent_id: &SpiffeId,
        sans: &BTreeMap<String, String>,
    ) -> Result<(), PluginError> {
        let issuers = trusted.paths.iter().filter_map(|path| path.get(1));
        for issuer in issuers {
            let Some(other) = trusted.leaf.in_other_form(issuer.public_key()) else { continue };
            let other = self.agent_id(trusted, &other, sans)?;
            if other == *agent_id {
                continue;
            }
            let attested = self.services.is_attested(other.as_str()).await?;
            if attested || !self.forms.take(agent_id, other) {
                let text = "certificate has attested before with another form of its signature";
                return Err(error(Code::PermissionDenied, text));
            }
        }
        Ok(())
    }

    async fn attributes(&self, trusted: &Trusted) -> Result<AgentAttributes, PluginError> {
        let Trusted { leaf, paths, subject } = trusted;
        let sans = san::selectors(leaf, &self.trust_domain);
        let agent_id = self.agent_id(trusted, leaf, &sans)?;
        self.check_other_form(trusted, &agent_id, &sans).await?;

        let mut selectors = Vec::new();
        if !subject.common_name.is_empty() {
            selectors.push(format!("subject:cn:{}", subject.common_name));
        }
        for authority in paths.iter().flat_map(|path| &path[1..]) {
            let selector = format!("ca:fingerprint:{}", authority.sha1_fingerprint());
            if !selectors.contains(&selector) {
                selectors.push(selector);
            }
        }
        selectors.push(format!("serialnumber:{}", serial_hex(leaf)));
        selectors.extend(sans.iter().map(|(key, value)| format!("san:{key}:{value}")));
        Ok(AgentAttributes { agent_id, selector_values: selectors, can_reattest: true })
    }

    fn template_data(
        &self,
        trusted: &Trusted,
        leaf: &Certificate,
        svid_path: String,
        sans: &BTreeMap<String, String>,
    ) -> Result<Value, PluginError> {
        let issuer = DistinguishedName::from_der(leaf.issuer_der())
            .map_err(|reason| unparsable_leaf(&reason.into()))?;
        let texts = |list: &[String]| Value::strings(list.iter().cloned());
        let addresses = leaf.ip_sans().iter().map(ToString::to_string);
        Ok(Value::record(
            "x509pop.agentPathTemplateData",
            [
                ("PluginName", Value::from(NAME)),
                ("TrustDomain", self.trust_domain.as_str().into()),
                ("Fingerprint", leaf.sha1_fingerprint().into()),
                ("SerialNumberHex", serial_hex(leaf).into()),
                ("SVIDPathTrimmed", svid_path.into()),
                ("URISanSelectors", Value::string_map(sans.clone())),
                ("Subject", name(&trusted.subject)),
                ("Issuer", name(&issuer)),
                ("SerialNumber", leaf.serial_decimal().into()),
                ("Version", Value::Int(i64::from(leaf.version()))),
                ("IsCA", leaf.is_ca().into()),
                ("DNSNames", texts(leaf.dns_sans())),
                ("EmailAddresses", texts(leaf.email_sans())),
                ("IPAddresses", Value::strings(addresses)),
                ("URIs", texts(leaf.uri_sans())),
            ],
        ))
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
        let trusted = self.trusted(payload).await?;
        let leaf = &trusted.leaf;
        if self.config.verify_client_ip {
            self.check_address(leaf, &challenger.caller().ip)?;
        }
        let unable =
            |text: &str| error(Code::Internal, format!("unable to generate challenge: {text}"));
        if !leaf.key_usage().unwrap_or_default().contains(KeyUsage::DIGITAL_SIGNATURE) {
            return Err(unable("certificate not intended for digital signature use"));
        }
        let challenge = Challenge::new(leaf.public_key()).map_err(|text| unable(&text))?;
        let response = challenger.challenge(&challenge.to_json()).await?;
        let response = Response::parse(&response).map_err(|reason| {
            let text = format!("unable to unmarshal challenge response: {reason}");
            error(Code::InvalidArgument, text)
        })?;
        challenge.verify(leaf.public_key(), &response).map_err(|reason| {
            let text = format!("challenge response verification failed: {reason}");
            error(Code::PermissionDenied, text)
        })?;
        self.attributes(&trusted).await
    }
}

/// Why a certificate is not looked at further.
enum Refusal {
    TooLarge,
    Unparsable(CertificateError),
}

fn unparsable_leaf(reason: &CertificateError) -> PluginError {
    let text = format!("unable to parse leaf certificate: {}", in_go(reason));
    error(Code::InvalidArgument, text)
}

/// Go has few words for broken encodings.
fn in_go(reason: &CertificateError) -> String {
    match reason {
        CertificateError::Der(DerError::Trailing) => "x509: trailing data".to_owned(),
        CertificateError::Der(_) => "x509: malformed certificate".to_owned(),
        other => format!("x509: {other}"),
    }
}

/// Lower-case hexadecimal, two digits a byte.
fn serial_hex(certificate: &Certificate) -> String {
    match certificate.serial_bytes() {
        [] => "00".to_owned(),
        serial => steeple_pki::x509::authority_id(serial),
    }
}

fn name(name: &DistinguishedName) -> Value {
    let texts = |list: &[String]| Value::strings(list.iter().cloned());
    Value::record(
        "pkix.Name",
        [
            ("CommonName", Value::from(&name.common_name)),
            ("SerialNumber", Value::from(&name.serial_number)),
            ("Country", texts(&name.country)),
            ("Organization", texts(&name.organization)),
            ("OrganizationalUnit", texts(&name.organizational_unit)),
            ("Locality", texts(&name.locality)),
            ("Province", texts(&name.province)),
            ("StreetAddress", texts(&name.street_address)),
            ("PostalCode", texts(&name.postal_code)),
        ],
    )
}
