use super::{AnyStore, at, id, new_entry, node};
use crate::model::JoinAttempt;
use crate::{AttestedNode, EntryFilter, JoinToken, JoinTokenError, NewEntry, StoreError};

const SECRET: &str = "s3cr3t-join-token";

fn token(expires_at: i64) -> JoinToken {
    JoinToken { token: SECRET.into(), expires_at }
}

fn joining() -> AttestedNode {
    AttestedNode {
        attestation_type: "join_token".into(),
        can_reattest: false,
        ..node("/spire/agent/join_token/t", &[])
    }
}

pub async fn a_join_token_is_kept_once(store: AnyStore) {
    store.create_join_token(token(100), None).await.unwrap();
    assert_eq!(store.fetch_join_token(SECRET).await.unwrap(), Some(token(100)));
    assert_eq!(store.fetch_join_token("other").await.unwrap(), None);
    let again = store.create_join_token(token(200), None).await.unwrap_err();
    assert!(matches!(again, StoreError::AlreadyExists(_)), "{again}");
    store.delete_join_token(SECRET).await.unwrap();
    assert_eq!(store.delete_join_token(SECRET).await, Err(StoreError::not_found()));
    for incomplete in [JoinToken { token: String::new(), expires_at: 1 }, token(0)] {
        let refused = store.create_join_token(incomplete, None).await.unwrap_err();
        assert_eq!(refused, StoreError::Invalid("token and expiry are required".into()));
    }
}

pub async fn a_join_token_attests_once(store: AnyStore) {
    store.create_join_token(token(100), None).await.unwrap();
    let unknown = store.attest_with_join_token(joining(), "wrong", at(50)).await;
    assert_eq!(unknown, Err(JoinTokenError::Unknown));
    let joined = store.attest_with_join_token(joining(), SECRET, at(100)).await;
    assert_eq!(joined, Ok(joining()), "a token is good up to its last second");
    assert_eq!(store.fetch_node(&joining().spiffe_id).await.unwrap(), Some(joining()));
    assert_eq!(store.fetch_join_token(SECRET).await.unwrap(), None);
    let again = store.attest_with_join_token(joining(), SECRET, at(50)).await;
    assert_eq!(again, Err(JoinTokenError::Unknown));
}

pub async fn of_a_hundred_attempts_one_wins(store: AnyStore) {
    store.create_join_token(token(100), None).await.unwrap();
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(100));
    let attempts: Vec<_> = (0..100)
        .map(|number| {
            let (store, start) = (AnyStore::clone(&store), std::sync::Arc::clone(&start));
            tokio::spawn(async move {
                let node = AttestedNode { serial_number: number.to_string(), ..joining() };
                start.wait().await;
                store.attest_with_join_token(node, SECRET, at(50)).await
            })
        })
        .collect();
    let mut winners = Vec::new();
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(node) => winners.push(node),
            Err(error) => assert_eq!(error, JoinTokenError::Unknown, "losers are told the same"),
        }
    }
    assert_eq!(winners.len(), 1);
    let stored = store.fetch_node(&joining().spiffe_id).await.unwrap();
    assert_eq!(stored, winners.pop(), "and the winner's row is the one that is kept");
}

pub async fn of_many_who_join_at_once_each_gets_its_own_answer(store: AnyStore) {
    // Good, expired, of a banned agent, never made: ten of each, and each comes twice.
    let kinds = ["good", "late", "banned", "unknown"];
    let name = |kind: &str, number: usize| format!("{kind}-{number}");
    let agent = |name: &str| AttestedNode {
        serial_number: "5".into(),
        ..node(&format!("/spire/agent/join_token/{name}"), &["b:2", "a:1"])
    };
    let made = kinds.iter().take(3).flat_map(|kind| (0..10).map(|number| name(kind, number)));
    for token in made {
        if token.starts_with("banned") {
            store.upsert_attested_node(agent(&token)).await.unwrap();
            store.ban_node(&agent(&token).spiffe_id).await.unwrap();
        }
        let expires_at = if token.starts_with("late") { 10 } else { 100 };
        store.create_join_token(JoinToken { token, expires_at }, None).await.unwrap();
    }
    let mut attempts = Vec::new();
    for number in 0..10 {
        for kind in kinds {
            for _twice in 0..2 {
                let (store, name) = (AnyStore::clone(&store), name(kind, number));
                let agent = agent(&name);
                attempts.push(tokio::spawn(async move {
                    let answer = store.attest_with_join_token(agent, &name, at(50)).await;
                    (name, answer)
                }));
            }
        }
    }
    let mut answers = std::collections::BTreeMap::<String, Vec<_>>::new();
    for attempt in attempts {
        let (name, answer) = attempt.await.unwrap();
        answers.entry(name).or_default().push(answer);
    }
    for (name, answers) in answers {
        let first = match name.split('-').next().unwrap() {
            "good" => {
                let selectors = super::selectors(&["a:1", "b:2"]);
                Ok(AttestedNode { selectors, ..agent(&name) })
            }
            "late" => Err(JoinTokenError::Expired),
            "banned" => Err(JoinTokenError::Banned),
            _ => Err(JoinTokenError::Unknown),
        };
        let unknown = answers.iter().filter(|it| **it == Err(JoinTokenError::Unknown)).count();
        assert!(answers.contains(&first), "{name}: {answers:?}");
        assert_eq!(unknown, if name.starts_with("unknown") { 2 } else { 1 }, "{name}: {answers:?}");
        assert_eq!(store.fetch_join_token(&name).await.unwrap(), None);
        let stored = store.fetch_node(&agent(&name).spiffe_id).await.unwrap();
        match first {
            Ok(recorded) => assert_eq!(stored, Some(recorded)),
            Err(JoinTokenError::Banned) => assert!(stored.unwrap().is_banned()),
            Err(_) => assert_eq!(stored, None),
        }
    }
}

