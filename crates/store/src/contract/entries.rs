use super::{AnyStore, at, id, new_entry, selectors, touched, trust_domain};
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

/// Entries of all kinds, good and bad, some of which depend on those before them.
fn mixed(prefix: &str) -> Vec<NewEntry> {
    let at = |path: &str| format!("{prefix}{path}");
    let new = |path: &str, texts: &[&str]| new_entry(&at(path), texts);
    let named = |name: &str, path: &str| NewEntry {
        entry_id: Some(format!("{}-{name}", &prefix[1..])),
        ..new(path, &["a:1"])
    };
    let federated = |with: &[&str], path: &str| NewEntry {
        federates_with: with.iter().map(|it| trust_domain(it)).collect(),
        ..new(path, &["a:1"])
    };
    vec![
        new("/plain", &["b:2", "a:1"]),
        new("/no-selectors", &[]),
        new("/plain", &["a:1", "b:2"]),
        new("/plain", &["a:1", "b:2", "c:3"]),
        new("/repeated", &["a:1", "a:1"]),
        new("/there", &["a:1"]),
        federated(&["b.test", "a.test", "b.test"], "/federated"),
        federated(&["a.test", "no.test"], "/lost"),
        federated(&["a.test"], "/lost"),
        named("taken", "/named"),
        named("taken", "/other"),
        named("before", "/before"),
        NewEntry { federates_with: vec![trust_domain("no.test")], ..named("before", "/last") },
        NewEntry { dns_names: vec!["z".into(), "y".into()], ..new("/names", &["a:1"]) },
        NewEntry {
            hint: "hint".into(),
            admin: true,
            downstream: true,
            expires_at: 4_000_000_000,
            x509_svid_ttl: 1,
            jwt_svid_ttl: 2,
            jwt_svid_include_jti: true,
            ..new("/flags", &["a:1"])
        },
    ]
}

/// The same but for what must differ: ids that nobody chose, and times.
fn comparable(
    made: Result<(Entry, bool), StoreError>,
    prefix: &str,
) -> Result<(Entry, bool), String> {
    let strip = |path: &str| path.strip_prefix(prefix).unwrap_or(path).to_owned();
    let made = made.map(|(entry, existed)| {
        let entry_id = match entry.entry_id.split_once('-') {
            Some((first, name)) if first == &prefix[1..] => name.to_owned(),
            _ => String::new(),
        };
        let spiffe_id = id(&strip(entry.spiffe_id.path()));
        (Entry { entry_id, spiffe_id, created_at: 0, ..entry }, existed)
    });
    // MySQL quotes the id of the row that a selector would have had.
    made.map_err(|error| {
        let text = error.to_string().replace(&format!("{}-", &prefix[1..]), "");
        text.replace(|it: char| it.is_ascii_digit(), "")
    })
}

async fn with_what_they_need(store: &AnyStore, prefix: &str) {
    for new in mixed(prefix) {
        if new.spiffe_id.path().ends_with("/there") {
            store.create_entry(new).await.unwrap();
        }
    }
    let before = NewEntry {
        entry_id: Some(format!("{}-before", &prefix[1..])),
        ..new_entry(&format!("{prefix}/earlier"), &["a:1"])
    };
    store.create_entry(before).await.unwrap();
}

