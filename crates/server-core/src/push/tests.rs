//! The task and the streams, over a real datastore.

use std::path::Path;
use std::time::SystemTime;

use steeple_runtime::{Drain, SystemClock, Tasks, drain};
use steeple_spiffe::Selector;
use steeple_store::StoreConfig;
use steeple_store::model::{AttestedNode, NewEntry};

use super::*;
use crate::access::{Caller, Gatekeeper, PeerSvid, Permit, Rule, Trust};
use crate::index::IndexPeriods;

fn home() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn agent_id(number: usize) -> SpiffeId {
    SpiffeId::from_path(&home(), &format!("/spire/agent/{number}")).unwrap()
}

struct Fixture {
    store: Arc<dyn Store>,
    push: Push,
    gatekeeper: Gatekeeper,
    trigger: Drain,
    _tasks: Tasks,
    _folder: tempfile::TempDir,
}

async fn open(folder: &Path) -> Arc<dyn Store> {
    let file = folder.join("datastore.sqlite3");
    steeple_store::open(&StoreConfig::sqlite(file.to_str().unwrap(), "1.15.0")).await.unwrap()
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let periods = IndexPeriods {
            poll: Duration::from_millis(100),
            reload: Duration::from_secs(24 * 60 * 60),
        };
        store.set_bundle(&Bundle::new(home())).await.unwrap();
        let (index, following) =
            AuthorizedIndex::load(Arc::clone(&store), Arc::clone(&clock), home(), periods)
                .await
                .unwrap();
        let push = Push::new(index.clone());
        let bundles = Bundles::new(Arc::clone(&store), home());
        let task = PushTask::load(push.clone(), Arc::clone(&store), bundles, clock);
        let task = task.await.unwrap();
        let trust = Trust { max_staleness: Duration::ZERO, outage_grace: Duration::from_secs(600) };
        let gatekeeper = Gatekeeper::new(Arc::clone(&store), index, [], trust);
        let (trigger, watcher) = drain::channel();
        let tasks = Tasks::new();
        tasks.spawn("index", following.run(watcher.clone()));
        tasks.spawn("push", task.run(watcher));
        Self { store, push, gatekeeper, trigger, _tasks: tasks, _folder: folder }
    }

    /// Attests an agent and opens its stream.
    async fn listen(&self, number: usize) -> Listening {
        let id = agent_id(number);
        let serial = number.to_string();
        let expires_at = crate::time::unix_seconds(SystemTime::now()) + 3600;
        let node = AttestedNode {
            spiffe_id: id.clone(),
            attestation_type: "test".into(),
            serial_number: serial.clone(),
            expires_at,
            new_serial_number: String::new(),
            new_expires_at: 0,
            can_reattest: false,
            selectors: vec![Selector::new("t", "all")],
            agent_version: String::new(),
        };
        self.store.upsert_attested_node(node).await.unwrap();
        self.push.index.refresh().await;
        let not_after = SystemTime::now() + Duration::from_secs(3600);
        let svid = PeerSvid { id, serial_number: serial, not_after };
        let caller = Caller::Remote { address: "127.0.0.1:1".parse().unwrap(), svid: Some(svid) };
        let rule = Rule { agent: true, ..Rule::default() };
        let permit = self.gatekeeper.authorize(rule, &caller, SystemTime::now()).await.unwrap();
        let Permit::Agent(caller) = permit else { panic!("{permit:?}") };
        self.push.listen(&caller)
    }

    async fn entry(&self, parent: &SpiffeId, path: &str) -> String {
        let id = SpiffeId::from_path(&home(), path).unwrap();
        let new = NewEntry::new(id, parent.clone(), vec![Selector::new("unix", "uid:1")]);
        self.store.create_entry(new).await.unwrap().entry_id
    }
}

async fn next(listening: &Listening) -> News {
    tokio::time::timeout(Duration::from_secs(20), listening.news()).await.expect("no news came")
}

/// Whether there is nothing to say for a while.
async fn silent(listening: &Listening) -> bool {
    tokio::time::timeout(Duration::from_millis(300), listening.news()).await.is_err()
}

const HELLO: News = News { entries: true, bundles: true, standing: false, end: None };
const ENTRIES: News = News { entries: true, bundles: false, standing: false, end: None };
const BUNDLES: News = News { entries: false, bundles: true, standing: false, end: None };

