use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::{AnyStore, at, id, new_entry, node, touched, trust_domain};
use crate::{
    AttestedNode, DeleteMode, Entry, EntryUpdate, JoinToken, NewEntry, NodeUpdate,
    ResnapshotReason, Revision, Since, Snapshot,
};

async fn now(store: &AnyStore) -> Revision {
    store.snapshot().await.unwrap().revision
}

pub async fn a_snapshot_has_everything(store: AnyStore) {
    let empty = store.snapshot().await.unwrap();
    assert!(empty.entries.is_empty() && empty.nodes.is_empty());
    store.create_bundle(&steeple_pki::Bundle::new(trust_domain("a.test"))).await.unwrap();
    let mut entries = Vec::new();
    let mut nodes = Vec::new();
    for number in 0..7 {
        let entry = NewEntry {
            dns_names: vec!["b".into(), "a".into()],
            federates_with: vec![trust_domain("a.test")],
            ..new_entry(&format!("/{number}"), &["b:2", "a:1"])
        };
        entries.push(store.create_entry(entry).await.unwrap());
        let agent = node(&format!("/agent/{number}"), &["b:2", "a:1"]);
        nodes.push(store.upsert_attested_node(agent).await.unwrap());
    }
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.entries, entries);
    assert_eq!(snapshot.nodes, nodes);
    let (entry_ids, node_ids, revision) = touched(&store, &snapshot.revision).await;
    assert!(entry_ids.is_empty() && node_ids.is_empty());
    assert_eq!(revision, snapshot.revision);
}

pub async fn every_change_of_an_entry_is_told(store: AnyStore) {
    let start = now(&store).await;
    let entry = store.create_entry(new_entry("/w", &["a:1"])).await.unwrap();
    let (ids, _, revision) = touched(&store, &start).await;
    assert_eq!(ids, [entry.entry_id.as_str()]);
    store.update_entry(&entry.entry_id, EntryUpdate::default()).await.unwrap();
    let (ids, _, revision) = touched(&store, &revision).await;
    assert_eq!(ids, [entry.entry_id.as_str()]);
    let Since::Changes(changes) = store.changes_since(&start).await.unwrap() else { panic!() };
    assert_eq!(changes.entries.len(), 1);
    assert_eq!(changes.entries[0].entry.as_ref().unwrap().revision_number, 1);
    store.delete_entry(&entry.entry_id).await.unwrap();
    let Since::Changes(changes) = store.changes_since(&revision).await.unwrap() else { panic!() };
    assert_eq!(changes.entries[0].entry_id, entry.entry_id);
    assert_eq!(changes.entries[0].entry, None);

    let revision = changes.revision;
    let expired = NewEntry { expires_at: 1, ..new_entry("/w", &["a:1"]) };
    let expired = store.create_entry(expired).await.unwrap();
    store.prune_entries(at(10)).await.unwrap();
    assert_eq!(touched(&store, &revision).await.0, [expired.entry_id]);
}

pub async fn every_change_of_an_agent_is_told(store: AnyStore) {
    let agent = id("/agent");
    let mut revision = now(&store).await;
    for step in 0..8 {
        match step {
            0 => drop(store.upsert_attested_node(node("/agent", &["a:1"])).await.unwrap()),
            1 => drop(store.upsert_attested_node(node("/agent", &["a:2"])).await.unwrap()),
            2 => store.set_agent_version(&agent, "1").await.unwrap(),
            3 => {
                let new =
                    NodeUpdate { new_serial_number: Some("2".into()), ..NodeUpdate::default() };
                store.update_node(&agent, new).await.unwrap();
            }
            4 => drop(store.promote_node_serial(&agent, "2").await.unwrap()),
            5 => drop(store.ban_node(&agent).await.unwrap()),
            6 => drop(store.delete_node(&agent).await.unwrap()),
            _ => {
                let old = AttestedNode { expires_at: 1, ..node("/agent", &[]) };
                store.upsert_attested_node(old).await.unwrap();
                revision = touched(&store, &revision).await.2;
                store.prune_nodes(at(10), 0, false).await.unwrap();
            }
        }
        let (_, nodes, next) = touched(&store, &revision).await;
        assert_eq!(nodes, ["/agent"], "step {step}");
        revision = next;
    }
    let token = JoinToken { token: "t".into(), expires_at: 100 };
    store.create_join_token(token, None).await.unwrap();
    store.attest_with_join_token(node("/joined", &[]), "t", at(1)).await.unwrap();
    assert_eq!(touched(&store, &revision).await.1, ["/joined"]);
}

