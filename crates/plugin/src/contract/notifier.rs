//! The suites of notifiers and bundle publishers.

use std::sync::Arc;

use steeple_pki::x509::{DistinguishedName, KeyUsage, SerialNumber, Template, self_sign};
use steeple_pki::{Bundle, JwtAuthority, KeyType, PrivateKey, X509Authority};
use steeple_spiffe::TrustDomain;

use crate::{BundlePublisher, Notifier, PluginError};

/// Runs the suite on `notifier`, which can reach whom it tells. Answers the bundle that it was
/// told of last.
///
/// # Panics
/// When the contract is broken.
pub async fn notifier(notifier: &dyn Notifier) -> Bundle {
    assert!(!notifier.name().is_empty(), "a plugin has a name");
    let mut bundle = bundle().await;
    notifier.bundle_loaded(&bundle).await.expect("a bundle that was loaded is good news");
    for sequence_number in 1..=3 {
        bundle.sequence_number = sequence_number;
        notifier.bundle_updated(&bundle).await.expect("it is told of an update");
    }
    // The same again is no failure: an update may be told twice.
    notifier.bundle_updated(&bundle).await.expect("it is told of an update");
    bundle
}

/// Runs the suite on `publisher`, which can reach where it publishes. Answers the bundle that was
/// published last.
///
/// # Panics
/// When the contract is broken.
pub async fn bundle_publisher(publisher: &dyn BundlePublisher) -> Bundle {
    assert!(!publisher.name().is_empty(), "a plugin has a name");
    let mut bundle = bundle().await;
    for sequence_number in [0, 1, 1] {
        bundle.sequence_number = sequence_number;
        publisher.publish_bundle(&bundle).await.expect("the bundle is published");
    }
    bundle
}

/// Runs the suite on notifiers that cannot reach whom they tell.
///
/// # Panics
/// When the contract is broken.
pub async fn failing_notifier(notifier: &dyn Notifier) {
    let bundle = bundle().await;
    let prefix = format!("notifier({}): ", notifier.name());
    for outcome in [notifier.bundle_loaded(&bundle).await, notifier.bundle_updated(&bundle).await] {
        names_itself(outcome, &prefix);
    }
}

/// Runs the suite on publishers that cannot reach where they publish.
///
/// # Panics
/// When the contract is broken.
pub async fn failing_bundle_publisher(publisher: &dyn BundlePublisher) {
    let prefix = format!("bundlepublisher({}): ", publisher.name());
    names_itself(publisher.publish_bundle(&bundle().await).await, &prefix);
}

fn names_itself(outcome: Result<(), PluginError>, prefix: &str) {
    let error = outcome.expect_err("what did not arrive is a failure");
    assert!(error.message.starts_with(prefix), "{error} does not begin with {prefix:?}");
}

/// A bundle with an authority of each kind.
async fn bundle() -> Bundle {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP256).expect("a key is made"));
    let not_before = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
    let template = Template {
        subject: DistinguishedName { common_name: "root".to_owned(), ..Default::default() },
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before,
        not_after: not_before + std::time::Duration::from_secs(3600),
        ca: true,
        key_usage: KeyUsage::CA,
        ext_key_usage: Vec::new(),
        uri_sans: vec!["spiffe://example.org".to_owned()],
        dns_names: Vec::new(),
        policies: Vec::new(),
        extra_extensions: Vec::new(),
    };
    let root = self_sign(&template, key.clone()).await.expect("a root is made");
    let mut bundle = Bundle::new(TrustDomain::parse("example.org").expect("a trust domain"));
    bundle.add_x509_authority(X509Authority::new(root));
    bundle.set_jwt_authority(JwtAuthority {
        key_id: "kid".to_owned(),
        public_key: key.public_key().clone(),
        expires_at: Some(template.not_after),
        tainted: false,
    });
    bundle
}
