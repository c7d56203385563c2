//! Fixtures for this crate's tests: an authority and what it signs.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use steeple_pki::x509::{
    DistinguishedName, Issuer, KeyUsage, SerialNumber, Template, issue, self_sign,
};
use steeple_pki::{Bundle, Certificate, KeyType, PrivateKey, Signer};
use steeple_spiffe::TrustDomain;

use crate::bundle::CachedBundle;
use crate::cache::SignedSvid;

/// A moment to count from.
pub(crate) const NOON: SystemTime = SystemTime::UNIX_EPOCH;
/// The lifetime of test SVIDs.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Authority {
    pub(crate) certificate: Certificate,
    key: Arc<PrivateKey>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let template = Template {
            ca: true,
            key_usage: KeyUsage::CA,
            ..template(&key, "spiffe://example.org", NOON + 1000 * HOUR)
        };
        let signer: Arc<dyn Signer> = key.clone();
        let certificate = run(self_sign(&template, signer)).unwrap();
        Self { certificate, key }
    }

    pub(crate) fn sign(&self, spiffe_id: &str, key: &PrivateKey, ends: SystemTime) -> Certificate {
        let issuer = Issuer::new(&self.certificate, self.key.clone());
        run(issue(&template(key, spiffe_id, ends), &issuer)).unwrap()
    }
}

fn template(key: &PrivateKey, uri: &str, not_after: SystemTime) -> Template {
    Template {
        subject: DistinguishedName { country: vec!["US".into()], ..Default::default() },
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: NOON,
        not_after,
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: Vec::new(),
        uri_sans: vec![uri.into()],
        dns_names: Vec::new(),
        policies: vec![],
        extra_extensions: vec![],
    }
}

/// One authority and one key for all tests that do not look at signatures.
pub(crate) fn shared() -> &'static (Authority, PrivateKey) {
    static SHARED: OnceLock<(Authority, PrivateKey)> = OnceLock::new();
    SHARED.get_or_init(|| (Authority::new(), PrivateKey::generate(KeyType::EcP256).unwrap()))
}

/// An SVID that ends at `ends` and is due half-way from noon.
pub(crate) fn svid(spiffe_id: &str, ends: SystemTime) -> SignedSvid {
    let (authority, key) = shared();
    SignedSvid {
        chain: vec![authority.sign(spiffe_id, key, ends)],
        key_pkcs8: key.to_pkcs8_der(),
        due: NOON + ends.duration_since(NOON).unwrap() / 2,
    }
}

/// A bundle of `trust_domain` that differs by `sequence_number`.
pub(crate) fn bundle(trust_domain: &str, sequence_number: u64) -> Arc<CachedBundle> {
    let trust_domain = TrustDomain::parse(trust_domain).unwrap();
    let certificate = shared().0.certificate.clone();
    let mut bundle = Bundle::from_certificates(trust_domain, vec![certificate]);
    bundle.sequence_number = sequence_number;
    Arc::new(CachedBundle::new(bundle))
}

/// Waits for a future that is ready at once, from code that is not async.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
