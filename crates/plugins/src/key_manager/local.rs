//! Keys held in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use steeple_pki::{KeyType, PrivateKey, Signer};
use steeple_plugin::{Code, KeyManager, Kind, PluginError};

use super::keys_file::KeysFile;

pub(crate) type Keys = BTreeMap<String, Arc<PrivateKey>>;

/// A key manager that signs in this process; with a file, every key is in it before anybody
/// sees the key.
pub(crate) struct LocalKeys(Arc<Inner>);

struct Inner {
    name: &'static str,
    file: Option<KeysFile>,
    /// Held while the file is written, so that two new keys do not lose one another.
    writing: Mutex<()>,
    keys: RwLock<Keys>,
}

impl LocalKeys {
    pub(crate) fn in_memory(name: &'static str) -> Self {
        Self::new(name, None, Keys::new())
    }

    pub(crate) fn on_disk(name: &'static str, file: KeysFile, keys: Keys) -> Self {
        Self::new(name, Some(file), keys)
    }

    fn new(name: &'static str, file: Option<KeysFile>, keys: Keys) -> Self {
        let (writing, keys) = (Mutex::new(()), RwLock::new(keys));
        Self(Arc::new(Inner { name, file, writing, keys }))
    }
}

#[async_trait]
impl KeyManager for LocalKeys {
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
        let (inner, id) = (Arc::clone(&self.0), id.to_owned());
        // Making an RSA key takes seconds and writing a file waits for the disk. And it runs to
        // its end even when whoever asked goes away: a key is in both places or in neither.
        let generated = tokio::task::spawn_blocking(move || inner.generate(id, kind)).await;
        match generated {
            Ok(Ok(key)) => Ok(key),
            Ok(Err(error)) => Err(error),
            Err(stopped) => {
                Err(self.0.error(Code::Internal, format!("failed to generate key: {stopped}")))
            }
        }
    }

    async fn key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
        if id.is_empty() {
            return Err(self.0.error(Code::InvalidArgument, "key id is required"));
        }
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.get(id).map(|key| Arc::clone(key) as Arc<dyn Signer>))
    }

    async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.iter().map(|(id, key)| (id.clone(), Arc::clone(key) as Arc<dyn Signer>)).collect())
    }
}

impl Inner {
    fn generate(&self, id: String, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
        let failed = |code, reason: &dyn std::fmt::Display| {
            self.error(code, format!("failed to generate key: {reason}"))
        };
        if id.is_empty() {
            return Err(failed(Code::InvalidArgument, &"key id is required"));
        }
        let key = PrivateKey::generate(kind).map_err(|error| failed(Code::Unknown, &error))?;
        let key = Arc::new(key);

        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        keys.insert(id, Arc::clone(&key));
        if let Some(file) = &self.file {
            file.write(&keys).map_err(|error| failed(Code::Internal, &error))?;
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(key)
    }

    fn error(&self, code: Code, message: impl AsRef<str>) -> PluginError {
        PluginError::new(Kind::KeyManager, self.name, code, message)
    }
}
