//! Which clients a handshake completes with: brokers with a valid X.509-SVID.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use steeple_agent_core::cache::IdentityCache;
use steeple_net::tls::{ClientCheck, ClientRefused};
use steeple_pki::Certificate;
use steeple_pki::verify::{X509BundleSource, x509_svid};
use steeple_runtime::Throttle;
use steeple_spiffe::{SpiffeId, TrustDomain};
use tracing::warn;

/// The brokers of the configuration, verified against the bundles of the moment: the own trust
/// domain's, and those that some entry of this agent federates with.
pub struct BrokerAdmission {
    brokers: HashSet<SpiffeId>,
    cache: Arc<IdentityCache>,
    refusals: Throttle,
}

impl BrokerAdmission {
    /// Admits `brokers`.
    pub fn new(brokers: HashSet<SpiffeId>, cache: Arc<IdentityCache>) -> Self {
        Self { brokers, cache, refusals: Throttle::new(PERIOD) }
    }

    fn judge(&self, chain: &[Certificate], now: SystemTime) -> Result<(), String> {
        let bundles = Bundles(&self.cache);
        let id = x509_svid(chain, &bundles, now).map_err(|error| error.to_string())?;
        if self.brokers.contains(&id) {
            return Ok(());
        }
        let shown: String = id.as_str().chars().take(MAX_ECHO).collect();
        Err(format!("unexpected ID {shown:?}"))
    }
}

impl fmt::Debug for BrokerAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerAdmission").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}

impl ClientCheck for BrokerAdmission {
    fn check(&self, chain: &[Certificate], now: SystemTime) -> Result<(), ClientRefused> {
        self.judge(chain, now).map_err(|error| {
            if let Some(unsaid) = self.refusals.admit(Instant::now()) {
                let unsaid = (unsaid > 0).then_some(unsaid);
                warn!(error, unsaid, "Refusing a client of the SPIFFE Broker Endpoint");
            }
            ClientRefused(error)
        })
    }
}

struct Bundles<'c>(&'c IdentityCache);

impl X509BundleSource for Bundles<'_> {
    fn x509_authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<Certificate>> {
        let bundles = self.0.bundles();
        let bundle = bundles.get(trust_domain)?;
        Some(bundle.bundle().certificates().cloned().collect())
    }
}

/// How often a line that a stranger can cause is logged.
const PERIOD: Duration = Duration::from_secs(1);
const MAX_ECHO: usize = 100;
