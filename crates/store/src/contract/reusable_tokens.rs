use std::sync::Arc;

use super::{AnyStore, at, id, node, selectors};
use crate::{AttestedNode, JoinTokenError, Page, ReusableToken, StoreError, TokenBearer};

const DIGEST: [u8; 32] = [7; 32];

fn token(name: &str) -> ReusableToken {
    ReusableToken {
        id: name.into(),
        digest: DIGEST,
        description: "rack 7".into(),
        created_at: 0,
        expires_at: 1000,
        joins_until: 500,
        max_uses: 2,
        uses: 0,
        cidrs: vec!["10.0.0.0/8".into(), "2001:db8::/32".into()],
        selectors: selectors(&["rack:7", "odd:a:b c"]),
    }
}

fn joining(name: &str) -> AttestedNode {
    let agent = node(&format!("/spire/agent/join_token/t/{name}"), &["rack:7"]);
    AttestedNode { attestation_type: "join_token".into(), ..agent }
}

fn bearer(node: Option<&str>) -> TokenBearer<'_> {
    TokenBearer { token_id: "t", digest: &DIGEST, node }
}

async fn uses(store: &AnyStore) -> u32 {
    store.fetch_reusable_token("t").await.unwrap().unwrap().uses
}

pub async fn a_reusable_token_is_kept_until_it_is_deleted(store: AnyStore) {
    assert_eq!(store.fetch_reusable_token("t").await.unwrap(), None, "there are no tables yet");
    assert_eq!(store.list_reusable_tokens(None).await.unwrap(), (Vec::new(), None));
    assert_eq!(store.delete_reusable_token("t").await, Err(StoreError::not_found()));
    let early = store.attest_with_reusable_token(joining("a"), bearer(None), at(1)).await;
    assert_eq!(early, Err(JoinTokenError::Unknown));

    for name in ["t", "u", "v"] {
        store.create_reusable_token(token(name)).await.unwrap();
    }
    let kept = store.fetch_reusable_token("t").await.unwrap().unwrap();
    assert!(kept.created_at > 0);
    assert_eq!(ReusableToken { created_at: 0, ..kept }, token("t"));
    let again = store.create_reusable_token(token("t")).await.unwrap_err();
    assert!(matches!(again, StoreError::AlreadyExists(_)), "{again}");
    let page = |token| Page { token, size: 2 };
    let (first, next) = store.list_reusable_tokens(Some(&page(None))).await.unwrap();
    let (second, _) = store.list_reusable_tokens(Some(&page(next))).await.unwrap();
    let names: Vec<_> = first.iter().chain(&second).map(|it| it.id.as_str()).collect();
    assert_eq!(names, ["t", "u", "v"]);

    store.attest_with_reusable_token(joining("a"), bearer(Some("a")), at(1)).await.unwrap();
    store.delete_reusable_token("t").await.unwrap();
    assert_eq!(store.fetch_reusable_token("t").await.unwrap(), None);
    let gone = store.attest_with_reusable_token(joining("a"), bearer(Some("a")), at(1)).await;
    assert_eq!(gone, Err(JoinTokenError::Unknown), "also for nodes that had joined");
    assert!(store.fetch_node(&joining("a").spiffe_id).await.unwrap().is_some());
    store.create_reusable_token(ReusableToken { max_uses: 1, ..token("t") }).await.unwrap();
    let joined = store.attest_with_reusable_token(joining("b"), bearer(Some("b")), at(1)).await;
    assert!(joined.is_ok(), "what was known of nodes went with the token");
}

pub async fn a_token_that_nobody_could_use_is_refused(store: AnyStore) {
    for useless in [
        ReusableToken { id: String::new(), ..token("t") },
        ReusableToken { id: "x".repeat(256), ..token("t") },
        ReusableToken { max_uses: 0, ..token("t") },
        ReusableToken { expires_at: 0, ..token("t") },
        ReusableToken { joins_until: 0, ..token("t") },
        ReusableToken { description: "x".repeat(256), ..token("t") },
        ReusableToken { cidrs: vec!["a\nb".into()], ..token("t") },
        ReusableToken { cidrs: vec!["x".repeat(17_000)], ..token("t") },
    ] {
        let refused = store.create_reusable_token(useless).await.unwrap_err();
        assert!(matches!(refused, StoreError::Invalid(_)), "{refused}");
    }
}

pub async fn a_node_that_joined_comes_back_and_is_counted_once(store: AnyStore) {
    store.create_reusable_token(token("t")).await.unwrap();
    let attest = async |name: &str, seconds| {
        let known = bearer(Some(name));
        store.attest_with_reusable_token(joining(name), known, at(seconds)).await
    };
    for seconds in [1, 2, 499] {
        assert_eq!(attest("a", seconds).await, Ok(joining("a")));
    }
    assert_eq!(uses(&store).await, 1);
    let unknown = TokenBearer { digest: &[8; 32], ..bearer(Some("a")) };
    let wrong = store.attest_with_reusable_token(joining("a"), unknown, at(3)).await;
    assert_eq!(wrong, Err(JoinTokenError::Unknown));
    assert_eq!(attest("b", 501).await, Err(JoinTokenError::Expired), "it no longer lets in");
    assert_eq!(attest("a", 1000).await, Ok(joining("a")), "but back");
    assert_eq!(attest("a", 1001).await, Err(JoinTokenError::Expired));
    assert_eq!(attest("b", 500).await, Ok(joining("b")));
    assert_eq!(attest("c", 500).await, Err(JoinTokenError::UsedUp));
    assert_eq!(attest("B", 500).await, Err(JoinTokenError::UsedUp), "another name is another");
    assert_eq!(uses(&store).await, 2);
    assert_eq!(store.fetch_node(&joining("c").spiffe_id).await.unwrap(), None);

    store.ban_node(&joining("a").spiffe_id).await.unwrap();
    assert_eq!(attest("a", 10).await, Err(JoinTokenError::Banned));
    store.delete_node(&joining("a").spiffe_id).await.unwrap();
    assert_eq!(attest("a", 10).await, Ok(joining("a")), "evicting lets it come back");
    assert_eq!(uses(&store).await, 2);
}

pub async fn of_a_hundred_nodes_as_many_join_as_may(store: AnyStore) {
    let allowed = 17;
    store.create_reusable_token(ReusableToken { max_uses: allowed, ..token("t") }).await.unwrap();
    let start = Arc::new(tokio::sync::Barrier::new(100));
    let attempts: Vec<_> = (0..100)
        .map(|number| {
            let (store, start) = (AnyStore::clone(&store), Arc::clone(&start));
            tokio::spawn(async move {
                // Every node comes twice at the same time, half of them without a name.
                let name = format!("n{}", number / 2);
                let known = (number % 4 < 2).then_some(name.as_str());
                let own = if known.is_some() { name.clone() } else { format!("u{number}") };
                start.wait().await;
                let joined =
                    store.attest_with_reusable_token(joining(&own), bearer(known), at(1)).await;
                (own, joined)
            })
        })
        .collect();
    let mut joined = std::collections::BTreeSet::new();
    for attempt in attempts {
        match attempt.await.unwrap() {
            (name, Ok(_)) => drop(joined.insert(name)),
            (_, Err(error)) => assert_eq!(error, JoinTokenError::UsedUp),
        }
    }
    assert_eq!((joined.len(), uses(&store).await), (allowed as usize, allowed));
    for name in joined {
        let agent = store.fetch_node(&id(&format!("/spire/agent/join_token/t/{name}"))).await;
        assert!(agent.unwrap().is_some());
    }
}
