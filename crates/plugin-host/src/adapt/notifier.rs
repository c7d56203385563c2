//! Notifiers and bundle publishers.

use std::time::Duration;

use async_trait::async_trait;
use steeple_pki::Bundle;
use steeple_plugin::{BundlePublisher, Notifier, PluginError};
use steeple_plugin_sdk::wire;
use steeple_proto::spire::plugin::server::bundlepublisher::v1 as publisher;
use steeple_proto::spire::plugin::server::notifier::v1 as notifier;

use crate::plugin::Plugin;

const DEADLINE: Duration = Duration::from_secs(60);

pub(super) struct External(pub(super) Plugin);

#[async_trait]
impl Notifier for External {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn bundle_updated(&self, bundle: &Bundle) -> Result<(), PluginError> {
        let updated = notifier::BundleUpdated { bundle: Some(wire::bundle_out(bundle)) };
        let event = Some(notifier::notify_request::Event::BundleUpdated(updated));
        let mut client = notifier::notifier_client::NotifierClient::new(self.0.channel());
        let call = client.notify(notifier::NotifyRequest { event });
        self.0.call(DEADLINE, call).await.map(|_| ())
    }

    async fn bundle_loaded(&self, bundle: &Bundle) -> Result<(), PluginError> {
        let loaded = notifier::BundleLoaded { bundle: Some(wire::bundle_out(bundle)) };
        let event = Some(notifier::notify_and_advise_request::Event::BundleLoaded(loaded));
        let mut client = notifier::notifier_client::NotifierClient::new(self.0.channel());
        let call = client.notify_and_advise(notifier::NotifyAndAdviseRequest { event });
        self.0.call(DEADLINE, call).await.map(|_| ())
    }
}

#[async_trait]
impl BundlePublisher for External {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn publish_bundle(&self, bundle: &Bundle) -> Result<(), PluginError> {
        let request = publisher::PublishBundleRequest { bundle: Some(wire::bundle_out(bundle)) };
        let mut client =
            publisher::bundle_publisher_client::BundlePublisherClient::new(self.0.channel());
        self.0.call(DEADLINE, client.publish_bundle(request)).await.map(|_| ())
    }
}
