//! Built-in plugins that are configured while in use: a new one takes the place of the old, and
//! calls under way end on the old.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Map, Value};
use steeple_pki::{Bundle, JwtAuthority, KeyType, PublicKey, Signer};
use steeple_plugin::{
    AgentAttributes, BundlePublisher, Challenger, CredentialComposer, KeyManager, LocalBundle,
    MintedX509Ca, NodeAttestor, NodeEvidence, Notifier, PluginError, PublishedJwtKeys,
    StoredX509Svid, SvidStore, Updates, UpstreamAuthority, WorkloadAttestor, WorkloadReference,
    X509CaAttributes, X509SvidAttributes,
};
use steeple_plugins::catalog::Made;
use steeple_spiffe::{Selector, SpiffeId};

/// Where the plugin of the moment is.
#[derive(Clone)]
pub(crate) struct Slot(Arc<ArcSwap<Made>>);

impl Slot {
    pub(crate) fn new(made: Made) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(made)))
    }

    /// Puts another in its place.
    pub(crate) fn put(&self, made: Made) {
        self.0.store(Arc::new(made));
    }

    /// The plugin itself, for one that stays.
    pub(crate) fn made(&self) -> Made {
        match &**self.0.load() {
            Made::BundlePublisher(it) => Made::BundlePublisher(it.clone()),
            Made::CredentialComposer(it) => Made::CredentialComposer(it.clone()),
            Made::KeyManager(it) => Made::KeyManager(it.clone()),
            Made::NodeAttestor(it) => Made::NodeAttestor(it.clone()),
            Made::NodeEvidence(it) => Made::NodeEvidence(it.clone()),
            Made::Notifier(it) => Made::Notifier(it.clone()),
            Made::SvidStore(it) => Made::SvidStore(it.clone()),
            Made::UpstreamAuthority(it) => Made::UpstreamAuthority(it.clone()),
            Made::WorkloadAttestor(it) => Made::WorkloadAttestor(it.clone()),
            Made::Composite(it) => Made::Composite(it.clone()),
            Made::Core => Made::Core,
        }
    }

    /// Whatever is in the slot at each call.
    pub(crate) fn swappable(&self, name: &str) -> Made {
        let it = Arc::new(Swapped { name: name.to_owned(), slot: self.clone() });
        match &**self.0.load() {
            Made::BundlePublisher(_) => Made::BundlePublisher(it),
            Made::CredentialComposer(_) => Made::CredentialComposer(it),
            Made::KeyManager(_) => Made::KeyManager(it),
            Made::NodeAttestor(_) => Made::NodeAttestor(it),
            Made::NodeEvidence(_) => Made::NodeEvidence(it),
            Made::Notifier(_) => Made::Notifier(it),
            Made::SvidStore(_) => Made::SvidStore(it),
            Made::UpstreamAuthority(_) => Made::UpstreamAuthority(it),
            Made::WorkloadAttestor(_) => Made::WorkloadAttestor(it),
            // Its parts were found when it was loaded.
            Made::Composite(it) => Made::Composite(it.clone()),
            Made::Core => Made::Core,
        }
    }
}

/// A plugin of any kind: which, its slot knows.
struct Swapped {
    name: String,
    slot: Slot,
}

macro_rules! current {
    ($self:ident, $kind:ident) => {
        match &**$self.slot.0.load() {
            Made::$kind(it) => it.clone(),
            _ => unreachable!("a slot keeps its kind"),
        }
    };
}

#[async_trait]
impl KeyManager for Swapped {
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
        current!(self, KeyManager).generate_key(id, kind).await
    }

    async fn key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
        current!(self, KeyManager).key(id).await
    }

    async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
        current!(self, KeyManager).keys().await
    }
}

#[async_trait]
impl NodeAttestor for Swapped {
    fn name(&self) -> &str {
        &self.name
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        current!(self, NodeAttestor).attest(payload, challenger).await
    }

    fn once(&self, agent: &SpiffeId) -> bool {
        current!(self, NodeAttestor).once(agent)
    }
}

