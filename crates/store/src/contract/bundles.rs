use std::sync::Arc;
use std::time::Duration;

use steeple_pki::x509::{DistinguishedName, KeyUsage, SerialNumber, Template, self_sign};
use steeple_pki::{Bundle, JwtAuthority, KeyType, PrivateKey, X509Authority};

use super::{AnyStore, at, new_entry, trust_domain};
use crate::{
    BundleMask, DeleteMode, EntryFilter, FederatesWithFilter, MatchBehavior, NewEntry, Page,
    StoreError,
};

async fn x509_authority(expires_at: u64) -> X509Authority {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let template = Template {
        subject: DistinguishedName { common_name: "ca".into(), ..Default::default() },
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: at(0),
        not_after: at(expires_at),
        ca: true,
        key_usage: KeyUsage::default(),
        ext_key_usage: Vec::new(),
        uri_sans: vec!["spiffe://example.org".into()],
        dns_names: Vec::new(),
        policies: vec![],
        extra_extensions: vec![],
    };
    X509Authority::new(self_sign(&template, Arc::new(key)).await.unwrap())
}

fn jwt_authority(key_id: &str, expires_at: u64) -> JwtAuthority {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    JwtAuthority {
        key_id: key_id.into(),
        public_key: key.public_key().clone(),
        expires_at: Some(at(expires_at)),
        tainted: false,
    }
}

async fn bundle() -> Bundle {
    Bundle {
        x509_authorities: vec![x509_authority(2_000_000_000).await],
        jwt_authorities: vec![jwt_authority("kid-1", 2_000_000_000)],
        wit_authorities: vec![jwt_authority("wit-1", 2_000_000_000)],
        refresh_hint: Duration::from_secs(300),
        sequence_number: 7,
        ..Bundle::new(trust_domain("example.org"))
    }
}

pub async fn a_bundle_is_kept_and_answered_whole(store: AnyStore) {
    let own = trust_domain("example.org");
    assert_eq!(store.fetch_bundle(&own).await.unwrap(), None);
    let mut whole = bundle().await;
    whole.x509_authorities[0].tainted = true;
    whole.jwt_authorities[0].expires_at = None;
    assert_eq!(store.create_bundle(&whole).await.unwrap(), whole);
    assert_eq!(store.fetch_bundle(&own).await.unwrap(), Some(whole.clone()));
    let taken = store.create_bundle(&whole).await.unwrap_err();
    assert!(matches!(taken, StoreError::AlreadyExists(_)), "{taken}");

    let other = Bundle { refresh_hint: Duration::ZERO, ..bundle().await };
    assert_eq!(store.set_bundle(&other).await.unwrap(), other);
    assert_eq!(store.fetch_bundle(&own).await.unwrap(), Some(other));
    let foreign = Bundle::new(trust_domain("b.test"));
    store.set_bundle(&foreign).await.unwrap();
    assert_eq!(store.count_bundles().await.unwrap(), 2);
}

pub async fn appending_adds_only_what_is_new_and_counts(store: AnyStore) {
    let first = bundle().await;
    assert_eq!(store.append_bundle(&first).await.unwrap(), first, "made if there is none");
    assert_eq!(store.append_bundle(&first).await.unwrap(), first, "nothing new, nothing counted");

    let second = Bundle { refresh_hint: Duration::ZERO, sequence_number: 0, ..bundle().await };
    let both = store.append_bundle(&second).await.unwrap();
    assert_eq!(both.sequence_number, first.sequence_number + 1);
    assert_eq!(both.refresh_hint, first.refresh_hint);
    assert_eq!(both.x509_authorities, [first.x509_authorities, second.x509_authorities].concat());
    assert_eq!(both.jwt_authorities.len(), 2);
    assert_eq!(both.wit_authorities.len(), 2);
    assert_eq!(store.fetch_bundle(&both.trust_domain).await.unwrap(), Some(both));
}

pub async fn appending_does_not_clean_a_tainted_authority(store: AnyStore) {
    let clean = bundle().await;
    store.create_bundle(&clean).await.unwrap();
    let key_id = clean.x509_authorities[0].certificate.authority_id();
    store.taint_x509_authority(&clean.trust_domain, &key_id).await.unwrap();
    let after = store.append_bundle(&clean).await.unwrap();
    assert_eq!(after.x509_authorities.len(), 1);
    assert!(after.x509_authorities[0].tainted);
}

