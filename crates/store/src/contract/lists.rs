use super::{AnyStore, id, new_entry, selectors, trust_domain};
use crate::MatchBehavior::{Any, Exact, Subset, Superset};
use crate::{EntryFilter, FederatesWithFilter, NewEntry, Page, SelectorFilter, StoreError};

/// The last letters of the ids of the entries that a filter lets through.
async fn listed(store: &AnyStore, filter: &EntryFilter) -> String {
    let (entries, next) = store.list_entries(filter, None).await.unwrap();
    assert_eq!(next, None, "without pages there is no token");
    let counted = store.count_entries(filter).await.unwrap();
    assert_eq!(counted, entries.len() as u64, "a count is the length of the list");
    entries.iter().map(|entry| entry.spiffe_id.path().trim_start_matches('/')).collect()
}

pub async fn entries_are_filtered_by_column(store: AnyStore) {
    let entries = [
        new_entry("/a", &["a:1"]),
        NewEntry { hint: "h".into(), ..new_entry("/b", &["a:1"]) },
        NewEntry { parent_id: id("/other"), hint: "h".into(), ..new_entry("/c", &["a:1"]) },
        NewEntry { downstream: true, ..new_entry("/d", &["a:1"]) },
    ];
    for entry in entries {
        store.create_entry(entry).await.unwrap();
    }
    let all = EntryFilter::default;
    for (filter, expected) in [
        (all(), "abcd"),
        (EntryFilter { spiffe_id: Some(id("/b")), ..all() }, "b"),
        (EntryFilter { spiffe_id: Some(id("/nobody")), ..all() }, ""),
        (EntryFilter { parent_id: Some(id("/agent")), ..all() }, "abd"),
        (EntryFilter { hint: Some("h".into()), ..all() }, "bc"),
        (EntryFilter { hint: Some(String::new()), ..all() }, "abcd"),
        (EntryFilter { hint: Some("' OR 1=1 --".into()), ..all() }, ""),
        (EntryFilter { downstream: Some(true), ..all() }, "d"),
        (EntryFilter { downstream: Some(false), ..all() }, "abcd"),
    ] {
        assert_eq!(listed(&store, &filter).await, expected, "{filter:?}");
    }
}

pub async fn entries_are_filtered_by_selectors_in_all_four_ways(store: AnyStore) {
    for (path, texts) in [
        ("/a", &["s:1"][..]),
        ("/b", &["s:2"]),
        ("/c", &["s:1", "s:2"]),
        ("/d", &["s:1", "s:2", "s:3"]),
        ("/e", &["s:4"]),
        ("/f", &["s:1", "s:4"]),
        ("/g", &["t:1", "t:2"]),
    ] {
        store.create_entry(new_entry(path, texts)).await.unwrap();
    }
    for (behavior, texts, expected) in [
        (Exact, &["s:1"][..], "a"),
        (Exact, &["s:2", "s:1"], "c"),
        (Exact, &["s:1", "s:1"], "a"),
        (Exact, &["s:9"], ""),
        (Subset, &["s:1"], "a"),
        (Subset, &["s:1", "s:2"], "abc"),
        (Subset, &["s:1", "s:2", "s:9"], "abc"),
        (Superset, &["s:1"], "acdf"),
        (Superset, &["s:1", "s:2"], "cd"),
        (Superset, &["s:1", "s:9"], ""),
        (Any, &["s:1"], "acdf"),
        (Any, &["s:2", "s:4"], "bcdef"),
        (Any, &["s:9"], ""),
    ] {
        let by = SelectorFilter { selectors: selectors(texts), behavior };
        let filter = EntryFilter { selectors: Some(by), ..EntryFilter::default() };
        assert_eq!(listed(&store, &filter).await, expected, "{behavior:?} {texts:?}");
    }
}

pub async fn entries_are_filtered_by_federation_in_all_four_ways(store: AnyStore) {
    for name in ["a.test", "b.test", "c.test"] {
        store.create_bundle(&steeple_pki::Bundle::new(trust_domain(name))).await.unwrap();
    }
    for (path, names) in [
        ("/n", &[][..]),
        ("/a", &["a.test"]),
        ("/b", &["b.test"]),
        ("/c", &["a.test", "b.test"]),
        ("/d", &["a.test", "b.test", "c.test"]),
    ] {
        let federates_with = names.iter().map(|name| trust_domain(name)).collect();
        let entry = NewEntry { federates_with, ..new_entry(path, &["s:1"]) };
        store.create_entry(entry).await.unwrap();
    }
    for (behavior, names, expected) in [
        (Exact, &["a.test"][..], "a"),
        (Exact, &["b.test", "a.test"], "c"),
        (Exact, &["z.test"], ""),
        (Subset, &["a.test"], "a"),
        (Subset, &["a.test", "b.test"], "abc"),
        (Superset, &["a.test"], "acd"),
        (Superset, &["a.test", "c.test"], "d"),
        (Any, &["c.test", "b.test"], "bcd"),
        (Any, &[], "nabcd"),
        (Exact, &[], "nabcd"),
    ] {
        let trust_domains = names.iter().map(|name| trust_domain(name)).collect();
        let by = FederatesWithFilter { trust_domains, behavior };
        let filter = EntryFilter { federates_with: Some(by), ..EntryFilter::default() };
        assert_eq!(listed(&store, &filter).await, expected, "{behavior:?} {names:?}");
    }
}