#[tokio::test(flavor = "multi_thread")]
async fn each_agent_hears_of_its_own_entries_and_everybody_of_the_bundle() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.listen(1).await, fixture.listen(2).await);
    assert_eq!((next(&one).await, next(&two).await), (HELLO, HELLO));
    let entry = fixture.entry(&agent_id(1), "/web").await;
    assert_eq!(next(&one).await, ENTRIES);
    fixture.store.delete_entry(&entry).await.unwrap();
    assert_eq!(next(&one).await, ENTRIES);
    assert!(silent(&two).await);
    let mut bundle = Bundle::new(home());
    bundle.refresh_hint = Duration::from_secs(60);
    fixture.store.set_bundle(&bundle).await.unwrap();
    assert_eq!((next(&one).await, next(&two).await), (BUNDLES, BUNDLES));
    // What is written once more, and the same, is no news.
    fixture.store.set_bundle(&bundle).await.unwrap();
    assert!(silent(&one).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_has_with_its_first_news_is_not_told_again() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.listen(1).await, fixture.listen(2).await);
    next(&one).await;
    next(&two).await;
    let mut touched = Touched::default();
    touched.node(
        &agent_id(1),
        None,
        fixture.store.fetch_node(&agent_id(1)).await.unwrap().as_ref(),
        0,
    );
    let known = fixture.push.state().listeners[agent_id(1).path()].since;
    assert_eq!(fixture.push.on_touched(&touched, known), 0);
    assert!(silent(&one).await);
    assert_eq!(fixture.push.on_touched(&touched, known + 1), 1);
    assert!(next(&one).await.standing);
    assert!(silent(&two).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_and_an_eviction_are_news_of_the_agents_standing() {
    let fixture = Fixture::new().await;
    let (banned, evicted) = (fixture.listen(1).await, fixture.listen(2).await);
    next(&banned).await;
    next(&evicted).await;
    assert_eq!((banned.fault(), evicted.fault()), (None, None));
    fixture.store.ban_node(&agent_id(1)).await.unwrap();
    assert!(next(&banned).await.standing);
    assert_eq!(banned.fault(), Some(AgentFault::Banned));
    fixture.store.delete_node(&agent_id(2)).await.unwrap();
    assert!(next(&evicted).await.standing);
    assert_eq!(evicted.fault(), Some(AgentFault::NotAttested));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_of_an_agent_ends_the_first_and_leaves_nothing_behind() {
    let fixture = Fixture::new().await;
    let first = fixture.listen(1).await;
    let second = fixture.listen(1).await;
    assert_eq!(next(&first).await.end, Some(End::Replaced));
    assert_eq!(fixture.push.listeners(), 1);
    drop(first);
    assert_eq!(fixture.push.listeners(), 1, "the second is still there");
    next(&second).await;
    fixture.entry(&agent_id(1), "/web").await;
    assert_eq!(next(&second).await, ENTRIES);
    drop(second);
    assert_eq!(fixture.push.listeners(), 0);
    assert!(fixture.push.state().interest.everybody().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_that_nobody_reads_are_one_hint() {
    let fixture = Fixture::new().await;
    let listening = fixture.listen(1).await;
    next(&listening).await;
    for number in 0..200 {
        fixture.entry(&agent_id(1), &format!("/{number}")).await;
    }
    fixture.push.index.refresh().await;
    let mut hints = 0;
    while !silent(&listening).await {
        hints += 1;
    }
    assert!(hints <= 2, "{hints} hints");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_told_in_turn_and_whoever_is_touched_alone_at_once() {
    let fixture = Fixture::new().await;
    let mut fleet = Vec::new();
    for number in 0..200 {
        fleet.push(fixture.listen(number).await);
    }
    for listening in &fleet {
        next(listening).await;
    }
    let mut bundle = Bundle::new(home());
    bundle.refresh_hint = Duration::from_secs(61);
    fixture.store.set_bundle(&bundle).await.unwrap();
    for listening in &fleet {
        assert!(next(listening).await.bundles);
    }
    assert!(!fixture.push.has_queue());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_the_server_stops() {
    let fixture = Fixture::new().await;
    let listening = fixture.listen(1).await;
    next(&listening).await;
    assert!(fixture.trigger.drain(Duration::from_secs(10)).await);
    assert_eq!(next(&listening).await.end, Some(End::Closed));
}
