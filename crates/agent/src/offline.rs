//! The offline cache's file and the keys that protect it (ADR 11).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use steeple_agent_core::sealed::{
    Kept, KeptError, MARKERS, MAX_SIZE, SEAL_KEY, SEAL_TEXT, context, header, split,
};
use steeple_config::AgentConfig;
use steeple_pki::seal::{SealError, SealingKey};
use steeple_pki::{KeyType, PublicKey, SignError, SignatureAlgorithm, Signer};
use steeple_plugin::{KeyManager, PluginError};
use steeple_runtime::fsx;
use tokio::sync::Mutex;
use tracing::{debug, error, info, warn};
use zeroize::Zeroizing;

/// The name of the file in the data directory.
const FILE: &str = "agent-offline.sealed";
const SUBSYSTEM: &str = "offline_cache";
/// What sealing adds at most.
const ROOM: u64 = 4096;

/// Why nothing could be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfflineError {
    /// The file.
    #[error("{0}")]
    File(#[from] io::Error),
    /// What is in it.
    #[error("{0}")]
    Kept(#[from] KeptError),
    /// Its seal.
    #[error("{0}")]
    Seal(#[from] SealError),
    /// The key manager.
    #[error("{0}")]
    KeyManager(#[from] PluginError),
    /// The key manager's key.
    #[error("the key manager cannot sign for it: {0}")]
    Sign(#[from] SignError),
    /// Signatures that are not what they have to be.
    #[error("the key manager's RSA signatures are not deterministic, so no key can be derived")]
    Signatures,
    /// A key is gone that the file needs.
    #[error("the key manager does not have the key that it was sealed with")]
    KeyMissing,
    /// A task ended before it was done.
    #[error("interrupted")]
    Interrupted,
}

/// Keeps things on disk that only this agent, with this key manager, reads again.
pub(crate) struct OfflineCache {
    path: PathBuf,
    keys: Arc<dyn KeyManager>,
    max_age: Duration,
    pub(crate) jwt_svids: bool,
    secret: Mutex<Option<SealingKey>>,
    /// The slot of the marker that the file is bound to.
    slot: AtomicUsize,
    failing: AtomicBool,
    destroyed: AtomicBool,
}

impl OfflineCache {
    /// The cache that the configuration asks for, if it does and the key manager outlives a
    /// restart. What an earlier configuration asked for is removed.
    pub(crate) fn of(
        config: &AgentConfig,
        keys: &Arc<dyn KeyManager>,
        key_manager: &str,
    ) -> Option<Arc<Self>> {
        let path = config.data_dir.join(FILE);
        let wanted = config.experimental.offline_cache.as_ref();
        if wanted.is_some() && key_manager == "memory" {
            warn!(
                subsystem_name = SUBSYSTEM,
                "The 'memory' key manager forgets its keys with the agent, so nothing can be kept for a start without a server; offline_cache is off"
            );
        }
        let Some(wanted) = wanted.filter(|_| key_manager != "memory") else {
            if remove(&path) {
                info!(subsystem_name = SUBSYSTEM, path = %path.display(), "Removed an offline cache that is not configured any more");
            }
            return None;
        };
        Some(Arc::new(Self::at(path, keys, wanted.max_age, wanted.jwt_svids)))
    }

    fn at(path: PathBuf, keys: &Arc<dyn KeyManager>, max_age: Duration, jwt_svids: bool) -> Self {
        Self {
            path,
            keys: Arc::clone(keys),
            max_age,
            jwt_svids,
            secret: Mutex::new(None),
            slot: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            destroyed: AtomicBool::new(false),
        }
    }

    /// How often a file has to be confirmed to be of use when it is needed.
    pub(crate) fn confirm_every(&self) -> Duration {
        (self.max_age / 8).max(Duration::from_secs(60))
    }

    /// What was kept and may be served at `now`. A file that cannot be trusted is as good as none,
    /// but the log says so.
    pub(crate) async fn load(&self, agent_id: &str, now: SystemTime) -> Option<Kept> {
        match self.read(agent_id, now).await {
            Ok(kept) => kept,
            Err(error) => {
                error!(subsystem_name = SUBSYSTEM, path = %self.path.display(), %error, "Refusing the offline cache");
                None
            }
        }
    }

    async fn read(&self, agent_id: &str, now: SystemTime) -> Result<Option<Kept>, OfflineError> {
        let path = self.path.clone();
        let reading = move || fsx::read_limited(&path, MAX_SIZE as u64 + ROOM);
        let Some(file) = blocking(reading).await?? else { return Ok(None) };
        let mut markers: Vec<Option<PublicKey>> = Vec::new();
        for id in MARKERS {
            markers.push(self.keys.key(id).await?.map(|key| key.public_key().clone()));
        }
        let (slot, sealed) = split(&file, &markers)?;
        let marker = markers[slot].clone().ok_or(KeptError::Generation)?;
        self.slot.store(slot, Ordering::Relaxed);
        self.unlock(false).await?;
        let opened = {
            let secret = self.secret.lock().await;
            let secret = secret.as_ref().ok_or(OfflineError::KeyMissing)?;
            secret.open(&context(agent_id, &marker), sealed)?
        };
        let kept = Kept::decode(&opened)?.usable(now, self.max_age)?;
        // A crash may have left the marker before this one, and whoever kept its file.
        self.keys.generate_key(MARKERS[1 - slot], KeyType::EcP256).await?;
        Ok(Some(kept))
    }

    /// Puts `kept` in place of what was kept before, which can never be read again. Gives whether
    /// it did; what is there stays if not.
    pub(crate) async fn save(&self, agent_id: &str, kept: Kept) -> bool {
        match self.write(agent_id, kept).await {
            Ok(bytes) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!(subsystem_name = SUBSYSTEM, "The offline cache can be written again");
                }
                debug!(subsystem_name = SUBSYSTEM, bytes, "Wrote the offline cache");
                true
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    error!(subsystem_name = SUBSYSTEM, path = %self.path.display(), %error, "Could not write the offline cache; a restart without a server would not know what happened since the last time");
                }
                false
            }
        }
    }

    async fn write(&self, agent_id: &str, mut kept: Kept) -> Result<usize, OfflineError> {
        if self.destroyed.load(Ordering::SeqCst) {
            return Ok(0);
        }
        self.unlock(true).await?;
        let next = 1 - self.slot.load(Ordering::Relaxed);
        let marker = self.keys.generate_key(MARKERS[next], KeyType::EcP256).await?;
        let marker = marker.public_key().clone();
        let secret = self.secret.lock().await;
        let secret = secret.as_ref().ok_or(OfflineError::KeyMissing)?;
        let (plain, left_out) = kept.encode();
        if left_out > 0 {
            warn!(
                subsystem_name = SUBSYSTEM,
                left_out, "The offline cache is full; entries were left out"
            );
        }
        let mut file = header(&marker);
        file.extend(secret.seal(&context(agent_id, &marker), &plain)?);
        drop(plain);
        let (path, size) = (self.path.clone(), file.len());
        blocking(move || fsx::write_atomic(&path, &file, 0o600)).await??;
        self.slot.store(next, Ordering::Relaxed);
        self.keys.generate_key(MARKERS[1 - next], KeyType::EcP256).await?;
        Ok(size)
    }

    /// Ends it for good: the file goes, and so do the keys without which no copy of it is worth
    /// anything.
    pub(crate) async fn destroy(&self) {
        self.destroyed.store(true, Ordering::SeqCst);
        let mut secret = self.secret.lock().await;
        *secret = None;
        let removed = remove(&self.path);
        for (id, kind) in MARKERS
            .map(|id| (id, KeyType::EcP256))
            .into_iter()
            .chain([(SEAL_KEY, KeyType::Rsa2048)])
        {
            let replaced = match self.keys.key(id).await {
                Ok(Some(_)) => self.keys.generate_key(id, kind).await.map(drop),
                other => other.map(drop),
            };
            if let Err(error) = replaced {
                warn!(subsystem_name = SUBSYSTEM, key_id = id, %error, "Could not replace a key of the offline cache");
            }
        }
        if removed {
            warn!(subsystem_name = SUBSYSTEM, "The offline cache was destroyed");
        }
    }

    /// Has the key manager make the secret again, or for the first time if `create` says so.
    async fn unlock(&self, create: bool) -> Result<(), OfflineError> {
        let mut secret = self.secret.lock().await;
        if secret.is_some() {
            return Ok(());
        }
        let key = match self.keys.key(SEAL_KEY).await? {
            Some(key) => key,
            None if create => self.keys.generate_key(SEAL_KEY, KeyType::Rsa2048).await?,
            None => return Err(OfflineError::KeyMissing),
        };
        let (first, second) = (sign(&key).await?, sign(&key).await?);
        let algorithm = SignatureAlgorithm::RsaPkcs1Sha256;
        let verified = key.public_key().verify(algorithm, SEAL_TEXT, &first).is_ok();
        if *first != *second || !verified {
            return Err(OfflineError::Signatures);
        }
        *secret = Some(SealingKey::new(first));
        Ok(())
    }
}

async fn sign(key: &Arc<dyn Signer>) -> Result<Zeroizing<Vec<u8>>, OfflineError> {
    Ok(Zeroizing::new(key.sign(SignatureAlgorithm::RsaPkcs1Sha256, SEAL_TEXT).await?))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OfflineError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| OfflineError::Interrupted)
}

/// Whether there was something to remove, and it is gone.
fn remove(path: &Path) -> bool {
    match std::fs::remove_file(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            warn!(subsystem_name = SUBSYSTEM, path = %path.display(), %error, "Could not remove the offline cache");
            false
        }
    }
}

#[cfg(test)]
mod tests;
