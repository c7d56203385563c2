//! How a server shakes hands: which certificate it shows, and which it asks for.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs::kx_group};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use steeple_net::tls::{IdentitySlot, provider};
use steeple_runtime::drain::{Tasks, Watcher};
use tokio::sync::watch;

use crate::acme::{self, AcmeError, AcmeOptions};
use crate::clients::{ClientAuth, ClientAuthError};
use crate::files::{self, CertFileError, CertFiles};

/// Where a server's certificate comes from.
#[derive(Clone, Debug)]
pub enum CertSource {
    /// PEM files, read again when they change.
    Files(CertFiles),
    /// An ACME authority (RFC 8555), which checks the name over this same port (RFC 8737).
    Acme(AcmeOptions),
    /// Whatever is in the slot at the time of a handshake, as a rule the process's own SVID.
    Slot(IdentitySlot),
}

/// What a TLS server is to do.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// Its certificate.
    pub source: CertSource,
    /// What clients have to show.
    pub clients: ClientAuth,
    /// Whether to insist on TLS 1.3 with a hybrid key exchange (SPIRE's `require_pq_kem`).
    pub require_pq_kem: bool,
    /// What log lines about the certificate name as their `subsystem_name`.
    pub subsystem: Option<&'static str>,
}

/// Why a server cannot shake hands.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate files cannot be used.
    #[error("failed to load certificate: {0}")]
    Files(#[from] CertFileError),
    /// The ACME cache or settings cannot be used.
    #[error(transparent)]
    Acme(#[from] AcmeError),
    /// What clients are checked against cannot be used.
    #[error(transparent)]
    Clients(#[from] ClientAuthError),
}

/// Ready to shake hands. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    /// Whether somebody does: an ACME authority's check would fail before that.
    pub(crate) serving: Arc<watch::Sender<bool>>,
}

impl Tls {
    /// Reads what `options` name, which must succeed, and keeps it fresh in `tasks` until `drain`
    /// is signalled.
    ///
    /// # Errors
    /// [`TlsError`]: what cannot be used. With ACME, a certificate that cannot be had is no error:
    /// one is ordered once the server serves,
    /// and handshakes fail until there is one.
    pub async fn new(
        options: TlsOptions,
        tasks: &Tasks,
        drain: &Watcher,
    ) -> Result<Self, TlsError> {
        let (serving, served) = watch::channel(false);
        let mut protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let resolver: Arc<dyn ResolvesServerCert> = match options.source {
            CertSource::Slot(slot) => Arc::new(SlotResolver(slot)),
            CertSource::Files(files) => {
                Arc::new(files::watch(files, options.subsystem, tasks, drain)?)
            }
            CertSource::Acme(acme) => {
                protocols.push(acme::ALPN.to_vec());
                acme::start(acme, options.subsystem, served, tasks, drain).await?
            }
        };
        let (provider, versions) = policy(options.require_pq_kem);
        let algorithms: WebPkiSupportedAlgorithms = provider.signature_verification_algorithms;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("the provider has cipher suites for every version");
        let builder = match options.clients.verifier(algorithms)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = protocols;
        // Every connection shows an identity of its own time, on both sides.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), serving: Arc::new(serving) })
    }
}

static BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
static ONLY_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];

fn policy(
    require_pq_kem: bool,
) -> (Arc<CryptoProvider>, &'static [&'static SupportedProtocolVersion]) {
    if !require_pq_kem {
        return (provider(), BOTH);
    }
    let base = CryptoProvider::clone(&provider());
    let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::SECP256R1MLKEM768];
    let provider = CryptoProvider { kx_groups, ..base };
    (Arc::new(provider), ONLY_1_3)
}

#[derive(Debug)]
struct SlotResolver(IdentitySlot);

impl ResolvesServerCert for SlotResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.current()
    }
}
