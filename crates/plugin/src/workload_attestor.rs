//! Finders of what a process is.

use std::time::Duration;

use async_trait::async_trait;
use steeple_spiffe::{Selector, SpiffeId};

use crate::{Code, PluginError};

/// Tells the selectors of local processes.
#[async_trait]
pub trait WorkloadAttestor: Send + Sync {
    /// The plugin's name in configuration, which is also the type of its selectors.
    fn name(&self) -> &str;

    /// How long an answer may rightly take because the plugin waits for something to happen, which
    /// costs nothing however many do. Nothing for one that answers as fast as it can.
    fn waits(&self) -> Option<Duration> {
        None
    }

    /// The selectors of process `pid`.
    ///
    /// The caller makes sure afterwards that the process is still the one it meant; an answer
    /// proves nothing by itself.
    ///
    /// # Errors
    /// When the process cannot be examined.
    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError>;

    /// The selectors of the workload that `reference` names, which a broker asks about.
    ///
    /// `caller` is the broker, for plugins that decide by it which workloads it may name.
    ///
    /// # Errors
    /// [`Code::Unimplemented`] when the plugin does not know this type of reference, which is no
    /// failure: another plugin may know it.
    async fn attest_reference(
        &self,
        reference: &WorkloadReference,
        caller: Option<&SpiffeId>,
    ) -> Result<Vec<Selector>, PluginError> {
        let _ = (reference, caller);
        Err(PluginError {
            code: Code::Unimplemented,
            message: format!(
                "workloadattestor({}): reference attestation is not supported",
                self.name()
            ),
        })
    }
}

/// A workload as the Broker API names it: a message of some type (`google.protobuf.Any`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadReference {
    /// Which type of reference, `type.googleapis.com/spiffe.broker.…`.
    pub type_url: String,
    /// The message, encoded.
    pub value: Vec<u8>,
}
