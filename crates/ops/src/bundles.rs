//! Bundles in memory, for handshakes.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use steeple_pki::Certificate;
use steeple_pki::verify::X509BundleSource;
use steeple_spiffe::TrustDomain;

/// The X.509 authorities by trust domain; clones share them.
#[derive(Clone, Default)]
pub struct BundleBook(Arc<RwLock<HashMap<TrustDomain, Vec<Certificate>>>>);

impl BundleBook {
    /// Replaces everything.
    pub fn set(&self, bundles: HashMap<TrustDomain, Vec<Certificate>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = bundles;
    }
}

impl X509BundleSource for BundleBook {
    fn x509_authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<Certificate>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(trust_domain).cloned()
    }
}
