//! Makers and keepers of private keys.

use std::sync::Arc;

use async_trait::async_trait;
use steeple_pki::{KeyType, Signer};

use crate::PluginError;

/// Keeps private keys under names of our choice; the server's CA keys, or the agent's own.
#[async_trait]
pub trait KeyManager: Send + Sync {
    /// Makes a key of `kind` and keeps it under `id`, in place of one that is there.
    ///
    /// When this returns, the key survives what the manager's keys survive at all; when it fails,
    /// an earlier key of that id is still there.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`](crate::Code) for an empty id; otherwise whatever making or
    /// keeping it gave.
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError>;

    /// The key under `id`, if there is one.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`](crate::Code) for an empty id; otherwise whatever looking for it
    /// gave.
    async fn key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, PluginError>;

    /// All keys, ordered by id.
    ///
    /// # Errors
    /// Whatever listing them gave.
    async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError>;
}
