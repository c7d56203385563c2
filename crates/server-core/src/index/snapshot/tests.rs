use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;

use super::*;
use crate::index::load::loaded;

const NOON: i64 = 1_800_000_000;

fn home() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&home(), path).unwrap()
}

fn entry(entry_id: &str, parent: &str, spiffe: &str, selectors: &[&str]) -> Entry {
    Entry {
        entry_id: entry_id.to_owned(),
        spiffe_id: id(spiffe),
        parent_id: id(parent),
        selectors: selectors.iter().map(|text| Selector::new("t", text)).collect(),
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: Vec::new(),
        revision_number: 0,
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        created_at: 0,
    }
}

fn node(path: &str, selectors: &[&str], expires_at: i64) -> AttestedNode {
    AttestedNode {
        spiffe_id: id(path),
        attestation_type: "test".to_owned(),
        serial_number: "1".to_owned(),
        expires_at,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: selectors.iter().map(|text| Selector::new("t", text)).collect(),
        agent_version: String::new(),
    }
}

fn snapshot(entries: Vec<Entry>, nodes: Vec<AttestedNode>) -> Snapshot {
    let mut snapshot = Snapshot::empty(home());
    for entry in entries {
        let entry_id = entry.entry_id.clone();
        snapshot.put_entry(&entry_id, Some(&entry));
    }
    for node in nodes {
        let agent = node.spiffe_id.clone();
        snapshot.put_node(&agent, Some(node));
    }
    snapshot
}

