//! Finders of what a process is.

use async_trait::async_trait;
use steeple_spiffe::Selector;

use crate::PluginError;

/// Tells the selectors of local processes.
#[async_trait]
pub trait WorkloadAttestor: Send + Sync {
    /// The plugin's name in configuration, which is also the type of its selectors.
    fn name(&self) -> &str;

    /// The selectors of process `pid`.
    ///
    /// The caller makes sure afterwards that the process is still the one it meant; an answer
    /// proves nothing by itself.
    ///
    /// # Errors
    /// When the process cannot be examined.
    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError>;
}
