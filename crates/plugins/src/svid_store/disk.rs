//! `disk`: SVIDs as PEM files, for workloads that can read files and nothing else.
//!
//! An entry names a directory below the configured one (`disk:dir:web/frontend`), which becomes a
//! symbolic link to a directory with the SVID, its key and the bundles. A new SVID is a new
//! directory and a link that changes at once: whoever opens the directory once sees files that
//! belong together. What the selectors may ask for (owner, group, mode) the configuration limits.
//!
//! Not SPIRE's; its agents would pass the name to an external plugin.

mod place;
mod tree;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_pki::bundle::pem;
use steeple_pki::digest::Sha256;
use steeple_plugin::{Code, HostContext, Kind, PluginError, StoredX509Svid, SvidStore};

use self::place::{Limits, Place};
use self::tree::{File, Root};
use steeple_plugin::settings::decode_leniently;

/// The plugin's name in configuration, and the type of its entries' selectors.
pub const NAME: &str = "disk";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    directory: String,
    owners: Vec<String>,
    groups: Vec<String>,
    max_mode: String,
}

/// The store, below `directory`, which is made when missing.
///
/// # Errors
/// When the settings are wrong, or the directory cannot be used.
pub fn from_config(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn SvidStore>, PluginError> {
    let (directory, limits) = read(data)?;
    let root = Root::open(&directory).map_err(|reason| {
        let text = format!("directory {:?} cannot be used: {reason}", directory.display());
        error(Code::FailedPrecondition, text)
    })?;
    Ok(Arc::new(DiskStore(Arc::new(Mutex::new(Inner { root, limits })))))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    read(data).map(drop)
}

fn read(data: Option<&Block>) -> Result<(PathBuf, Limits), PluginError> {
    let config: Config =
        decode_leniently(Kind::SvidStore, NAME, data, "unable to decode configuration")?;
    let invalid = |text: String| error(Code::InvalidArgument, text);
    let directory = PathBuf::from(&config.directory);
    if !directory.is_absolute() {
        return Err(invalid("directory must be configured, as an absolute path".into()));
    }
    let limits = Limits::new(&config.owners, &config.groups, &config.max_mode).map_err(invalid)?;
    Ok((directory, limits))
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::SvidStore, NAME, code, message)
}

struct DiskStore(Arc<Mutex<Inner>>);

struct Inner {
    root: Root,
    limits: Limits,
}

#[async_trait]
impl SvidStore for DiskStore {
    fn name(&self) -> &str {
        NAME
    }

    async fn put_x509_svid(&self, svid: &StoredX509Svid) -> Result<(), PluginError> {
        let (files, metadata) = (files(svid), svid.metadata.clone());
        self.blocking(move |inner| {
            let place = inner.place(&metadata)?;
            let mode = place.mode;
            let files: Vec<File> = files
                .into_iter()
                .map(|(name, contents, secret)| {
                    let mode = if secret { mode } else { mode | PUBLIC_MODE };
                    File { name, contents, mode, owner: place.owner, group: place.group }
                })
                .collect();
            inner
                .root
                .put(&place.directory, &files)
                .map_err(|reason| error(Code::Internal, format!("failed to store SVID: {reason}")))
        })
        .await
    }

    async fn delete_x509_svid(&self, metadata: &[String]) -> Result<(), PluginError> {
        let metadata = metadata.to_vec();
        self.blocking(move |inner| {
            let place = inner.place(&metadata)?;
            inner
                .root
                .delete(&place.directory)
                .map_err(|reason| error(Code::Internal, format!("failed to delete SVID: {reason}")))
        })
        .await
    }
}

impl DiskStore {
    /// One after the other, whatever becomes of those who wait for it.
    async fn blocking(
        &self,
        work: impl FnOnce(&Inner) -> Result<(), PluginError> + Send + 'static,
    ) -> Result<(), PluginError> {
        let inner = self.0.clone();
        let work = tokio::task::spawn_blocking(move || {
            let inner = inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            work(&inner)
        });
        work.await.map_err(|_| error(Code::Internal, "the store's thread failed"))?
    }
}

impl Inner {
    fn place(&self, metadata: &[String]) -> Result<Place, PluginError> {
        Place::new(metadata, &self.limits).map_err(|text| error(Code::InvalidArgument, text))
    }
}

/// Name, contents, and whether it is a secret.
fn files(svid: &StoredX509Svid) -> Vec<(String, zeroize::Zeroizing<Vec<u8>>, bool)> {
    let bytes = |text: &str| zeroize::Zeroizing::new(text.as_bytes().to_vec());
    let chain: String = svid.chain.iter().map(|certificate| certificate.pem()).collect();
    let mut files = vec![
        (tree::SVID.to_owned(), bytes(&chain), false),
        (tree::KEY.to_owned(), bytes(&svid.private_key.to_pkcs8_pem()), true),
        (tree::BUNDLE.to_owned(), bytes(&pem(&svid.bundle)), false),
    ];
    for bundle in &svid.federated_bundles {
        files.push((federated_name(bundle.trust_domain.as_str()), bytes(&pem(bundle)), false));
    }
    files
}

/// A trust domain's name may be longer than a file's; such a one is known by its digest.
fn federated_name(trust_domain: &str) -> String {
    let name = if trust_domain.len() <= LONGEST_NAME {
        trust_domain.to_owned()
    } else {
        Sha256::of(trust_domain.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    format!("{}{name}.pem", tree::FEDERATED)
}

/// What everybody may do with what is not secret.
const PUBLIC_MODE: u32 = 0o444;
const LONGEST_NAME: usize = 200;
