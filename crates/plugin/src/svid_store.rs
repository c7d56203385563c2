//! Keeps SVIDs where workloads find them that cannot call the Workload API.

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use steeple_pki::x509::Certificate;
use steeple_pki::{Bundle, PrivateKey};
use steeple_spiffe::SpiffeId;

use crate::PluginError;

/// Writes X509-SVIDs elsewhere and takes them away again.
#[async_trait]
pub trait SvidStore: Send + Sync {
    /// The plugin's name in configuration, which entries name as their selectors' type.
    fn name(&self) -> &str;

    /// Writes an SVID, in place of an earlier one of the same metadata.
    ///
    /// # Errors
    /// When it could not be written.
    async fn put_x509_svid(&self, svid: &StoredX509Svid) -> Result<(), PluginError>;

    /// Takes away what was put under this metadata; none there is no error.
    ///
    /// # Errors
    /// When it could not be taken away.
    async fn delete_x509_svid(&self, metadata: &[String]) -> Result<(), PluginError>;
}

/// What is to be stored.
pub struct StoredX509Svid {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// The leaf first.
    pub chain: Vec<Certificate>,
    /// The leaf's key.
    pub private_key: PrivateKey,
    /// The bundle of its trust domain.
    pub bundle: Bundle,
    /// The bundles that the entry federates with.
    pub federated_bundles: Vec<Bundle>,
    /// When it expires.
    pub expires_at: SystemTime,
    /// Where it goes: the values of the entry's selectors.
    pub metadata: Vec<String>,
}

impl fmt::Debug for StoredX509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredX509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
