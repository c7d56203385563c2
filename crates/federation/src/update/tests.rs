use steeple_pki::{JwtAuthority, KeyType, PrivateKey};
use steeple_spiffe::SpiffeId;

use super::*;
use crate::testing::{Endpoints, Memory, domain, hinted, nobody, web};

const URL: &str = "https://a";

fn spiffe(id: &str) -> Relationship {
    let profile = BundleEndpointProfile::HttpsSpiffe(SpiffeId::parse(id).unwrap());
    Relationship { url: URL.to_owned(), profile }
}

async fn updated(keep: &Memory, endpoints: &Endpoints, by: &Relationship) -> Updated {
    update(keep, endpoints, &domain("a"), by).await
}

#[tokio::test]
async fn a_bundle_is_written_only_if_it_says_something_new() {
    let (keep, endpoints) = (Memory::default(), Endpoints::default());
    let mut bundle = hinted("a", 300);
    for _ in 0..2 {
        endpoints.answer(URL, Ok(bundle.clone()));
        assert!(updated(&keep, &endpoints, &web(URL)).await.result.is_ok());
    }
    assert_eq!(keep.writes(), 1);
    let public_key = PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone();
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: "k".to_owned(),
        public_key,
        expires_at: None,
        tainted: false,
    });
    endpoints.answer(URL, Ok(bundle.clone()));
    let after = updated(&keep, &endpoints, &web(URL)).await;
    assert_eq!((after.bundle.as_ref(), keep.writes()), (Some(&bundle), 2));
    bundle.refresh_hint = std::time::Duration::from_secs(600);
    endpoints.answer(URL, Ok(bundle));
    updated(&keep, &endpoints, &web(URL)).await;
    assert_eq!(keep.writes(), 3);
}

#[tokio::test]
async fn the_order_of_jwt_authorities_and_the_own_history_are_nothing_new() {
    let (keep, endpoints) = (Memory::default(), Endpoints::default());
    let authority = |key_id: &str, tainted| JwtAuthority {
        key_id: key_id.to_owned(),
        public_key: PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone(),
        expires_at: None,
        tainted,
    };
    let mut bundle = hinted("a", 300);
    bundle.jwt_authorities = vec![authority("1", false), authority("2", false)];
    keep.put(Bundle { sequence_number: 9, ..bundle.clone() });
    bundle.jwt_authorities.reverse();
    endpoints.answer(URL, Ok(bundle));
    assert!(updated(&keep, &endpoints, &web(URL)).await.result.is_ok());
    assert_eq!(keep.writes(), 0);
}

#[tokio::test]
async fn a_failure_leaves_what_is_known_and_says_what_failed() {
    let (keep, endpoints) = (Memory::default(), Endpoints::default());
    let bundle = hinted("a", 300);
    keep.put(bundle.clone());
    endpoints.answer(URL, Err(nobody()));
    let failed = updated(&keep, &endpoints, &web(URL)).await;
    assert_eq!(
        failed.result.unwrap_err().to_string(),
        "failed to fetch federated bundle from endpoint: failed to fetch bundle: \
         Get \"https://x\": nobody there"
    );
    assert_eq!((failed.bundle, keep.writes()), (Some(bundle), 0));
    *keep.broken.lock().unwrap() = true;
    let failed = updated(&keep, &endpoints, &web(URL)).await;
    let text = failed.result.unwrap_err().to_string();
    assert_eq!(text, "failed to fetch local federated bundle: away");
}

#[tokio::test]
async fn a_spiffe_endpoint_needs_the_stored_bundle_of_its_own_trust_domain() {
    let (keep, endpoints) = (Memory::default(), Endpoints::default());
    keep.put(hinted("a", 300));
    let by = spiffe("spiffe://other/server");
    let failed = updated(&keep, &endpoints, &by).await;
    assert_eq!(
        failed.result.unwrap_err().to_string(),
        "can't perform SPIFFE Authentication: local copy of bundle not found"
    );
    assert!(failed.bundle.is_none() && endpoints.asked(URL).is_empty());
    keep.put(hinted("other", 300));
    endpoints.answer(URL, Ok(hinted("a", 300)));
    assert!(updated(&keep, &endpoints, &by).await.result.is_ok());
}
