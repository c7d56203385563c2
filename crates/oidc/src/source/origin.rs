//! The three kinds of place that know the keys.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use steeple_net::channel::{self, Channel};
use steeple_pki::PublicKey;
use steeple_pki::bundle::{self, Bundle};
use steeple_proto::spire::api::server::bundle::v1::GetBundleRequest;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::types::BundleMask;
use steeple_proto::workload::JwtBundlesRequest;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_runtime::fsx;
use steeple_spiffe::TrustDomain;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use crate::config::OriginConfig;
use crate::keys::Key;

/// The largest file that is read, in bytes.
const MAX_LEN: u64 = 4 * 1024 * 1024;

/// Somebody who knows the keys.
#[derive(Debug)]
pub(crate) enum Origin {
    ServerApi(Channel),
    WorkloadApi(Channel, TrustDomain),
    File(PathBuf),
}

impl Origin {
    pub(crate) fn new(config: &OriginConfig) -> io::Result<Self> {
        Ok(match config {
            OriginConfig::ServerApi(path) => Self::ServerApi(channel::unix(path)),
            OriginConfig::WorkloadApi(path, trust_domain) => {
                let path = std::path::absolute(path)?;
                Self::WorkloadApi(channel::unix(&path), trust_domain.clone())
            }
            OriginConfig::File(path) => Self::File(path.clone()),
        })
    }

    /// What is logged when it does not answer.
    pub(crate) fn failure(&self) -> &'static str {
        match self {
            Self::ServerApi(_) => "Failed to fetch bundle",
            Self::WorkloadApi(..) => "Failed to fetch JWKS from the Workload API",
            Self::File(_) => "Failed to load SPIFFE trust bundle",
        }
    }

    /// All keys; nothing, and a line in the log, when they cannot be had.
    pub(crate) async fn fetch(&self) -> Option<Vec<Key>> {
        match self {
            Self::ServerApi(channel) => match server_keys(channel.clone()).await {
                Ok(keys) => Some(keys),
                Err(status) => {
                    tracing::warn!(error = rpc_text(&status), "{}", self.failure());
                    None
                }
            },
            Self::WorkloadApi(channel, trust_domain) => {
                match workload_bundle(channel.clone(), trust_domain).await {
                    Ok(Some(document)) => workload_keys(trust_domain, &document),
                    Ok(None) => {
                        let trust_domain_id = trust_domain.id_string();
                        tracing::error!(
                            trust_domain_id,
                            "No bundle for trust domain in Workload API response"
                        );
                        None
                    }
                    Err(status) => {
                        tracing::warn!(error = rpc_text(&status), "{}", self.failure());
                        None
                    }
                }
            }
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || file_keys(&path)).await;
                match read.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok(keys) => Some(keys),
                    Err(error) => {
                        tracing::warn!(error, "{}", self.failure());
                        None
                    }
                }
            }
        }
    }
}

