//! Trust bundles as the cache holds them: parsed once, encoded once.

use std::collections::HashMap;
use std::sync::Arc;

use steeple_pki::Bundle;
use steeple_pki::bundle::{Indent, jwt_svid_jwks};
use steeple_spiffe::TrustDomain;

use crate::wire::BundleFragment;

/// A bundle and its bytes for streams; immutable.
pub struct CachedBundle {
    bundle: Bundle,
    fragment: BundleFragment,
}

impl CachedBundle {
    /// Encodes the bundle for X.509 and JWT streams.
    pub fn new(bundle: Bundle) -> Self {
        let der = bundle.x509_ders().to_vec();
        let jwks = jwt_svid_jwks(&bundle, Indent::FourSpaces);
        let fragment = BundleFragment::new(&bundle.trust_domain.id_string(), der, jwks.as_bytes());
        Self { bundle, fragment }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.bundle.trust_domain
    }

    /// The parsed bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(crate) fn fragment(&self) -> &BundleFragment {
        &self.fragment
    }
}

/// Every bundle this agent knows, its own trust domain's among them.
pub type Bundles = HashMap<TrustDomain, Arc<CachedBundle>>;
