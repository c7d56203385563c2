//! The suite of key managers.

use std::sync::Arc;

use steeple_pki::{KeyType, SignatureAlgorithm, Signer};

use crate::{Code, KeyManager};

const MESSAGE: &[u8] = b"a message to sign";

/// Runs the suite on managers that `make` makes, each with no keys.
///
/// # Panics
/// When the contract is broken.
pub async fn key_manager<F>(make: F)
where
    F: AsyncFnMut() -> Arc<dyn KeyManager>,
{
    key_manager_of(&ALL_KINDS, make).await;
}

/// As [`key_manager`], for those that have some of the kinds of keys only; EC ones among them.
///
/// # Panics
/// When the contract is broken.
pub async fn key_manager_of<F>(kinds: &[KeyType], mut make: F)
where
    F: AsyncFnMut() -> Arc<dyn KeyManager>,
{
    every_kind_of_key_signs(kinds, &*make().await).await;
    an_empty_id_is_refused(&*make().await).await;
    a_missing_key_is_none(&*make().await).await;
    a_key_takes_the_place_of_the_one_before(&*make().await).await;
    keys_are_listed_by_id(&*make().await).await;
    concurrent_generations_are_all_kept(make().await).await;
}

/// Runs the suite of managers whose keys outlive them: `reopen` gives a manager on the same
/// keys each time, at first on none.
///
/// # Panics
/// When the contract is broken.
pub async fn key_manager_persists<F>(reopen: F)
where
    F: AsyncFnMut() -> Arc<dyn KeyManager>,
{
    key_manager_persists_of(&ALL_KINDS, reopen).await;
}

/// As [`key_manager_persists`], for those that have some of the kinds of keys only; P-256 among
/// them.
///
/// # Panics
/// When the contract is broken.
pub async fn key_manager_persists_of<F>(kinds: &[KeyType], mut reopen: F)
where
    F: AsyncFnMut() -> Arc<dyn KeyManager>,
{
    let mut expected = Vec::new();
    for &kind in kinds {
        let manager = reopen().await;
        let key = manager.generate_key(kind.as_str(), kind).await.expect("the key is made");
        expected.push((kind.to_string(), key.public_key().clone()));
    }
    let replaced = reopen().await.generate_key("ec-p256", KeyType::EcP256).await;
    let replaced = replaced.expect("the key is replaced").public_key().clone();
    expected.retain(|(id, _)| id != "ec-p256");
    expected.push(("ec-p256".to_owned(), replaced));
    expected.sort_by(|left, right| left.0.cmp(&right.0));

    let reopened = reopen().await.keys().await.expect("the keys are listed");
    let found: Vec<_> =
        reopened.iter().map(|(id, key)| (id.clone(), key.public_key().clone())).collect();
    assert!(found == expected, "other keys after opening again than before");
    for (id, key) in &reopened {
        signs(&**key, id.parse().expect("the id is the name of a kind")).await;
    }
}

async fn every_kind_of_key_signs(kinds: &[KeyType], manager: &dyn KeyManager) {
    for &kind in kinds {
        let made = manager.generate_key(kind.as_str(), kind).await.expect("the key is made");
        assert_eq!(made.public_key().key_type(), Some(kind), "another kind than asked for");
        signs(&*made, kind).await;
        let found = manager.key(kind.as_str()).await.expect("the key is looked for");
        let found = found.expect("a key that was made is found");
        assert!(found.public_key() == made.public_key(), "{kind}: another key than was made");
        signs(&*found, kind).await;
    }
}

async fn an_empty_id_is_refused(manager: &dyn KeyManager) {
    let error = manager.generate_key("", KeyType::EcP256).await.err().expect("an id is needed");
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.ends_with("key id is required"), "{error}");
    assert!(error.message.starts_with("keymanager("), "{error} does not name the plugin");
    let error = manager.key("").await.err().expect("an id is needed");
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.ends_with("key id is required"), "{error}");
}

async fn a_missing_key_is_none(manager: &dyn KeyManager) {
    assert!(manager.key("nope").await.expect("the key is looked for").is_none());
    assert!(manager.keys().await.expect("the keys are listed").is_empty());
}

async fn a_key_takes_the_place_of_the_one_before(manager: &dyn KeyManager) {
    let first = manager.generate_key("id", KeyType::EcP256).await.expect("the key is made");
    let second = manager.generate_key("id", KeyType::EcP384).await.expect("the key is made");
    assert!(first.public_key() != second.public_key());
    let keys = manager.keys().await.expect("the keys are listed");
    assert_eq!(keys.len(), 1, "an id names one key");
    assert!(keys[0].1.public_key() == second.public_key(), "the older key was kept");
}

async fn keys_are_listed_by_id(manager: &dyn KeyManager) {
    for id in ["b", "c", "a"] {
        manager.generate_key(id, KeyType::EcP256).await.expect("the key is made");
    }
    let keys = manager.keys().await.expect("the keys are listed");
    assert!(keys.iter().map(|(id, _)| id.as_str()).eq(["a", "b", "c"]), "not in order");
}

async fn concurrent_generations_are_all_kept(manager: Arc<dyn KeyManager>) {
    let make = async |id: &str| {
        manager.generate_key(id, KeyType::EcP256).await.expect("the key is made");
    };
    futures_util::future::join3(make("a"), make("b"), make("c")).await;
    assert_eq!(manager.keys().await.expect("the keys are listed").len(), 3);
}

async fn signs(key: &dyn Signer, kind: KeyType) {
    use SignatureAlgorithm as Alg;
    let algorithms: &[Alg] = match kind {
        // The digest of the curve, which is all that certificates and tokens of ours use.
        KeyType::EcP256 => &[Alg::EcdsaSha256],
        KeyType::EcP384 => &[Alg::EcdsaSha384],
        KeyType::Rsa2048 | KeyType::Rsa4096 => &[
            Alg::RsaPkcs1Sha256,
            Alg::RsaPkcs1Sha384,
            Alg::RsaPkcs1Sha512,
            Alg::RsaPssSha256,
            Alg::RsaPssSha384,
            Alg::RsaPssSha512,
        ],
    };
    for &algorithm in algorithms {
        let signature = key.sign(algorithm, MESSAGE).await;
        let signature = signature.unwrap_or_else(|error| panic!("{kind} {algorithm:?}: {error}"));
        let verified = key.public_key().verify(algorithm, MESSAGE, &signature);
        assert!(verified.is_ok(), "{kind} {algorithm:?}: the signature is wrong");
    }
}

const ALL_KINDS: [KeyType; 4] =
    [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048, KeyType::Rsa4096];