fn ids_of(snapshot: &Snapshot, agent: &str) -> BTreeSet<String> {
    snapshot.authorized(&id(agent), NOON).iter().map(|entry| entry.entry_id().to_owned()).collect()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[test]
fn an_agent_gets_its_children_and_theirs_and_no_other_agents() {
    let snapshot = snapshot(
        vec![
            entry("web", "/spire/agent/a", "/web", &["x"]),
            entry("below", "/web", "/below", &["x"]),
            entry("other", "/spire/agent/b", "/other", &["x"]),
        ],
        vec![],
    );
    assert_eq!(ids_of(&snapshot, "/spire/agent/a"), set(&["web", "below"]));
    assert_eq!(ids_of(&snapshot, "/spire/agent/b"), set(&["other"]));
    assert_eq!(ids_of(&snapshot, "/spire/agent/c"), set(&[]));
}

#[test]
fn an_alias_brings_its_children_and_is_not_delivered_itself() {
    let snapshot = snapshot(
        vec![
            entry("alias", "/spire/server", "/cluster", &["s1", "s2"]),
            entry("web", "/cluster", "/web", &["x"]),
        ],
        vec![
            node("/spire/agent/whole", &["s1", "s2", "s3"], NOON + 1),
            node("/spire/agent/part", &["s1"], NOON + 1),
            node("/spire/agent/expired", &["s1", "s2"], NOON),
        ],
    );
    assert_eq!(ids_of(&snapshot, "/spire/agent/whole"), set(&["web"]));
    assert_eq!(ids_of(&snapshot, "/spire/agent/part"), set(&[]));
    assert_eq!(ids_of(&snapshot, "/spire/agent/expired"), set(&[]));
    assert_eq!(ids_of(&snapshot, "/spire/agent/unknown"), set(&[]));
}

#[test]
fn what_has_expired_is_gone_before_it_is_pruned() {
    let mut expired = entry("gone", "/spire/agent/a", "/gone", &["x"]);
    expired.expires_at = NOON;
    let mut lasting = entry("lasting", "/spire/agent/a", "/lasting", &["x"]);
    lasting.expires_at = NOON + 1;
    let snapshot =
        snapshot(vec![expired, lasting, entry("below", "/gone", "/below", &["x"])], vec![]);
    assert_eq!(ids_of(&snapshot, "/spire/agent/a"), set(&["lasting"]));
    let asked = HashSet::from(["gone", "lasting", "below"]);
    let found = snapshot.authorized_among(&id("/spire/agent/a"), &asked, NOON);
    assert_eq!(found.into_keys().collect::<Vec<_>>(), ["lasting"]);
}

#[test]
fn a_ring_of_parents_ends() {
    let snapshot = snapshot(
        vec![
            entry("1", "/spire/agent/a", "/x", &["x"]),
            entry("2", "/x", "/y", &["x"]),
            entry("3", "/y", "/x", &["x"]),
        ],
        vec![],
    );
    assert_eq!(ids_of(&snapshot, "/spire/agent/a"), set(&["1", "2", "3"]));
}

#[test]
fn rows_of_another_trust_domain_do_not_exist() {
    let foreign = TrustDomain::parse("other.org").unwrap();
    let mut parent = entry("parent", "/spire/agent/a", "/web", &["x"]);
    parent.parent_id = SpiffeId::from_path(&foreign, "/spire/agent/a").unwrap();
    let mut subject = entry("subject", "/spire/agent/a", "/web", &["x"]);
    subject.spiffe_id = SpiffeId::from_path(&foreign, "/web").unwrap();
    let snapshot = snapshot(vec![parent, subject], vec![]);
    assert_eq!(snapshot.entry_count(), 0);
    let stranger = SpiffeId::from_path(&foreign, "/spire/agent/a").unwrap();
    assert!(snapshot.authorized(&stranger, NOON).is_empty());
}

#[test]
fn privileges_come_from_unexpired_entries_of_the_id() {
    let mut admin = entry("1", "/spire/agent/a", "/ops", &["x"]);
    admin.admin = true;
    let mut downstream = entry("2", "/spire/server", "/ops", &["x"]);
    downstream.downstream = true;
    downstream.expires_at = NOON;
    let mut snapshot = snapshot(vec![admin.clone(), downstream], vec![]);
    let granted = snapshot.privileges(&id("/ops"), NOON);
    assert_eq!(granted, Privileges { admin: true, downstream: false });
    assert_eq!(snapshot.privileges(&id("/web"), NOON), Privileges::default());

    admin.admin = false;
    snapshot.put_entry("1", Some(&admin));
    assert_eq!(snapshot.privileges(&id("/ops"), NOON), Privileges::default());
}

#[test]
fn a_published_snapshot_never_changes() {
    let before = snapshot(vec![entry("1", "/spire/agent/a", "/web", &["x"])], vec![]);
    let mut after = before.clone();
    after.put_entry("1", None);
    after.put_entry("2", Some(&entry("2", "/spire/agent/a", "/new", &["x"])));
    assert_eq!(ids_of(&before, "/spire/agent/a"), set(&["1"]));
    assert_eq!(ids_of(&after, "/spire/agent/a"), set(&["2"]));
}

/// The rules word by word, with no index at all.
fn authorized_naively(
    entries: &BTreeMap<String, Entry>,
    nodes: &BTreeMap<String, AttestedNode>,
    agent: &str,
) -> BTreeSet<String> {
    let live = |entry: &Entry| entry.expires_at == 0 || entry.expires_at > NOON;
    let mut reached: BTreeSet<&str> = BTreeSet::from([agent]);
    if let Some(node) = nodes.get(agent).filter(|node| node.expires_at > NOON) {
        for alias in entries.values() {
            if alias.parent_id.path() == SERVER_PATH
                && live(alias)
                && alias.selectors.iter().all(|selector| node.selectors.contains(selector))
            {
                reached.insert(alias.spiffe_id.path());
            }
        }
    }
    let mut found = BTreeSet::new();
    loop {
        let before = (reached.len(), found.len());
        for entry in entries.values() {
            if entry.parent_id.path() != SERVER_PATH
                && live(entry)
                && reached.contains(entry.parent_id.path())
            {
                found.insert(entry.entry_id.clone());
                reached.insert(entry.spiffe_id.path());
            }
        }
        if before == (reached.len(), found.len()) {
            return found;
        }
    }
}

const AGENTS: [&str; 3] = ["/spire/agent/a", "/spire/agent/b", "/spire/agent/c"];
const PATHS: [&str; 6] = ["/p0", "/p1", "/p2", "/p3", "/p4", "/p5"];
const SELECTORS: [&str; 4] = ["s0", "s1", "s2", "s3"];

#[derive(Clone, Debug)]
enum Change {
    Put { entry_id: u8, parent: usize, spiffe: usize, selectors: u8, expired: bool },
    Drop { entry_id: u8 },
    Attest { agent: usize, selectors: u8, expired: bool },
    Evict { agent: usize },
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..40u8, 0..10usize, 0..6usize, 1..16u8, prop::bool::weighted(0.1)).prop_map(
            |(entry_id, parent, spiffe, selectors, expired)| Change::Put {
                entry_id, parent, spiffe, selectors, expired
            }
        ),
        2 => (0..40u8).prop_map(|entry_id| Change::Drop { entry_id }),
        2 => (0..3usize, 0..16u8, prop::bool::weighted(0.1))
            .prop_map(|(agent, selectors, expired)| Change::Attest { agent, selectors, expired }),
        1 => (0..3usize).prop_map(|agent| Change::Evict { agent }),
    ]
}

fn chosen(bits: u8) -> Vec<&'static str> {
    (0..4).filter(|bit| bits & (1 << bit) != 0).map(|bit| SELECTORS[bit]).collect()
}

fn parent_path(choice: usize) -> &'static str {
    match choice {
        0..3 => AGENTS[choice],
        3 => SERVER_PATH,
        other => PATHS[other - 4],
    }
}

fn expiry(expired: bool) -> i64 {
    if expired { NOON - 5 } else { NOON + 5 }
}

#[test]
fn of_an_id_that_is_read_twice_the_last_counts() {
    let first = entry("1", "/spire/agent/a", "/old", &["x"]);
    let other = entry("2", "/spire/agent/a", "/other", &["x"]);
    let last = entry("1", "/spire/agent/b", "/new", &["x"]);
    let mut index = loaded(home(), &[first.clone(), other, first, last]);
    assert_eq!(index.entry_count(), 2);
    assert_eq!(index.entry("1").unwrap().spiffe_path(), "/new");
    assert_eq!(ids_of(&index, "/spire/agent/a"), set(&["2"]));
    assert_eq!(ids_of(&index, "/spire/agent/b"), set(&["1"]));
    index.put_entry("1", None);
    assert_eq!(ids_of(&index, "/spire/agent/b"), set(&[]));
}

