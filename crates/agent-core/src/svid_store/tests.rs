use steeple_pki::Bundle;
use steeple_spiffe::Selector;
use zeroize::Zeroizing;

use super::*;
use crate::entry::tests::entry;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn bundle(name: &str, refresh: u64) -> Arc<CachedBundle> {
    let mut bundle = Bundle::new(TrustDomain::parse(name).unwrap());
    bundle.refresh_hint = Duration::from_secs(refresh);
    Arc::new(CachedBundle::new(bundle))
}

fn bundles(all: &[Arc<CachedBundle>]) -> Bundles {
    all.iter().map(|it| (it.trust_domain().clone(), it.clone())).collect()
}

fn cache() -> StoreCache {
    StoreCache::new(bundle("example.org", 0))
}

fn stored(id: &str, places: &[&str]) -> Entry {
    Entry {
        store_svid: true,
        selectors: places.iter().map(|it| Selector::new("disk", it)).collect(),
        ..entry(id, &[])
    }
}

fn upsert(cache: &StoreCache, entries: Vec<Entry>) {
    let delta = EntryDelta { upserted: entries, removed: Vec::new() };
    cache.apply(delta, bundles(&[bundle("example.org", 0)]));
}

fn remove(cache: &StoreCache, id: &str) {
    let delta = EntryDelta { upserted: Vec::new(), removed: vec![id.into()] };
    cache.apply(delta, bundles(&[bundle("example.org", 0)]));
}

/// Signs what is wanted, due in an hour.
fn sign(cache: &StoreCache, now: SystemTime) -> usize {
    let wanted = cache.wanted(100, now);
    let signed = wanted.into_iter().map(|request| {
        let due = now + Duration::from_secs(3600);
        let svid = SignedSvid { chain: Vec::new(), key_pkcs8: Zeroizing::new(Vec::new()), due };
        (request.entry, svid)
    });
    let signed: Vec<_> = signed.collect();
    let count = signed.len();
    cache.install(signed);
    count
}

/// Does the jobs as a store that works; gives what it was told.
fn work(cache: &StoreCache) -> Vec<String> {
    let mut told = Vec::new();
    for job in cache.jobs() {
        for entry in &job.clear {
            told.push(format!("delete {}", entry.selectors));
            cache.cleared(&job.id, entry);
        }
        if let Some(put) = &job.put {
            told.push(format!("put {}", put.entry.selectors));
            cache.stored(&job.id, put, job.revision);
        }
    }
    told
}

#[test]
fn an_entry_is_stored_once_its_svid_is_there_and_then_left_alone() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    assert!(work(&cache).is_empty(), "there is no SVID yet");
    assert_eq!(sign(&cache, NOW), 1);
    assert_eq!(work(&cache), ["put disk:dir:a"]);
    assert!(work(&cache).is_empty());
    assert_eq!(sign(&cache, NOW), 0);
    assert_eq!(cache.count(), 1);
}

#[test]
fn a_failed_attempt_is_made_again() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    sign(&cache, NOW);
    assert_eq!(cache.jobs().len(), 1);
    assert_eq!(work(&cache), ["put disk:dir:a"], "nobody said that it worked the first time");
}

#[test]
fn an_svid_is_renewed_when_it_is_due_and_stored_again() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    sign(&cache, NOW);
    work(&cache);
    let due = NOW + Duration::from_secs(3600);
    assert_eq!(cache.next_deadline(), Some(due));
    assert_eq!(sign(&cache, due), 1);
    assert_eq!(work(&cache), ["put disk:dir:a"]);
}

#[test]
fn a_changed_entry_is_signed_and_stored_anew() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    sign(&cache, NOW);
    work(&cache);
    upsert(&cache, vec![Entry { revision: 1, ..stored("a", &["dir:a"]) }]);
    assert_eq!(sign(&cache, NOW), 1);
    assert_eq!(work(&cache), ["put disk:dir:a"]);
}

