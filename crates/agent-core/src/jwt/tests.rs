use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::entry::tests::entry;

const HOUR: Duration = Duration::from_secs(3600);
const NOON: SystemTime = SystemTime::UNIX_EPOCH;

#[derive(Default)]
struct Signer {
    calls: AtomicUsize,
    down: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl JwtSource for Signer {
    async fn sign(&self, _: &Entry, audience: &[String], _: bool) -> Result<JwtSvid, String> {
        tokio::task::yield_now().await;
        if self.down.load(Ordering::SeqCst) {
            return Err("server is gone".into());
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(JwtSvid {
            token: format!("{}#{call}", audience.join(",")).into(),
            key_id: "kid".into(),
            issued_at: NOON,
            expires_at: NOON + HOUR,
        })
    }
}

fn audience(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn tokens(max: usize) -> (Arc<Signer>, JwtSvids) {
    let signer = Arc::new(Signer::default());
    (signer.clone(), JwtSvids::new(signer, max))
}

#[tokio::test]
async fn a_token_is_reused_in_the_first_half_of_its_life_only() {
    let (signer, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    let fetch = |minutes: u32| {
        let now = NOON + Duration::from_secs(60) * minutes;
        let (tokens, entry) = (&tokens, &entry);
        async move { tokens.fetch(entry, &audience(&["x"]), now).await.unwrap().token }
    };
    assert_eq!(&*fetch(0).await, "x#0");
    assert_eq!(&*fetch(26).await, "x#0");
    assert_eq!(&*fetch(34).await, "x#1");
    assert_eq!(signer.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_order_of_the_audience_does_not_matter_its_members_do() {
    let (signer, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    for names in [&["x", "y"][..], &["y", "x"], &["x"], &["xy"]] {
        tokens.fetch(&entry, &audience(names), NOON).await.unwrap();
    }
    assert_eq!(signer.calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_hundred_callers_with_one_wish_make_one_request() {
    let (signer, tokens) = tokens(10);
    let (tokens, entry) = (Arc::new(tokens), Arc::new(entry("a", &["uid:1"])));
    let calls = (0..100).map(|_| {
        let (tokens, entry) = (tokens.clone(), entry.clone());
        tokio::spawn(async move { tokens.fetch(&entry, &audience(&["x"]), NOON).await.unwrap() })
    });
    for call in futures_util::future::join_all(calls).await {
        assert_eq!(&*call.unwrap().token, "x#0");
    }
    assert_eq!(signer.calls.load(Ordering::SeqCst), 1);
    assert!(tokens.flights().is_empty());
}

#[tokio::test]
async fn an_outage_is_bridged_by_the_cached_token_until_it_ends() {
    let (signer, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    tokens.fetch(&entry, &audience(&["x"]), NOON).await.unwrap();
    signer.down.store(true, Ordering::SeqCst);
    let late = tokens.fetch(&entry, &audience(&["x"]), NOON + HOUR * 3 / 4).await.unwrap();
    assert_eq!(&*late.token, "x#0");
    let error = tokens.fetch(&entry, &audience(&["x"]), NOON + HOUR).await.err().unwrap();
    assert_eq!(error, "unable to renew JWT for \"spiffe://example.org/a\" (err=server is gone)");
    let other = tokens.fetch(&entry, &audience(&["y"]), NOON).await.err().unwrap();
    assert_eq!(other, "server is gone");
}

#[tokio::test]
async fn tokens_with_a_jti_are_never_served_twice() {
    let (_, tokens) = tokens(10);
    let entry = Entry { jwt_svid_include_jti: true, ..entry("a", &["uid:1"]) };
    let first = tokens.fetch(&entry, &audience(&["x"]), NOON).await.unwrap();
    let second = tokens.fetch(&entry, &audience(&["x"]), NOON).await.unwrap();
    assert_ne!(first.token, second.token);
    assert_eq!(tokens.count(), 0);
}

#[tokio::test]
async fn the_least_recently_used_token_makes_room() {
    let (signer, tokens) = tokens(2);
    let entry = entry("a", &["uid:1"]);
    for name in ["x", "y", "x", "z", "x"] {
        tokens.fetch(&entry, &audience(&[name]), NOON).await.unwrap();
    }
    assert_eq!(signer.calls.load(Ordering::SeqCst), 3, "x stayed, y went");
    assert_eq!(tokens.count(), 2);
    tokens.fetch(&entry, &audience(&["y"]), NOON).await.unwrap();
    assert_eq!(signer.calls.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn tokens_of_a_withdrawn_key_are_dropped() {
    let (_, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    tokens.fetch(&entry, &audience(&["x"]), NOON).await.unwrap();
    assert_eq!(tokens.forget_keys(&HashSet::from(["other".to_string()])), 0);
    assert_eq!(tokens.forget_keys(&HashSet::from(["kid".to_string()])), 1);
    assert_eq!(tokens.count(), 0);
}

#[tokio::test]
async fn tokens_from_the_future_go_when_the_clock_was_set_back() {
    let (_, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    tokens.fetch(&entry, &audience(&["x"]), NOON).await.unwrap();
    assert_eq!(tokens.forget_issued_after(NOON), 0);
    assert_eq!(tokens.forget_issued_after(NOON - HOUR), 1);
    assert_eq!(tokens.count(), 0);
}

#[tokio::test]
async fn an_oversized_token_is_served_but_not_kept() {
    let (_, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    tokens.fetch(&entry, &["x".repeat(MAX_CACHED_TOKEN)], NOON).await.unwrap();
    assert_eq!(tokens.count(), 0);
}

#[tokio::test]
async fn callers_who_hang_up_leave_nothing_behind() {
    let (_, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    let names = audience(&["x"]);
    {
        let call = tokens.fetch(&entry, &names, NOON);
        tokio::pin!(call);
        assert!(futures_util::poll!(&mut call).is_pending());
        assert_eq!(tokens.flights().len(), 1);
    }
    assert!(tokens.flights().is_empty());
}

fn at(minutes: u32) -> SystemTime {
    NOON + Duration::from_secs(60) * minutes
}

#[tokio::test]
async fn what_is_asked_for_again_is_renewed_before_it_is_due_and_what_is_not_is_left() {
    let (signer, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    for (name, times) in [("busy", 2), ("once", 1)] {
        for _ in 0..times {
            tokens.fetch(&entry, &audience(&[name]), NOON).await.unwrap();
        }
    }
    assert!(tokens.hot(at(20)).is_empty(), "too early");
    let hot = tokens.hot(at(27));
    assert_eq!(hot.iter().map(|hot| hot.audience[0].as_str()).collect::<Vec<_>>(), ["busy"]);
    assert!(tokens.refresh(&hot[0], at(27)).await);
    // The caller at half-life does not wait: the new token is there.
    let renewed = tokens.fetch(&entry, &audience(&["busy"]), at(5)).await.unwrap();
    assert_eq!((&*renewed.token, signer.calls.load(Ordering::SeqCst)), ("busy#2", 3));
    tokens.refresh(&hot[0], at(27)).await;
    assert!(tokens.hot(at(27)).is_empty(), "nobody asked for the new one yet");
}

#[tokio::test]
async fn nobody_who_has_a_token_waits_for_a_server_that_is_away() {
    let (signer, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    for _ in 0..2 {
        tokens.fetch(&entry, &audience(&["x"]), NOON).await.unwrap();
    }
    signer.down.store(true, Ordering::SeqCst);
    let hot = tokens.hot(at(27));
    assert!(!tokens.refresh(&hot[0], at(27)).await);
    assert!(tokens.hot(at(27)).is_empty(), "not again at once");
    assert_eq!(tokens.hot(at(28)).len(), 1);
    assert!(!tokens.refresh(&hot[0], at(40)).await);
    // Answered without an attempt: the source would say that it is asked.
    signer.down.store(false, Ordering::SeqCst);
    let cached = tokens.fetch(&entry, &audience(&["x"]), at(40)).await.unwrap();
    assert_eq!((&*cached.token, signer.calls.load(Ordering::SeqCst)), ("x#0", 1));
    let later = tokens.fetch(&entry, &audience(&["x"]), at(42)).await.unwrap();
    assert_eq!(&*later.token, "x#1");
}

#[tokio::test]
async fn a_late_answer_of_a_withdrawn_key_is_not_kept() {
    let (_, tokens) = tokens(10);
    let entry = entry("a", &["uid:1"]);
    tokens.forget_keys(&HashSet::from(["kid".to_string()]));
    tokens.fetch(&entry, &audience(&["x"]), NOON).await.unwrap();
    assert_eq!(tokens.count(), 0);
}

#[tokio::test]
async fn what_is_kept_on_disk_is_served_again() {
    let (signer, tokens) = tokens(10);
    let entry = Arc::new(entry("a", &["uid:1"]));
    tokens.fetch(&entry, &audience(&["y", "x"]), NOON).await.unwrap();
    assert!(tokens.kept(NOON + HOUR).is_empty());
    let kept = tokens.kept(at(5)).pop().unwrap();
    let again = JwtSvids::new(signer.clone(), 10);
    again.restore(&entry, &kept.audience, kept.svid);
    again.fetch(&entry, &audience(&["x", "y"]), at(5)).await.unwrap();
    assert_eq!(signer.calls.load(Ordering::SeqCst), 1);
}
