//! The agent's half.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use steeple_net::channel;
use steeple_pki::{Certificate, PrivateKey, pem};
use steeple_plugin::{Code, NodeEvidence, PluginError};
use steeple_proto::workload::X509svidRequest;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::config::AgentConfig;
use super::{NAME, error, payload};
use crate::node_attestor::files;

/// How long a Workload API may take to attest us and answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Shows a certificate, and proves possession of its key.
pub(super) struct Agent {
    config: AgentConfig,
    /// The key of the certificate that was shown last.
    shown: Mutex<Option<PrivateKey>>,
}

/// A certificate, those above it, and its key.
struct Credentials {
    /// DER, the leaf first.
    chain: Vec<Vec<u8>>,
    key: PrivateKey,
}

impl Agent {
    /// With files: they must hold a certificate and its key now, and are read again whenever the
    /// agent attests, since other programs renew them.
    pub(super) fn new(config: AgentConfig) -> Result<Self, PluginError> {
        if config.spiffe_endpoint_socket.is_empty() {
            from_files(&config)?;
        }
        Ok(Self { config, shown: Mutex::default() })
    }

    async fn credentials(&self) -> Result<Credentials, PluginError> {
        if self.config.spiffe_endpoint_socket.is_empty() {
            return from_files(&self.config);
        }
        from_workload_api(&self.config.spiffe_endpoint_socket).await.map_err(|reason| {
            let text = format!("unable to fetch SVID from workload API: {reason}");
            error(Code::Unavailable, text)
        })
    }
}

#[async_trait]
impl NodeEvidence for Agent {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        let Credentials { chain, key } = self.credentials().await?;
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Ok(payload::attestation_data(chain.iter().map(Vec::as_slice)))
    }

    /// Once for each time that the certificate was shown.
    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let key = self.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        let key = key.ok_or_else(|| error(Code::Internal, "server issued unexpected challenge"))?;
        payload::respond(&key, challenge)
            .map_err(|reason| error(Code::Internal, reason.to_string()))
    }
}

fn from_files(config: &AgentConfig) -> Result<Credentials, PluginError> {
    let invalid = |text: String| error(Code::InvalidArgument, text);
    let (mut chain, key) =
        key_pair(config).map_err(|reason| invalid(format!("unable to load keypair: {reason}")))?;
    let intermediates = config.intermediates_path.trim();
    if !intermediates.is_empty() {
        let read = files::certificates(intermediates).map_err(|reason| {
            invalid(format!("unable to load intermediate certificates: {reason}"))
        })?;
        chain.extend(read.iter().map(|it| it.der().to_vec()));
    }
    Ok(Credentials { chain, key })
}

/// As Go's `tls.LoadX509KeyPair` reads the two files, with its words.
fn key_pair(config: &AgentConfig) -> Result<(Vec<Vec<u8>>, PrivateKey), String> {
    let text = files::read(&config.certificate_path)?;
    let key_text = steeple_runtime::Secret::new(files::read(&config.private_key_path)?);
    let mut chain = Vec::new();
    let mut others = Vec::new();
    for block in pem::blocks(&text) {
        let block = block.map_err(|error| format!("tls: {error}"))?;
        match block.label {
            "CERTIFICATE" => chain.push(block.contents),
            other => others.push(other),
        }
    }
    let Some(leaf) = chain.first() else {
        return Err(match others[..] {
            [] => "tls: failed to find any PEM data in certificate input",
            [only] if only.ends_with("PRIVATE KEY") => {
                "tls: failed to find certificate PEM data in certificate input, but did find a \
                 private key; PEM inputs may have been switched"
            }
            _ => "tls: failed to find \"CERTIFICATE\" PEM block in certificate input",
        }
        .to_owned());
    };
    let leaf = Certificate::from_der(leaf.clone()).map_err(|error| format!("x509: {error}"))?;
    let Some(first) = pem::blocks(key_text.expose()).next() else {
        return Err("tls: failed to find any PEM data in key input".to_owned());
    };
    if first.is_ok_and(|it| it.label == "CERTIFICATE")
        && pem::blocks(key_text.expose()).nth(1).is_none()
    {
        let text = "tls: found a certificate rather than a key in the PEM for the private key";
        return Err(text.to_owned());
    }
    let key = PrivateKey::find_in_pem(key_text.expose())
        .map_err(|error| format!("tls: failed to parse private key: {error}"))?;
    if leaf.public_key() != key.public_key() {
        return Err("tls: private key does not match public key".to_owned());
    }
    Ok((chain, key))
}

/// Why there is no SVID.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("workload endpoint socket address must be an absolute URI of a Unix domain socket")]
    Address,
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Call(#[from] Status),
    #[error("context deadline exceeded")]
    Late,
    #[error("there were no SVIDs in the response")]
    Empty,
    #[error("malformed X509-SVID: {0}")]
    Malformed(String),
}

/// The default SVID of this process.
async fn from_workload_api(socket: &str) -> Result<Credentials, Unusable> {
    let path = socket.strip_prefix("unix:").ok_or(Unusable::Address)?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') {
        return Err(Unusable::Address);
    }
    let mut client = SpiffeWorkloadApiClient::new(channel::unix(Path::new(path)));
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let first = async {
        let mut answers = client.fetch_x509svid(request).await?.into_inner();
        answers.message().await
    };
    let first = timeout(PATIENCE, first).await.map_err(|_| Unusable::Late)??;
    let svid = first.and_then(|it| it.svids.into_iter().next()).ok_or(Unusable::Empty)?;
    let malformed = |reason: String| Unusable::Malformed(reason);
    let chain = Certificate::parse_concatenated_der(&svid.x509_svid)
        .map_err(|reason| malformed(reason.to_string()))?;
    let key = PrivateKey::from_pkcs8_der(&svid.x509_svid_key)
        .map_err(|reason| malformed(reason.to_string()))?;
    match chain.first() {
        Some(leaf) if leaf.public_key() == key.public_key() => {}
        _ => return Err(malformed("certificate and key do not belong together".to_owned())),
    }
    Ok(Credentials { chain: chain.iter().map(|it| it.der().to_vec()).collect(), key })
}
