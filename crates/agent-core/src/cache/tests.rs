use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use proptest::prelude::*;
use steeple_spiffe::Selector;

use super::*;
use crate::entry::tests::entry;
use crate::testing::{HOUR, NOON, bundle, run, svid};

fn cache() -> Arc<IdentityCache> {
    IdentityCache::new(bundle("example.org", 1), 1000)
}

fn bundles(more: &[(&str, u64)]) -> Bundles {
    [("example.org", 1)]
        .iter()
        .chain(more)
        .map(|(name, sequence)| bundle(name, *sequence))
        .map(|bundle| (bundle.trust_domain().clone(), bundle))
        .collect()
}

fn selectors(values: &[&str]) -> SelectorSet {
    values.iter().map(|value| Selector::new("unix", value)).collect()
}

fn add(cache: &IdentityCache, entries: Vec<Entry>) -> Applied {
    let delta = EntryDelta { upserted: entries, removed: Vec::new() };
    cache.apply(delta, bundles(&[]), NOON)
}

fn remove(cache: &IdentityCache, id: &str) -> Applied {
    let delta = EntryDelta { upserted: Vec::new(), removed: vec![id.into()] };
    cache.apply(delta, bundles(&[]), NOON)
}

/// Signs all that is wanted at `now`; gives the entry ids in the order asked.
fn sign(cache: &IdentityCache, now: SystemTime) -> Vec<String> {
    let wanted = cache.wanted(500, now);
    let ids = wanted.iter().map(|request| request.entry.id.to_string()).collect();
    let signed = wanted
        .into_iter()
        .map(|request| {
            let svid = svid(request.entry.spiffe_id.as_str(), now + HOUR);
            (request.entry, svid)
        })
        .collect();
    cache.install(signed);
    ids
}

fn served(update: &Update) -> Vec<String> {
    update.identities().map(|identity| identity.entry().id.to_string()).collect()
}

fn is_waiting(future: impl Future) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::pin!(future).poll(&mut context).is_pending()
}

#[test]
fn identities_come_in_the_order_of_entry_ids() {
    let cache = cache();
    add(
        &cache,
        vec![entry("c", &["uid:1"]), entry("a", &["uid:1"]), entry("b", &["gid:1", "uid:1"])],
    );
    sign(&cache, NOON);
    let update = cache.snapshot(&selectors(&["uid:1", "gid:1", "path:/x"]));
    assert_eq!(served(&update), ["a", "b", "c"]);
    assert_eq!(served(&cache.snapshot(&selectors(&["uid:1"]))), ["a", "c"]);
    assert!(!cache.snapshot(&selectors(&["gid:1"])).has_identity());
}