#[async_trait]
impl NodeEvidence for Swapped {
    fn name(&self) -> &str {
        &self.name
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        current!(self, NodeEvidence).payload().await
    }

    async fn payload_for(&self, key: &dyn Signer) -> Result<Vec<u8>, PluginError> {
        current!(self, NodeEvidence).payload_for(key).await
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        current!(self, NodeEvidence).respond(challenge).await
    }

    async fn end(&self) {
        current!(self, NodeEvidence).end().await;
    }
}

#[async_trait]
impl WorkloadAttestor for Swapped {
    fn name(&self) -> &str {
        &self.name
    }

    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        current!(self, WorkloadAttestor).attest(pid).await
    }

    async fn attest_reference(
        &self,
        reference: &WorkloadReference,
        caller: Option<&SpiffeId>,
    ) -> Result<Vec<Selector>, PluginError> {
        current!(self, WorkloadAttestor).attest_reference(reference, caller).await
    }
}

#[async_trait]
impl UpstreamAuthority for Swapped {
    fn name(&self) -> &str {
        &self.name
    }

    async fn mint_x509_ca(
        &self,
        csr: &[u8],
        preferred_ttl: Duration,
    ) -> Result<MintedX509Ca, PluginError> {
        current!(self, UpstreamAuthority).mint_x509_ca(csr, preferred_ttl).await
    }

    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<PublishedJwtKeys, PluginError> {
        current!(self, UpstreamAuthority).publish_jwt_key(key).await
    }

    async fn subscribe_to_local_bundle(&self) -> Result<Updates<LocalBundle>, PluginError> {
        current!(self, UpstreamAuthority).subscribe_to_local_bundle().await
    }
}

#[async_trait]
impl CredentialComposer for Swapped {
    fn name(&self) -> &str {
        &self.name
    }

    async fn compose_server_x509_ca(
        &self,
        attributes: X509CaAttributes,
    ) -> Result<X509CaAttributes, PluginError> {
        current!(self, CredentialComposer).compose_server_x509_ca(attributes).await
    }

    async fn compose_server_x509_svid(
        &self,
        attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        current!(self, CredentialComposer).compose_server_x509_svid(attributes).await
    }

    async fn compose_agent_x509_svid(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        current!(self, CredentialComposer).compose_agent_x509_svid(id, key, attributes).await
    }

    async fn compose_workload_x509_svid(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        current!(self, CredentialComposer).compose_workload_x509_svid(id, key, attributes).await
    }

    async fn compose_workload_jwt_svid(
        &self,
        id: &SpiffeId,
        claims: Map<String, Value>,
    ) -> Result<Map<String, Value>, PluginError> {
        current!(self, CredentialComposer).compose_workload_jwt_svid(id, claims).await
    }
}

#[async_trait]
impl Notifier for Swapped {
    fn name(&self) -> &str {
        &self.name
    }

    async fn bundle_updated(&self, bundle: &Bundle) -> Result<(), PluginError> {
        current!(self, Notifier).bundle_updated(bundle).await
    }

    async fn bundle_loaded(&self, bundle: &Bundle) -> Result<(), PluginError> {
        current!(self, Notifier).bundle_loaded(bundle).await
    }
}

#[async_trait]
impl BundlePublisher for Swapped {
    fn name(&self) -> &str {
        &self.name
    }

    async fn publish_bundle(&self, bundle: &Bundle) -> Result<(), PluginError> {
        current!(self, BundlePublisher).publish_bundle(bundle).await
    }
}

#[async_trait]
impl SvidStore for Swapped {
    fn name(&self) -> &str {
        &self.name
    }

    async fn put_x509_svid(&self, svid: &StoredX509Svid) -> Result<(), PluginError> {
        current!(self, SvidStore).put_x509_svid(svid).await
    }

    async fn delete_x509_svid(&self, metadata: &[String]) -> Result<(), PluginError> {
        current!(self, SvidStore).delete_x509_svid(metadata).await
    }
}