#[test]
fn a_moved_entry_is_taken_from_its_old_place_until_that_works() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    sign(&cache, NOW);
    work(&cache);
    upsert(&cache, vec![stored("a", &["dir:b"])]);
    let job = &cache.jobs()[0];
    cache.stored(&job.id, job.put.as_ref().unwrap(), job.revision);
    assert_eq!(work(&cache), ["delete disk:dir:a"], "which failed the first time");
    sign(&cache, NOW);
    assert_eq!(work(&cache), ["put disk:dir:b"]);
}

#[test]
fn an_entry_that_moves_back_is_not_deleted_where_it_is() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    sign(&cache, NOW);
    work(&cache);
    upsert(&cache, vec![stored("a", &["dir:b"])]);
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    sign(&cache, NOW);
    assert_eq!(work(&cache), ["put disk:dir:a"]);
}

#[test]
fn a_removed_entry_is_forgotten_once_the_store_forgot_it() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    sign(&cache, NOW);
    work(&cache);
    remove(&cache, "a");
    assert_eq!(cache.count(), 1, "until it is out of the store");
    assert_eq!(sign(&cache, NOW), 0);
    assert_eq!(work(&cache), ["delete disk:dir:a"]);
    assert_eq!(cache.count(), 0);
    remove(&cache, "never there");
    assert!(work(&cache).is_empty());
}

#[test]
fn what_was_stored_while_its_entry_went_or_moved_is_taken_away_again() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"]), stored("b", &["dir:b"])]);
    sign(&cache, NOW);
    let jobs = cache.jobs();
    remove(&cache, "a");
    upsert(&cache, vec![stored("b", &["dir:c"])]);
    for job in jobs {
        cache.stored(&job.id, job.put.as_ref().unwrap(), job.revision);
    }
    sign(&cache, NOW);
    assert_eq!(work(&cache), ["delete disk:dir:a", "delete disk:dir:b", "put disk:dir:c"]);
}

#[test]
fn changed_bundles_are_stored_for_the_entries_that_show_them() {
    let cache = cache();
    let other = TrustDomain::parse("other.org").unwrap();
    let federated = Entry { federates_with: vec![other], ..stored("b", &["dir:b"]) };
    upsert(&cache, vec![stored("a", &["dir:a"]), federated]);
    sign(&cache, NOW);
    assert_eq!(work(&cache).len(), 2);
    let apply = |all: &[Arc<CachedBundle>]| cache.apply(EntryDelta::default(), bundles(all));
    apply(&[bundle("example.org", 0), bundle("other.org", 0)]);
    assert_eq!(cache.jobs()[0].put.as_ref().unwrap().federated.len(), 1);
    assert_eq!(work(&cache), ["put disk:dir:b"], "a foreign bundle came");
    apply(&[bundle("example.org", 0), bundle("other.org", 7)]);
    assert_eq!(work(&cache), ["put disk:dir:b"], "it changed");
    apply(&[bundle("example.org", 0)]);
    assert_eq!(work(&cache), ["put disk:dir:b"], "it went");
    apply(&[bundle("example.org", 7)]);
    assert_eq!(work(&cache).len(), 2, "the own one is everybody's");
}

#[test]
fn a_condemned_svid_is_replaced_before_anything_is_stored() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    sign(&cache, NOW);
    assert_eq!(cache.discard(|_| true), 1);
    assert!(work(&cache).is_empty());
    sign(&cache, NOW);
    assert_eq!(work(&cache), ["put disk:dir:a"]);
}

#[test]
fn a_refused_entry_waits_longer_each_time() {
    let cache = cache();
    upsert(&cache, vec![stored("a", &["dir:a"])]);
    cache.refused(&["a".into()], NOW);
    assert!(cache.wanted(1, NOW).is_empty());
    assert_eq!(cache.backlog(NOW), 0);
    let at = cache.next_deadline().unwrap();
    assert_eq!(cache.wanted(1, at).len(), 1);
    cache.refused(&["a".into()], at);
    assert!(
        cache.next_deadline().unwrap().duration_since(at).unwrap() > Duration::from_millis(500)
    );
}
