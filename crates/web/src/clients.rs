//! Which certificate a client has to show.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use steeple_net::tls::provider;
use steeple_pki::Certificate;
use steeple_pki::verify::{VerifyError, X509BundleSource, x509_svid};
use steeple_runtime::fsx;
use steeple_spiffe::SpiffeId;

use crate::files::certificates;

/// The largest file of roots that is read, in bytes.
const MAX_ROOTS_LEN: u64 = 4 * 1024 * 1024;

/// What clients have to show.
#[derive(Clone)]
pub enum ClientAuth {
    /// Nothing.
    None,
    /// A certificate for client authentication under one of the authorities in this PEM file.
    CaFile(PathBuf),
    /// An X509-SVID with one of these IDs, under its trust domain's bundle of the moment.
    Spiffe {
        /// Who may connect.
        authorized: Vec<SpiffeId>,
        /// Where the bundles are, in memory: it is asked during handshakes.
        bundles: Arc<dyn X509BundleSource + Send + Sync>,
    },
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::CaFile(path) => f.debug_tuple("CaFile").field(path).finish(),
            Self::Spiffe { authorized, .. } => {
                f.debug_struct("Spiffe").field("authorized", authorized).finish_non_exhaustive()
            }
        }
    }
}

/// Why clients cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthError {
    /// The file cannot be read.
    #[error("unable to load client CA file: {0}")]
    Read(std::io::Error),
    /// It holds no certificate that can be used.
    #[error("unable to load client CA file {path:?}: no usable certificates")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl ClientAuth {
    pub(crate) fn verifier(
        self,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, ClientAuthError> {
        match self {
            Self::None => Ok(None),
            Self::CaFile(path) => {
                let pem = fsx::read_limited(&path, MAX_ROOTS_LEN)
                    .and_then(|it| it.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
                    .map_err(ClientAuthError::Read)?;
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(&pem).unwrap_or_default());
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                    .build()
                    .map(Some)
                    .map_err(|_| ClientAuthError::Empty { path })
            }
            Self::Spiffe { authorized, bundles } => {
                Ok(Some(Arc::new(SpiffeClients { authorized, bundles, algorithms })))
            }
        }
    }
}

struct SpiffeClients {
    authorized: Vec<SpiffeId>,
    bundles: Arc<dyn X509BundleSource + Send + Sync>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for SpiffeClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeClients")
            .field("authorized", &self.authorized)
            .finish_non_exhaustive()
    }
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("malformed certificate")]
    Malformed,
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("unexpected ID {0:?}")]
    Id(String),
}

impl SpiffeClients {
    fn check(&self, chain: &[&CertificateDer<'_>], now: SystemTime) -> Result<(), Refused> {
        let chain: Result<Vec<_>, _> =
            chain.iter().map(|it| Certificate::from_der(it.to_vec())).collect();
        let chain = chain.map_err(|_| Refused::Malformed)?;
        let id = x509_svid(&chain, &*self.bundles, now)?;
        if self.authorized.contains(&id) {
            return Ok(());
        }
        Err(Refused::Id(id.as_str().chars().take(100).collect()))
    }
}

impl ClientCertVerifier for SpiffeClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).collect();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match self.check(&chain, now) {
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
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
