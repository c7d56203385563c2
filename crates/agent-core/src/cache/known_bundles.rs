//! Every bundle at one moment, for those who may see them all.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::bundle::{Bundles, CachedBundle};
use crate::wire::{self, Frame};

/// All bundles that the agent knows, sorted by trust domain; immutable, encoded at most once for
/// each kind of message.
pub struct KnownBundles {
    bundles: Vec<Arc<CachedBundle>>,
    delegated_x509: OnceLock<Frame>,
    x509: OnceLock<Frame>,
    jwt: OnceLock<Frame>,
}

impl KnownBundles {
    pub(super) fn new(bundles: &Bundles) -> Self {
        let mut bundles: Vec<_> = bundles.values().cloned().collect();
        bundles.sort_by(|a, b| a.trust_domain().cmp(b.trust_domain()));
        Self {
            bundles,
            delegated_x509: OnceLock::new(),
            x509: OnceLock::new(),
            jwt: OnceLock::new(),
        }
    }

    /// The delegated identity API's `SubscribeToX509BundlesResponse`.
    pub fn delegated_x509(&self) -> &Frame {
        self.delegated_x509.get_or_init(|| wire::delegated_x509_bundles(self.fragments()))
    }

    /// The Broker API's `SubscribeToX509BundlesResponse`.
    pub fn x509(&self) -> &Frame {
        self.x509.get_or_init(|| wire::x509_bundles(self.fragments()))
    }

    /// Either API's `SubscribeToJWTBundlesResponse`.
    pub fn jwt(&self) -> &Frame {
        self.jwt.get_or_init(|| wire::jwt_bundles(self.fragments()))
    }

    fn fragments(&self) -> impl Iterator<Item = &wire::BundleFragment> + Clone {
        self.bundles.iter().map(|bundle| bundle.fragment())
    }
}

/// A watch on all bundles.
pub struct BundleWatch(pub(super) watch::Receiver<Arc<KnownBundles>>);

impl BundleWatch {
    /// The bundles now, marked as seen.
    pub fn current(&mut self) -> Arc<KnownBundles> {
        self.0.borrow_and_update().clone()
    }

    /// Waits for bundles that were not seen.
    pub async fn changed(&mut self) -> Arc<KnownBundles> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.current()
    }
}
