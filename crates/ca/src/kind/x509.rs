//! X.509 CAs.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use steeple_pki::verify::is_ca_under;
use steeple_pki::x509::{Certificate, authority_id};
use steeple_pki::{Bundle, KeyType, Signer, X509Authority};
use steeple_proto::journal::{Entries, Status, X509caEntry};

use super::{Issuing, Kind, bytes_of, from_unix, unix};
use crate::config::CaConfig;
use crate::credentials::Credentials;
use crate::error::RotationError;
use crate::rotation::{Authority, SlotId};

/// An X.509 CA: its certificate and what signs with its key.
#[derive(Clone)]
pub struct X509Ca {
    id: String,
    upstream_id: String,
    issued_at: SystemTime,
    certificate: Certificate,
    upstream_chain: Vec<Certificate>,
    /// Roots that came with it, until they are in the bundle.
    roots: Vec<X509Authority>,
    signer: Arc<dyn Signer>,
}

impl X509Ca {
    /// A CA out of its certificate, the chain to the upstream root (this CA's certificate first,
    /// without the root; empty when self-signed) and its key.
    #[must_use]
    pub fn new(
        certificate: Certificate,
        upstream_chain: Vec<Certificate>,
        signer: Arc<dyn Signer>,
        issued_at: SystemTime,
    ) -> Self {
        let id = certificate.authority_id();
        let upstream_id = authority_id(certificate.authority_key_id().unwrap_or_default());
        let roots = Vec::new();
        Self { id, upstream_id, issued_at, certificate, upstream_chain, roots, signer }
    }

    /// A CA that was just signed upstream.
    pub(crate) fn minted(
        certificate: Certificate,
        upstream_chain: Vec<Certificate>,
        roots: Vec<X509Authority>,
        signer: Arc<dyn Signer>,
        issued_at: SystemTime,
    ) -> Self {
        Self { roots, ..Self::new(certificate, upstream_chain, signer, issued_at) }
    }

    /// One of these authorities stands above it.
    pub(crate) fn is_under(&self, authorities: &[Certificate]) -> bool {
        is_ca_under(&self.certificate, &self.upstream_chain, authorities, None)
    }

    /// The CA certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What is sent along with every leaf: this CA's certificate and what is between it and the
    /// upstream root; nothing when self-signed.
    #[must_use]
    pub fn upstream_chain(&self) -> &[Certificate] {
        &self.upstream_chain
    }

    /// Signs for this CA.
    #[must_use]
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }
}

impl Authority for X509Ca {
    fn id(&self) -> &str {
        &self.id
    }

    fn issued_at(&self) -> SystemTime {
        self.issued_at
    }

    fn not_after(&self) -> SystemTime {
        self.certificate.not_after()
    }

    fn upstream_id(&self) -> &str {
        &self.upstream_id
    }
}

impl fmt::Debug for X509Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Ca").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The kind of [`X509Ca`].
pub(crate) enum X509 {}

#[async_trait]
impl Kind for X509 {
    type Authority = X509Ca;
    type Row = X509caEntry;

    const NAME: &'static str = "X509 CA";
    const SLOT_NAME: &'static str = "X509CA slot";
    const API_NAME: &'static str = "X.509";
    const KEY_PREFIX: &'static str = "x509-CA-";
    const PREPARE: &'static [&'static str] = &["ca", "manager", "x509_ca", "prepare"];
    const ACTIVATED: &'static [&'static str] = &["ca", "manager", "x509_ca", "activate"];
    const NAMES_THE_JOURNAL: bool = true;

    fn key_type(config: &CaConfig) -> KeyType {
        config.ca_key_type
    }

    async fn issue(
        issuing: Issuing<'_>,
        signer: Arc<dyn Signer>,
        issued_at: SystemTime,
    ) -> Result<X509Ca, RotationError> {
        if let Some(upstream) = issuing.upstream {
            return upstream.mint(issuing.config, issuing.credentials, signer).await;
        }
        let certificate =
            issuing.credentials.self_signed_ca(issuing.config, signer.clone(), issued_at).await?;
        Ok(X509Ca::new(certificate, Vec::new(), signer, issued_at))
    }

    async fn publish(issuing: Issuing<'_>, authority: &X509Ca) -> Result<Bundle, RotationError> {
        if let Some(upstream) = issuing.upstream {
            return upstream.sync_roots(&authority.roots).await;
        }
        let mut addition = Bundle::new(issuing.config.trust_domain.clone());
        Self::add_to_bundle(&mut addition, authority);
        Ok(issuing.store.append_bundle(addition).await?)
    }

    fn add_to_bundle(bundle: &mut Bundle, authority: &X509Ca) {
        bundle.add_x509_authority(X509Authority::new(authority.certificate.clone()));
    }

    fn is_published(
        bundle: &Bundle,
        authority: &X509Ca,
        has_upstream: bool,
        now: SystemTime,
    ) -> bool {
        let roots = || bundle.certificates().cloned().collect::<Vec<_>>();
        bundle.has_x509_authority(&authority.certificate)
            || (has_upstream
                && is_ca_under(
                    &authority.certificate,
                    &authority.upstream_chain,
                    &roots(),
                    Some(now),
                ))
    }

    fn rows(entries: &Entries) -> &Vec<X509caEntry> {
        &entries.x509_c_as
    }

    fn rows_mut(entries: &mut Entries) -> &mut Vec<X509caEntry> {
        &mut entries.x509_c_as
    }

    fn to_row(slot: SlotId, authority: &X509Ca) -> X509caEntry {
        X509caEntry {
            slot_id: slot.to_string(),
            issued_at: unix(authority.issued_at),
            certificate: bytes_of(authority.certificate.der()),
            upstream_chain: authority.upstream_chain.iter().map(|c| bytes_of(c.der())).collect(),
            status: Status::Prepared.into(),
            authority_id: authority.id.clone(),
            not_after: unix(authority.not_after()),
            upstream_authority_id: authority.upstream_id.clone(),
        }
    }

    fn from_row(
        row: &X509caEntry,
        signer: &Arc<dyn Signer>,
    ) -> Result<Option<X509Ca>, RotationError> {
        let certificate = parse("CA certificate", &row.certificate)?;
        let upstream_chain = row
            .upstream_chain
            .iter()
            .map(|der| parse("upstream chain certificate", der))
            .collect::<Result<_, _>>()?;
        if certificate.public_key() != signer.public_key() {
            return Ok(None);
        }
        let issued_at = from_unix(row.issued_at);
        Ok(Some(X509Ca::new(certificate, upstream_chain, signer.clone(), issued_at)))
    }

    fn install(credentials: &Credentials, authority: &X509Ca) {
        credentials.set_x509_ca(authority);
    }
}

row!(
    X509caEntry,
    fn upstream_authority_id(&self) -> Option<&str> {
        Some(&self.upstream_authority_id)
    }
);

fn parse(what: &'static str, der: &Bytes) -> Result<Certificate, RotationError> {
    Certificate::from_der(der.clone())
        .map_err(|error| RotationError::Entry { what, reason: error.to_string() })
}
