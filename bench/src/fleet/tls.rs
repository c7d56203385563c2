//! How simulated agents shake hands: as agents do, with little memory each.

use std::sync::Arc;
use std::time::SystemTime;

use steeple_net::tls::{Identity, provider};
use steeple_pki::Certificate;
use steeple_pki::verify::{self, X509Roots};
use steeple_spiffe::{SpiffeId, TrustDomain};
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption};
use tokio_rustls::rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, SignatureScheme, version::TLS13,
};

use crate::check::TRUST_DOMAIN;
use crate::error::{Error, Result};

/// Holds servers' certificates against a trust domain's authorities. Clones share it.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Verifier>);

#[derive(Debug)]
struct Verifier {
    server: SpiffeId,
    roots: X509Roots,
}

impl Trust {
    /// Trusts `authorities` to say who the server is.
    ///
    /// # Errors
    /// Never: the trust domain is a constant.
    pub fn new(authorities: Vec<Certificate>) -> Result<Self> {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)
            .map_err(|error| Error::Wrong { call: "GetBundle", what: error.to_string() })?;
        let server = SpiffeId::server(&trust_domain);
        Ok(Self(Arc::new(Verifier { server, roots: X509Roots { trust_domain, authorities } })))
    }

    /// How a client shakes hands that shows `identity`, or nothing.
    pub fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has cipher suites for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.0) as Arc<_>);
        let mut config = match identity {
            Some(it) => builder.with_client_cert_resolver(Arc::new(Shown(it.certified().clone()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Arc::new(config)
    }
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let refused = |what: String| rustls::Error::General(what);
        let chain = std::iter::once(leaf).chain(intermediates);
        let chain: std::result::Result<Vec<_>, _> =
            chain.map(|it| Certificate::from_der(it.to_vec())).collect();
        let chain = chain.map_err(|error| refused(error.to_string()))?;
        let found = verify::x509_svid(&chain, &self.roots, SystemTime::now())
            .map_err(|error| refused(error.to_string()))?;
        if found == self.server {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused(format!("{found} instead of {}", self.server)))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let provider = provider();
        verify_tls12_signature(message, cert, signed, &provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let provider = provider();
        verify_tls13_signature(message, cert, signed, &provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
