//! `disk`: signs the CA with a certificate and key that lie in files (PS-18).
//!
//! The files are read again for every CA, so that they can be replaced while the server runs; if
//! they cannot be used then, those of the last time still are.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_pki::csr::{Csr, CsrError};
use steeple_pki::verify::is_ca_under;
use steeple_pki::x509::{
    self, Certificate, DistinguishedName, Issuer, KeyUsage, SerialNumber, Template,
};
use steeple_pki::{JwtAuthority, PrivateKey, X509Authority};
use steeple_plugin::{
    Code, HostContext, Kind, LocalBundle, MintedX509Ca, PluginError, PublishedJwtKeys, Updates,
    UpstreamAuthority, no_updates,
};
use steeple_runtime::Clock;
use steeple_spiffe::{SpiffeId, TrustDomain};

use steeple_plugin::settings::decode_leniently;

#[cfg(test)]
mod tests;

/// The plugin's name in configuration.
pub const NAME: &str = "disk";

/// The largest file that is looked at, in bytes.
const MAX_FILE_LEN: u64 = 4 * 1024 * 1024;
/// For clocks that are a little behind ours.
const BACKDATE: Duration = Duration::from_secs(10);
/// The life of a CA for which none is asked.
const DEFAULT_TTL: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    cert_file_path: String,
    key_file_path: String,
    bundle_file_path: String,
}

/// The upstream authority of these files.
///
/// # Errors
/// When the settings are wrong, or the files do not make a CA.
pub fn from_config(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn UpstreamAuthority>, PluginError> {
    let config = settings(data)?;
    let loaded = load(&config, host.clock.now())?;
    Ok(Arc::new(Disk {
        config,
        trust_domain: host.trust_domain.clone(),
        clock: Arc::clone(&host.clock),
        last: Mutex::new(Arc::new(loaded)),
    }))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    settings(data).map(drop)
}

fn settings(data: Option<&Block>) -> Result<Config, PluginError> {
    let refusal = "plugin configuration is malformed";
    let config: Config = decode_leniently(Kind::UpstreamAuthority, NAME, data, refusal)?;
    if config.cert_file_path.is_empty() || config.key_file_path.is_empty() {
        let text = "'cert_file_path' and 'key_file_path' must be set and not empty";
        return Err(error(Code::InvalidArgument, text));
    }
    Ok(config)
}

struct Disk {
    config: Config,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    /// What the files held when they last made a CA.
    last: Mutex<Arc<Loaded>>,
}

/// What the files hold.
struct Loaded {
    issuer: Issuer,
    not_after: SystemTime,
    /// From the CA's certificate to below the root.
    chain: Vec<Certificate>,
    roots: Vec<Certificate>,
}

#[async_trait]
impl UpstreamAuthority for Disk {
    fn name(&self) -> &str {
        NAME
    }

    async fn mint_x509_ca(
        &self,
        csr: &[u8],
        preferred_ttl: Duration,
    ) -> Result<MintedX509Ca, PluginError> {
        let now = self.clock.now();
        let loaded = self.reload(now);
        let certificate = sign(&loaded, csr, &self.trust_domain, preferred_ttl, now)
            .await
            .map_err(|reason| error(Code::Internal, format!("unable to sign CSR: {reason}")))?;
        let mut chain = vec![certificate];
        chain.extend_from_slice(&loaded.chain);
        Ok(MintedX509Ca {
            chain,
            roots: loaded.roots.iter().cloned().map(X509Authority::new).collect(),
            root_updates: no_updates(),
        })
    }

    async fn publish_jwt_key(&self, _: &JwtAuthority) -> Result<PublishedJwtKeys, PluginError> {
        Err(error(Code::Unimplemented, "publishing upstream is unsupported"))
    }

    async fn subscribe_to_local_bundle(&self) -> Result<Updates<LocalBundle>, PluginError> {
        Err(error(Code::Unimplemented, "fetching upstream trust bundle is unsupported"))
    }
}

impl Disk {
    fn reload(&self, now: SystemTime) -> Arc<Loaded> {
        let loaded = load(&self.config, now);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(loaded) => *last = Arc::new(loaded),
            Err(error) => tracing::warn!(
                plugin_name = NAME,
                plugin_type = Kind::UpstreamAuthority.name(),
                %error,
                "Upstream CA files cannot be used; going on with what they held before"
            ),
        }
        Arc::clone(&last)
    }
}

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("unable to parse CSR: {0}")]
    Csr(#[from] CsrError),
    #[error("unable to parse CSR: {0}")]
    Subject(#[from] steeple_pki::DerError),
    #[error("CSR must have exactly one URI SAN")]
    Uris,
    #[error("CSR with SPIFFE ID {0:?} is invalid: {1}")]
    Id(String, steeple_spiffe::IdError),
    #[error(
        "CSR with SPIFFE ID {0:?} is invalid: must use the trust domain ID for trust domain {1:?}"
    )]
    OtherId(String, String),
    #[error(transparent)]
    Issue(#[from] x509::IssueError),
}

