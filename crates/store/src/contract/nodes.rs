use super::{AnyStore, at, id, new_entry, node, selectors};
use crate::MatchBehavior::{Any, Exact, Subset, Superset};
use crate::{
    AttestedNode, EntryFilter, NewEntry, NodeFilter, NodeUpdate, Page, SelectorFilter, StoreError,
};

pub async fn an_agent_is_kept_and_answered_whole(store: AnyStore) {
    let whole = AttestedNode {
        serial_number: "340282366920938463463374607431768211455".into(),
        expires_at: 1_795_327_841,
        new_serial_number: "2".into(),
        new_expires_at: 1_795_327_842,
        can_reattest: false,
        agent_version: "1.15.0".into(),
        ..node("/spire/agent/x", &["b:2", "a:1", "b:2"])
    };
    let expected = AttestedNode { selectors: selectors(&["a:1", "b:2"]), ..whole.clone() };
    assert_eq!(store.upsert_attested_node(whole).await.unwrap(), expected);
    assert_eq!(store.fetch_node(&id("/spire/agent/x")).await.unwrap(), Some(expected));
    assert_eq!(store.fetch_node(&id("/spire/agent/y")).await.unwrap(), None);
}

pub async fn attesting_again_overwrites_but_keeps_the_version(store: AnyStore) {
    let agent = id("/agent");
    store.upsert_attested_node(node("/agent", &["a:1", "b:2"])).await.unwrap();
    store.set_agent_version(&agent, "1.15.3").await.unwrap();
    let renewed = NodeUpdate {
        new_serial_number: Some("9".into()),
        new_expires_at: Some(9),
        ..NodeUpdate::default()
    };
    store.update_node(&agent, renewed).await.unwrap();
    let again = AttestedNode {
        serial_number: "77".into(),
        expires_at: 77,
        can_reattest: false,
        attestation_type: "other".into(),
        ..node("/agent", &["c:3"])
    };
    let stored = store.upsert_attested_node(again.clone()).await.unwrap();
    let expected =
        AttestedNode { attestation_type: "test".into(), agent_version: "1.15.3".into(), ..again };
    assert_eq!(stored, expected);
    assert_eq!(store.fetch_node(&agent).await.unwrap(), Some(expected));
}

pub async fn a_first_attestation_is_recorded_once(store: AnyStore) {
    let agent = AttestedNode { can_reattest: false, ..node("/agent", &["b:2", "a:1", "b:2"]) };
    let recorded = store.insert_attested_node(agent.clone()).await.unwrap();
    assert_eq!(recorded.selectors, selectors(&["a:1", "b:2"]));
    assert_eq!(store.fetch_node(&id("/agent")).await.unwrap(), Some(recorded.clone()));
    let other = AttestedNode { serial_number: "2".into(), ..node("/agent", &["z:1"]) };
    let again = store.insert_attested_node(other.clone()).await.unwrap_err();
    assert_eq!(again, StoreError::AlreadyExists("agent has attested".into()));
    assert_eq!(store.fetch_node(&id("/agent")).await.unwrap(), Some(recorded));
    store.ban_node(&id("/agent")).await.unwrap();
    let banned = store.insert_attested_node(other.clone()).await.unwrap_err();
    assert_eq!(banned, StoreError::Precondition("agent is banned".into()));
    store.delete_node(&id("/agent")).await.unwrap();
    assert!(store.insert_attested_node(other).await.is_ok(), "evicting lets it");
}

pub async fn of_a_hundred_first_attestations_one_is_recorded(store: AnyStore) {
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(100));
    let attempts: Vec<_> = (0..100)
        .map(|number| {
            let (store, start) = (AnyStore::clone(&store), std::sync::Arc::clone(&start));
            tokio::spawn(async move {
                let agent =
                    AttestedNode { serial_number: number.to_string(), ..node("/agent", &["a:1"]) };
                start.wait().await;
                store.insert_attested_node(agent).await
            })
        })
        .collect();
    let mut winners = Vec::new();
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(node) => winners.push(node),
            Err(error) => assert_eq!(error, StoreError::AlreadyExists("agent has attested".into())),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(store.fetch_node(&id("/agent")).await.unwrap(), winners.pop());
}