#[tokio::test(start_paused = true)]
async fn a_stream_starts_once_every_matching_entry_has_its_svid() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"])]);
    sign(&cache, NOON);
    add(&cache, vec![entry("b", &["uid:1"])]);
    let mut stream = cache.subscribe(selectors(&["uid:1"]), NOON);
    let early = tokio::time::timeout(PATIENCE / 2, stream.ready()).await;
    assert!(early.is_err());
    assert_eq!(sign(&cache, NOON), ["b"]);
    assert_eq!(served(&*stream.ready().await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_no_server_signs_for_takes_nothing_from_the_others() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"])]);
    sign(&cache, NOON);
    add(&cache, vec![entry("b", &["uid:1"]), entry("c", &["gid:1"])]);
    let mut stream = cache.subscribe(selectors(&["uid:1"]), NOON);
    let early = tokio::time::timeout(10 * PATIENCE, stream.ready()).await;
    assert!(early.is_err(), "while nothing failed, all are worth waiting for");
    cache.attempted(false);
    let before = tokio::time::Instant::now();
    assert_eq!(served(&*stream.ready().await), ["a"]);
    assert_eq!(before.elapsed(), PATIENCE);
    assert_eq!(sign(&cache, NOON), ["b", "c"]);
    assert_eq!(served(&*stream.changed().await), ["a", "b"]);
    // Who has nothing yet has nothing to begin with.
    add(&cache, vec![entry("d", &["pid:1"])]);
    let mut stream = cache.subscribe(selectors(&["pid:1"]), NOON);
    assert!(tokio::time::timeout(10 * PATIENCE, stream.ready()).await.is_err());
}

#[test]
fn callers_without_entries_are_answered_at_once() {
    let cache = cache();
    let mut stream = cache.subscribe(selectors(&["uid:9"]), NOON);
    assert!(!run(stream.ready()).has_identity());
    let mut unknown = cache.subscribe(selectors(&[]), NOON);
    assert!(run(unknown.ready()).is_complete());
}

#[test]
fn a_change_wakes_exactly_the_groups_it_touches() {
    let cache = cache();
    let _one = cache.subscribe(selectors(&["uid:1"]), NOON);
    let _two = cache.subscribe(selectors(&["uid:2"]), NOON);
    let _both = cache.subscribe(selectors(&["uid:1", "uid:2"]), NOON);
    let mut affected = add(&cache, vec![entry("a", &["uid:1"])]).affected;
    affected.sort();
    assert_eq!(affected, [selectors(&["uid:1"]), selectors(&["uid:1", "uid:2"])]);
    assert_eq!(add(&cache, vec![entry("n", &["uid:3"])]).affected, []);
    assert_eq!(remove(&cache, "a").affected.len(), 2);
}

#[test]
fn deleting_an_entry_takes_its_identity_from_open_streams() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"]), entry("b", &["uid:1"])]);
    sign(&cache, NOON);
    let mut stream = cache.subscribe(selectors(&["uid:1"]), NOON);
    assert_eq!(served(&stream.current()), ["a", "b"]);
    remove(&cache, "a");
    assert_eq!(served(&run(stream.changed())), ["b"]);
    remove(&cache, "b");
    assert!(!run(stream.changed()).has_identity());
    assert_eq!((cache.count_entries(), cache.count_x509_svids()), (0, 0));
}

#[test]
fn an_entry_that_changes_selectors_leaves_one_group_for_another() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"])]);
    sign(&cache, NOON);
    let mut left = cache.subscribe(selectors(&["uid:1"]), NOON);
    let mut joined = cache.subscribe(selectors(&["uid:2"]), NOON);
    add(&cache, vec![Entry { revision: 1, ..entry("a", &["uid:2"]) }]);
    assert!(!run(left.changed()).has_identity());
    assert_eq!(served(&run(joined.changed())), ["a"]);
    assert_eq!(sign(&cache, NOON), ["a"], "a changed entry is signed anew");
}

#[test]
fn groups_with_the_same_entries_share_one_update() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"])]);
    let mut one = cache.subscribe(selectors(&["uid:1", "pid:1"]), NOON);
    let mut two = cache.subscribe(selectors(&["uid:1", "pid:2"]), NOON);
    assert!(Arc::ptr_eq(&one.current(), &two.current()));
    sign(&cache, NOON);
    assert!(Arc::ptr_eq(&one.current(), &two.current()));
    let mut late = cache.subscribe(selectors(&["uid:1", "pid:3"]), NOON);
    assert!(Arc::ptr_eq(&one.current(), &late.current()));
    let frame = one.current().x509_svids().bytes();
    assert_eq!(frame.as_ptr(), late.current().x509_svids().bytes().as_ptr());
}

#[test]
fn a_renewed_svid_replaces_the_message_and_an_unrelated_entry_does_not() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"])]);
    sign(&cache, NOON);
    let mut stream = cache.subscribe(selectors(&["uid:1"]), NOON);
    let first = stream.current();
    add(&cache, vec![entry("z", &["uid:7"])]);
    assert!(is_waiting(stream.changed()));
    assert_eq!(sign(&cache, NOON + HOUR * 3 / 4), ["a", "z"]);
    assert!(!run(stream.changed()).x509_svids().same(first.x509_svids()));
}