pub async fn what_a_token_would_make_is_known_before(store: AnyStore) {
    let agent = joining().spiffe_id;
    assert_eq!(store.fetch_join_attempt(SECRET, &agent).await.unwrap(), None);
    store.create_join_token(token(100), None).await.unwrap();
    let known = |is_banned| Some(JoinAttempt { token: token(100), is_banned });
    assert_eq!(store.fetch_join_attempt(SECRET, &agent).await.unwrap(), known(false));
    assert_eq!(store.fetch_join_attempt(&SECRET.to_uppercase(), &agent).await.unwrap(), None);
    let there = AttestedNode { selectors: super::selectors(&["a:1", "b:2"]), ..joining() };
    store.upsert_attested_node(there).await.unwrap();
    assert_eq!(store.fetch_join_attempt(SECRET, &agent).await.unwrap(), known(false));
    store.ban_node(&agent).await.unwrap();
    assert_eq!(store.fetch_join_attempt(SECRET, &agent).await.unwrap(), known(true));
    let other = id("/spire/agent/join_token/T");
    assert_eq!(store.fetch_join_attempt(SECRET, &other).await.unwrap(), known(false));
}

pub async fn an_expired_join_token_is_spent(store: AnyStore) {
    store.create_join_token(token(100), None).await.unwrap();
    let late = at(100) + std::time::Duration::from_millis(1);
    let expired = store.attest_with_join_token(joining(), SECRET, late).await;
    assert_eq!(expired, Err(JoinTokenError::Expired));
    assert_eq!(store.fetch_join_token(SECRET).await.unwrap(), None);
    assert_eq!(store.fetch_node(&joining().spiffe_id).await.unwrap(), None);
}

pub async fn a_join_token_of_a_banned_agent_is_spent(store: AnyStore) {
    store.upsert_attested_node(joining()).await.unwrap();
    store.ban_node(&joining().spiffe_id).await.unwrap();
    store.create_join_token(token(100), None).await.unwrap();
    let banned = store.attest_with_join_token(joining(), SECRET, at(50)).await;
    assert_eq!(banned, Err(JoinTokenError::Banned));
    assert_eq!(store.fetch_join_token(SECRET).await.unwrap(), None);
    assert!(store.fetch_node(&joining().spiffe_id).await.unwrap().unwrap().is_banned());
}

pub async fn a_join_token_is_in_no_error(store: AnyStore) {
    assert!(!format!("{:?}", token(100)).contains(SECRET));
    store.create_join_token(token(100), None).await.unwrap();
    let taken = store.create_join_token(token(100), None).await.unwrap_err();
    assert!(!format!("{taken} {taken:?}").contains(SECRET));
    store.delete_join_token(SECRET).await.unwrap();
    let gone = store.delete_join_token(SECRET).await.unwrap_err();
    assert!(!format!("{gone} {gone:?}").contains(SECRET));
    let unknown = store.attest_with_join_token(joining(), SECRET, at(1)).await.unwrap_err();
    assert!(!format!("{unknown} {unknown:?}").contains(SECRET));
}

pub async fn an_alias_entry_comes_with_its_token_or_neither(store: AnyStore) {
    let own = format!("spiffe_id:{}", joining().spiffe_id);
    let alias = NewEntry { parent_id: joining().spiffe_id, ..new_entry("/alias", &[own.as_str()]) };
    let broken = NewEntry { x509_svid_ttl: -1, ..alias.clone() };
    assert!(store.create_join_token(token(100), Some(broken)).await.is_err());
    assert_eq!(store.fetch_join_token(SECRET).await.unwrap(), None);

    store.create_join_token(token(100), Some(alias.clone())).await.unwrap();
    let filter = EntryFilter { spiffe_id: Some(id("/alias")), ..EntryFilter::default() };
    assert_eq!(store.count_entries(&filter).await.unwrap(), 1);
    let other = JoinToken { token: "another".into(), expires_at: 100 };
    store.create_join_token(other, Some(alias)).await.unwrap();
    assert_eq!(store.count_entries(&filter).await.unwrap(), 1, "a similar alias will do");
}

pub async fn expired_join_tokens_are_pruned(store: AnyStore) {
    for (name, expires_at) in [("a", 99), ("b", 100), ("c", 101)] {
        let token = JoinToken { token: name.into(), expires_at };
        store.create_join_token(token, None).await.unwrap();
    }
    assert_eq!(store.prune_join_tokens(at(100)).await.unwrap(), 1);
    assert_eq!(store.fetch_join_token("a").await.unwrap(), None);
    assert!(store.fetch_join_token("b").await.unwrap().is_some());
}
