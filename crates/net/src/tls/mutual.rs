//! Handshakes that only clients with an accepted certificate complete.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use steeple_pki::Certificate;

use super::server::ProofOfPossession;
use super::{IdentitySlot, ServerTls, TlsPolicy};

/// Says which clients may connect; asked in every handshake, in memory.
pub trait ClientCheck: Send + Sync + fmt::Debug {
    /// Looks at the certificates that a client showed, leaf first, at least one. That it holds the
    /// leaf's key is checked besides.
    ///
    /// # Errors
    /// When it may not connect.
    fn check(&self, chain: &[Certificate], now: SystemTime) -> Result<(), ClientRefused>;
}

/// Why a client may not connect.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClientRefused(pub String);

impl ServerTls {
    /// A server that shakes hands with the clients that `check` accepts, and nobody else.
    pub fn mutual(identity: IdentitySlot, policy: TlsPolicy, check: Arc<dyn ClientCheck>) -> Self {
        let provider = policy.provider();
        let possession = ProofOfPossession(Arc::clone(&provider));
        Self::build(identity, policy, provider, Arc::new(Required { possession, check }))
    }
}

#[derive(Debug)]
struct Required {
    possession: ProofOfPossession,
    check: Arc<dyn ClientCheck>,
}

impl ClientCertVerifier for Required {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.possession.verify_client_cert(leaf, intermediates, now)?;
        let chain: Result<Vec<_>, _> = std::iter::once(leaf)
            .chain(intermediates)
            .map(|it| Certificate::from_der(it.to_vec()))
            .collect();
        let chain = chain.map_err(|_| Error::from(CertificateError::BadEncoding))?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match self.check.check(&chain, now) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(refused) => Err(CertificateError::Other(OtherError(Arc::new(refused))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.possession.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.possession.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.possession.supported_verify_schemes()
    }
}
