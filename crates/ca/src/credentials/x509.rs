//! X.509: SVIDs of workloads, agents and the server, and CA certificates.

use std::time::{Duration, SystemTime};

use steeple_pki::x509::{
    self, Certificate, DistinguishedName, ExtKeyUsage, KeyUsage, SerialNumber, Template,
};
use steeple_plugin::PluginError;

use super::compose::{self, ComposedCa, ComposedSvid, Holder};
use super::{
    ActiveX509, Arc, BACKDATE, Credentials, PublicKey, Signer, SpiffeId, WorkloadX509Params,
    capped, country_and_organization, validate,
};
use crate::config::CaConfig;
use crate::error::{CaError, InvalidCredential, RotationError};

impl Credentials {
    /// Issues a workload's X509-SVID: the leaf, then the intermediates up to, but without, the
    /// root (CR-09 to CR-14, CR-17).
    ///
    /// # Errors
    /// No CA is active or it has expired, the ID is not one of this trust domain, or the key
    /// manager fails.
    pub async fn sign_x509_svid(
        &self,
        params: WorkloadX509Params,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, CaError> {
        let WorkloadX509Params { spiffe_id, public_key, ttl, dns_names, subject } = params;
        let mut subject = subject
            .filter(|subject| !subject.is_empty())
            .unwrap_or_else(|| self.0.svid_subject.clone());
        if let Some(first) = dns_names.first() {
            subject.common_name.clone_from(first);
        }
        let (what, holder) = ("workload X509-SVID", Holder::Workload);
        let leaf = Leaf { what, holder, id: &spiffe_id, public_key, subject, dns_names };
        self.sign_leaf(leaf, ttl, self.0.x509_svid_ttl, now).await
    }

    /// Issues an agent's X509-SVID (CR-16).
    ///
    /// # Errors
    /// As [`Credentials::sign_x509_svid`].
    pub async fn sign_agent_x509_svid(
        &self,
        spiffe_id: &SpiffeId,
        public_key: PublicKey,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, CaError> {
        let leaf = self.plain_leaf("agent X509-SVID", Holder::Agent, spiffe_id, public_key);
        self.sign_leaf(leaf, None, self.0.agent_ttl, now).await
    }

    /// Issues this server's own X509-SVID (CR-15).
    ///
    /// # Errors
    /// As [`Credentials::sign_x509_svid`].
    pub async fn sign_server_x509_svid(
        &self,
        public_key: PublicKey,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, CaError> {
        let id = &self.0.server_id;
        let leaf = self.plain_leaf("server X509-SVID", Holder::Server, id, public_key);
        self.sign_leaf(leaf, None, self.0.x509_svid_ttl, now).await
    }

    /// Issues the CA certificate of a server below this one (CR-08); `ttl` `None` or zero for
    /// this server's own.
    ///
    /// # Errors
    /// As [`Credentials::sign_x509_svid`].
    pub async fn sign_downstream_x509_ca(
        &self,
        public_key: PublicKey,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, CaError> {
        let active = self.active_x509(now)?;
        let ca = &active.certificate;
        let depth = active.upstream_chain.len().max(1);
        let mut subject =
            ca.subject().map_err(|source| CaError::OwnSubject { reason: source.to_string() })?;
        subject.organizational_unit = vec![format!("DOWNSTREAM-{depth}")];
        let not_after = capped(now, ttl, self.0.ca_ttl, ca.not_after());
        let id = self.0.trust_domain.id_string();
        let composed = self.compose_ca(subject).await.map_err(CaError::Composer)?;
        let template =
            ca_template(composed, public_key, &id, now, not_after, SerialNumber::random());
        let mut certificate =
            x509::issue(&template, &active.issuer).await.map_err(CaError::SignDownstream)?;
        self.read_back(&mut certificate)
            .map_err(|source| CaError::Invalid { what: "downstream X509 CA", source })?;
        validate::x509_ca(&certificate, &id, now)
            .map_err(|source| CaError::Invalid { what: "downstream X509 CA", source })?;
        steeple_telemetry::incr(&["server_ca", "sign", "x509_ca_svid"], 1.0, &[]);
        Ok(active.chain_for(certificate))
    }

    fn plain_leaf<'a>(
        &self,
        what: &'static str,
        holder: Holder,
        id: &'a SpiffeId,
        public_key: PublicKey,
    ) -> Leaf<'a> {
        let subject = self.0.svid_subject.clone();
        Leaf { what, holder, id, public_key, subject, dns_names: Vec::new() }
    }

    async fn sign_leaf(
        &self,
        leaf: Leaf<'_>,
        ttl: Option<Duration>,
        default_ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, CaError> {
        let active = self.active_x509(now)?;
        self.check_member("X509-SVID", leaf.id)?;
        let Leaf { what, holder, id, public_key, mut subject, mut dns_names } = leaf;
        let mut extra_extensions = Vec::new();
        if !self.0.composers.is_empty() {
            let whose = (holder, id, &public_key);
            // Boxed, so that the usual way does not carry the room for it.
            let composing =
                Box::pin(compose::x509_svid(&self.0.composers, whose, subject, dns_names));
            let composed: ComposedSvid = composing.await.map_err(CaError::Composer)?;
            ComposedSvid { subject, dns_names, extra_extensions } = composed;
        }
        let template = Template {
            subject,
            public_key,
            serial: SerialNumber::random(),
            not_before: now - BACKDATE,
            not_after: capped(now, ttl, default_ttl, active.certificate.not_after()),
            ca: false,
            key_usage: KeyUsage::SVID,
            ext_key_usage: vec![ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
            uri_sans: vec![id.to_string()],
            dns_names,
            policies: Vec::new(),
            extra_extensions,
        };
        let mut certificate =
            x509::issue(&template, &active.issuer).await.map_err(CaError::SignX509)?;
        self.read_back(&mut certificate)
            .and_then(|()| validate::x509_svid(&certificate, id, now))
            .map_err(|source| CaError::Invalid { what, source })?;
        steeple_telemetry::incr(&["server_ca", "sign", "x509_svid"], 1.0, &[]);
        Ok(active.chain_for(certificate))
    }

    /// Makes the certificate of a CA that is its own root (CR-04, CR-05).
    ///
    /// # Errors
    /// The key manager or a composer fails, or the result breaks the rules for a CA.
    pub(crate) async fn self_signed_ca(
        &self,
        config: &CaConfig,
        signer: Arc<dyn Signer>,
        issued_at: SystemTime,
    ) -> Result<Certificate, RotationError> {
        let id = config.trust_domain.id_string();
        let serial = SerialNumber::random();
        let composed = self.compose_ca(ca_subject(config, &serial)).await?;
        let public_key = signer.public_key().clone();
        let not_after = issued_at + config.ca_ttl;
        let template = ca_template(composed, public_key, &id, issued_at, not_after, serial);
        let mut certificate =
            x509::self_sign(&template, signer).await.map_err(RotationError::SelfSign)?;
        self.read_back(&mut certificate)?;
        validate::x509_ca(&certificate, &id, issued_at)?;
        Ok(certificate)
    }

    /// What composers make of a CA of this server or below.
    pub(super) async fn compose_ca(
        &self,
        subject: DistinguishedName,
    ) -> Result<ComposedCa, PluginError> {
        if self.0.composers.is_empty() {
            let (policies, extra_extensions) = (Vec::new(), Vec::new());
            return Ok(ComposedCa { subject, policies, extra_extensions });
        }
        Box::pin(compose::x509_ca(&self.0.composers, subject)).await
    }

    /// Where composers had a say, the rules look at what a reader of the certificate reads, not
    /// at what was meant to be in it.
    fn read_back(&self, certificate: &mut Certificate) -> Result<(), InvalidCredential> {
        if !self.0.composers.is_empty() {
            *certificate = Certificate::from_der(certificate.der_bytes())
                .map_err(|error| InvalidCredential::Unreadable(error.to_string()))?;
        }
        Ok(())
    }
}

/// What differs between the X509-SVIDs of workloads, agents and servers.
struct Leaf<'a> {
    what: &'static str,
    holder: Holder,
    id: &'a SpiffeId,
    public_key: PublicKey,
    subject: DistinguishedName,
    dns_names: Vec<String>,
}

impl ActiveX509 {
    fn chain_for(&self, certificate: Certificate) -> Vec<Certificate> {
        let mut chain = Vec::with_capacity(1 + self.upstream_chain.len());
        chain.push(certificate);
        chain.extend_from_slice(&self.upstream_chain);
        chain
    }
}

/// The subject of a CA of this server with this serial number (CR-05).
pub(super) fn ca_subject(config: &CaConfig, serial: &SerialNumber) -> DistinguishedName {
    let mut subject = config
        .ca_subject
        .clone()
        .filter(|subject| !subject.is_empty())
        .unwrap_or_else(|| country_and_organization("SPIFFE"));
    if subject.serial_number.is_empty() {
        subject.serial_number = serial.to_string();
    }
    subject
}

fn ca_template(
    composed: ComposedCa,
    public_key: PublicKey,
    id: &str,
    now: SystemTime,
    not_after: SystemTime,
    serial: SerialNumber,
) -> Template {
    Template {
        subject: composed.subject,
        public_key,
        serial,
        not_before: now - BACKDATE,
        not_after,
        ca: true,
        key_usage: KeyUsage::CA,
        ext_key_usage: Vec::new(),
        uri_sans: vec![id.to_owned()],
        dns_names: Vec::new(),
        policies: composed.policies,
        extra_extensions: composed.extra_extensions,
    }
}