pub async fn updating_overwrites_only_what_the_mask_names(store: AnyStore) {
    let (first, second) = (bundle().await, bundle().await);
    store.create_bundle(&first).await.unwrap();
    let nothing = BundleMask {
        x509_authorities: false,
        jwt_authorities: false,
        wit_authorities: false,
        refresh_hint: false,
        sequence_number: false,
    };
    assert_eq!(store.update_bundle(&second, nothing).await.unwrap(), first);
    let keys = BundleMask { jwt_authorities: true, ..nothing };
    let expected = Bundle { jwt_authorities: second.jwt_authorities.clone(), ..first };
    assert_eq!(store.update_bundle(&second, keys).await.unwrap(), expected);
    assert_eq!(store.update_bundle(&second, BundleMask::ALL).await.unwrap(), second);
    assert_eq!(store.fetch_bundle(&second.trust_domain).await.unwrap(), Some(second));
    let missing = Bundle::new(trust_domain("b.test"));
    let missing = store.update_bundle(&missing, BundleMask::ALL).await;
    assert_eq!(missing, Err(StoreError::not_found()));
}

pub async fn pruning_removes_what_expired_and_never_everything(store: AnyStore) {
    let own = trust_domain("example.org");
    assert!(!store.prune_bundle(&own, at(10)).await.unwrap(), "nothing to prune in no bundle");
    let mut never = jwt_authority("never", 1);
    never.expires_at = None;
    let whole = Bundle {
        x509_authorities: vec![x509_authority(1000).await, x509_authority(2000).await],
        jwt_authorities: vec![jwt_authority("a", 1000), jwt_authority("b", 2000), never],
        wit_authorities: vec![jwt_authority("w", 2000)],
        ..bundle().await
    };
    store.create_bundle(&whole).await.unwrap();
    assert!(!store.prune_bundle(&own, at(999)).await.unwrap());
    assert!(store.prune_bundle(&own, at(1000)).await.unwrap());
    let left = store.fetch_bundle(&own).await.unwrap().unwrap();
    let expected = Bundle {
        x509_authorities: whole.x509_authorities[1..].to_vec(),
        jwt_authorities: whole.jwt_authorities[1..].to_vec(),
        sequence_number: whole.sequence_number + 1,
        ..whole
    };
    assert_eq!(left, expected);
    let all = store.prune_bundle(&own, at(3000)).await.unwrap_err();
    assert_eq!(all, StoreError::Internal("prune failed: would prune all certificates".into()));
    assert_eq!(store.fetch_bundle(&own).await.unwrap(), Some(expected));
}

pub async fn an_x509_authority_is_tainted_before_it_is_revoked(store: AnyStore) {
    let mut whole = bundle().await;
    whole.x509_authorities.push(x509_authority(2_000_000_000).await);
    let own = &whole.trust_domain;
    let key_id = whole.x509_authorities[0].certificate.authority_id();
    let missing = store.taint_x509_authority(own, &key_id).await;
    assert_eq!(missing, Err(StoreError::not_found()));
    store.create_bundle(&whole).await.unwrap();

    let early = store.revoke_x509_authority(own, &key_id).await.unwrap_err();
    let text = "it is not possible to revoke an untainted root CA";
    assert_eq!(early, StoreError::Invalid(text.into()));
    for unknown in ["", "00"] {
        let unknown = store.taint_x509_authority(own, unknown).await.unwrap_err();
        let text = "no ca found with provided subject key ID";
        assert_eq!(unknown, StoreError::NotFound(text.into()));
    }
    store.taint_x509_authority(own, &key_id).await.unwrap();
    let tainted = store.fetch_bundle(own).await.unwrap().unwrap();
    assert_eq!(tainted.sequence_number, whole.sequence_number + 1);
    assert!(tainted.x509_authorities[0].tainted && !tainted.x509_authorities[1].tainted);
    let twice = store.taint_x509_authority(own, &key_id).await.unwrap_err();
    assert_eq!(twice, StoreError::Invalid("root CA is already tainted".into()));

    store.revoke_x509_authority(own, &key_id).await.unwrap();
    let left = store.fetch_bundle(own).await.unwrap().unwrap();
    assert_eq!(left.sequence_number, whole.sequence_number + 2);
    assert_eq!(left.x509_authorities, whole.x509_authorities[1..]);
    let gone = store.revoke_x509_authority(own, &key_id).await.unwrap_err();
    let text = "no root CA found with provided subject key ID";
    assert_eq!(gone, StoreError::NotFound(text.into()));
}

