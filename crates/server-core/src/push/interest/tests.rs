use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use steeple_store::model::{AttestedNode, Entry};

use super::*;

const NOON: i64 = 1_800_000_000;
const AGENTS: [&str; 4] =
    ["/spire/agent/a", "/spire/agent/b", "/spire/agent/c", "/spire/agent/deaf"];
const PATHS: [&str; 6] = ["/p0", "/p1", "/p2", "/p3", "/p4", "/p5"];

fn home() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&home(), path).unwrap()
}

fn selectors(bits: u8) -> Vec<Selector> {
    let chosen = (0..4).filter(|bit| bits & (1 << bit) != 0);
    chosen.map(|bit| Selector::new("t", &format!("s{bit}"))).collect()
}

fn entry(entry_id: &str, parent: &str, spiffe: &str, bits: u8, revision: i64) -> Entry {
    Entry {
        entry_id: entry_id.to_owned(),
        spiffe_id: id(spiffe),
        parent_id: id(parent),
        selectors: selectors(bits),
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: Vec::new(),
        revision_number: revision,
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        created_at: 0,
    }
}

fn node(path: &str, bits: u8) -> AttestedNode {
    AttestedNode {
        spiffe_id: id(path),
        attestation_type: "test".to_owned(),
        serial_number: "1".to_owned(),
        expires_at: NOON + 1,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: selectors(bits),
        agent_version: String::new(),
    }
}

#[derive(Clone, Debug)]
enum Change {
    Put { entry_id: u8, parent: usize, spiffe: usize, bits: u8 },
    Drop { entry_id: u8 },
    Attest { agent: usize, bits: u8 },
    Evict { agent: usize },
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..20u8, 0..11usize, 0..6usize, 1..16u8)
            .prop_map(|(entry_id, parent, spiffe, bits)| Change::Put {
                entry_id, parent, spiffe, bits
            }),
        2 => (0..20u8).prop_map(|entry_id| Change::Drop { entry_id }),
        2 => (0..4usize, 0..16u8).prop_map(|(agent, bits)| Change::Attest { agent, bits }),
        1 => (0..4usize).prop_map(|agent| Change::Evict { agent }),
    ]
}

fn parent_path(choice: usize) -> &'static str {
    match choice {
        0..4 => AGENTS[choice],
        4 => SERVER_PATH,
        other => PATHS[other - 5],
    }
}

/// A snapshot, what touched it since, and the agents that may be told without need.
struct World {
    snapshot: Snapshot,
    revision: i64,
}

impl World {
    fn apply(&mut self, change: &Change, touched: &mut Touched, excused: &mut BTreeSet<String>) {
        let next = &mut self.snapshot;
        self.revision += 1;
        let (entry_id, after) = match change {
            Change::Put { entry_id, parent, spiffe, bits } => {
                let key = format!("e{entry_id}");
                let after = entry(&key, parent_path(*parent), PATHS[*spiffe], *bits, self.revision);
                (key, Some(after))
            }
            Change::Drop { entry_id } => (format!("e{entry_id}"), None),
            Change::Attest { agent, .. } | Change::Evict { agent } => {
                let path = AGENTS[*agent];
                let after = match change {
                    Change::Attest { bits, .. } => Some(node(path, *bits)),
                    _ => None,
                };
                let before = next.node(&id(path)).map(Arc::as_ref);
                touched.node(&id(path), before, after.as_ref(), NOON);
                next.put_node(&id(path), after);
                excused.insert(path.to_owned());
                return;
            }
        };
        let before = next.entry(&entry_id).map(EntryRef::to_entry);
        touched.entry(before.as_ref(), after.as_ref());
        for alias in [before.as_ref(), after.as_ref()].into_iter().flatten() {
            if alias.parent_id.path() == SERVER_PATH {
                // Whoever may hold it is told, though it has no children.
                excused.extend(AGENTS.map(str::to_owned));
            }
        }
        next.put_entry(&entry_id, after.as_ref());
    }

    fn authorized(&self, agent: &str) -> BTreeMap<String, i64> {
        let entries = self.snapshot.authorized(&id(agent), NOON);
        let entries = entries.into_iter().map(EntryRef::to_entry);
        entries.map(|entry| (entry.entry_id, entry.revision_number)).collect()
    }
}

