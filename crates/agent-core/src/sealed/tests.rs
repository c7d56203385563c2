use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use steeple_pki::{KeyType, PrivateKey};
use steeple_spiffe::TrustDomain;

use super::*;
use crate::entry::tests::entry;
use crate::testing::{HOUR, NOON, bundle, svid};

fn kept(lifetimes: &[(&str, Option<Duration>)]) -> Kept {
    let entries = lifetimes.iter().map(|(id, lifetime)| {
        let entry = Arc::new(entry(id, &["uid:1"]));
        let svid = lifetime.map(|lifetime| {
            let signed = svid(entry.spiffe_id.as_str(), NOON + lifetime);
            KeptSvid { chain: signed.chain, key_pkcs8: signed.key_pkcs8, due: signed.due }
        });
        KeptEntry { entry, svid }
    });
    let mut own = bundle("example.org", 7).bundle().clone();
    own.x509_authorities[0].tainted = true;
    own.refresh_hint = Duration::from_secs(300);
    Kept {
        confirmed_at: NOON + Duration::from_secs(5),
        bundles: vec![own, bundle("other.org", 1).bundle().clone()],
        entries: entries.collect(),
        tokens: Vec::new(),
    }
}

fn token(entry: &str, lifetime: Duration) -> KeptToken {
    KeptToken {
        entry: entry.into(),
        audience: vec!["b".into(), "a".into()],
        svid: JwtSvid {
            token: "x.y.z".into(),
            key_id: "k".into(),
            issued_at: NOON,
            expires_at: NOON + lifetime,
        },
    }
}

fn ids(kept: &Kept) -> Vec<&str> {
    kept.entries.iter().map(|kept| &*kept.entry.id).collect()
}

#[test]
fn what_is_written_is_read_again() {
    let mut before = kept(&[("a", Some(HOUR)), ("b", None)]);
    before.tokens.push(token("b", HOUR));
    let (bytes, left_out) = before.encode();
    assert_eq!((left_out, bytes.len()), (0, bytes.capacity()), "one allocation of its size");
    let after = Kept::decode(&bytes).unwrap();
    assert_eq!(after.bundles, before.bundles);
    assert_eq!(after.confirmed_at, before.confirmed_at);
    for (one, other) in before.entries.iter().zip(&after.entries) {
        assert_eq!(one.entry, other.entry);
        let parts = |kept: &KeptEntry| {
            kept.svid.as_ref().map(|svid| (svid.chain.clone(), svid.key_pkcs8.clone(), svid.due))
        };
        assert_eq!(parts(one), parts(other));
    }
    assert_eq!(after.tokens[0].audience, ["b", "a"]);
    assert_eq!(after.tokens[0].svid.expires_at, NOON + HOUR);
}

#[test]
fn only_what_is_valid_now_is_served() {
    let mut all = kept(&[("long", Some(HOUR)), ("short", Some(HOUR / 4)), ("token", None)]);
    all.entries.push(KeptEntry { entry: Arc::new(entry("nothing", &["uid:1"])), svid: None });
    all.tokens.extend([token("token", HOUR), token("token", HOUR / 4), token("gone", HOUR)]);
    let now = NOON + HOUR / 2;
    let usable = all.usable(now, HOUR).unwrap();
    assert_eq!(ids(&usable), ["long", "token"]);
    assert_eq!(usable.tokens.len(), 1);
}

#[test]
fn an_svid_of_another_identity_or_of_the_future_is_none() {
    let mut all = kept(&[("a", Some(HOUR)), ("b", Some(HOUR))]);
    let other = all.entries[1].svid.take();
    all.entries[0].svid = other;
    assert!(ids(&all.usable(NOON + HOUR / 2, HOUR).unwrap()).is_empty());
}

#[test]
fn what_no_server_confirmed_for_long_is_not_served_at_all() {
    let age = |now, max| kept(&[("a", Some(HOUR))]).usable(now, max).err();
    assert_eq!(age(NOON + HOUR / 2, HOUR / 4), Some(KeptError::Age));
    assert_eq!(age(NOON + HOUR / 2, HOUR), None);
    let mut early = kept(&[]);
    early.confirmed_at = NOON + HOUR;
    assert_eq!(early.usable(NOON, HOUR).err(), Some(KeptError::Future));
}

#[test]
fn a_file_names_its_marker_and_an_earlier_one_is_refused() {
    let marker = || PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone();
    let (old, new) = (marker(), marker());
    let file = [header(&old), b"sealed".to_vec()].concat();
    assert_eq!(split(&file, &[None, Some(old.clone())]), Ok((1, &b"sealed"[..])));
    assert_eq!(split(&file, &[None, Some(new.clone())]), Err(KeptError::Generation));
    assert_eq!(split(b"{}", &[Some(old.clone())]), Err(KeptError::Format));
    assert_eq!(split(&file[..20], &[Some(old.clone())]), Err(KeptError::Format));
    assert_ne!(context("spiffe://a/b", &old), context("spiffe://a/c", &old));
    assert_ne!(context("spiffe://a/b", &old), context("spiffe://a/b", &new));
}

#[test]
fn a_bundle_of_a_strange_trust_domain_name_does_not_break_it() {
    let mut all = kept(&[]);
    all.bundles.push(Bundle::new(TrustDomain::parse("empty.org").unwrap()));
    let (bytes, _) = all.encode();
    assert_eq!(Kept::decode(&bytes).unwrap().bundles.len(), 3);
}

proptest! {
    /// Sealed contents are ours; should they be damaged all the same, nothing breaks.
    #[test]
    fn no_contents_make_it_panic(position in 0usize..4000, value: u8, cut in 0usize..4000) {
        let (bytes, _) = kept(&[("a", Some(HOUR))]).encode();
        let mut bytes = bytes.to_vec();
        let position = position % bytes.len();
        bytes[position] = value;
        let _ = Kept::decode(&bytes);
        bytes.truncate(cut % bytes.len());
        prop_assert!(Kept::decode(&bytes).is_err());
    }
}
