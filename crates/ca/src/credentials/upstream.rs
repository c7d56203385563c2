//! What an upstream authority is asked for, and the probe of what it answers.

use std::sync::Arc;

use steeple_pki::Signer;
use steeple_pki::csr;
use steeple_pki::x509::{
    self, Certificate, ExtKeyUsage, IssueError, Issuer, KeyUsage, SerialNumber, Template,
};
use steeple_spiffe::{SpiffeId, TrustDomain};

use super::compose::ComposedCa;
use super::x509::ca_subject;
use super::{Credentials, DistinguishedName};
use crate::config::CaConfig;
use crate::error::RotationError;

impl Credentials {
    /// The request for a CA of this key: the subject of our CAs, and the trust domain as its URI.
    ///
    /// # Errors
    /// The key manager or a composer fails.
    pub(crate) async fn upstream_csr(
        &self,
        config: &CaConfig,
        signer: &dyn Signer,
    ) -> Result<Vec<u8>, RotationError> {
        // Policies are the signer's to set; a request has no place for them (UP-06).
        let ComposedCa { subject, extra_extensions, .. } =
            self.compose_ca(ca_subject(config, &SerialNumber::random())).await?;
        let id = config.trust_domain.id_string();
        Ok(csr::create_with_extensions(signer, &subject, &[&id], &extra_extensions).await?)
    }
}

/// An SVID that nobody gets, signed by this CA: whoever verifies it verifies the path above it.
///
/// # Errors
/// The key manager fails, or names of the CA cannot be an issuer's.
pub(crate) async fn probe_svid(
    trust_domain: &TrustDomain,
    ca: &Certificate,
    signer: &Arc<dyn Signer>,
) -> Result<Certificate, IssueError> {
    let id = SpiffeId::from_path(trust_domain, "/spire/throwaway").expect("the path is valid");
    let template = Template {
        subject: DistinguishedName::default(),
        public_key: ca.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: ca.not_before(),
        not_after: ca.not_after(),
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: vec![ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
        uri_sans: vec![id.to_string()],
        dns_names: Vec::new(),
        policies: Vec::new(),
        extra_extensions: Vec::new(),
    };
    x509::issue(&template, &Issuer::new(ca, signer.clone())).await
}