fn told(interest: &Interest, snapshot: &Snapshot, touched: &Touched) -> BTreeSet<String> {
    interest.touched(snapshot, touched).iter().map(|path| path.to_string()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whoever_is_authorised_for_something_else_is_told_and_nobody_far_from_it(
        batches in prop::collection::vec(prop::collection::vec(change(), 1..5), 1..25)
    ) {
        let mut world = World { snapshot: Snapshot::empty(home()), revision: 0 };
        let mut interest = Interest::default();
        for agent in &AGENTS[..3] {
            interest.put(&id(agent), &world.snapshot);
        }
        for batch in batches {
            let before: Vec<_> = AGENTS.iter().map(|agent| world.authorized(agent)).collect();
            let (mut touched, mut excused) = (Touched::default(), BTreeSet::new());
            for change in &batch {
                world.apply(change, &mut touched, &mut excused);
            }
            for agent in touched.agents.iter().filter(|path| !path.ends_with("deaf")) {
                interest.put(&id(agent), &world.snapshot);
            }
            let told = told(&interest, &world.snapshot, &touched);
            prop_assert!(!told.contains(AGENTS[3]), "it does not listen");
            for (agent, before) in AGENTS.iter().zip(before).take(3) {
                let differs = world.authorized(agent) != before;
                prop_assert!(!differs || told.contains(*agent), "{agent} was not told");
                let needless = told.contains(*agent) && !differs && !excused.contains(*agent);
                // Something that came and went within a batch is no difference.
                prop_assert!(!needless || batch.len() > 1, "{agent} was told for nothing");
            }
        }
    }
}

#[test]
fn an_entry_touches_its_own_agent_and_no_other() {
    let mut world = World { snapshot: Snapshot::empty(home()), revision: 0 };
    let mut interest = Interest::default();
    for agent in AGENTS {
        interest.put(&id(agent), &world.snapshot);
    }
    let mut touched = Touched::default();
    let change = Change::Put { entry_id: 1, parent: 1, spiffe: 0, bits: 1 };
    world.apply(&change, &mut touched, &mut BTreeSet::new());
    assert_eq!(told(&interest, &world.snapshot, &touched), BTreeSet::from([AGENTS[1].to_owned()]));
    // The same once more, as the feed may tell it: nothing.
    let mut again = Touched::default();
    let row = world.snapshot.entry("e1").unwrap().to_entry();
    again.entry(Some(&row), Some(&row));
    assert!(again.is_empty());
}

#[test]
fn an_alias_and_what_hangs_below_it_touch_its_holders() {
    let mut snapshot = Snapshot::empty(home());
    snapshot.put_node(&id(AGENTS[0]), Some(node(AGENTS[0], 0b0011)));
    snapshot.put_node(&id(AGENTS[1]), Some(node(AGENTS[1], 0b0001)));
    let mut interest = Interest::default();
    interest.put(&id(AGENTS[0]), &snapshot);
    interest.put(&id(AGENTS[1]), &snapshot);
    let alias = entry("alias", SERVER_PATH, "/cluster", 0b0011, 0);
    let mut touched = Touched::default();
    touched.entry(None, Some(&alias));
    snapshot.put_entry("alias", Some(&alias));
    let holder = BTreeSet::from([AGENTS[0].to_owned()]);
    assert_eq!(told(&interest, &snapshot, &touched), holder);
    let deep = entry("deep", "/mid", "/deep", 1, 0);
    let mid = entry("mid", "/cluster", "/mid", 1, 0);
    snapshot.put_entry("mid", Some(&mid));
    let mut touched = Touched::default();
    touched.entry(None, Some(&deep));
    snapshot.put_entry("deep", Some(&deep));
    assert_eq!(told(&interest, &snapshot, &touched), holder);
}

#[test]
fn a_bundle_concerns_those_with_an_entry_that_federates() {
    let other = TrustDomain::parse("other.org").unwrap();
    let mut snapshot = Snapshot::empty(home());
    let mut federated = entry("1", AGENTS[0], "/web", 1, 0);
    federated.federates_with = vec![other.clone()];
    snapshot.put_entry("1", Some(&federated));
    snapshot.put_entry("2", Some(&entry("2", AGENTS[1], "/db", 1, 0)));
    let mut interest = Interest::default();
    interest.put(&id(AGENTS[0]), &snapshot);
    interest.put(&id(AGENTS[1]), &snapshot);
    let found = interest.federating(&snapshot, &HashSet::from([other]));
    assert_eq!(found, HashSet::from([AGENTS[0].into()]));
    let nobody = HashSet::from([TrustDomain::parse("third.org").unwrap()]);
    assert!(interest.federating(&snapshot, &nobody).is_empty());
}

#[test]
fn renewing_an_svid_touches_nobody_and_a_ban_does() {
    let before = node(AGENTS[0], 1);
    let renewed = AttestedNode { new_serial_number: "2".into(), ..before.clone() };
    let banned = AttestedNode { serial_number: String::new(), ..before.clone() };
    let agent = id(AGENTS[0]);
    let mut touched = Touched::default();
    touched.node(&agent, Some(&before), Some(&renewed), NOON);
    assert!(touched.is_empty());
    for after in [Some(&banned), None] {
        let mut touched = Touched::default();
        touched.node(&agent, Some(&before), after, NOON);
        assert!(touched.agents.contains(AGENTS[0]));
    }
}

#[test]
fn among_a_large_fleet_one_agent_is_found() {
    let mut snapshot = Snapshot::empty(home());
    let mut interest = Interest::default();
    for number in 0..5_000 {
        let path = format!("/spire/agent/{number}");
        snapshot.put_node(&id(&path), Some(node(&path, 0b1111)));
        interest.put(&id(&path), &snapshot);
    }
    for number in 0..100_000 {
        let key = format!("{number:06}");
        let parent = format!("/spire/agent/{}", number % 5_000);
        snapshot.put_entry(&key, Some(&entry(&key, &parent, &format!("/w/{number}"), 1, 0)));
    }
    for number in 0..1_000 {
        let parent = format!("/spire/agent/{number}");
        let mut touched = Touched::default();
        touched.entry(None, Some(&entry("new", &parent, "/new", 1, 0)));
        assert_eq!(interest.touched(&snapshot, &touched).len(), 1);
    }
    let mut touched = Touched::default();
    touched.entry(None, Some(&entry("all", SERVER_PATH, "/cluster", 0b1111, 0)));
    assert_eq!(interest.touched(&snapshot, &touched).len(), 5_000);
}