#[test]
fn rights_and_aliases_are_found_after_a_reading_of_all() {
    let mut admin = entry("1", "/spire/agent/a", "/ops", &["x"]);
    admin.admin = true;
    let alias = entry("2", "/spire/server", "/cluster", &["s1", "s2"]);
    let web = entry("3", "/cluster", "/web", &["x"]);
    let mut foreign = entry("4", "/spire/agent/a", "/web", &["x"]);
    foreign.spiffe_id =
        SpiffeId::from_path(&TrustDomain::parse("other.org").unwrap(), "/web").unwrap();
    let mut index = loaded(home(), &[admin, alias, web, foreign]);
    let agent = "/spire/agent/whole";
    index.put_node(&id(agent), Some(node(agent, &["s1", "s2"], NOON + 1)));
    assert_eq!(ids_of(&index, agent), set(&["3"]));
    assert_eq!(index.entry_count(), 3);
    let granted = index.privileges(&id("/ops"), NOON);
    assert_eq!(granted, Privileges { admin: true, downstream: false });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_history_gives_what_the_rules_word_by_word_give(
        changes in prop::collection::vec(change(), 0..120)
    ) {
        let mut index = Snapshot::empty(home());
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        let mut nodes: BTreeMap<String, AttestedNode> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Put { entry_id, parent, spiffe, selectors, expired } => {
                    let key = format!("e{entry_id}");
                    let mut row =
                        entry(&key, parent_path(parent), PATHS[spiffe], &chosen(selectors));
                    row.expires_at = if expired { NOON - 5 } else { 0 };
                    index.put_entry(&key, Some(&row));
                    entries.insert(key, row);
                }
                Change::Drop { entry_id } => {
                    let key = format!("e{entry_id}");
                    index.put_entry(&key, None);
                    entries.remove(&key);
                }
                Change::Attest { agent, selectors, expired } => {
                    let path = AGENTS[agent];
                    let row = node(path, &chosen(selectors), expiry(expired));
                    index.put_node(&id(path), Some(row.clone()));
                    nodes.insert(path.to_owned(), row);
                }
                Change::Evict { agent } => {
                    index.put_node(&id(AGENTS[agent]), None);
                    nodes.remove(AGENTS[agent]);
                }
            }
        }
        let asked: Vec<String> = (0..40).map(|n| format!("e{n}")).collect();
        let asked: HashSet<&str> = asked.iter().map(String::as_str).collect();
        for agent in AGENTS {
            let expected = authorized_naively(&entries, &nodes, agent);
            let listed = index.authorized(&id(agent), NOON);
            prop_assert_eq!(listed.len(), expected.len(), "an entry came twice");
            prop_assert_eq!(ids_of(&index, agent), expected.clone());
            let looked_up: BTreeSet<String> =
                index.authorized_among(&id(agent), &asked, NOON).into_keys().collect();
            prop_assert_eq!(looked_up, expected);
        }
        // What is read at once is what comes one by one.
        let mut read = loaded(home(), &entries.into_values().collect::<Vec<_>>());
        for node in nodes.into_values() {
            read.put_node(&node.spiffe_id.clone(), Some(node));
        }
        for agent in AGENTS {
            prop_assert_eq!(ids_of(&read, agent), ids_of(&index, agent));
        }
        prop_assert_eq!(read.entry_count(), index.entry_count());
    }

    #[test]
    fn a_parent_with_a_great_many_children_keeps_them_sorted(
        numbers in prop::collection::vec(0..2_000u32, 0..1_500),
        removed in prop::collection::vec(0..2_000u32, 0..500),
    ) {
        let mut index = Snapshot::empty(home());
        let mut expected = BTreeSet::new();
        for number in numbers {
            let key = format!("{number:05}");
            index.put_entry(&key, Some(&entry(&key, "/spire/agent/a", "/w", &["x"])));
            expected.insert(key);
        }
        for number in removed {
            let key = format!("{number:05}");
            index.put_entry(&key, None);
            expected.remove(&key);
        }
        let listed = |index: &Snapshot| -> Vec<String> {
            let children = index.authorized(&id("/spire/agent/a"), NOON);
            children.iter().map(|entry| entry.entry_id().to_owned()).collect()
        };
        let expected: Vec<String> = expected.into_iter().collect();
        prop_assert_eq!(listed(&index), expected.clone());
        // And so it does if they are read at once, in any order, and changed then.
        let mut entries: Vec<Entry> =
            expected.iter().map(|key| entry(key, "/spire/agent/a", "/w", &["x"])).collect();
        entries.sort_by_key(|entry| entry.entry_id.bytes().rev().collect::<Vec<u8>>());
        let mut read = loaded(home(), &entries);
        prop_assert_eq!(listed(&read), expected.clone());
        for key in expected.iter().step_by(3) {
            read.put_entry(key, None);
            read.put_entry(key, Some(&entry(key, "/spire/agent/a", "/w", &["y"])));
        }
        prop_assert_eq!(listed(&read), expected);
    }
}
