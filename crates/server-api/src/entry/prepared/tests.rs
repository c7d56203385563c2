use proptest::prelude::*;
use steeple_proto::spire::api::types;
use steeple_server_core::index::Snapshot;
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::model::Entry;

use super::*;
use crate::convert::entry_message;

fn home() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// Numbers that are short, long, and negative on the wire.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(-1), 0..300_i64, any::<i64>(), Just(i64::MIN)]
}

fn short() -> impl Strategy<Value = i32> {
    prop_oneof![Just(0), Just(-1), 0..300_i32, any::<i32>()]
}

/// Texts on both sides of the length at which a length takes another byte.
fn some_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-zé]{1,8}", "[a-z]{120,140}"]
}

fn entry() -> impl Strategy<Value = Entry> {
    let id = |text: &'static str| {
        text.prop_map(|path| SpiffeId::from_path(&home(), &format!("/{path}")).unwrap())
    };
    let ids = ("[a-z0-9-]{1,150}", id("[a-z]{1,150}"), id("[a-z]{1,9}"));
    let selector = ("[a-z]{1,5}", "[a-z:/é]{1,130}");
    let selector = selector.prop_map(|(kind, value)| Selector::new(&kind, &value));
    let foreign = "[a-z]{1,130}".prop_map(|name| TrustDomain::parse(&name).unwrap());
    let lists = (
        prop::collection::vec(selector, 0..4),
        prop::collection::vec(foreign, 0..3),
        prop::collection::vec("[a-z.]{0,20}", 0..3),
    );
    let numbers = (short(), short(), number(), number(), number());
    let flags = any::<[bool; 5]>();
    (ids, lists, numbers, flags, some_text()).prop_map(|(ids, lists, numbers, flags, hint)| Entry {
        entry_id: ids.0,
        spiffe_id: ids.1,
        parent_id: ids.2,
        selectors: lists.0,
        x509_svid_ttl: numbers.0,
        jwt_svid_ttl: numbers.1,
        federates_with: lists.1,
        admin: flags[0],
        downstream: flags[1],
        expires_at: numbers.2,
        dns_names: lists.2,
        revision_number: numbers.3,
        store_svid: flags[2],
        hint,
        disable_x509_svid_prefetch: flags[3],
        jwt_svid_include_jti: flags[4],
        created_at: numbers.4,
    })
}

fn mask() -> impl Strategy<Value = Option<types::EntryMask>> {
    let mask = any::<[bool; 15]>().prop_map(|asked| types::EntryMask {
        spiffe_id: asked[0],
        parent_id: asked[1],
        selectors: asked[2],
        x509_svid_ttl: asked[3],
        federates_with: asked[4],
        admin: asked[5],
        downstream: asked[6],
        expires_at: asked[7],
        dns_names: asked[8],
        revision_number: asked[9],
        store_svid: asked[10],
        jwt_svid_ttl: asked[11],
        hint: asked[12],
        created_at: asked[13],
        additional_attributes: asked[14],
    });
    prop_oneof![1 => Just(None), 4 => mask.prop_map(Some)]
}

fn indexed(entry: &Entry) -> Snapshot {
    let mut snapshot = Snapshot::empty(home());
    snapshot.put_entry(&entry.entry_id, Some(entry));
    snapshot
}

proptest! {
    #[test]
    fn a_prepared_answer_is_the_one_that_would_be_encoded(entry in entry(), mask in mask()) {
        let snapshot = indexed(&entry);
        let held = snapshot.entry(&entry.entry_id).unwrap();
        let asked = fields(mask.as_ref());
        let twice = messages([held, held].into_iter(), ENTRIES, asked, 0);
        let message = entry_message(&entry, mask.as_ref());
        let expected = pb::GetAuthorizedEntriesResponse { entries: vec![message; 2] };
        prop_assert_eq!(twice.to_vec(), expected.encode_to_vec());
    }

    #[test]
    fn so_is_a_revision(entry in entry()) {
        let snapshot = indexed(&entry);
        let mut answer = BytesMut::new();
        snapshot.entry(&entry.entry_id).unwrap().put_revision(&mut answer, 1);
        let revision = pb::EntryRevision {
            id: entry.entry_id.clone(),
            revision_number: entry.revision_number,
            created_at: entry.created_at,
        };
        let expected = pb::SyncAuthorizedEntriesResponse {
            entry_revisions: vec![revision],
            ..pb::SyncAuthorizedEntriesResponse::default()
        };
        prop_assert_eq!(answer.to_vec(), expected.encode_to_vec());
    }

    #[test]
    fn what_is_indexed_is_what_was_given(entry in entry()) {
        let snapshot = indexed(&entry);
        prop_assert!(snapshot.has_entry(&entry));
        prop_assert_eq!(snapshot.entry(&entry.entry_id).unwrap().to_entry(), entry.clone());
        let other = Entry { revision_number: entry.revision_number ^ 1, ..entry };
        prop_assert!(!snapshot.has_entry(&other));
    }
}
