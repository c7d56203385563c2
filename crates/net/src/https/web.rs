//! Web PKI, and the word for who meant SPIFFE's.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use steeple_pki::Certificate;
use steeple_spiffe::SpiffeId;

use super::FetchError;
use crate::tls::provider;

/// A client of web servers under `roots`.
pub(super) fn config(roots: Vec<CertificateDer<'static>>) -> Result<ClientConfig, FetchError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let web = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|_| FetchError::Roots)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has cipher suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { web, roots }))
        .with_no_client_auth();
    Ok(config)
}

/// The error of a handshake with a server that would rather be verified by its SPIFFE ID.
pub(super) fn spiffe_server(error: &io::Error) -> Option<FetchError> {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(other))) =
        error.get_ref()?.downcast_ref()?
    else {
        return None;
    };
    let refusal: &Refusal = (other.as_ref() as &dyn StdError).downcast_ref()?;
    let reason = io::Error::new(io::ErrorKind::InvalidData, refusal.reason.clone());
    Some(FetchError::SpiffeServer { id: refusal.id.clone(), reason })
}

/// Why the holder of an SVID is no web server.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
struct Refusal {
    id: SpiffeId,
    reason: Error,
}

/// Web PKI's verdict, and whose SVID it was about.
#[derive(Debug)]
struct Verifier {
    web: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Whether the leaf is itself a root, as a server's certificate that it signed itself is when
    /// its clients are told of it. webpki would have no authority be a server; Go takes it.
    fn is_root(&self, leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> bool {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.roots.contains(leaf)
            && ParsedCertificate::try_from(leaf)
                .is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
            && Certificate::from_der(leaf.to_vec())
                .is_ok_and(|leaf| leaf.not_before() <= now && now <= leaf.not_after())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.web.verify_server_cert(leaf, intermediates, name, ocsp, now);
        if verdict.is_err() && self.is_root(leaf, name, now) {
            return Ok(ServerCertVerified::assertion());
        }
        verdict.map_err(|reason| match svid(leaf) {
            Some(id) => {
                let refusal = OtherError(Arc::new(Refusal { id, reason }));
                Error::InvalidCertificate(CertificateError::Other(refusal))
            }
            None => reason,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.web.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.web.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.web.supported_verify_schemes()
    }
}

/// Whose SVID a certificate says it is.
fn svid(leaf: &CertificateDer<'_>) -> Option<SpiffeId> {
    let leaf = Certificate::from_der(leaf.to_vec()).ok()?;
    SpiffeId::parse(leaf.uri_sans().first()?).ok()
}
