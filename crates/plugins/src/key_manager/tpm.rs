//! `tpm`: keys that are made in the machine's TPM and sign there. Ours, for agents; SPIRE has no
//! such plugin.
//!
//! A TPM has little room, so a key is kept outside, in a file, encrypted by the TPM's storage root
//! key; it is loaded for each signature. The file is of no use to any other TPM.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_pki::{KeyType, PublicKey, SignError, SignatureAlgorithm, Signer};
use steeple_plugin::settings::decode_strictly;
use steeple_plugin::{CheckedKeys, Code, HostContext, KeyManager, Kind, PluginError};
use steeple_tpm::{Access, Auth, Key, Parent, Place, Tpm, TpmError};
use zeroize::Zeroizing;

use self::folder::{Folder, FolderError, Stored};

mod folder;

/// The plugin's name in configuration.
pub const NAME: &str = "tpm";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    directory: String,
    tpm_device_path: String,
    owner_hierarchy_password: String,
    parent_handle: String,
}

struct Config {
    directory: PathBuf,
    device: Option<PathBuf>,
    owner: Zeroizing<Vec<u8>>,
    parent: Option<u32>,
}

/// The manager of the keys in `directory`. Waits until the TPM has looked at each of them.
///
/// # Errors
/// When the settings are wrong, the TPM or the directory cannot be used, or a key is not of this
/// TPM.
pub fn from_config(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn KeyManager>, PluginError> {
    let config = read(data)?;
    let device = steeple_tpm::find(config.device.as_deref()).map_err(|reason| {
        error(Code::InvalidArgument, format!("tpm device path could not be detected: {reason}"))
    })?;
    let access = Access::to(&device);
    let keys = within(START_PATIENCE, move || Keys::open(&config, access))?;
    Ok(Arc::new(CheckedKeys::new(NAME, Arc::new(keys))))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    read(data).map(drop)
}

fn read(data: Option<&Block>) -> Result<Config, PluginError> {
    let raw: Raw = decode_strictly(Kind::KeyManager, NAME, data)?;
    let refused = |text: &str| error(Code::InvalidArgument, text);
    if raw.directory.is_empty() {
        return Err(refused("directory must be configured"));
    }
    let parent = match raw.parent_handle.as_str() {
        "" => None,
        text => {
            let number = text.strip_prefix("0x").unwrap_or_default();
            let handle = u32::from_str_radix(number, 16).ok().filter(|it| it >> 24 == 0x81);
            let wrong = "parent_handle must be a persistent handle such as \"0x81000001\"";
            Some(handle.ok_or_else(|| refused(wrong))?)
        }
    };
    Ok(Config {
        directory: raw.directory.into(),
        device: Some(raw.tpm_device_path).filter(|path| !path.is_empty()).map(PathBuf::from),
        owner: Zeroizing::new(raw.owner_hierarchy_password.into_bytes()),
        parent,
    })
}

struct Keys(Arc<Inner>);

struct Inner {
    folder: Folder,
    place: Place,
    /// The name of the parent, which tells this TPM from others.
    parent_name: Vec<u8>,
    keys: RwLock<BTreeMap<String, Arc<TpmKey>>>,
}

/// Signs in the TPM.
struct TpmKey(Arc<Key>);

impl Keys {
    fn open(config: &Config, access: Arc<Access>) -> Result<Self, Failure> {
        let folder = Folder::open(&config.directory)?;
        let stored = folder.load()?;
        let deadline = Instant::now() + START_PATIENCE;
        let mut tpm = Tpm::open(access.path(), deadline)?;
        let parent = match config.parent {
            Some(handle) => Parent::Persistent(handle),
            None => tpm.best_srk()?,
        };
        let owner = Arc::new(config.owner.clone());
        let above = tpm.parent(parent, Auth::Password(&owner))?;
        tpm.leave(parent, above.handle)?;
        let place = Place { access, parent, owner };
        let mut keys = BTreeMap::new();
        for Stored { id, parent_name, wrapped } in stored {
            if parent_name != above.name {
                let directory = folder.path().display().to_string();
                return Err(Failure::Foreign { id, directory });
            }
            let key = Key::wrapped(&place, wrapped)
                .and_then(|key| {
                    let loaded = key.load(&mut tpm)?;
                    tpm.flush(loaded.handle)?;
                    Ok(key)
                })
                .map_err(|reason| Failure::Key { id: id.clone(), reason })?;
            keys.insert(id, Arc::new(TpmKey(Arc::new(key))));
        }
        tracing::debug!(
            plugin_type = Kind::KeyManager.name(),
            plugin_name = NAME,
            path = %place.access.path().display(),
            keys = keys.len(),
            "Opened TPM"
        );
        let keys = RwLock::new(keys);
        Ok(Self(Arc::new(Inner { folder, place, parent_name: above.name, keys })))
    }
}

#[async_trait]
impl KeyManager for Keys {
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
        const FAILED: &str = "failed to generate key: ";
        if id.is_empty() {
            return Err(error(Code::InvalidArgument, format!("{FAILED}key id is required")));
        }
        if id.len() > MAX_ID {
            return Err(error(Code::InvalidArgument, format!("{FAILED}key id is too long")));
        }
        let (inner, id) = (Arc::clone(&self.0), id.to_owned());
        // Runs to its end even when whoever asked goes away, and while it does nobody else has
        // the TPM: what is in the folder is what is known of it here.
        let make = move |tpm: &mut Tpm| -> Result<Arc<dyn Signer>, Failure> {
            let key = Arc::new(Key::make(tpm, &inner.place, kind)?);
            inner.folder.store(&id, &inner.parent_name, key.as_wrapped())?;
            let key = Arc::new(TpmKey(key));
            let mut keys = inner.keys.write().unwrap_or_else(PoisonError::into_inner);
            keys.insert(id, Arc::clone(&key));
            Ok(key)
        };
        let made = self.0.place.access.run(MAKE_PATIENCE, make).await;
        made.map_err(|reason| error(reason.code(), format!("{FAILED}{reason}")))
    }

    async fn key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
        if id.is_empty() {
            return Err(error(Code::InvalidArgument, "key id is required"));
        }
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.get(id).map(|key| Arc::clone(key) as Arc<dyn Signer>))
    }

    async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.iter().map(|(id, key)| (id.clone(), Arc::clone(key) as Arc<dyn Signer>)).collect())
    }
}