pub async fn cascades_are_told_too(store: AnyStore) {
    let foreign = trust_domain("a.test");
    let federated = |path: &str| NewEntry {
        entry_id: Some(path[1..].to_owned()),
        federates_with: vec![trust_domain("a.test")],
        ..new_entry(path, &["a:1"])
    };
    for mode in [DeleteMode::Dissociate, DeleteMode::Delete] {
        store.create_bundle(&steeple_pki::Bundle::new(foreign.clone())).await.unwrap();
        store.create_or_return_similar(federated("/one")).await.unwrap();
        let update =
            EntryUpdate { federates_with: Some(vec![foreign.clone()]), ..EntryUpdate::default() };
        store.update_entry("one", update).await.unwrap();
        let revision = now(&store).await;
        store.delete_bundle(&foreign, mode).await.unwrap();
        assert_eq!(touched(&store, &revision).await.0, ["one"], "{mode:?}");
    }

    let agent = id("/spire/agent/join_token/t");
    let alias = NewEntry {
        entry_id: Some("alias".into()),
        parent_id: agent.clone(),
        ..new_entry("/alias", &[&format!("spiffe_id:{agent}")])
    };
    let token = JoinToken { token: "t".into(), expires_at: 100 };
    let revision = now(&store).await;
    store.create_join_token(token, Some(alias)).await.unwrap();
    let (entries, _, _) = touched(&store, &revision).await;
    assert_eq!(entries, ["alias"]);
    let joined = AttestedNode {
        attestation_type: "join_token".into(),
        ..node("/spire/agent/join_token/t", &[])
    };
    store.attest_with_join_token(joined, "t", at(1)).await.unwrap();
    let revision = now(&store).await;
    store.delete_node(&agent).await.unwrap();
    let (entries, nodes, _) = touched(&store, &revision).await;
    assert_eq!((entries, nodes), (vec!["alias".to_owned()], vec![agent.path().to_owned()]));
}

pub async fn a_refused_change_is_not_told(store: AnyStore) {
    store.create_entry(new_entry("/w", &["a:1"])).await.unwrap();
    let revision = now(&store).await;
    let missing =
        NewEntry { federates_with: vec![trust_domain("no.test")], ..new_entry("/x", &["a:1"]) };
    store.create_entry(missing).await.unwrap_err();
    store.create_entry(new_entry("/w", &["a:1"])).await.unwrap_err();
    store.create_or_return_similar(new_entry("/w", &["a:1"])).await.unwrap();
    store.delete_entry("nobody").await.unwrap_err();
    store.ban_node(&id("/nobody")).await.unwrap_err();
    let (entries, nodes, _) = touched(&store, &revision).await;
    assert!(entries.is_empty() && nodes.is_empty());
}

pub async fn a_change_is_told_once_with_what_is_true_now(store: AnyStore) {
    let revision = now(&store).await;
    let entry = store.create_entry(new_entry("/w", &["a:1"])).await.unwrap();
    for _ in 0..5 {
        store.update_entry(&entry.entry_id, EntryUpdate::default()).await.unwrap();
    }
    let Since::Changes(changes) = store.changes_since(&revision).await.unwrap() else { panic!() };
    assert_eq!(changes.entries.len(), 1);
    let stored = store.fetch_entry(&entry.entry_id).await.unwrap();
    assert_eq!(changes.entries[0].entry, stored);
    assert!(!changes.is_empty());
    let Since::Changes(none) = store.changes_since(&changes.revision).await.unwrap() else {
        panic!()
    };
    assert!(none.is_empty());
}

fn in_an_hour() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

pub async fn events_are_pruned_without_harm_to_those_who_read_them(store: AnyStore) {
    for number in 0..5 {
        store.create_entry(new_entry(&format!("/{number}"), &["a:1"])).await.unwrap();
    }
    assert_eq!(store.prune_events(at(1000)).await.unwrap(), 0, "none is that old");
    let revision = now(&store).await;
    assert!(store.prune_events(in_an_hour()).await.unwrap() >= 4);
    let entry = store.create_entry(new_entry("/new", &["a:1"])).await.unwrap();
    assert_eq!(touched(&store, &revision).await.0, [entry.entry_id]);
}