pub async fn a_jwt_authority_is_tainted_before_it_is_revoked(store: AnyStore) {
    let whole = bundle().await;
    let own = &whole.trust_domain;
    store.create_bundle(&whole).await.unwrap();
    let early = store.revoke_jwt_authority(own, "kid-1").await.unwrap_err();
    let text = "it is not possible to revoke an untainted key";
    assert_eq!(early, StoreError::Invalid(text.into()));
    let text = "no JWT Key found with provided key ID";
    let unknown = store.taint_jwt_authority(own, "kid-2").await.unwrap_err();
    assert_eq!(unknown, StoreError::NotFound(text.into()));
    let tainted = store.taint_jwt_authority(own, "kid-1").await.unwrap();
    assert_eq!(tainted, JwtAuthority { tainted: true, ..whole.jwt_authorities[0].clone() });
    let twice = store.taint_jwt_authority(own, "kid-1").await.unwrap_err();
    assert_eq!(twice, StoreError::Invalid("key is already tainted".into()));
    assert_eq!(store.revoke_jwt_authority(own, "kid-1").await.unwrap(), tainted);
    let left = store.fetch_bundle(own).await.unwrap().unwrap();
    assert_eq!((left.jwt_authorities.len(), left.sequence_number), (0, 9));
    let gone = store.revoke_jwt_authority(own, "kid-1").await.unwrap_err();
    assert_eq!(gone, StoreError::NotFound(text.into()));
}

pub async fn a_bundle_in_use_is_deleted_only_as_told(store: AnyStore) {
    let foreign = trust_domain("b.test");
    let federated = |path| NewEntry {
        federates_with: vec![trust_domain("b.test")],
        dns_names: vec!["x".into()],
        ..new_entry(path, &["a:1"])
    };
    let by =
        FederatesWithFilter { trust_domains: vec![foreign.clone()], behavior: MatchBehavior::Any };
    let filter = EntryFilter { federates_with: Some(by), ..EntryFilter::default() };
    let missing = store.delete_bundle(&foreign, DeleteMode::Delete).await;
    assert_eq!(missing, Err(StoreError::not_found()));

    store.create_entry(new_entry("/alone", &["a:1"])).await.unwrap();
    store.create_bundle(&Bundle::new(foreign.clone())).await.unwrap();
    store.create_entry(federated("/one")).await.unwrap();
    store.create_entry(federated("/two")).await.unwrap();
    let used = store.delete_bundle(&foreign, DeleteMode::Restrict).await.unwrap_err();
    let text = "datastore-sql: cannot delete bundle; federated with 2 registration entries";
    assert_eq!(used, StoreError::Precondition(text.into()));
    assert_eq!(store.count_entries(&filter).await.unwrap(), 2);

    store.delete_bundle(&foreign, DeleteMode::Dissociate).await.unwrap();
    assert_eq!(store.fetch_bundle(&foreign).await.unwrap(), None);
    let (entries, _) = store.list_entries(&EntryFilter::default(), None).await.unwrap();
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().all(|entry| entry.federates_with.is_empty()));

    store.create_bundle(&Bundle::new(foreign.clone())).await.unwrap();
    assert_eq!(store.count_entries(&filter).await.unwrap(), 0, "no old link comes back");
    store.create_entry(federated("/three")).await.unwrap();
    store.delete_bundle(&foreign, DeleteMode::Delete).await.unwrap();
    assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), 3);

    store.create_bundle(&Bundle::new(foreign.clone())).await.unwrap();
    store.delete_bundle(&foreign, DeleteMode::Restrict).await.unwrap();
    assert_eq!(store.count_bundles().await.unwrap(), 0);
}

pub async fn bundles_come_in_pages(store: AnyStore) {
    for name in ["a.test", "b.test", "c.test"] {
        store.create_bundle(&Bundle::new(trust_domain(name))).await.unwrap();
    }
    let (all, next) = store.list_bundles(None).await.unwrap();
    assert_eq!((all.len(), next), (3, None));
    let (first, token) = store.list_bundles(Some(&Page { token: None, size: 2 })).await.unwrap();
    let (second, token) = store.list_bundles(Some(&Page { token, size: 2 })).await.unwrap();
    let last = store.list_bundles(Some(&Page { token, size: 2 })).await.unwrap();
    assert_eq!([first, second].concat(), all);
    assert_eq!(last, (Vec::new(), None));
    let bad = Page { token: Some("x".into()), size: 2 };
    let refused = store.list_bundles(Some(&bad)).await.unwrap_err();
    assert_eq!(refused, StoreError::Invalid("could not parse token 'x'".into()));
}
