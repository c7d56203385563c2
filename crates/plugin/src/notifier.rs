//! Who is told of what happens to the bundle.

use async_trait::async_trait;
use steeple_pki::Bundle;

use crate::PluginError;

/// Is told of events.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// The plugin's name in configuration.
    fn name(&self) -> &str;

    /// The bundle has changed. A failure is logged and changes nothing.
    ///
    /// # Errors
    /// When the notification could not be delivered.
    async fn bundle_updated(&self, bundle: &Bundle) -> Result<(), PluginError>;

    /// The bundle was loaded at start. A failure stops the server.
    ///
    /// # Errors
    /// When the server is not to start.
    async fn bundle_loaded(&self, bundle: &Bundle) -> Result<(), PluginError>;
}

/// Publishes the bundle elsewhere.
#[async_trait]
pub trait BundlePublisher: Send + Sync {
    /// The plugin's name in configuration.
    fn name(&self) -> &str;

    /// Publishes the bundle; the same one twice is harmless.
    ///
    /// # Errors
    /// When it could not be published; it is tried again later.
    async fn publish_bundle(&self, bundle: &Bundle) -> Result<(), PluginError>;
}
