//! The parts that need no authority; the whole is tested against Pebble in `interop`.

use steeple_runtime::drain;

use super::*;

fn day(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 3600)
}

async fn held(domain: &str, days: u64) -> Held {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let template = Template {
        subject: DistinguishedName::default(),
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: day(1),
        not_after: day(1 + days),
        ca: false,
        key_usage: KeyUsage::DIGITAL_SIGNATURE,
        ext_key_usage: Vec::new(),
        uri_sans: Vec::new(),
        dns_names: vec![domain.to_owned()],
        policies: Vec::new(),
        extra_extensions: Vec::new(),
    };
    let signer = Arc::clone(&key) as Arc<dyn Signer>;
    let certificate = x509::self_sign(&template, signer).await.unwrap();
    Held::new(domain, Key::Here(key), vec![certificate], day(2)).unwrap()
}

fn cache(dir: &std::path::Path) -> Cache {
    Cache { dir: Some(dir.join("cache")), key_manager: None, subsystem: None }
}

fn options(domain: &str) -> AcmeOptions {
    AcmeOptions {
        directory_url: "https://127.0.0.1:1/directory".to_owned(),
        domains: vec![domain.to_owned()],
        email: String::new(),
        tos_accepted: true,
        cache_dir: None,
        key_manager: None,
        user_agent: "test".to_owned(),
        on_terms: None,
    }
}

#[tokio::test]
async fn a_certificate_survives_in_autocerts_form_and_only_for_its_name_and_time() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let kept = held("a.test", 90).await;
    cache.store("a.test", &kept).unwrap();
    let path = dir.path().join("cache/a.test");
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir.path().join("cache")), mode(&path)), (0o700, 0o600));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
    assert!(text.contains("-----END EC PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\n"));

    let found = cache.load("a.test", day(50)).await.unwrap().unwrap();
    assert_eq!(found.leaf(), kept.leaf());
    assert!(cache.load("a.test", day(92)).await.unwrap().is_none(), "it has expired");
    std::fs::copy(&path, dir.path().join("cache/b.test")).unwrap();
    assert!(cache.load("b.test", day(50)).await.unwrap().is_none(), "it is for another name");
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert!(cache.load("a.test", day(50)).await.unwrap().is_none(), "it is broken");
}

#[tokio::test]
async fn an_account_keeps_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let first = cache(dir.path()).account_key().await.unwrap();
    let again = cache(dir.path()).account_key().await.unwrap();
    assert_eq!(first.public_key().spki_der(), again.public_key().spki_der());
    let path = dir.path().join("cache/acme_account+key");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("-----BEGIN EC PRIVATE KEY-----"));
    // The name that older programs gave it.
    std::fs::rename(&path, dir.path().join("cache/acme_account.key")).unwrap();
    let old = cache(dir.path()).account_key().await.unwrap();
    assert_eq!(first.public_key().spki_der(), old.public_key().spki_der());
    std::fs::write(&path, "broken").unwrap();
    assert!(matches!(cache(dir.path()).account_key().await, Err(AcmeError::AccountKey)));
}

#[tokio::test]
async fn the_proof_has_the_extension_of_rfc_8737_and_is_shared_through_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let proof = proof("a.test", [7; 32], day(2)).await.unwrap();
    let mut extension =
        vec![0x06, 8, 0x2b, 6, 1, 5, 5, 7, 1, 31, 0x01, 1, 0xff, 0x04, 34, 0x04, 32];
    extension.extend([7; 32]);
    let der = proof.leaf().der();
    assert!(der.windows(extension.len()).any(|it| it == extension));
    cache.store_token("a.test", &proof);
    assert!(cache.token("a.test", day(2)).is_some());
    cache.remove_token("a.test");
    assert!(cache.token("a.test", day(2)).is_none());
}

#[test]
fn renewal_comes_in_the_last_third_and_thirty_days_ahead_at_most() {
    let at = |lifetime, jitter| renewal(day(0), day(lifetime), jitter);
    assert_eq!(at(90, 0.0), day(60));
    assert_eq!(at(398, 0.0), day(368));
    assert_eq!(at(9, 0.0), day(6));
    assert_eq!(at(90, 1.0), day(60) + Duration::from_secs(3600));
    let minute = Duration::from_secs(60);
    let short = renewal(day(0), day(0) + minute * 3, 1.0);
    assert_eq!(short, day(0) + minute * 2 + minute / 10);
    // A certificate that makes no sense is renewed at once.
    assert_eq!(renewal(day(5), day(1), 0.5), day(1));
}

#[tokio::test]
async fn names_that_could_leave_the_cache_are_none() {
    for name in ["", "../x", "a/b", "a..test", ".a", "a b", "a_b.test", "*.a.test"] {
        assert!(matches!(checked_domain(name), Err(AcmeError::Domain(_))), "{name:?}");
    }
    assert_eq!(checked_domain("Bücher.test").unwrap(), "xn--bcher-kva.test");
    let (_drain, watcher) = drain::channel();
    let refused =
        start(options("../x"), None, watch::channel(true).1, &Tasks::new(), &watcher).await;
    assert!(matches!(refused, Err(AcmeError::Domain(_))));
}

#[tokio::test]
async fn only_a_newer_certificate_replaces_one() {
    let (short, long) = (held("a.test", 30).await, held("a.test", 90).await);
    assert!(is_newer(&long, Some(&short)) && is_newer(&short, None));
    assert!(!is_newer(&short, Some(&long)) && !is_newer(&short, Some(&short)));
}
