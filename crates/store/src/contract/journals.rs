use prost::Message as _;
use steeple_proto::journal::{Entries, JwtKeyEntry, WitKeyEntry, X509caEntry};

use super::AnyStore;
use crate::{CaJournal, StoreError};

fn journal(authority_id: &str, ends: [&[i64]; 3]) -> CaJournal {
    let [x509, jwt, wit] = ends;
    let entries = Entries {
        x509_c_as: x509
            .iter()
            .map(|&not_after| X509caEntry { not_after, ..Default::default() })
            .collect(),
        jwt_keys: jwt
            .iter()
            .map(|&not_after| JwtKeyEntry { not_after, ..Default::default() })
            .collect(),
        wit_keys: wit
            .iter()
            .map(|&not_after| WitKeyEntry { not_after, ..Default::default() })
            .collect(),
    };
    CaJournal {
        data: entries.encode_to_vec(),
        active_x509_authority_id: authority_id.into(),
        ..CaJournal::default()
    }
}

pub async fn a_journal_is_found_by_its_active_authority(store: AnyStore) {
    let saved = store.set_ca_journal(journal("aa", [&[1], &[], &[]])).await.unwrap();
    assert_ne!(saved.id, 0);
    let other = store.set_ca_journal(journal("bb", [&[], &[], &[]])).await.unwrap();
    assert_ne!(saved.id, other.id, "each server has a row of its own");
    assert_eq!(store.fetch_ca_journal("aa").await.unwrap(), Some(saved.clone()));
    assert_eq!(store.fetch_ca_journal("cc").await.unwrap(), None);

    let moved = CaJournal { id: saved.id, ..journal("cc", [&[1, 2], &[3], &[]]) };
    assert_eq!(store.set_ca_journal(moved.clone()).await.unwrap(), moved);
    assert_eq!(store.fetch_ca_journal("aa").await.unwrap(), None);
    assert_eq!(store.fetch_ca_journal("cc").await.unwrap(), Some(moved.clone()));
    assert_eq!(store.list_ca_journals().await.unwrap(), [moved.clone(), other]);

    let gone = CaJournal { id: 999, ..moved };
    assert_eq!(store.set_ca_journal(gone).await, Err(StoreError::not_found()));
    let text = "active X509 authority ID is required";
    assert_eq!(store.fetch_ca_journal("").await, Err(StoreError::Invalid(text.into())));
}

pub async fn a_journal_is_pruned_when_everything_in_it_is_over(store: AnyStore) {
    for (authority_id, ends) in [
        ("over", [&[50, 100][..], &[99], &[]]),
        ("x509", [&[1, 101], &[], &[]]),
        ("jwt", [&[1], &[101], &[]]),
        ("wit", [&[1], &[1], &[101]]),
        ("empty", [&[], &[], &[]]),
    ] {
        store.set_ca_journal(journal(authority_id, ends)).await.unwrap();
    }
    assert_eq!(store.prune_ca_journals(100).await.unwrap(), 2);
    let left = store.list_ca_journals().await.unwrap();
    let left: Vec<_> = left.iter().map(|it| it.active_x509_authority_id.as_str()).collect();
    assert_eq!(left, ["x509", "jwt", "wit"]);
}

pub async fn an_unreadable_journal_stops_pruning(store: AnyStore) {
    store.set_ca_journal(journal("over", [&[1], &[], &[]])).await.unwrap();
    let broken = CaJournal { data: vec![0xff; 10], ..CaJournal::default() };
    store.set_ca_journal(broken).await.unwrap();
    let refused = store.prune_ca_journals(100).await.unwrap_err();
    assert!(matches!(refused, StoreError::Internal(_)), "{refused}");
    assert_eq!(store.list_ca_journals().await.unwrap().len(), 2, "all or nothing");
}
