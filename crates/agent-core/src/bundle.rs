//! Trust bundles as the cache holds them: parsed once, encoded once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use steeple_pki::Bundle;
use steeple_pki::bundle::{Indent, jwt_svid_jwks};
use steeple_spiffe::TrustDomain;
use tracing::debug;

use crate::wire::BundleFragment;

/// A bundle and its bytes for streams; immutable.
pub struct CachedBundle {
    bundle: Bundle,
    fragment: BundleFragment,
    x509_pem: OnceLock<Bytes>,
}

impl CachedBundle {
    /// Encodes the bundle for X.509 and JWT streams.
    pub fn new(bundle: Bundle) -> Self {
        let der = bundle.x509_ders().to_vec();
        let jwks = jwt_svid_jwks(&bundle, Indent::FourSpaces);
        let fragment = BundleFragment::new(&bundle.trust_domain.id_string(), der, jwks.as_bytes());
        Self { bundle, fragment, x509_pem: OnceLock::new() }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.bundle.trust_domain
    }

    /// The parsed bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The X.509 authorities as PEM, written by the first who asks and shared.
    pub fn x509_pem(&self) -> &Bytes {
        self.x509_pem.get_or_init(|| steeple_pki::bundle::pem(&self.bundle).into())
    }

    pub(crate) fn fragment(&self) -> &BundleFragment {
        &self.fragment
    }
}

/// Every bundle this agent knows, its own trust domain's among them.
pub type Bundles = HashMap<TrustDomain, Arc<CachedBundle>>;

/// Puts `new` in place of what is held, but for the own trust domain's bundle if it is not among
/// them. Gives the trust domains whose bundle changed, came or went.
pub(crate) fn replace(
    held: &mut Bundles,
    new: Bundles,
    own: &TrustDomain,
    subsystem: &str,
) -> HashSet<TrustDomain> {
    let mut changed = HashSet::new();
    held.retain(|domain, _| {
        let stays = domain == own || new.contains_key(domain);
        if !stays {
            debug!(subsystem_name = subsystem, trust_domain_id = %domain, "Bundle removed");
            changed.insert(domain.clone());
        }
        stays
    });
    for (domain, bundle) in new {
        match held.get(&domain) {
            Some(held) if held.bundle() == bundle.bundle() => continue,
            Some(_) => {
                debug!(subsystem_name = subsystem, trust_domain_id = %domain, "Bundle updated");
            }
            None => debug!(subsystem_name = subsystem, trust_domain_id = %domain, "Bundle added"),
        }
        changed.insert(domain.clone());
        held.insert(domain, bundle);
    }
    changed
}