#[async_trait]
impl Signer for TpmKey {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    fn holder(&self) -> Option<&dyn std::any::Any> {
        Some(&self.0)
    }

    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        if !self.0.fits(algorithm) {
            return Err(SignError::Unsupported { kind: self.public_key().kind(), algorithm });
        }
        let told = |reason: TpmError| {
            let reason = Failure::from(reason);
            SignError::Failed(error(reason.code(), format!("failed to sign: {reason}")).message)
        };
        self.0.sign(algorithm, message).await.map_err(told)
    }
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Tpm(#[from] TpmError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("key {id:?}: {reason}")]
    Key { id: String, reason: TpmError },
    #[error(
        "the keys in {directory} (such as {id:?}) were made by another TPM, or this TPM was \
         cleared since; if that is meant to be so, remove the files there and the agent's data, \
         so that the agent attests anew"
    )]
    Foreign { id: String, directory: String },
}

impl Failure {
    fn code(&self) -> Code {
        match self {
            Self::Tpm(reason) | Self::Key { reason, .. } if reason.is_unavailable() => {
                Code::Unavailable
            }
            Self::Tpm(_) | Self::Folder(_) => Code::Internal,
            Self::Key { .. } | Self::Foreign { .. } => Code::FailedPrecondition,
        }
    }
}

/// Runs `work` on a thread of its own and gives up on it after a while: a TPM that hangs stops a
/// start with a message, not in silence.
fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, PluginError> {
    let (done, outcome) = mpsc::sync_channel(1);
    let started = std::thread::Builder::new().name(NAME.to_owned()).spawn(move || {
        // Whoever waited may have given up.
        let _ = done.send(work());
    });
    started
        .map_err(|reason| error(Code::Internal, format!("failed to start a thread: {reason}")))?;
    match outcome.recv_timeout(patience + Duration::from_secs(5)) {
        Ok(outcome) => outcome.map_err(|reason| told(&reason)),
        Err(RecvTimeoutError::Timeout) => Err(error(Code::Unavailable, "the TPM does not answer")),
        Err(RecvTimeoutError::Disconnected) => {
            Err(error(Code::Internal, "the thread that talks to the TPM panicked"))
        }
    }
}

fn told(reason: &Failure) -> PluginError {
    error(reason.code(), format!("failed to load keys: {reason}"))
}

fn error(code: Code, message: impl fmt::Display) -> PluginError {
    PluginError::new(Kind::KeyManager, NAME, code, message.to_string())
}

/// Until the TPM has looked at all keys.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Until a key is made. Discrete TPMs look for RSA primes for a while.
const MAKE_PATIENCE: Duration = Duration::from_secs(90);
/// The longest id of a key.
const MAX_ID: usize = 128;

#[cfg(test)]
mod tests;
