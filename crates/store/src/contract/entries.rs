use super::{AnyStore, at, id, new_entry, selectors, trust_domain};
use crate::{Entry, EntryUpdate, NewEntry, StoreError};

pub async fn an_entry_is_kept_and_answered_whole(store: AnyStore) {
    for name in ["b.test", "a.test"] {
        store.create_bundle(&steeple_pki::Bundle::new(trust_domain(name))).await.unwrap();
    }
    let made = store
        .create_entry(NewEntry {
            entry_id: Some("My-id_1.0".into()),
            x509_svid_ttl: 60,
            jwt_svid_ttl: i32::MAX,
            federates_with: vec![trust_domain("b.test"), trust_domain("a.test")],
            admin: true,
            downstream: true,
            expires_at: i64::MAX,
            dns_names: vec!["z.example".into(), "a.example".into()],
            hint: "hint".into(),
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: true,
            ..new_entry("/w", &["unix:uid:7", "unix:gid:7"])
        })
        .await
        .unwrap();
    let expected = Entry {
        entry_id: "My-id_1.0".into(),
        spiffe_id: id("/w"),
        parent_id: id("/agent"),
        selectors: selectors(&["unix:gid:7", "unix:uid:7"]),
        x509_svid_ttl: 60,
        jwt_svid_ttl: i32::MAX,
        federates_with: vec![trust_domain("a.test"), trust_domain("b.test")],
        admin: true,
        downstream: true,
        expires_at: i64::MAX,
        dns_names: vec!["z.example".into(), "a.example".into()],
        revision_number: 0,
        store_svid: false,
        hint: "hint".into(),
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
        created_at: made.created_at,
    };
    assert_eq!(made, expected);
    assert!(made.created_at > 1_700_000_000, "the row is stamped");
    assert_eq!(store.fetch_entry("My-id_1.0").await.unwrap(), Some(expected));
    assert_eq!(store.fetch_entry("my-id_1.0").await.unwrap(), None, "ids have a case");

    let plain = store.create_entry(new_entry("/plain", &["a:1"])).await.unwrap();
    assert_eq!(plain.entry_id.len(), 36, "an id is made up: {}", plain.entry_id);
    assert_eq!(store.fetch_entry(&plain.entry_id).await.unwrap(), Some(plain));
}

pub async fn a_similar_entry_is_found_whatever_the_order_of_its_selectors(store: AnyStore) {
    let first = store.create_entry(new_entry("/w", &["a:1", "b:2"])).await.unwrap();
    let again = new_entry("/w", &["b:2", "a:1"]);
    let (similar, existed) = store.create_or_return_similar(again.clone()).await.unwrap();
    assert!(existed);
    assert_eq!(similar, first);
    let refused = store.create_entry(again).await.unwrap_err();
    assert_eq!(refused, StoreError::AlreadyExists("similar entry already exists".into()));

    for other in [
        new_entry("/w", &["a:1"]),
        new_entry("/w", &["a:1", "b:2", "c:3"]),
        new_entry("/x", &["a:1", "b:2"]),
        NewEntry { parent_id: id("/other"), ..new_entry("/w", &["a:1", "b:2"]) },
    ] {
        let (_, existed) = store.create_or_return_similar(other).await.unwrap();
        assert!(!existed);
    }
}

pub async fn a_taken_entry_id_is_refused_in_spires_words(store: AnyStore) {
    let with_id = |path| NewEntry { entry_id: Some("x".into()), ..new_entry(path, &["a:1"]) };
    store.create_entry(with_id("/a")).await.unwrap();
    let refused = store.create_entry(with_id("/b")).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::AlreadyExists(text)
        if text.starts_with("datastore-sql: ")),
        "{refused}"
    );
}

pub async fn a_repeated_selector_is_refused_and_leaves_nothing_behind(store: AnyStore) {
    let refused = store.create_entry(new_entry("/w", &["a:1", "a:1"])).await.unwrap_err();
    assert!(matches!(refused, StoreError::AlreadyExists(_)), "{refused}");
    assert_eq!(store.count_entries(&Default::default()).await.unwrap(), 0);
}

pub async fn federation_needs_a_bundle_and_leaves_nothing_behind(store: AnyStore) {
    let federated =
        NewEntry { federates_with: vec![trust_domain("no.test")], ..new_entry("/w", &["a:1"]) };
    let refused = store.create_entry(federated).await.unwrap_err();
    let text = "unable to find federated bundle \"spiffe://no.test\"";
    assert_eq!(refused, StoreError::Internal(text.into()));
    assert_eq!(store.count_entries(&Default::default()).await.unwrap(), 0);

    let entry = store.create_entry(new_entry("/w", &["a:1"])).await.unwrap();
    let update = EntryUpdate {
        selectors: Some(selectors(&["b:2"])),
        federates_with: Some(vec![trust_domain("no.test")]),
        ..EntryUpdate::default()
    };
    let refused = store.update_entry(&entry.entry_id, update).await.unwrap_err();
    assert_eq!(refused, StoreError::Internal(text.into()));
    assert_eq!(store.fetch_entry(&entry.entry_id).await.unwrap(), Some(entry));
}