async fn sign(
    ca: &Loaded,
    csr: &[u8],
    trust_domain: &TrustDomain,
    preferred_ttl: Duration,
    now: SystemTime,
) -> Result<Certificate, Refused> {
    let csr = Csr::parse(csr)?;
    let [uri] = csr.uris() else { return Err(Refused::Uris) };
    let shown = || uri.chars().take(100).collect::<String>();
    let id = SpiffeId::parse(uri).map_err(|error| Refused::Id(shown(), error))?;
    if id != trust_domain.id() {
        return Err(Refused::OtherId(shown(), trust_domain.to_string()));
    }
    let ttl = if preferred_ttl.is_zero() { DEFAULT_TTL } else { preferred_ttl };
    let subject: DistinguishedName = csr.subject()?;
    let template = Template {
        subject,
        public_key: csr.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: now - BACKDATE,
        not_after: now.checked_add(ttl).map_or(ca.not_after, |end| end.min(ca.not_after)),
        ca: true,
        key_usage: KeyUsage::CA,
        ext_key_usage: Vec::new(),
        uri_sans: vec![uri.clone()],
        dns_names: Vec::new(),
        policies: Vec::new(),
        extra_extensions: Vec::new(),
    };
    Ok(x509::issue(&template, &ca.issuer).await?)
}

fn load(config: &Config, now: SystemTime) -> Result<Loaded, PluginError> {
    let invalid = |text: String| error(Code::InvalidArgument, text);
    let key = read(&config.key_file_path)
        .and_then(|text| PrivateKey::from_pem(&text).map_err(|error| error.to_string()))
        .map_err(|reason| invalid(format!("unable to load upstream CA key: {reason}")))?;
    let mut chain = certificates(&config.cert_file_path)
        .map_err(|reason| invalid(format!("unable to load upstream CA cert: {reason}")))?;
    let ca = chain[0].clone();
    let roots = match config.bundle_file_path.as_str() {
        // Without a bundle the certificate is its own.
        "" if chain.len() == 1 => std::mem::take(&mut chain),
        "" => {
            let text = "with no bundle_file_path configured only self-signed CAs are supported";
            return Err(invalid(text.to_owned()));
        }
        path => certificates(path)
            .map_err(|reason| invalid(format!("unable to load upstream CA bundle: {reason}")))?,
    };
    if ca.public_key() != key.public_key() {
        let text = "unable to load upstream CA: certificate and private key do not match";
        return Err(invalid(text.to_owned()));
    }
    if !is_ca_under(&ca, &chain, &roots, Some(now)) {
        let text = "unable to load upstream CA: certificate cannot be validated with the provided \
                    bundle or is not self-signed";
        return Err(invalid(text.to_owned()));
    }
    let issuer = Issuer::new(&ca, Arc::new(key));
    Ok(Loaded { issuer, not_after: ca.not_after(), chain, roots })
}

/// At least one certificate.
fn certificates(path: &str) -> Result<Vec<Certificate>, String> {
    let text = read(path)?;
    Certificate::parse_pem_bundle(&text).map_err(|error| error.to_string())
}

fn read(path: &str) -> Result<String, String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        std::io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        _ => format!("open {path}: {error}"),
    };
    let file = std::fs::File::open(Path::new(path)).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_FILE_LEN).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::UpstreamAuthority, NAME, code, message)
}