#[test]
fn svids_are_renewed_when_due_and_withdrawn_when_over() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"])]);
    sign(&cache, NOON);
    assert_eq!(cache.next_deadline(), Some(NOON + HOUR / 2));
    assert!(cache.wanted(500, NOON + HOUR / 2 - Duration::from_secs(1)).is_empty());
    assert_eq!(cache.wanted(500, NOON + HOUR / 2).len(), 1);
    assert_eq!(cache.expire(NOON + HOUR - Duration::from_secs(1)), 0);
    assert_eq!(cache.expire(NOON + HOUR), 1);
    let mut late = cache.subscribe(selectors(&["uid:1"]), NOON);
    assert!(is_waiting(late.ready()), "an expired SVID is not served");
    sign(&cache, NOON + HOUR);
    assert_eq!(served(&run(late.ready())), ["a"]);
}

#[test]
fn a_stream_whose_only_svid_expires_in_an_outage_waits_for_the_next() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"])]);
    sign(&cache, NOON);
    let mut stream = cache.subscribe(selectors(&["uid:1"]), NOON);
    stream.current();
    cache.expire(NOON + HOUR);
    assert!(is_waiting(stream.changed()));
    sign(&cache, NOON + HOUR);
    assert_eq!(served(&run(stream.changed())), ["a"]);
}

#[test]
fn the_refused_do_not_hold_up_the_rest() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"]), entry("b", &["uid:1"])]);
    cache.refused(&["a".into()], NOON);
    let ids = |now| -> Vec<_> {
        cache.wanted(500, now).into_iter().map(|request| request.entry.id.to_string()).collect()
    };
    assert_eq!(ids(NOON), ["b"]);
    let mut later = ids(NOON + Duration::from_millis(500));
    later.sort();
    assert_eq!(later, ["a", "b"]);
    cache.refused(&["a".into()], NOON);
    assert_eq!(ids(NOON + Duration::from_millis(999)), ["b"]);
}

#[test]
fn waiting_callers_are_signed_for_first() {
    let cache = cache();
    add(&cache, (0..20).map(|n| entry(&format!("e{n:02}"), &[&format!("uid:{n}")])).collect());
    let _stream = cache.subscribe(selectors(&["uid:17"]), NOON);
    let first = cache.wanted(1, NOON);
    assert_eq!(&*first[0].entry.id, "e17");
}

#[test]
fn without_prefetch_an_svid_is_minted_once_somebody_asks() {
    let cache = cache();
    add(&cache, vec![Entry { disable_x509_svid_prefetch: true, ..entry("a", &["uid:1"]) }]);
    assert!(cache.wanted(500, NOON).is_empty());
    let _stream = cache.subscribe(selectors(&["uid:1"]), NOON);
    assert_eq!(cache.wanted(500, NOON).len(), 1);
}

#[test]
fn the_limit_stops_prefetching_but_denies_nobody() {
    let cache = IdentityCache::new(bundle("example.org", 1), 2);
    add(&cache, (0..4).map(|n| entry(&format!("e{n}"), &[&format!("uid:{n}")])).collect());
    assert_eq!(sign(&cache, NOON).len(), 2);
    let streams: Vec<_> = (0..4)
        .map(|n| cache.subscribe(selectors(&[&format!("uid:{n}")]), NOON + Duration::from_secs(n)))
        .collect();
    assert_eq!(sign(&cache, NOON).len(), 2);
    assert_eq!(cache.count_x509_svids(), 4);
    drop(streams);
    add(&cache, Vec::new());
    assert_eq!(cache.count_x509_svids(), 2);
    assert!(cache.snapshot(&selectors(&["uid:3"])).has_identity(), "the last used stay");
    assert!(!cache.snapshot(&selectors(&["uid:0"])).has_identity());
}

#[test]
fn only_the_oldest_entry_with_a_hint_is_served() {
    let cache = cache();
    let hinted =
        |id: &str, created_at| Entry { hint: "db".into(), created_at, ..entry(id, &["uid:1"]) };
    add(&cache, vec![hinted("a", 20), hinted("b", 10), entry("c", &["uid:1"])]);
    sign(&cache, NOON);
    assert_eq!(served(&cache.snapshot(&selectors(&["uid:1"]))), ["b", "c"]);
}