pub async fn filters_are_joined_by_and(store: AnyStore) {
    for (path, hint, texts) in
        [("/a", "x", &["s:1"][..]), ("/b", "y", &["s:1"]), ("/c", "x", &["s:2"])]
    {
        let entry = NewEntry { hint: hint.into(), ..new_entry(path, texts) };
        store.create_entry(entry).await.unwrap();
    }
    let by = SelectorFilter { selectors: selectors(&["s:1"]), behavior: Superset };
    let filter =
        EntryFilter { hint: Some("x".into()), selectors: Some(by), ..EntryFilter::default() };
    assert_eq!(listed(&store, &filter).await, "a");
}

pub async fn pages_are_full_and_end_with_an_empty_one(store: AnyStore) {
    for number in 0..10 {
        let texts = if number % 2 == 0 { &["s:1"][..] } else { &["s:1", "s:2"] };
        store.create_entry(new_entry(&format!("/{number}"), texts)).await.unwrap();
    }
    // Half of the rows do not fit; a page is full all the same.
    let by = SelectorFilter { selectors: selectors(&["s:1"]), behavior: Exact };
    let filter = EntryFilter { selectors: Some(by), ..EntryFilter::default() };
    let mut page = Page { token: None, size: 2 };
    let mut sizes = Vec::new();
    let mut seen = String::new();
    loop {
        let (entries, next) = store.list_entries(&filter, Some(&page)).await.unwrap();
        sizes.push(entries.len());
        seen.extend(entries.iter().map(|entry| entry.spiffe_id.path().trim_start_matches('/')));
        assert_eq!(next.is_some(), !entries.is_empty());
        page.token = next;
        if page.token.is_none() {
            break;
        }
    }
    assert_eq!(seen, "02468");
    assert_eq!(sizes, [2, 2, 1, 0]);
}

pub async fn bad_pages_are_refused(store: AnyStore) {
    store.create_entry(new_entry("/w", &["s:1"])).await.unwrap();
    let filter = EntryFilter::default();
    let none = Page { token: None, size: 0 };
    let refused = store.list_entries(&filter, Some(&none)).await.unwrap_err();
    assert_eq!(refused, StoreError::Invalid("cannot paginate with pagesize = 0".into()));
    for token in ["x", "-1", "1.5", "0x1", "99999999999999999999", "' OR '1'='1"] {
        let page = Page { token: Some(token.into()), size: 1 };
        let refused = store.list_entries(&filter, Some(&page)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Invalid(_)), "{token}");
    }
    // Any number past the end, even one that no row id can be, is an empty page.
    for token in ["4000000000", "18446744073709551615"] {
        let page = Page { token: Some(token.into()), size: 1 };
        assert_eq!(store.list_entries(&filter, Some(&page)).await.unwrap(), (Vec::new(), None));
    }
    let from_start = Page { token: Some(String::new()), size: 1 };
    assert_eq!(store.list_entries(&filter, Some(&from_start)).await.unwrap().0.len(), 1);
    let huge = Page { token: None, size: usize::MAX };
    assert_eq!(store.list_entries(&filter, Some(&huge)).await.unwrap().0.len(), 1);

    let empty = SelectorFilter { selectors: Vec::new(), behavior: Exact };
    let filter = EntryFilter { selectors: Some(empty), ..EntryFilter::default() };
    let text = "cannot list by empty selector set";
    assert_eq!(store.list_entries(&filter, None).await, Err(StoreError::Invalid(text.into())));
    assert_eq!(store.count_entries(&filter).await, Err(StoreError::Invalid(text.into())));
}

pub async fn a_count_is_the_length_of_the_list(store: AnyStore) {
    assert_eq!(listed(&store, &EntryFilter::default()).await, "");
    store.create_entry(new_entry("/a", &["s:1", "s:2", "s:3"])).await.unwrap();
    assert_eq!(listed(&store, &EntryFilter::default()).await, "a");
}

pub async fn a_filter_may_be_large_but_not_huge(store: AnyStore) {
    let texts: Vec<String> = (0..501).map(|number| format!("a:{number:04}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    store.create_entry(new_entry("/a", &texts[..500])).await.unwrap();
    for (behavior, count, expected) in [
        (Exact, 500, "a"),
        (Subset, 500, "a"),
        (Superset, 499, "a"),
        (Any, 1, "a"),
        (Exact, 499, ""),
    ] {
        let by = SelectorFilter { selectors: selectors(&texts[..count]), behavior };
        let filter = EntryFilter { selectors: Some(by), ..EntryFilter::default() };
        assert_eq!(listed(&store, &filter).await, expected, "{behavior:?} {count}");
    }
    let by = SelectorFilter { selectors: selectors(&texts), behavior: Any };
    let filter = EntryFilter { selectors: Some(by), ..EntryFilter::default() };
    let refused = store.count_entries(&filter).await.unwrap_err();
    assert!(matches!(refused, StoreError::Invalid(_)), "{refused}");
}
