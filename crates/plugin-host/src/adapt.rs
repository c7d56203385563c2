//! The plugin traits over an external plugin, a file per kind.

use std::sync::Arc;

use steeple_plugin::{
    BundlePublisher, CredentialComposer, KeyManager, NodeAttestor, NodeEvidence, Notifier,
    SvidStore, UpstreamAuthority, WorkloadAttestor,
};

use crate::plugin::Plugin;
use crate::spec::Side;

mod composer;
mod key_manager;
mod node_attestor;
mod notifier;
mod svid_store;
mod upstream_authority;
mod workload_attestor;

/// Each of these is for a plugin that was loaded as that kind; of another, every call fails.
impl Plugin {
    /// As a key manager, of either side.
    #[must_use]
    pub fn key_manager(&self) -> Arc<dyn KeyManager> {
        match self.spec().side {
            Side::Server => Arc::new(key_manager::Server::new(self.clone())),
            Side::Agent => Arc::new(key_manager::Agent::new(self.clone())),
        }
    }

    /// As the server's half of a node attestor.
    #[must_use]
    pub fn node_attestor(&self) -> Arc<dyn NodeAttestor> {
        Arc::new(node_attestor::Judge(self.clone()))
    }

    /// As the agent's half of a node attestor.
    #[must_use]
    pub fn node_evidence(&self) -> Arc<dyn NodeEvidence> {
        Arc::new(node_attestor::Evidence::new(self.clone()))
    }

    /// As an upstream authority.
    #[must_use]
    pub fn upstream_authority(&self) -> Arc<dyn UpstreamAuthority> {
        Arc::new(upstream_authority::Upstream(self.clone()))
    }

    /// As a credential composer.
    #[must_use]
    pub fn credential_composer(&self) -> Arc<dyn CredentialComposer> {
        Arc::new(composer::Composer(self.clone()))
    }

    /// As a notifier.
    #[must_use]
    pub fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::new(notifier::External(self.clone()))
    }

    /// As a bundle publisher.
    #[must_use]
    pub fn bundle_publisher(&self) -> Arc<dyn BundlePublisher> {
        Arc::new(notifier::External(self.clone()))
    }

    /// As a workload attestor.
    #[must_use]
    pub fn workload_attestor(&self) -> Arc<dyn WorkloadAttestor> {
        Arc::new(workload_attestor::External(self.clone()))
    }

    /// As an SVID store.
    #[must_use]
    pub fn svid_store(&self) -> Arc<dyn SvidStore> {
        Arc::new(svid_store::External(self.clone()))
    }
}