pub async fn a_banned_agent_cannot_attest_and_evicting_lets_it(store: AnyStore) {
    let agent = id("/agent");
    store.upsert_attested_node(node("/agent", &["a:1"])).await.unwrap();
    let banned = store.ban_node(&agent).await.unwrap();
    assert!(banned.is_banned());
    assert_eq!(banned.expires_at, 2_000_000_000, "the rest of the row stays");
    let refused = store.upsert_attested_node(node("/agent", &["z:1"])).await.unwrap_err();
    assert_eq!(refused, StoreError::Precondition("agent is banned".into()));
    assert_eq!(store.fetch_node(&agent).await.unwrap(), Some(banned.clone()));
    assert_eq!(store.delete_node(&agent).await.unwrap(), banned);
    assert!(store.upsert_attested_node(node("/agent", &["a:1"])).await.is_ok());
    assert_eq!(store.ban_node(&id("/nobody")).await, Err(StoreError::not_found()));
    assert_eq!(store.delete_node(&id("/nobody")).await, Err(StoreError::not_found()));
}

pub async fn a_new_serial_number_is_promoted_on_first_use(store: AnyStore) {
    let agent = id("/agent");
    let attested = AttestedNode {
        new_serial_number: "2".into(),
        new_expires_at: 200,
        ..node("/agent", &["a:1"])
    };
    store.upsert_attested_node(attested.clone()).await.unwrap();
    for wrong in ["3", ""] {
        let refused = store.promote_node_serial(&agent, wrong).await.unwrap_err();
        assert!(matches!(refused, StoreError::Precondition(_)), "{refused}");
    }
    let expected = AttestedNode {
        serial_number: "2".into(),
        expires_at: 200,
        new_serial_number: String::new(),
        new_expires_at: 0,
        ..attested
    };
    assert_eq!(store.promote_node_serial(&agent, "2").await.unwrap(), expected);
    assert_eq!(store.promote_node_serial(&agent, "2").await.unwrap(), expected, "twice is once");
    assert_eq!(store.fetch_node(&agent).await.unwrap(), Some(expected));
    let old = store.promote_node_serial(&agent, "1").await.unwrap_err();
    assert!(matches!(old, StoreError::Precondition(_)));
    store.ban_node(&agent).await.unwrap();
    let banned = store.promote_node_serial(&agent, "").await.unwrap_err();
    assert!(matches!(banned, StoreError::Precondition(_)), "no serial number is no serial number");
}

pub async fn many_who_attest_at_once_are_recorded_as_one_after_the_other(store: AnyStore) {
    store.upsert_attested_node(node("/banned", &["a:1"])).await.unwrap();
    store.ban_node(&id("/banned")).await.unwrap();
    let start = super::touched(&store, &store.snapshot().await.unwrap().revision).await.2;
    let mut attempts = Vec::new();
    for number in 0..60_u32 {
        let store = AnyStore::clone(&store);
        let path = match number {
            0..40 => format!("/agent/{}", number / 2),
            40..50 => format!("/single/{number}"),
            _ => "/banned".to_owned(),
        };
        let mut agent = node(&path, &["b:2", "a:1", &format!("n:{number}"), "b:2"]);
        agent.serial_number = number.to_string();
        attempts.push(tokio::spawn(async move {
            let recorded = store.upsert_attested_node(agent.clone()).await;
            (number, agent, recorded)
        }));
    }
    let mut last = std::collections::HashMap::new();
    for attempt in attempts {
        let (number, agent, recorded) = attempt.await.unwrap();
        if number >= 50 {
            assert_eq!(recorded, Err(StoreError::Precondition("agent is banned".into())));
            continue;
        }
        let selectors = selectors(&["a:1", "b:2", &format!("n:{number}")]);
        let expected = AttestedNode { selectors, ..agent };
        assert_eq!(recorded.as_ref(), Ok(&expected));
        last.entry(expected.spiffe_id.clone()).or_insert_with(Vec::new).push(expected);
    }
    assert_eq!(last.len(), 30);
    let Ok(crate::Since::Changes(told)) = store.changes_since(&start).await else {
        panic!("no changes")
    };
    assert_eq!(told.nodes.len(), 30, "each is told of, and nobody who was refused");
    for change in told.nodes {
        let stored = store.fetch_node(&change.spiffe_id).await.unwrap();
        assert_eq!(change.node, stored);
        assert!(last[&change.spiffe_id].contains(&stored.unwrap()), "one of those who came, whole");
    }
}

