//! Who is on the other end, by the authorities that an operator named.

use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use steeple_pki::Certificate;

use super::{ClientIdentity, ServerCheck};
use crate::https::FetchError;
use crate::tls::provider;

pub(super) fn config(
    check: &ServerCheck,
    identity: Option<&ClientIdentity>,
) -> Result<ClientConfig, Error> {
    let verifier = Arc::new(Verifier::new(check));
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(it) => builder.with_client_auth_cert(it.chain.clone(), it.key.clone_key())?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A handshake that failed, in the words of Go's library where operators look for them.
pub(super) fn refused(error: &io::Error) -> FetchError {
    let text = match error.get_ref().and_then(|within| within.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(reason)) => {
            let reason = match reason {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "certificate signed by unknown authority".to_owned()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "certificate has expired or is not yet valid".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "certificate has expired or is not yet valid".to_owned()
                }
                other => other.to_string(),
            };
            format!("tls: failed to verify certificate: x509: {reason}")
        }
        Some(Error::AlertReceived(alert)) => format!("remote error: tls: {alert:?}"),
        _ => error.to_string(),
    };
    FetchError::Connect(io::Error::new(error.kind(), text))
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    check: ServerCheck,
    roots: RootCertStore,
}

impl Verifier {
    fn new(check: &ServerCheck) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(check.authorities().iter().cloned());
        Self { provider: provider(), check: check.clone(), roots }
    }

    /// Whether the leaf is itself named as an authority, as the certificate is that a kubelet
    /// signed itself. webpki would have no authority be a server; Go takes it.
    fn is_authority(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> bool {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.check.authorities().contains(leaf)
            && Certificate::from_der(leaf.to_vec())
                .is_ok_and(|leaf| leaf.not_before() <= now && now <= leaf.not_after())
    }
}

impl ServerCheck {
    fn authorities(&self) -> &[CertificateDer<'static>] {
        match self {
            Self::Name(authorities) | Self::Chain(authorities) => authorities,
            Self::Nobody => &[],
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if matches!(self.check, ServerCheck::Nobody) {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        if !self.is_authority(leaf, now) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if matches!(self.check, ServerCheck::Name(_)) {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