pub async fn many_entries_are_made_as_one_after_the_other(store: AnyStore) {
    for name in ["a.test", "b.test"] {
        store.create_bundle(&steeple_pki::Bundle::new(trust_domain(name))).await.unwrap();
    }
    with_what_they_need(&store, "/one").await;
    let mut expected = Vec::new();
    for new in mixed("/one") {
        expected.push(comparable(store.create_or_return_similar(new).await, "/one"));
    }
    // All of them, and those of which none is refused by the database.
    for (prefix, keep) in [("/all", true), ("/good", false)] {
        with_what_they_need(&store, prefix).await;
        let is_kept = |new: &NewEntry| {
            let path = new.spiffe_id.path();
            keep || !["/repeated", "/other", "/before", "/last"].iter().any(|it| path.ends_with(it))
        };
        let expected: Vec<_> = mixed("/one")
            .iter()
            .zip(&expected)
            .filter(|(new, _)| is_kept(new))
            .map(|(_, made)| made.clone())
            .collect();
        let since = store.snapshot().await.unwrap().revision;
        let many: Vec<NewEntry> = mixed(prefix).into_iter().filter(is_kept).collect();
        let made = store.create_entries(many).await;
        let mut ids: Vec<String> = made
            .iter()
            .filter_map(|made| made.as_ref().ok())
            .filter(|(_, existed)| !existed)
            .map(|(entry, _)| entry.entry_id.clone())
            .collect();
        for (entry, _) in made.iter().flatten() {
            let kept = store.fetch_entry(&entry.entry_id).await.unwrap();
            assert_eq!(kept.as_ref(), Some(entry), "{prefix}");
        }
        let made: Vec<_> = made.into_iter().map(|made| comparable(made, prefix)).collect();
        assert_eq!(made, expected, "{prefix}");
        ids.sort_unstable();
        let (touched, ..) = touched(&store, &since).await;
        assert_eq!(touched, ids, "{prefix}");
    }
    assert!(store.create_entries(Vec::new()).await.is_empty());
}

pub async fn a_large_batch_is_made_in_its_order(store: AnyStore) {
    let new = |number: usize| {
        let count = number % 5 + 1;
        let texts: Vec<String> = (0..count).map(|it| format!("a:{it}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        NewEntry {
            dns_names: (0..number % 3).map(|it| format!("n{it}")).collect(),
            ..new_entry(&format!("/w{number}"), &texts)
        }
    };
    const COUNT: usize = 467;
    let made = store.create_entries((0..COUNT).map(new).collect()).await;
    let made: Vec<Entry> = made.into_iter().map(|made| made.unwrap().0).collect();
    let (listed, _) = store.list_entries(&Default::default(), None).await.unwrap();
    assert_eq!(listed, made);
    assert_eq!(made[COUNT - 1].spiffe_id, id(&format!("/w{}", COUNT - 1)));
    let again = store.create_entries((0..COUNT).map(new).collect()).await;
    let again: Vec<Entry> = again
        .into_iter()
        .map(|made| {
            let (entry, existed) = made.unwrap();
            assert!(existed);
            entry
        })
        .collect();
    assert_eq!(again, made);
}

pub async fn many_entries_are_changed_as_one_after_the_other(store: AnyStore) {
    let made =
        store.create_entries((0..3).map(|it| new_entry(&format!("/{it}"), &["a:1"])).collect());
    let made: Vec<Entry> = made.await.into_iter().map(|made| made.unwrap().0).collect();
    let since = store.snapshot().await.unwrap().revision;
    let key = |at: usize| made[at].entry_id.clone();
    let hint = |hint: &str| EntryUpdate { hint: Some(hint.into()), ..EntryUpdate::default() };
    let wrong = EntryUpdate { selectors: Some(Vec::new()), ..EntryUpdate::default() };
    let half = EntryUpdate {
        selectors: Some(selectors(&["b:2"])),
        federates_with: Some(vec![trust_domain("no.test")]),
        ..EntryUpdate::default()
    };
    let good = vec![
        (key(0), hint("first")),
        ("missing".to_owned(), hint("x")),
        (key(1), wrong),
        (key(0), hint("second")),
    ];
    let bad = vec![(key(1), hint("kept")), (key(2), half), (key(1), hint("last"))];
    let changed = store.update_entries(&good).await;
    let hints =
        |changed: Vec<Result<Entry, StoreError>>| -> Vec<Result<(String, i64), StoreError>> {
            changed.into_iter().map(|it| it.map(|it| (it.hint, it.revision_number))).collect()
        };
    let invalid = "datastore-validation: invalid registration entry: missing selector list";
    assert_eq!(
        hints(changed),
        [
            Ok(("first".into(), 1)),
            Err(StoreError::not_found()),
            Err(StoreError::Invalid(invalid.into())),
            Ok(("second".into(), 2)),
        ]
    );
    let no_bundle = "unable to find federated bundle \"spiffe://no.test\"";
    assert_eq!(
        hints(store.update_entries(&bad).await),
        [
            Ok(("kept".into(), 1)),
            Err(StoreError::Internal(no_bundle.into())),
            Ok(("last".into(), 2)),
        ]
    );
    let (listed, _) = store.list_entries(&Default::default(), None).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|it| (it.hint.as_str(), it.revision_number)).collect();
    assert_eq!(listed, [("second", 2), ("last", 2), ("", 0)]);
    let (entries, ..) = touched(&store, &since).await;
    let mut expected = vec![key(0), key(1)];
    expected.sort_unstable();
    assert_eq!(entries, expected);
}

