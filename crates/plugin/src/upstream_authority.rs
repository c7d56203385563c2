//! A PKI above ours that signs our CA.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use steeple_pki::x509::Certificate;
use steeple_pki::{JwtAuthority, X509Authority};

use crate::PluginError;

/// What changes after a first answer: each item is the whole new list. Ends when there is nothing
/// more to expect; an error ends it too. Dropping it ends the subscription.
pub type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, PluginError>> + Send>>;

/// Signs CAs of ours, and may share its bundle with us.
#[async_trait]
pub trait UpstreamAuthority: Send + Sync {
    /// The plugin's name in configuration.
    fn name(&self) -> &str;

    /// Has the CA of this certificate request (PKCS#10, DER) signed.
    ///
    /// `preferred_ttl` is a wish; zero is none.
    ///
    /// # Errors
    /// When the upstream PKI refuses or cannot be reached.
    async fn mint_x509_ca(
        &self,
        csr: &[u8],
        preferred_ttl: Duration,
    ) -> Result<MintedX509Ca, PluginError>;

    /// Publishes one of our JWT keys in the bundle of the upstream trust domain.
    ///
    /// # Errors
    /// [`Code::Unimplemented`](crate::Code::Unimplemented) where there is no such bundle: the key
    /// then stays in the local one.
    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<PublishedJwtKeys, PluginError>;

    /// Follows the upstream bundle, for servers that mint nothing at present.
    ///
    /// # Errors
    /// [`Code::Unimplemented`](crate::Code::Unimplemented) where there is no such bundle.
    async fn subscribe_to_local_bundle(&self) -> Result<Updates<LocalBundle>, PluginError>;
}

/// A CA that was signed upstream.
pub struct MintedX509Ca {
    /// Our CA's certificate and what is between it and a root; never empty.
    pub chain: Vec<Certificate>,
    /// The roots that it chains to; never empty.
    pub roots: Vec<X509Authority>,
    /// Later lists of roots.
    pub root_updates: Updates<Vec<X509Authority>>,
}

/// The JWT keys of the upstream bundle, ours among them.
pub struct PublishedJwtKeys {
    /// The keys now.
    pub keys: Vec<JwtAuthority>,
    /// Later lists of keys.
    pub updates: Updates<Vec<JwtAuthority>>,
}

/// What an upstream trust domain's bundle holds.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalBundle {
    /// Roots.
    pub x509_roots: Vec<X509Authority>,
    /// JWT keys.
    pub jwt_keys: Vec<JwtAuthority>,
}

/// No updates, ever.
#[must_use]
pub fn no_updates<T: Send + 'static>() -> Updates<T> {
    Box::pin(futures_util::stream::empty())
}