pub async fn an_entry_that_breaks_a_rule_is_refused_in_spires_words(store: AnyStore) {
    let good = || new_entry("/w", &["a:1"]);
    for (entry, text) in [
        (new_entry("/w", &[]), "missing selector list"),
        (NewEntry { entry_id: Some("x".repeat(256)), ..good() }, "entry ID too long"),
        (
            NewEntry { entry_id: Some("sl/ash".into()), ..good() },
            "entry ID contains invalid characters",
        ),
        (NewEntry { entry_id: Some("é".into()), ..good() }, "entry ID contains invalid characters"),
        (NewEntry { x509_svid_ttl: -1, ..good() }, "X509SvidTtl is not set"),
        (NewEntry { jwt_svid_ttl: -1, ..good() }, "JwtSvidTtl is not set"),
        (
            NewEntry { store_svid: true, ..new_entry("/w", &["a:1", "b:2"]) },
            "selector types must be the same when store SVID is enabled",
        ),
    ] {
        let refused = store.create_entry(entry).await.unwrap_err();
        let text = format!("datastore-validation: invalid registration entry: {text}");
        assert_eq!(refused, StoreError::Invalid(text));
    }
    let both = NewEntry { store_svid: true, disable_x509_svid_prefetch: true, ..good() };
    let refused = store.create_entry(both).await.unwrap_err();
    let text =
        "datastore-validation: specifying cache behaviour is incompatible with storable SVIDs";
    assert_eq!(refused, StoreError::Invalid(text.into()));
    // An update may, as in SPIRE.
    let stored = NewEntry { store_svid: true, ..new_entry("/stored", &["a:1"]) };
    let stored = store.create_entry(stored).await.unwrap();
    let both = EntryUpdate { disable_x509_svid_prefetch: Some(true), ..EntryUpdate::default() };
    let stored = store.update_entry(&stored.entry_id, both).await.unwrap();
    assert!(stored.store_svid && stored.disable_x509_svid_prefetch);
    let long = NewEntry { entry_id: Some("x".repeat(255)), ..good() };
    assert_eq!(store.create_entry(long).await.unwrap().entry_id.len(), 255);
}

pub async fn an_update_changes_what_it_names_and_counts(store: AnyStore) {
    for name in ["a.test", "b.test"] {
        store.create_bundle(&steeple_pki::Bundle::new(trust_domain(name))).await.unwrap();
    }
    let made = store
        .create_entry(NewEntry {
            hint: "old".into(),
            dns_names: vec!["one".into()],
            federates_with: vec![trust_domain("a.test")],
            disable_x509_svid_prefetch: true,
            ..new_entry("/w", &["a:1"])
        })
        .await
        .unwrap();
    let key = made.entry_id.clone();

    let nothing = store.update_entry(&key, EntryUpdate::default()).await.unwrap();
    assert_eq!(nothing, Entry { revision_number: 1, ..made.clone() });

    let update = EntryUpdate { hint: Some("new".into()), ..EntryUpdate::default() };
    let changed = store.update_entry(&key, update).await.unwrap();
    assert_eq!(changed, Entry { revision_number: 2, hint: "new".into(), ..made.clone() });
    assert_eq!(store.fetch_entry(&key).await.unwrap(), Some(changed));

    let everything = EntryUpdate {
        spiffe_id: Some(id("/new")),
        parent_id: Some(id("/parent")),
        selectors: Some(selectors(&["z:9", "b:2"])),
        x509_svid_ttl: Some(1),
        jwt_svid_ttl: Some(2),
        federates_with: Some(vec![trust_domain("b.test")]),
        admin: Some(true),
        downstream: Some(true),
        expires_at: Some(3),
        dns_names: Some(vec!["z".into(), "y".into()]),
        store_svid: Some(false),
        hint: Some(String::new()),
        disable_x509_svid_prefetch: Some(false),
        jwt_svid_include_jti: Some(true),
    };
    let changed = store.update_entry(&key, everything).await.unwrap();
    let expected = Entry {
        entry_id: key.clone(),
        spiffe_id: id("/new"),
        parent_id: id("/parent"),
        selectors: selectors(&["b:2", "z:9"]),
        x509_svid_ttl: 1,
        jwt_svid_ttl: 2,
        federates_with: vec![trust_domain("b.test")],
        admin: true,
        downstream: true,
        expires_at: 3,
        dns_names: vec!["z".into(), "y".into()],
        revision_number: 3,
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: true,
        created_at: made.created_at,
    };
    assert_eq!(changed, expected);
    assert_eq!(store.fetch_entry(&key).await.unwrap(), Some(expected));

    let missing = store.update_entry("missing", EntryUpdate::default()).await.unwrap_err();
    assert_eq!(missing, StoreError::NotFound("datastore-sql: record not found".into()));
}

