//! What a set of selectors is entitled to at one moment.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use steeple_pki::Bundle;
use steeple_pki::bundle::{Indent, wit_svid_jwks};
use steeple_pki::x509::Certificate;
use zeroize::Zeroizing;

use crate::bundle::CachedBundle;
use crate::entry::{Entry, duplicate_hints};
use crate::wire::{self, Frame, IdentityFragment, WithKey};

/// A signed chain and its key, as they come from the signer.
pub struct SignedSvid {
    /// The leaf first.
    pub chain: Vec<Certificate>,
    /// PKCS#8 DER.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// When to ask for the next one.
    pub due: SystemTime,
}

impl SignedSvid {
    /// When the leaf stops being valid.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.chain.first().map(Certificate::not_after)
    }
}

/// An entry together with its current X.509-SVID; immutable, encoded once.
pub struct Identity {
    entry: Arc<Entry>,
    chain: Vec<Certificate>,
    due: SystemTime,
    fragment: IdentityFragment,
    pem: OnceLock<Pem>,
}

/// A chain and its key as PEM, for those who want them so.
pub struct Pem {
    /// The certificates, leaf first.
    pub chain: Bytes,
    /// The key as a block `PRIVATE KEY`; wiped with its last reference.
    pub key: Bytes,
}

impl Identity {
    pub(super) fn new(entry: Arc<Entry>, svid: SignedSvid) -> Self {
        let der: Vec<u8> = svid.chain.iter().flat_map(|cert| cert.der().iter().copied()).collect();
        let fragment =
            IdentityFragment::new(entry.spiffe_id.as_str(), &der, &svid.key_pkcs8, &entry.hint);
        Self { entry, chain: svid.chain, due: svid.due, fragment, pem: OnceLock::new() }
    }

    /// The entry that grants it.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// The chain and the key as PEM, written by the first who asks and shared.
    pub fn pem(&self) -> &Pem {
        self.pem.get_or_init(|| {
            let chain: String = self.chain.iter().map(Certificate::pem).collect();
            let key = steeple_pki::pem::encode("PRIVATE KEY", self.fragment.key_pkcs8());
            Pem { chain: chain.into(), key: wire::wiped(Zeroizing::new(key.into_bytes())) }
        })
    }

    /// The key, PKCS#8 DER.
    pub(super) fn key_pkcs8(&self) -> &[u8] {
        self.fragment.key_pkcs8()
    }

    /// When the leaf stops being valid.
    pub fn expires_at(&self) -> SystemTime {
        self.chain.first().map_or(SystemTime::UNIX_EPOCH, Certificate::not_after)
    }

    /// Whether a delegate or broker may have it: no identity that administers a server.
    pub fn is_delegable(&self) -> bool {
        !self.entry.admin && !self.entry.downstream
    }

    /// The identity as delegates get it.
    pub fn with_key(&self) -> WithKey<'_> {
        WithKey::new(&self.entry.spiffe_id, &self.chain, &self.entry.hint, &self.fragment)
    }

    /// When it is to be renewed.
    pub fn due(&self) -> SystemTime {
        self.due
    }
}

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
                self.identities().map(|identity| &identity.fragment),
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
                identities.map(|identity| &identity.fragment),
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
