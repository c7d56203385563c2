//! The client's side of a handshake: the server is known by its SPIFFE ID.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use steeple_pki::Certificate;
use steeple_pki::verify::{self, VerifyError, X509BundleSource};
use steeple_spiffe::{SpiffeId, TrustDomain};

use super::{ALPN, IdentitySlot, Roots, TlsPolicy};

/// Why the server's certificate was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerVerifyError {
    /// A certificate cannot be parsed.
    #[error("x509svid: cannot parse certificates: {0}")]
    Malformed(steeple_pki::x509::CertificateError),
    /// It is no X.509-SVID of the trust domain.
    #[error("{0}")]
    Svid(VerifyError),
    /// It is one, of somebody else.
    #[error("unexpected ID \"{found}\"")]
    UnexpectedId {
        /// Who it is.
        found: SpiffeId,
    },
    /// Without verification, not even the name is right; holds who it claims to be.
    #[error("expected server SPIFFE ID \"{expected}\"; got {found:?}")]
    UnexpectedClaim {
        /// Who it should be.
        expected: SpiffeId,
        /// The certificate's first URI name, cut to 100 characters.
        found: String,
    },
}

impl PeerVerifyError {
    /// Whether the roots that were used know no authority that signed the server's certificate:
    /// either it is not the server, or the roots are out of date.
    pub fn is_unknown_authority(&self) -> bool {
        matches!(self, Self::Svid(VerifyError::UnknownAuthority))
    }
}

/// Finds the verdict on a server's certificate below an error of a connection.
pub fn find_peer_error(error: &(dyn StdError + 'static)) -> Option<Arc<PeerVerifyError>> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) =
            error.downcast_ref()
        {
            return other.downcast_ref().cloned().map(Arc::new);
        }
        // An io::Error's source is that of the error within.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match within {
            Some(within) => Some(within),
            None => error.source(),
        };
    }
    None
}

/// How a client shakes hands.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    check: Arc<Check>,
    identity: Option<IdentitySlot>,
    roots: Option<Roots>,
}

impl ClientTls {
    /// Accepts the server if its certificate is a valid X.509-SVID of `server` under `roots`. No
    /// DNS name is looked at.
    ///
    /// A client with an `identity` shows it to a server that asks.
    pub fn new(server: SpiffeId, roots: Roots, identity: Option<IdentitySlot>) -> Self {
        let check = Check::Svid { server, roots: roots.clone() };
        Self::checking(check, identity, Some(roots))
    }

    /// Accepts whoever *says* it is `server`: for the first contact with `insecure_bootstrap`.
    /// This tells a wrong address from the right one and stops nobody.
    pub fn insecure(server: SpiffeId, identity: Option<IdentitySlot>) -> Self {
        Self::checking(Check::Claim { server }, identity, None)
    }

    fn checking(check: Check, identity: Option<IdentitySlot>, roots: Option<Roots>) -> Self {
        let check = Arc::new(check);
        let config = config(Arc::clone(&check), identity.clone(), TlsPolicy::default());
        Self { config, check, identity, roots }
    }

    /// Takes part in the handshakes that `policy` leaves, and no others.
    #[must_use]
    pub fn with_policy(mut self, policy: TlsPolicy) -> Self {
        self.config = config(Arc::clone(&self.check), self.identity.clone(), policy);
        self
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Changes when the identity or the roots do.
    pub(crate) fn version(&self) -> u64 {
        let identity = self.identity.as_ref().map_or(0, IdentitySlot::version);
        identity + self.roots.as_ref().map_or(0, Roots::version)
    }
}

fn config(
    check: Arc<Check>,
    identity: Option<IdentitySlot>,
    policy: TlsPolicy,
) -> Arc<ClientConfig> {
    let provider = policy.provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(policy.versions())
        .expect("the provider has cipher suites for every version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { check, provider }));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(Resolver(identity))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    // What is in the name is an address, and no server selects by it.
    config.enable_sni = false;
    Arc::new(config)
}

#[derive(Debug)]
struct Resolver(IdentitySlot);

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.current()
    }

    fn has_certs(&self) -> bool {
        self.0.current().is_some()
    }
}

#[derive(Debug)]
enum Check {
    Svid { server: SpiffeId, roots: Roots },
    Claim { server: SpiffeId },
}

impl Check {
    fn check(&self, chain: &[Certificate], now: SystemTime) -> Result<(), PeerVerifyError> {
        match self {
            Self::Svid { server, roots } => {
                let source = Domain { name: server.trust_domain(), roots };
                let found =
                    verify::x509_svid(chain, &source, now).map_err(PeerVerifyError::Svid)?;
                if found == *server { Ok(()) } else { Err(PeerVerifyError::UnexpectedId { found }) }
            }
            Self::Claim { server } => match chain.first().map_or(&[][..], Certificate::uri_sans) {
                [uri] if uri == server.as_str() => Ok(()),
                uris => Err(PeerVerifyError::UnexpectedClaim {
                    expected: server.clone(),
                    found: uris.first().map_or("", String::as_str).chars().take(100).collect(),
                }),
            },
        }
    }
}

struct Domain<'a> {
    name: TrustDomain,
    roots: &'a Roots,
}

impl X509BundleSource for Domain<'_> {
    fn x509_authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<Certificate>> {
        (self.name == *trust_domain).then(|| (**self.roots.0.value.load()).clone())
    }
}

/// The verifier of an insecure client, for a configuration of the test's own.
#[cfg(test)]
pub(super) fn insecure_verifier(server: SpiffeId) -> Arc<dyn ServerCertVerifier> {
    let check = Arc::new(Check::Claim { server });
    Arc::new(Verifier { check, provider: super::provider() })
}

#[derive(Debug)]
struct Verifier {
    check: Arc<Check>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refuse = |error: PeerVerifyError| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        };
        let chain = std::iter::once(leaf)
            .chain(intermediates)
            .take(verify::MAX_CHAIN_LEN + 1)
            .map(|it| Certificate::from_der(it.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| refuse(PeerVerifyError::Malformed(error)))?;
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
        self.check.check(&chain, now).map_err(refuse)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