pub async fn an_update_may_not_break_a_rule(store: AnyStore) {
    let made = store.create_entry(new_entry("/w", &["a:1", "b:2"])).await.unwrap();
    for update in [
        EntryUpdate { selectors: Some(Vec::new()), ..EntryUpdate::default() },
        EntryUpdate { x509_svid_ttl: Some(-1), ..EntryUpdate::default() },
        EntryUpdate { jwt_svid_ttl: Some(i32::MIN), ..EntryUpdate::default() },
        EntryUpdate { store_svid: Some(true), ..EntryUpdate::default() },
    ] {
        let refused = store.update_entry(&made.entry_id, update).await.unwrap_err();
        assert!(matches!(refused, StoreError::Invalid(_)), "{refused}");
    }
    assert_eq!(store.fetch_entry(&made.entry_id).await.unwrap(), Some(made));
}

pub async fn deleting_answers_what_was_there(store: AnyStore) {
    let made = store.create_entry(new_entry("/w", &["a:1"])).await.unwrap();
    assert_eq!(store.delete_entry(&made.entry_id).await.unwrap(), made);
    assert_eq!(store.fetch_entry(&made.entry_id).await.unwrap(), None);
    let gone = store.delete_entry(&made.entry_id).await.unwrap_err();
    assert_eq!(gone, StoreError::not_found());
    let again = store.create_entry(new_entry("/w", &["a:1"])).await;
    assert!(again.is_ok(), "no trace of the deleted entry is in the way");
}

pub async fn only_expired_entries_are_pruned(store: AnyStore) {
    for (path, expires_at) in [("/never", 0), ("/past", 999), ("/now", 1000), ("/later", 1001)] {
        let entry = NewEntry { expires_at, ..new_entry(path, &["a:1"]) };
        store.create_entry(entry).await.unwrap();
    }
    let pruned = store.prune_entries(at(1000)).await.unwrap();
    assert_eq!(pruned.iter().map(|entry| entry.spiffe_id.path()).collect::<Vec<_>>(), ["/past"]);
    assert_eq!(store.count_entries(&Default::default()).await.unwrap(), 3);
    assert_eq!(store.prune_entries(at(1000)).await.unwrap(), []);
}

pub async fn many_entries_are_fetched_at_once(store: AnyStore) {
    let mut ids = vec!["missing".to_owned()];
    for number in 0..3 {
        let path = format!("/w{number}");
        ids.push(store.create_entry(new_entry(&path, &["a:1"])).await.unwrap().entry_id);
    }
    let found = store.fetch_entries(&ids).await.unwrap();
    assert_eq!(found.len(), 3);
    assert!(store.fetch_entries(&[]).await.unwrap().is_empty());
    let many: Vec<String> =
        (0..1_700).map(|number| format!("missing-{number}")).chain(ids).collect();
    assert_eq!(store.fetch_entries(&many).await.unwrap().len(), 3);
}

pub async fn of_many_similar_entries_at_once_one_is_made(store: AnyStore) {
    let attempts: Vec<_> = (0..20)
        .map(|_| {
            let store = AnyStore::clone(&store);
            tokio::spawn(async move {
                store.create_or_return_similar(new_entry("/w", &["a:1", "b:2"])).await.unwrap()
            })
        })
        .collect();
    let mut made = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for attempt in attempts {
        let (entry, existed) = attempt.await.unwrap();
        made.push(!existed);
        ids.insert(entry.entry_id);
    }
    assert_eq!(made.iter().filter(|made| **made).count(), 1);
    assert_eq!(ids.len(), 1);
}

pub async fn an_entry_may_have_many_selectors(store: AnyStore) {
    let texts: Vec<String> = (0..1200).map(|number| format!("a:{number:04}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let made = store.create_entry(new_entry("/w", &texts)).await.unwrap();
    let (similar, existed) = store.create_or_return_similar(new_entry("/w", &texts)).await.unwrap();
    assert!(existed);
    assert_eq!(similar, made);
    let (_, existed) = store.create_or_return_similar(new_entry("/w", &texts[1..])).await.unwrap();
    assert!(!existed);
}