pub async fn a_renewal_keeps_the_next_serial_number(store: AnyStore) {
    let agent = id("/agent");
    let made = store.upsert_attested_node(node("/agent", &["a:1"])).await.unwrap();
    for _twice in 0..2 {
        store.renew_node(&agent, "7", 2_000_000_700).await.unwrap();
        let expected = AttestedNode {
            new_serial_number: "7".into(),
            new_expires_at: 2_000_000_700,
            ..made.clone()
        };
        assert_eq!(store.fetch_node(&agent).await.unwrap(), Some(expected));
    }
    let nobody = store.renew_node(&id("/nobody"), "7", 2_000_000_700).await;
    assert_eq!(nobody, Err(StoreError::not_found()));
    let other_case = store.renew_node(&id("/Agent"), "8", 2_000_000_700).await;
    assert_eq!(other_case, Err(StoreError::not_found()));
    let start = store.snapshot().await.unwrap().revision;
    let renewals: Vec<_> = (0..20)
        .map(|number: u32| {
            let store = AnyStore::clone(&store);
            let id = if number.is_multiple_of(2) {
                id("/agent")
            } else {
                id(&format!("/nobody/{number}"))
            };
            tokio::spawn(async move {
                (number, store.renew_node(&id, &number.to_string(), 2_000_000_900).await)
            })
        })
        .collect();
    for renewal in renewals {
        let (number, renewed) = renewal.await.unwrap();
        let expected = if number.is_multiple_of(2) { Ok(()) } else { Err(StoreError::not_found()) };
        assert_eq!(renewed, expected, "{number}");
    }
    assert_eq!(super::touched(&store, &start).await.1, ["/agent"]);
    let renewed = store.fetch_node(&agent).await.unwrap().unwrap();
    assert!(renewed.new_serial_number.parse::<u32>().unwrap() % 2 == 0);
}

pub async fn an_update_changes_only_what_it_names(store: AnyStore) {
    let agent = id("/agent");
    let made = store.upsert_attested_node(node("/agent", &["a:1"])).await.unwrap();
    let update = NodeUpdate { new_serial_number: Some("5".into()), ..NodeUpdate::default() };
    let changed = store.update_node(&agent, update).await.unwrap();
    assert_eq!(changed, AttestedNode { new_serial_number: "5".into(), ..made.clone() });
    let everything = NodeUpdate {
        serial_number: Some("6".into()),
        expires_at: Some(6),
        new_serial_number: Some("7".into()),
        new_expires_at: Some(7),
        can_reattest: Some(false),
        agent_version: Some("v".into()),
    };
    let expected = AttestedNode {
        serial_number: "6".into(),
        expires_at: 6,
        new_serial_number: "7".into(),
        new_expires_at: 7,
        can_reattest: false,
        agent_version: "v".into(),
        ..made
    };
    assert_eq!(store.update_node(&agent, everything).await.unwrap(), expected);
    assert_eq!(store.fetch_node(&agent).await.unwrap(), Some(expected));
    let nobody = store.update_node(&id("/nobody"), NodeUpdate::default()).await;
    assert_eq!(nobody, Err(StoreError::not_found()));
}

async fn listed(store: &AnyStore, filter: &NodeFilter) -> String {
    let (nodes, _) = store.list_nodes(filter, None).await.unwrap();
    assert_eq!(store.count_nodes(filter).await.unwrap(), nodes.len() as u64);
    nodes.iter().map(|node| node.spiffe_id.path().trim_start_matches('/')).collect()
}

pub async fn agents_are_filtered(store: AnyStore) {
    let agents = [
        node("/a", &[]),
        AttestedNode { attestation_type: "join_token".into(), ..node("/b", &[]) },
        AttestedNode { can_reattest: false, ..node("/c", &[]) },
        AttestedNode { expires_at: 1000, ..node("/d", &[]) },
        node("/e", &[]),
    ];
    for agent in agents {
        store.upsert_attested_node(agent).await.unwrap();
    }
    store.ban_node(&id("/e")).await.unwrap();
    let all = NodeFilter::default;
    for (filter, expected) in [
        (all(), "abcde"),
        (NodeFilter { attestation_type: Some("join_token".into()), ..all() }, "b"),
        (NodeFilter { attestation_type: Some(String::new()), ..all() }, "abcde"),
        (NodeFilter { banned: Some(true), ..all() }, "e"),
        (NodeFilter { banned: Some(false), ..all() }, "abcd"),
        (NodeFilter { can_reattest: Some(false), ..all() }, "c"),
        (NodeFilter { can_reattest: Some(true), ..all() }, "abde"),
        (NodeFilter { expires_before: Some(1000), ..all() }, ""),
        (NodeFilter { expires_before: Some(1001), ..all() }, "d"),
        (NodeFilter { expires_before: Some(i64::MAX), banned: Some(true), ..all() }, "e"),
    ] {
        assert_eq!(listed(&store, &filter).await, expected, "{filter:?}");
    }
    let page = Page { token: None, size: 3 };
    let (first, token) = store.list_nodes(&all(), Some(&page)).await.unwrap();
    let (second, token) = store.list_nodes(&all(), Some(&Page { token, size: 3 })).await.unwrap();
    assert_eq!((first.len(), second.len()), (3, 2));
    let last = store.list_nodes(&all(), Some(&Page { token, size: 3 })).await.unwrap();
    assert_eq!(last, (Vec::new(), None));
}