#[test]
fn federated_bundles_reach_the_entries_that_name_them() {
    let cache = cache();
    let other = steeple_spiffe::TrustDomain::parse("other.org").unwrap();
    let federated = Entry { federates_with: vec![other.clone()], ..entry("a", &["uid:1"]) };
    add(&cache, vec![federated, entry("b", &["uid:2"])]);
    sign(&cache, NOON);
    let mut near = cache.subscribe(selectors(&["uid:1"]), NOON);
    let mut far = cache.subscribe(selectors(&["uid:2"]), NOON);
    let names = |update: &Update| -> Vec<String> {
        update.visible_bundles().map(|bundle| bundle.trust_domain().to_string()).collect()
    };
    assert_eq!(names(&near.current()), ["example.org"]);
    let applied = cache.apply(EntryDelta::default(), bundles(&[("other.org", 1)]), NOON);
    assert_eq!(applied.affected, [selectors(&["uid:1"])]);
    assert_eq!(names(&run(near.changed())), ["example.org", "other.org"]);
    assert!(is_waiting(far.changed()));
    let unchanged = cache.apply(EntryDelta::default(), bundles(&[("other.org", 1)]), NOON);
    assert_eq!(unchanged, Applied::default());
    cache.apply(EntryDelta::default(), bundles(&[]), NOON);
    assert_eq!(names(&run(near.changed())), ["example.org"]);
}

#[test]
fn the_own_bundle_reaches_everybody_and_never_leaves() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"])]);
    sign(&cache, NOON);
    let _one = cache.subscribe(selectors(&["uid:1"]), NOON);
    let _none = cache.subscribe(selectors(&["uid:9"]), NOON);
    assert_eq!(cache.apply(EntryDelta::default(), Bundles::new(), NOON), Applied::default());
    let newer = bundle("example.org", 2);
    let newer = Bundles::from([(newer.trust_domain().clone(), newer)]);
    assert_eq!(cache.apply(EntryDelta::default(), newer, NOON).affected.len(), 2);
    assert_eq!(cache.own_bundle().bundle().sequence_number, 2);
}

#[tokio::test(start_paused = true)]
async fn discarded_svids_are_signed_anew_while_streams_keep_what_they_have() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"]), entry("b", &["uid:1"])]);
    sign(&cache, NOON);
    let mut stream = cache.subscribe(selectors(&["uid:1"]), NOON);
    stream.current();
    let all = cache.signed_entries();
    assert_eq!(cache.discard(&all, |identity| &*identity.entry().id == "a"), 1);
    assert!(is_waiting(stream.changed()));
    let mut late = cache.subscribe(selectors(&["uid:1"]), NOON);
    let early = tokio::time::timeout(PATIENCE / 2, late.ready()).await;
    assert!(early.is_err(), "newcomers wait for the new SVID");
    assert_eq!(sign(&cache, NOON), ["a"]);
    assert_eq!(served(&run(stream.changed())), ["a", "b"]);
}

#[test]
fn the_last_stream_of_a_group_takes_the_group_along() {
    let cache = cache();
    add(&cache, vec![entry("a", &["uid:1"])]);
    let one = cache.subscribe(selectors(&["uid:1"]), NOON);
    let two = cache.subscribe(selectors(&["uid:1"]), NOON);
    drop(one);
    assert_eq!(sign(&cache, NOON), ["a"]);
    drop(two);
    assert_eq!(remove(&cache, "a").affected, []);
}

/// What happens to the cache, as a property test draws it.
#[derive(Debug, Clone)]
enum Step {
    Upsert { id: u8, selectors: BTreeSet<u8>, revision: i64 },
    Remove { id: u8 },
    Subscribe { selectors: BTreeSet<u8> },
    Leave { which: usize },
    Sign,
    Expire,
    Discard,
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = || proptest::collection::btree_set(0u8..4, 1..4);
    prop_oneof![
        (0u8..5, numbers(), 0i64..3).prop_map(|(id, selectors, revision)| Step::Upsert {
            id,
            selectors,
            revision
        }),
        (0u8..5).prop_map(|id| Step::Remove { id }),
        numbers().prop_map(|selectors| Step::Subscribe { selectors }),
        (0usize..8).prop_map(|which| Step::Leave { which }),
        Just(Step::Sign),
        Just(Step::Expire),
        Just(Step::Discard),
    ]
}

