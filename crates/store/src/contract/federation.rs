use steeple_pki::Bundle;

use super::{AnyStore, trust_domain};
use crate::{BundleEndpointProfile, FederationRelationship, FederationUpdate, Page, StoreError};

fn relationship(name: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: trust_domain(name),
        bundle_endpoint_url: format!("https://{name}/bundle"),
        bundle_endpoint_profile: BundleEndpointProfile::HttpsWeb,
        bundle: None,
    }
}

pub async fn a_relationship_is_kept_with_its_bundle(store: AnyStore) {
    let name = trust_domain("b.test");
    assert_eq!(store.fetch_federation_relationship(&name).await.unwrap(), None);
    let plain = relationship("a.test");
    assert_eq!(store.create_federation_relationship(plain.clone()).await.unwrap(), plain);
    let endpoint = name.id();
    let whole = FederationRelationship {
        bundle_endpoint_profile: BundleEndpointProfile::HttpsSpiffe(endpoint),
        bundle: Some(Bundle { sequence_number: 3, ..Bundle::new(name.clone()) }),
        ..relationship("b.test")
    };
    store.create_federation_relationship(whole.clone()).await.unwrap();
    assert_eq!(store.fetch_federation_relationship(&name).await.unwrap(), Some(whole.clone()));
    assert_eq!(store.fetch_bundle(&name).await.unwrap(), whole.bundle);
    let taken = store.create_federation_relationship(whole.clone()).await.unwrap_err();
    assert!(matches!(taken, StoreError::AlreadyExists(_)), "{taken}");

    store.delete_federation_relationship(&name).await.unwrap();
    assert_eq!(store.fetch_bundle(&name).await.unwrap(), whole.bundle, "the bundle stays");
    let gone = store.delete_federation_relationship(&name).await;
    assert_eq!(gone, Err(StoreError::not_found()));
}

pub async fn a_relationship_changes_as_told(store: AnyStore) {
    let name = trust_domain("a.test");
    store.create_federation_relationship(relationship("a.test")).await.unwrap();
    let same = store.update_federation_relationship(&name, FederationUpdate::default()).await;
    assert_eq!(same.unwrap(), relationship("a.test"));
    let update = FederationUpdate {
        bundle_endpoint_url: Some("https://new".into()),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(name.id())),
        bundle: Some(Bundle::new(name.clone())),
    };
    let changed = store.update_federation_relationship(&name, update).await.unwrap();
    let expected = FederationRelationship {
        trust_domain: name.clone(),
        bundle_endpoint_url: "https://new".into(),
        bundle_endpoint_profile: BundleEndpointProfile::HttpsSpiffe(name.id()),
        bundle: Some(Bundle::new(name.clone())),
    };
    assert_eq!(changed, expected);
    assert_eq!(store.fetch_federation_relationship(&name).await.unwrap(), Some(expected));
    let missing = trust_domain("b.test");
    let missing = store.update_federation_relationship(&missing, FederationUpdate::default()).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))));
}

pub async fn a_relationship_that_makes_no_sense_is_refused(store: AnyStore) {
    let nowhere =
        FederationRelationship { bundle_endpoint_url: String::new(), ..relationship("a.test") };
    let refused = store.create_federation_relationship(nowhere).await.unwrap_err();
    assert_eq!(refused, StoreError::Invalid("bundle endpoint URL is required".into()));
    let foreign = FederationRelationship {
        bundle: Some(Bundle::new(trust_domain("other.test"))),
        ..relationship("a.test")
    };
    let refused = store.create_federation_relationship(foreign).await.unwrap_err();
    assert!(matches!(refused, StoreError::Invalid(_)), "{refused}");
    assert_eq!(store.count_bundles().await.unwrap(), 0);
}

pub async fn relationships_come_in_pages(store: AnyStore) {
    for name in ["a.test", "b.test", "c.test"] {
        store.create_federation_relationship(relationship(name)).await.unwrap();
    }
    let page = |token| Page { token, size: 2 };
    let (first, token) = store.list_federation_relationships(Some(&page(None))).await.unwrap();
    let (second, token) = store.list_federation_relationships(Some(&page(token))).await.unwrap();
    assert_eq!((first.len(), second.len()), (2, 1));
    let last = store.list_federation_relationships(Some(&page(token))).await.unwrap();
    assert_eq!(last, (Vec::new(), None));
    assert_eq!(store.list_federation_relationships(None).await.unwrap().0.len(), 3);
}