/// As Go's client prints a status.
fn rpc_text(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

async fn server_keys(channel: Channel) -> Result<Vec<Key>, Status> {
    let output_mask = Some(BundleMask { jwt_authorities: true, ..BundleMask::default() });
    let request = GetBundleRequest { output_mask };
    let bundle = BundleClient::new(channel).get_bundle(request).await?.into_inner();
    let mut keys = Vec::with_capacity(bundle.jwt_authorities.len());
    for authority in bundle.jwt_authorities {
        match PublicKey::from_spki_der(&authority.public_key) {
            Ok(public_key) => keys.push(Key { id: authority.key_id, public_key }),
            Err(error) => {
                let kid: String = authority.key_id.chars().take(100).collect();
                tracing::warn!(kid, %error, "Malformed public key in bundle");
            }
        }
    }
    Ok(keys)
}

async fn workload_bundle(
    channel: Channel,
    trust_domain: &TrustDomain,
) -> Result<Option<Vec<u8>>, Status> {
    let mut request = Request::new(JwtBundlesRequest {});
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let mut stream =
        SpiffeWorkloadApiClient::new(channel).fetch_jwt_bundles(request).await?.into_inner();
    // The first message is the state of now.
    let message = stream.message().await?;
    let mut bundles =
        message.ok_or_else(|| Status::unavailable("the stream ended without a message"))?.bundles;
    let document = bundles.remove(&trust_domain.id_string());
    Ok(document.or_else(|| bundles.remove(trust_domain.as_str())).map(|it| it.to_vec()))
}

fn workload_keys(trust_domain: &TrustDomain, document: &[u8]) -> Option<Vec<Key>> {
    match parse(trust_domain, document, |_| true) {
        Ok(keys) => Some(keys),
        Err(error) => {
            tracing::error!(
                error,
                "Failed to parse trust domain bundle received from the Workload API"
            );
            None
        }
    }
}

fn file_keys(path: &Path) -> Result<Vec<Key>, String> {
    let text = fsx::read_limited(path, MAX_LEN)
        .map_err(|error| format!("spiffebundle: unable to read SPIFFE bundle: {error}"))?;
    let text = text.ok_or_else(|| {
        let path = path.display();
        format!(
            "spiffebundle: unable to read SPIFFE bundle: open {path}: no such file or directory"
        )
    })?;
    // Whose bundle it is does not matter here, nor what other authorities are in it.
    let trust_domain = TrustDomain::parse("bundle").map_err(|error| error.to_string())?;
    parse(&trust_domain, &text, |key| key["use"] == "jwt-svid")
        .map_err(|error| format!("spiffebundle: {error}"))
}

/// The keys of a JWKS that `wanted` picks.
fn parse(
    trust_domain: &TrustDomain,
    document: &[u8],
    wanted: impl Fn(&Value) -> bool,
) -> Result<Vec<Key>, String> {
    let mut document: Value = serde_json::from_slice(document)
        .map_err(|error| format!("unable to parse JWKS: {error}"))?;
    let Some(keys) = document.get_mut("keys").and_then(Value::as_array_mut) else {
        return Err("no authorities found".to_owned());
    };
    keys.retain(|key| wanted(key));
    for key in keys {
        if let Some(members) = key.as_object_mut() {
            // What a bundle calls them; a JWKS of the Workload API does not say.
            members.insert("use".to_owned(), "jwt-svid".into());
        }
    }
    let bundle: Bundle = bundle::parse(trust_domain.clone(), document.to_string().as_bytes())
        .map_err(|error| error.to_string())?;
    let keys = bundle.jwt_authorities.into_iter();
    Ok(keys.map(|it| Key { id: it.key_id, public_key: it.public_key }).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use steeple_pki::bundle::{Indent, JwtAuthority};
    use steeple_pki::{KeyType, PrivateKey};

    use super::*;

    fn bundle_with(id: &str) -> Bundle {
        let public_key = PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone();
        let mut bundle = Bundle::new(TrustDomain::parse("a.test").unwrap());
        bundle.set_jwt_authority(JwtAuthority {
            key_id: id.to_owned(),
            public_key,
            expires_at: None,
            tainted: false,
        });
        bundle
    }

    fn ids(keys: &[Key]) -> Vec<&str> {
        keys.iter().map(|it| it.id.as_str()).collect()
    }

    #[test]
    fn of_a_bundle_file_the_jwt_authorities_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.json");
        let text = bundle::spiffe(&bundle_with("a"), Indent::None);
        let text = text.replace("\"keys\":[", "\"keys\":[{\"use\":\"other\"},{\"kty\":\"EC\"},");
        fs::write(&path, text).unwrap();
        assert_eq!(ids(&file_keys(&path).unwrap()), ["a"]);
        fs::write(&path, "{\"keys\":[]}").unwrap();
        assert_eq!(file_keys(&path).unwrap(), []);
    }

    #[test]
    fn a_file_that_is_none_says_so_in_go_spiffes_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.json");
        let missing = file_keys(&path).unwrap_err();
        assert!(missing.starts_with("spiffebundle: unable to read SPIFFE bundle: open "));
        fs::write(&path, "{}").unwrap();
        assert_eq!(file_keys(&path).unwrap_err(), "spiffebundle: no authorities found");
        fs::write(&path, "no").unwrap();
        assert!(file_keys(&path).unwrap_err().contains("unable to parse JWKS"));
        fs::write(&path, "{\"keys\":[{\"use\":\"jwt-svid\"}]}").unwrap();
        assert!(file_keys(&path).is_err());
    }

    #[test]
    fn keys_of_the_workload_api_have_no_use() {
        let document = bundle::jwt_svid_jwks(&bundle_with("b"), Indent::None);
        let trust_domain = TrustDomain::parse("a.test").unwrap();
        let keys = workload_keys(&trust_domain, document.as_bytes()).unwrap();
        assert_eq!(ids(&keys), ["b"]);
        assert!(workload_keys(&trust_domain, b"[]").is_none());
    }
}
