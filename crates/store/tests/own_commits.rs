//! What a store on SQLite tells from memory of its own commits is what reading them back says.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::{
    AttestedNode, JoinToken, Mark, NewEntry, OwnChange, Revision, Since, Store, StoreConfig, open,
};

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn agent(path: &str, serial: usize) -> AttestedNode {
    let selector = |value: &str| Selector::new("kind", value);
    AttestedNode {
        spiffe_id: id(path),
        attestation_type: "join_token".into(),
        serial_number: format!("{serial}"),
        expires_at: 2_000_000_000 + i64::try_from(serial).unwrap(),
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: serial.is_multiple_of(2),
        selectors: vec![selector("b"), selector("a"), selector("b"), selector("é'\"\0x")],
        agent_version: format!("v{serial}"),
    }
}

/// Who keeps all agents in mind, as the index does: by own commits, and by reading where those do
/// not say all.
struct Follower {
    store: Arc<dyn Store>,
    agents: BTreeMap<String, AttestedNode>,
    revision: Revision,
    mark: Option<Mark>,
}

impl Follower {
    async fn new(store: &Arc<dyn Store>) -> Self {
        let (store, mark) = (Arc::clone(store), store.mark());
        let snapshot = store.snapshot().await.unwrap();
        let agents = snapshot.nodes.into_iter().map(|it| (it.spiffe_id.to_string(), it)).collect();
        Self { store, agents, revision: snapshot.revision, mark }
    }

    /// Takes over what was committed, and answers whether that took no reading.
    fn take_own(&mut self) -> bool {
        while self.mark != self.store.mark() {
            let Some(own) = self.store.own_commits(&self.revision, self.mark.unwrap()) else {
                return false;
            };
            for change in own.agents {
                match change {
                    OwnChange::Agent(node) => {
                        self.agents.insert(node.spiffe_id.to_string(), node);
                    }
                    OwnChange::Renewed { spiffe_id, serial_number, expires_at } => {
                        let node = self.agents.get_mut(spiffe_id.as_str()).unwrap();
                        (node.new_serial_number, node.new_expires_at) = (serial_number, expires_at);
                    }
                }
            }
            (self.revision, self.mark) = (own.revision, Some(own.mark));
        }
        true
    }

    async fn read(&mut self) {
        self.mark = self.store.mark();
        match self.store.changes_since(&self.revision).await.unwrap() {
            Since::Changes(changes) => {
                for change in changes.nodes {
                    let id = change.spiffe_id.to_string();
                    match change.node {
                        Some(node) => self.agents.insert(id, node),
                        None => self.agents.remove(&id),
                    };
                }
                self.revision = changes.revision;
            }
            Since::ResnapshotNeeded(_) => *self = Self::new(&self.store).await,
        }
    }

    /// That what is kept in mind is what there is, and that the feed goes on from there.
    async fn agrees(&self, after: &str) {
        let there = self.store.snapshot().await.unwrap();
        let kept: Vec<_> = self.agents.values().cloned().collect();
        let mut nodes = there.nodes;
        nodes.sort_unstable_by(|a, b| a.spiffe_id.as_str().cmp(b.spiffe_id.as_str()));
        assert_eq!(kept, nodes, "{after}");
        assert_eq!(self.revision, there.revision, "{after}");
        match self.store.changes_since(&self.revision).await.unwrap() {
            Since::Changes(changes) => assert!(changes.is_empty(), "{after}: {changes:?}"),
            Since::ResnapshotNeeded(reason) => panic!("{after}: {reason}"),
        }
    }
}

struct Fixture {
    directory: tempfile::TempDir,
    now: SystemTime,
}