proptest! {
    /// After any history, every open stream shows exactly the identities of
    /// the entries that match its selectors, and a rebuilt cache agrees.
    #[test]
    fn streams_always_show_what_a_fresh_cache_would(steps in proptest::collection::vec(step(), 1..40)) {
        let cache = cache();
        let mut model: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
        let mut open: HashMap<usize, (BTreeSet<u8>, Subscription)> = HashMap::new();
        let names = |numbers: &BTreeSet<u8>| numbers.iter().map(|n| format!("uid:{n}")).collect::<Vec<_>>();
        let set = |numbers: &BTreeSet<u8>| {
            selectors(&names(numbers).iter().map(String::as_str).collect::<Vec<_>>())
        };
        let mut asked = BTreeSet::new();
        for (position, step) in steps.into_iter().enumerate() {
            match step {
                Step::Upsert { id, selectors: wanted, revision } => {
                    let texts = names(&wanted);
                    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                    add(&cache, vec![Entry { revision, ..entry(&format!("e{id}"), &texts) }]);
                    model.insert(id, wanted);
                }
                Step::Remove { id } => {
                    remove(&cache, &format!("e{id}"));
                    model.remove(&id);
                }
                Step::Subscribe { selectors } => {
                    asked.insert(selectors.clone());
                    let stream = cache.subscribe(set(&selectors), NOON);
                    open.insert(position, (selectors, stream));
                }
                Step::Leave { which } => {
                    let key = open.keys().copied().nth(which);
                    key.and_then(|key| open.remove(&key));
                }
                Step::Sign => {
                    sign(&cache, NOON);
                }
                Step::Expire => {
                    cache.expire(NOON + HOUR);
                }
                Step::Discard => {
                    cache.discard(&cache.signed_entries(), |_| true);
                }
            }
            // What is remembered is what would be found.
            for caller in &asked {
                let caller = set(caller);
                let matching = cache.matching(&caller);
                let remembered = (cache.snapshot(&caller), cache.snapshot(&caller));
                let found = cache.lock().find(&caller);
                prop_assert_eq!(served(&remembered.0), served(&found));
                prop_assert!(remembered.0.x509_svids().same(found.x509_svids()));
                prop_assert_eq!(remembered.0.is_complete(), found.is_complete());
                prop_assert!(Arc::ptr_eq(&remembered.0, &remembered.1));
                prop_assert_eq!(matching, cache.matching(&caller));
            }
        }
        sign(&cache, NOON);
        for (caller, stream) in open.values_mut() {
            let expected: Vec<String> = model
                .iter()
                .filter(|(_, wanted)| wanted.is_subset(caller))
                .map(|(id, _)| format!("e{id}"))
                .collect();
            let update = stream.current();
            prop_assert!(update.is_complete());
            prop_assert_eq!(served(&update), expected);
        }
        open.clear();
        prop_assert_eq!(cache.count_entries(), model.len());
        prop_assert!(cache.lock().is_without_groups());
    }
}

#[test]
fn an_svid_that_ended_in_an_outage_does_not_keep_newcomers_from_the_rest() {
    let cache = IdentityCache::new(bundle("example.org", 1), 100);
    let entries = ["long", "short"].map(|id| entry(id, &["uid:1"]));
    let delta = EntryDelta { upserted: entries.to_vec(), removed: Vec::new() };
    cache.apply(delta, Bundles::new(), NOON);
    let signed = |entry: &Entry, lifetime| {
        (Arc::new(entry.clone()), svid(entry.spiffe_id.as_str(), NOON + lifetime))
    };
    cache.install(vec![signed(&entries[0], HOUR), signed(&entries[1], HOUR / 4)]);
    let selectors: SelectorSet = [Selector::new("unix", "uid:1")].into_iter().collect();
    let ids = |update: &Update| {
        update.identities().map(|it| it.entry().id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(cache.expire(NOON + HOUR / 2), 1);
    let update = cache.subscribe(selectors.clone(), NOON + HOUR / 2).current();
    assert!(update.is_complete());
    assert_eq!(ids(&update), ["long"]);
    // With nothing left there is nothing to say yet.
    cache.expire(NOON + 2 * HOUR);
    let update = cache.subscribe(selectors, NOON + 2 * HOUR).current();
    assert!(!update.is_complete() && !update.has_identity());
}