pub async fn those_who_did_not_read_pruned_events_are_told_to_start_afresh(store: AnyStore) {
    let revision = now(&store).await;
    for number in 0..5 {
        store.create_entry(new_entry(&format!("/{number}"), &["a:1"])).await.unwrap();
    }
    store.prune_events(in_an_hour()).await.unwrap();
    let answer = store.changes_since(&revision).await.unwrap();
    assert!(matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Pruned)), "{answer:?}");
    let Snapshot { revision, entries, .. } = store.snapshot().await.unwrap();
    assert_eq!(entries.len(), 5);
    assert!(touched(&store, &revision).await.0.is_empty(), "and then all is well");
}

pub async fn a_revision_of_another_database_is_recognised(store: AnyStore) {
    // As if this database had been restored from a copy that is older than the revision.
    let entry = store.create_entry(new_entry("/w", &["a:1"])).await.unwrap();
    let mut ahead = now(&store).await;
    ahead.entries.id += 5;
    let answer = store.changes_since(&ahead).await.unwrap();
    assert!(matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Replaced)), "{answer:?}");
    // As if it had been restored and then written to until the ids were the same again.
    let mut other = now(&store).await;
    other.entries.mark.push('x');
    store.update_entry(&entry.entry_id, EntryUpdate::default()).await.unwrap();
    let answer = store.changes_since(&other).await.unwrap();
    assert!(matches!(answer, Since::ResnapshotNeeded(ResnapshotReason::Replaced)), "{answer:?}");
}

pub async fn local_commits_wake_readers(store: AnyStore) {
    let mut wakeups = store.wakeups();
    let bundles = store.bundle_wakeups();
    assert!(!wakeups.has_changed().unwrap());
    store.create_entry(new_entry("/w", &["a:1"])).await.unwrap();
    assert!(wakeups.has_changed().unwrap());
    wakeups.mark_unchanged();
    store.create_entry(new_entry("/w", &["a:1"])).await.unwrap_err();
    assert!(!bundles.has_changed().unwrap());
    store.append_bundle(&steeple_pki::Bundle::new(trust_domain("a.test"))).await.unwrap();
    assert!(!wakeups.has_changed().unwrap(), "nobody waits for bundles or refusals here");
    assert!(bundles.has_changed().unwrap());
}

/// What a reader knows who started from a snapshot and followed the changes.
#[derive(Default)]
struct Follower {
    entries: BTreeMap<String, Entry>,
}

impl Follower {
    async fn follow(&mut self, store: &AnyStore, revision: &mut Revision) {
        match store.changes_since(revision).await.unwrap() {
            Since::Changes(changes) => {
                for change in changes.entries {
                    match change.entry {
                        Some(entry) => drop(self.entries.insert(change.entry_id, entry)),
                        None => drop(self.entries.remove(&change.entry_id)),
                    }
                }
                *revision = changes.revision;
            }
            Since::ResnapshotNeeded(reason) => panic!("no reason to start afresh: {reason}"),
        }
    }
}

pub async fn nothing_is_skipped_under_concurrent_writers(store: AnyStore) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 15;
    // Of an empty table nobody can say whether what comes before its first event was pruned or is
    // yet to be committed.
    let first = store.create_entry(new_entry("/first", &["a:1"])).await.unwrap();
    let mut revision = now(&store).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = AnyStore::clone(&store);
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let path = format!("/{writer}/{round}");
                    let entry = store.create_entry(new_entry(&path, &["a:1"])).await.unwrap();
                    match round % 3 {
                        0 => drop(store.delete_entry(&entry.entry_id).await.unwrap()),
                        1 => {
                            let hint = EntryUpdate { hint: Some(path), ..EntryUpdate::default() };
                            store.update_entry(&entry.entry_id, hint).await.unwrap();
                        }
                        _ => {
                            // A transaction that takes an event id and is rolled back.
                            let twice = new_entry("/twice", &["a:1", "a:1"]);
                            store.create_entry(twice).await.unwrap_err();
                        }
                    }
                }
            })
        })
        .collect();
    let mut follower = Follower::default();
    follower.entries.insert(first.entry_id.clone(), first);
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        follower.follow(&store, &mut revision).await;
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    follower.follow(&store, &mut revision).await;
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(revision, snapshot.revision);
    let expected: BTreeMap<_, _> =
        snapshot.entries.into_iter().map(|entry| (entry.entry_id.clone(), entry)).collect();
    assert_eq!(follower.entries.keys().collect::<BTreeSet<_>>(), expected.keys().collect());
    assert_eq!(follower.entries, expected);
    assert_eq!(expected.len(), 1 + WRITERS * ROUNDS / 3 * 2);
}