pub async fn agents_are_filtered_by_selectors_in_all_four_ways(store: AnyStore) {
    for (path, texts) in
        [("/n", &[][..]), ("/a", &["s:1"]), ("/b", &["s:1", "s:2"]), ("/c", &["s:1", "s:2", "s:3"])]
    {
        store.upsert_attested_node(node(path, texts)).await.unwrap();
    }
    for (behavior, texts, expected) in [
        (Exact, &["s:1", "s:2"][..], "b"),
        (Subset, &["s:1", "s:2"], "ab"),
        (Superset, &["s:1", "s:2"], "bc"),
        (Any, &["s:2", "s:9"], "bc"),
    ] {
        let by = SelectorFilter { selectors: selectors(texts), behavior };
        let filter = NodeFilter { selectors: Some(by), ..NodeFilter::default() };
        assert_eq!(listed(&store, &filter).await, expected, "{behavior:?} {texts:?}");
    }
    let empty = SelectorFilter { selectors: Vec::new(), behavior: Any };
    let filter = NodeFilter { selectors: Some(empty), ..NodeFilter::default() };
    let refused = store.list_nodes(&filter, None).await.unwrap_err();
    assert_eq!(refused, StoreError::Invalid("cannot list by empty selectors set".into()));
}

pub async fn pruning_spares_the_banned_and_those_that_cannot_attest_again(store: AnyStore) {
    let old = |path| AttestedNode { expires_at: 1000, ..node(path, &["a:1"]) };
    for agent in [
        old("/a"),
        old("/banned"),
        AttestedNode { can_reattest: false, ..old("/tofu") },
        AttestedNode { expires_at: 1001, ..old("/young") },
    ] {
        store.upsert_attested_node(agent).await.unwrap();
    }
    store.ban_node(&id("/banned")).await.unwrap();
    let paths = |nodes: Vec<AttestedNode>| {
        nodes.iter().map(|node| node.spiffe_id.path().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(paths(store.prune_nodes(at(1001), 0, false).await.unwrap()), ["/a"]);
    assert_eq!(paths(store.prune_nodes(at(1001), 0, true).await.unwrap()), ["/tofu"]);
    assert_eq!(paths(store.prune_nodes(at(1001), 0, true).await.unwrap()), [""; 0]);
    assert_eq!(store.count_nodes(&NodeFilter::default()).await.unwrap(), 2);
}

pub async fn pruning_keeps_to_its_batch(store: AnyStore) {
    for number in 0..5 {
        let old = AttestedNode { expires_at: 1, ..node(&format!("/{number}"), &[]) };
        store.upsert_attested_node(old).await.unwrap();
    }
    for expected in [2, 2, 1, 0] {
        assert_eq!(store.prune_nodes(at(10), 2, false).await.unwrap().len(), expected);
    }
}

pub async fn evicting_takes_the_alias_entry_and_no_other(store: AnyStore) {
    let agent_path = "/spire/agent/join_token/t";
    let own = format!("spiffe_id:{}", id(agent_path));
    let below =
        |path, texts: &[&str]| NewEntry { parent_id: id(agent_path), ..new_entry(path, texts) };
    for entry in [
        below("/alias", &[&own]),
        below("/workload", &["unix:uid:1"]),
        below("/both", &[&own, "unix:uid:1"]),
        below("/other-id", &["spiffe_id:spiffe://example.org/x"]),
        new_entry("/elsewhere", &[&own]),
    ] {
        store.create_entry(entry).await.unwrap();
    }
    let joined =
        AttestedNode { attestation_type: "join_token".into(), ..node(agent_path, &["a:1"]) };
    store.upsert_attested_node(joined.clone()).await.unwrap();
    assert_eq!(store.delete_node(&id(agent_path)).await.unwrap(), joined);
    let (left, _) = store.list_entries(&EntryFilter::default(), None).await.unwrap();
    let left: Vec<_> = left.iter().map(|entry| entry.spiffe_id.path()).collect();
    assert_eq!(left, ["/workload", "/both", "/other-id", "/elsewhere"]);
}