impl Fixture {
    fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        Self { directory: tempfile::tempdir().unwrap(), now }
    }

    async fn open(&self) -> Arc<dyn Store> {
        let path = self.directory.path().join("datastore.sqlite3");
        open(&StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0")).await.unwrap()
    }

    /// Does the one or the other thing with an agent, which may be refused, and says what.
    async fn disturb(&self, store: &dyn Store, step: usize, dice: usize) -> String {
        let path = format!("/agent/{}", dice % 4);
        let (agent, token) = (agent(&path, step), format!("t{step}"));
        let spiffe_id = agent.spiffe_id.clone();
        let serial = step.to_string();
        let expires_at = i64::try_from(step).unwrap() + 5000;
        let done = match dice / 4 % 10 {
            0 => store.upsert_attested_node(agent).await.is_ok(),
            1 => store.insert_attested_node(agent).await.is_ok(),
            2 => {
                let spent = JoinToken { token: token.clone(), expires_at: 2000 };
                store.create_join_token(spent, None).await.unwrap();
                store.attest_with_join_token(agent, &token, self.now).await.is_ok()
            }
            3 => store.renew_node(&spiffe_id, &serial, expires_at).await.is_ok(),
            4 => {
                let (one, two) = tokio::join!(
                    store.renew_node(&spiffe_id, &serial, expires_at),
                    store.upsert_attested_node(agent),
                );
                one.is_ok() & two.is_ok()
            }
            5 => {
                let known = store.fetch_node(&spiffe_id).await.unwrap();
                let next = known.map(|node| node.new_serial_number).unwrap_or_default();
                store.promote_node_serial(&spiffe_id, &next).await.is_ok()
            }
            6 => store.set_agent_version(&spiffe_id, &serial).await.is_ok(),
            7 => store.ban_node(&spiffe_id).await.is_ok(),
            8 => store.delete_node(&spiffe_id).await.is_ok(),
            _ => {
                let selectors = vec![Selector::new("a", "b")];
                let entry = NewEntry::new(id(&format!("/{step}")), spiffe_id, selectors);
                store.create_entry(entry).await.is_ok()
            }
        };
        format!("step {step}: {} of {path}, done: {done}", dice / 4 % 10)
    }
}

#[tokio::test]
async fn what_a_server_does_to_agents_is_known_without_reading() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let mut follower = Follower::new(&store).await;
    // All but what deletes an agent and what touches entries.
    for step in 0..64 {
        let what = fixture.disturb(&*store, step, step % 32).await;
        assert!(follower.take_own(), "{what}");
        follower.agrees(&what).await;
    }
    for token in ["one", "two"] {
        let token = JoinToken { token: token.into(), expires_at: 500 };
        store.create_join_token(token, None).await.unwrap();
    }
    assert_eq!(store.prune_join_tokens(fixture.now).await, Ok(2));
    assert!(follower.take_own(), "what touches nobody leaves all as it was");
    follower.agrees("tokens").await;
    store.close().await;
}

#[tokio::test]
async fn many_at_once_are_known_without_reading() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let mut follower = Follower::new(&store).await;
    for round in 0..3 {
        let work: Vec<_> = (0..100)
            .map(|number| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    let agent = agent(&format!("/agent/{number}"), round * 100 + number);
                    let spiffe_id = agent.spiffe_id.clone();
                    match number % 3 {
                        0 => drop(store.renew_node(&spiffe_id, "next", 9000).await),
                        1 => drop(store.upsert_attested_node(agent).await.unwrap()),
                        _ => drop(store.insert_attested_node(agent).await),
                    }
                })
            })
            .collect();
        for work in work {
            work.await.unwrap();
        }
        assert!(follower.take_own());
        follower.agrees("all").await;
    }
    assert_eq!(follower.agents.len(), 66);
    store.close().await;
}

#[tokio::test]
async fn whatever_others_do_between_is_missed_by_nobody() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.open().await, fixture.open().await);
    let mut follower = Follower::new(&one).await;
    let mut dice = 7_usize;
    let (mut known, mut read) = (0, 0);
    for step in 0..400 {
        // The low bits of such a generator are poor.
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let thrown = dice >> 33;
        let store = if thrown.is_multiple_of(5) { &other } else { &one };
        let what = fixture.disturb(&**store, step, thrown / 8).await;
        if (thrown / 1024).is_multiple_of(3) {
            continue;
        }
        if follower.take_own() {
            known += 1;
        } else {
            follower.read().await;
            read += 1;
        }
        follower.agrees(&what).await;
    }
    assert!(known > 20 && read > 20, "{known} times known, {read} times read");
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_database_in_memory_is_always_read() {
    let store = open(&StoreConfig::sqlite(":memory:", "1.15.0")).await.unwrap();
    assert_eq!(store.mark(), None);
    store.upsert_attested_node(agent("/a", 1)).await.unwrap();
    store.close().await;
}
