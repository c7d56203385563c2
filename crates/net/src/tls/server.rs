//! The server's side of a handshake.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{ALPN, IdentitySlot, TlsPolicy};

/// The most certificates a client may send; a chain longer than this verifies nowhere.
const MAX_CHAIN: usize = 16;

/// How a server shakes hands: an identity picked per handshake, and a client certificate that is
/// asked for and not required.
///
/// The handshake proves that the client holds the key of the certificate it sent, and nothing more:
/// whether that certificate is anybody's identity is decided in the handler, which may serve
/// callers without one.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
}

impl From<Arc<ServerConfig>> for ServerTls {
    /// A server that shakes hands in another way.
    fn from(config: Arc<ServerConfig>) -> Self {
        Self { config }
    }
}

impl ServerTls {
    /// A server that proves to be whoever is in `identity` at the time of each handshake.
    pub fn new(identity: IdentitySlot) -> Self {
        Self::with_policy(identity, TlsPolicy::default())
    }

    /// As [`Self::new`], in fewer handshakes.
    pub fn with_policy(identity: IdentitySlot, policy: TlsPolicy) -> Self {
        let provider = policy.provider();
        let verifier = Arc::new(ProofOfPossession(Arc::clone(&provider)));
        Self::build(identity, policy, provider, verifier)
    }

    pub(super) fn build(
        identity: IdentitySlot,
        policy: TlsPolicy,
        provider: Arc<CryptoProvider>,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Self {
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(policy.versions())
            .expect("the provider has cipher suites for every version")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Resolver(identity)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Self { config: Arc::new(config) }
    }
}

#[derive(Debug)]
struct Resolver(IdentitySlot);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.current()
    }
}

/// Takes any certificate whose key signs the handshake.
#[derive(Debug)]
pub(super) struct ProofOfPossession(pub(super) Arc<CryptoProvider>);

impl ClientCertVerifier for ProofOfPossession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(CertificateError::BadEncoding.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