pub async fn many_entries_are_deleted_as_one_after_the_other(store: AnyStore) {
    let new = |it: usize| NewEntry {
        dns_names: vec!["name".into()],
        ..new_entry(&format!("/{it}"), &["a:1", "b:2"])
    };
    let made = store.create_entries((0..250).map(new).collect()).await;
    let made: Vec<Entry> = made.into_iter().map(|made| made.unwrap().0).collect();
    let since = store.snapshot().await.unwrap().revision;
    let mut ids: Vec<String> = made[1..].iter().map(|it| it.entry_id.clone()).collect();
    ids.insert(1, "missing".into());
    ids.push(ids[0].clone());
    let deleted = store.delete_entries(&ids).await;
    assert_eq!(deleted[0].as_ref(), Ok(&made[1]));
    assert_eq!(deleted[1], Err(StoreError::not_found()));
    assert_eq!(deleted[2].as_ref(), Ok(&made[2]));
    assert_eq!(deleted.last(), Some(&Err(StoreError::not_found())));
    assert_eq!(deleted.iter().filter(|it| it.is_ok()).count(), 249);
    let (listed, _) = store.list_entries(&Default::default(), None).await.unwrap();
    assert_eq!(listed, made[..1]);
    assert_eq!(touched(&store, &since).await.0.len(), 249);
    let again = store.create_entries((0..250).map(new).collect()).await;
    assert_eq!(again.iter().flatten().filter(|(_, existed)| *existed).count(), 1);
}

/// Whatever waits for the writer together: each gets what it would have got alone.
pub async fn of_many_writers_at_once_each_gets_its_own_answer(store: AnyStore) {
    let gone = store.create_entry(new_entry("/gone", &["a:1"])).await.unwrap().entry_id;
    let attempts: Vec<_> = (0..60)
        .map(|number: usize| {
            let (store, gone) = (AnyStore::clone(&store), gone.clone());
            tokio::spawn(async move {
                let path = format!("/w{number}");
                match number % 6 {
                    0 => store.create_entry(new_entry(&path, &["a:1", "b:2"])).await.map(drop),
                    1 => store.create_entry(new_entry(&path, &["a:1", "a:1"])).await.map(drop),
                    2 => {
                        let many = (0..3).map(|it| new_entry(&format!("{path}/{it}"), &["a:1"]));
                        store
                            .create_entries(many.collect())
                            .await
                            .into_iter()
                            .try_for_each(|it| it.map(drop))
                    }
                    3 => store.upsert_attested_node(super::node(&path, &["n:1"])).await.map(drop),
                    4 => {
                        let update = EntryUpdate {
                            selectors: Some(selectors(&["b:2"])),
                            federates_with: Some(vec![trust_domain("no.test")]),
                            ..EntryUpdate::default()
                        };
                        store.update_entry(&gone, update).await.map(drop)
                    }
                    _ => store.delete_entry("missing").await.map(drop),
                }
            })
        })
        .collect();
    for (number, attempt) in attempts.into_iter().enumerate() {
        let outcome = attempt.await.unwrap();
        match number % 6 {
            1 => assert!(matches!(outcome, Err(StoreError::AlreadyExists(_))), "{outcome:?}"),
            4 => assert!(matches!(outcome, Err(StoreError::Internal(_))), "{outcome:?}"),
            5 => assert_eq!(outcome, Err(StoreError::not_found())),
            _ => assert_eq!(outcome, Ok(()), "{number}"),
        }
    }
    assert_eq!(store.count_entries(&Default::default()).await.unwrap(), 1 + 10 + 30);
    assert_eq!(store.count_nodes(&Default::default()).await.unwrap(), 10);
    let entry = store.fetch_entry(&gone).await.unwrap().unwrap();
    assert_eq!((entry.revision_number, entry.selectors.len()), (0, 1), "a failure changed nothing");
}
