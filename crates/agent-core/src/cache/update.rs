//! What a set of selectors is entitled to at one moment.

use std::sync::{Arc, OnceLock};

use steeple_pki::Bundle;
use steeple_pki::bundle::{Indent, wit_svid_jwks};

use crate::bundle::CachedBundle;
use crate::entry::duplicate_hints;
use crate::wire::{self, Frame};

use super::identity::Identity;

/// An immutable answer to "who is this caller": what every stream with the
/// same entries shares. Each kind of message is put together at most once, by
/// the first stream that needs it.
pub struct Update {
    identities: Vec<Arc<Identity>>,
    /// Positions in `identities` that lost their hint to an older entry.
    hidden: Vec<usize>,
    entries: usize,
    bundle: Arc<CachedBundle>,
    federated: Vec<Arc<CachedBundle>>,
    x509_svids: OnceLock<Frame>,
    x509_bundles: OnceLock<Frame>,
    jwt_bundles: OnceLock<Frame>,
    delegated: OnceLock<Frame>,
    wit_bundles: OnceLock<Frame>,
    brokered: OnceLock<Frame>,
}

impl Update {
    /// `identities` in ascending order of entry ID; `entries` counts those to wait for: all that
    /// match, with an SVID or without; `federated` sorted by trust domain.
    pub(super) fn new(
        identities: Vec<Arc<Identity>>,
        entries: usize,
        bundle: Arc<CachedBundle>,
        federated: Vec<Arc<CachedBundle>>,
    ) -> Self {
        let hidden = duplicate_hints(identities.iter().map(|identity| identity.entry()));
        Self {
            identities,
            hidden,
            entries,
            bundle,
            federated,
            x509_svids: OnceLock::new(),
            x509_bundles: OnceLock::new(),
            jwt_bundles: OnceLock::new(),
            delegated: OnceLock::new(),
            wit_bundles: OnceLock::new(),
            brokered: OnceLock::new(),
        }
    }

    /// Whether the caller has an identity that can be served now.
    pub fn has_identity(&self) -> bool {
        !self.identities.is_empty()
    }

    /// Whether every entry that matches has its SVID; a new stream waits for it.
    pub fn is_complete(&self) -> bool {
        self.identities.len() == self.entries
    }

    /// The identities to serve, in ascending order of entry ID; of several
    /// with one hint only the oldest.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> + Clone {
        self.identities
            .iter()
            .enumerate()
            .filter(|(position, _)| self.hidden.binary_search(position).is_err())
            .map(|(_, identity)| identity.as_ref())
    }

    /// Every identity, those included that share a hint with an older entry.
    pub fn all_identities(&self) -> impl Iterator<Item = &Identity> + Clone {
        self.identities.iter().map(Arc::as_ref)
    }

    /// The identities left out because an older entry has the same hint.
    pub fn hidden(&self) -> impl Iterator<Item = &Identity> {
        self.hidden.iter().map(|position| self.identities[*position].as_ref())
    }

    /// The agent's own trust domain's bundle.
    pub fn bundle(&self) -> &CachedBundle {
        &self.bundle
    }

    /// Bundles of the trust domains that the identities federate with.
    pub fn federated(&self) -> impl Iterator<Item = &CachedBundle> + Clone {
        self.federated.iter().map(Arc::as_ref)
    }

    /// The `X509SVIDResponse`.
    pub fn x509_svids(&self) -> &Frame {
        self.x509_svids.get_or_init(|| {
            wire::x509_svids(
                self.identities().map(Identity::fragment),
                self.bundle.fragment(),
                self.federated().map(CachedBundle::fragment),
            )
        })
    }

    /// The `X509BundlesResponse`: own bundle, and the federated ones of a
    /// caller that has an identity.
    pub fn x509_bundles(&self) -> &Frame {
        self.x509_bundles
            .get_or_init(|| wire::x509_bundles(self.visible_bundles().map(CachedBundle::fragment)))
    }

    /// The `JWTBundlesResponse`, by the same rule.
    pub fn jwt_bundles(&self) -> &Frame {
        self.jwt_bundles
            .get_or_init(|| wire::jwt_bundles(self.visible_bundles().map(CachedBundle::fragment)))
    }

    /// The `WITBundlesResponse`, by the same rule.
    pub fn wit_bundles(&self) -> &Frame {
        self.wit_bundles.get_or_init(|| {
            let bundles = self.visible_bundles().map(CachedBundle::bundle);
            let entry = |bundle: &Bundle| {
                (bundle.trust_domain.id_string(), wit_svid_jwks(bundle, Indent::FourSpaces))
            };
            wire::wit_bundles(&bundles.map(entry).collect::<Vec<_>>())
        })
    }

    /// The `SubscribeToX509SVIDsResponse` of the delegated identity API: hints that several
    /// share are left to the delegate.
    pub fn delegated_x509_svids(&self) -> &Frame {
        self.delegated.get_or_init(|| {
            let identities: Vec<_> = self.delegable().map(Identity::with_key).collect();
            wire::delegated_x509_svids(&identities, &self.federates_with())
        })
    }

    /// The Broker API's `SubscribeToX509SVIDResponse`, which is the Workload API's message
    /// without the identities that nobody else may have.
    pub fn brokered_x509_svids(&self) -> &Frame {
        if self.identities().all(Identity::is_delegable) {
            return self.x509_svids();
        }
        self.brokered.get_or_init(|| {
            let identities = self.identities().filter(|identity| identity.is_delegable());
            wire::x509_svids(
                identities.map(Identity::fragment),
                self.bundle.fragment(),
                self.federated().map(CachedBundle::fragment),
            )
        })
    }

    /// The identities that somebody else may have on the workload's behalf, whatever their hints.
    pub fn delegable(&self) -> impl Iterator<Item = &Identity> + Clone {
        self.identities.iter().map(Arc::as_ref).filter(|identity| identity.is_delegable())
    }

    /// As [`Self::delegable`], to be kept.
    pub fn delegable_shared(&self) -> impl Iterator<Item = &Arc<Identity>> + Clone {
        self.identities.iter().filter(|identity| identity.is_delegable())
    }

    /// The trust domains of [`Self::federated`], as SPIFFE IDs.
    pub fn federates_with(&self) -> Vec<String> {
        self.federated.iter().map(|bundle| bundle.trust_domain().id_string()).collect()
    }

    /// The bundles this caller may see, its own trust domain's first.
    pub fn visible_bundles(&self) -> impl Iterator<Item = &CachedBundle> + Clone {
        std::iter::once(self.bundle.as_ref()).chain(self.federated())
    }
}
