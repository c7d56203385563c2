use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use steeple_pki::x509::Certificate;
use steeple_pki::{
    Bundle, JwtAuthority, KeyType, PrivateKey, PublicKey, SignError, SignatureAlgorithm, Signer,
};
use steeple_spiffe::TrustDomain;

use super::*;
use crate::kind::{Jwt, JwtKey, X509, X509Ca, from_unix};
use crate::rotation::{Next, Rotation, SlotId};

const SPIRES: &[u8] = include_bytes!("../../testdata/spire-journal.bin");
const CA_ID: &str = "64557ca337c96530ee5d75e4b106dfa785e5b0b9";
const KID: &str = "nipleQBdujXeWPtGUndWvZ4shoocK76H";

struct NoKey(PublicKey);

#[async_trait]
impl Signer for NoKey {
    fn public_key(&self) -> &PublicKey {
        &self.0
    }

    async fn sign(&self, _: SignatureAlgorithm, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError::Failed("holds no private key".into()))
    }
}

fn from<'a>(journal: &'a Journal, bundle: Option<&'a Bundle>) -> Remains<'a> {
    Remains { journal, bundle, now: an_hour_later() }
}

fn spires() -> Journal {
    Journal::decode(&StoredJournal {
        id: 1,
        data: SPIRES.to_vec(),
        active_x509_authority_id: CA_ID.to_owned(),
    })
    .unwrap()
}

fn spires_certificate() -> Certificate {
    Certificate::from_der(spires().entries.x509_c_as[0].certificate.clone()).unwrap()
}

fn spires_jwt_key() -> PublicKey {
    PublicKey::from_spki_der(&spires().entries.jwt_keys[0].public_key).unwrap()
}

fn spires_bundle() -> Bundle {
    let mut bundle = Bundle::from_certificates(
        TrustDomain::parse("example.org").unwrap(),
        vec![spires_certificate()],
    );
    bundle.set_jwt_authority(JwtAuthority {
        key_id: KID.to_owned(),
        public_key: spires_jwt_key(),
        expires_at: None,
        tainted: false,
    });
    bundle
}

fn in_slot_a(public_key: &PublicKey) -> SlotKeys {
    SlotKeys { a: Some(Arc::new(NoKey(public_key.clone()))), b: None }
}

fn an_hour_later() -> SystemTime {
    spires_certificate().not_before() + Duration::from_secs(3600)
}

#[test]
fn a_journal_of_spire_is_gone_on_with() {
    let (journal, bundle) = (spires(), spires_bundle());
    let keys = in_slot_a(spires_certificate().public_key());
    let x509 = restore::<X509>(from(&journal, Some(&bundle)), &keys, false).unwrap();
    let ca = x509.current().unwrap();
    assert_eq!((ca.id(), ca.upstream_id(), x509.slot()), (CA_ID, "", SlotId::A));
    assert_eq!(ca.issued_at(), spires_certificate().not_before() + Duration::from_secs(10));
    assert!(matches!(x509.next(), Next::Empty));

    let keys = in_slot_a(&spires_jwt_key());
    let jwt = restore::<Jwt>(from(&journal, Some(&bundle)), &keys, false).unwrap();
    assert_eq!(jwt.current().unwrap().id(), KID);
}

#[test]
fn what_we_write_is_what_spire_writes() {
    let journal = spires();
    assert_eq!(journal.encode().data, SPIRES, "not a byte differs");

    let certificate = spires_certificate();
    let signer = Arc::new(NoKey(certificate.public_key().clone()));
    let issued_at = certificate.not_before() + Duration::from_millis(10_785);
    let ca = X509Ca::new(certificate, vec![], signer, issued_at);
    let mut ours = Journal::default();
    ours.apply::<X509>(&Change::Prepared { slot: SlotId::A, authority: ca, first: true });
    ours.apply::<X509>(&Change::Activated { id: CA_ID.into() });

    let theirs = &journal.entries.jwt_keys[0];
    let signer = Arc::new(NoKey(spires_jwt_key()));
    let [issued_at, not_after] = [theirs.issued_at, theirs.not_after].map(from_unix);
    let key = JwtKey::new(KID.into(), signer, issued_at, not_after);
    ours.apply::<Jwt>(&Change::Prepared { slot: SlotId::A, authority: key, first: true });
    ours.apply::<Jwt>(&Change::Activated { id: KID.into() });
    assert_eq!(ours.encode().data, SPIRES);
    assert_eq!(ours.anchor(), CA_ID);
}

#[test]
fn an_upstream_chain_survives_the_journal() {
    let certificate = spires_certificate();
    let signer: Arc<dyn Signer> = Arc::new(NoKey(certificate.public_key().clone()));
    let chain = vec![certificate.clone(), certificate.clone()];
    let ca = X509Ca::new(certificate, chain.clone(), signer.clone(), an_hour_later());
    let row = X509::to_row(SlotId::B, &ca);
    assert_eq!((row.slot_id.as_str(), row.upstream_chain.len()), ("B", 2));
    let read = X509::from_row(&row, &signer).unwrap().unwrap();
    assert_eq!(read.upstream_chain(), chain);
}

/// The restored JWT rotation of a journal with these entries, all of which keys and bundle know.
fn restored(rows: &[(&str, &str, Status)], now: SystemTime) -> Rotation<JwtKey> {
    let keys = [SlotId::A, SlotId::B]
        .map(|_| -> Arc<dyn Signer> { Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap()) });
    let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
    let mut journal = Journal::default();
    for (kid, slot, status) in rows {
        let signer = keys[usize::from(*slot == "B")].clone();
        let public_key = signer.public_key().clone();
        let key = JwtKey::new((*kid).into(), signer, from_unix(1000), from_unix(2000));
        let mut row = Jwt::to_row(SlotId::A, &key);
        (*slot).clone_into(&mut row.slot_id);
        row.set_status(*status);
        journal.entries.jwt_keys.push(row);
        let (key_id, expires_at) = ((*kid).into(), None);
        bundle.set_jwt_authority(JwtAuthority { key_id, public_key, expires_at, tainted: false });
    }
    let [a, b] = keys.map(Some);
    restore::<Jwt>(
        Remains { journal: &journal, bundle: Some(&bundle), now },
        &SlotKeys { a, b },
        false,
    )
    .unwrap()
}

fn ids(rotation: &Rotation<JwtKey>) -> (Option<&str>, String) {
    let next = match rotation.next() {
        Next::Empty => String::new(),
        Next::Prepared(next) => format!("prepared {}", next.id()),
        Next::Old(old) => format!("old {}", old.id()),
    };
    (rotation.current().map(Authority::id), next)
}

#[test]
fn the_active_entry_becomes_current_and_the_newest_other_next() {
    use Status::{Active, Old, Prepared, Unknown};
    let now = from_unix(1500);
    type Case<'a> = (&'a [(&'a str, &'a str, Status)], (Option<&'a str>, &'a str));
    let cases: [Case<'_>; 7] = [
        (&[("a", "A", Active), ("b", "B", Prepared)], (Some("a"), "prepared b")),
        (&[("a", "A", Old), ("b", "B", Active)], (Some("b"), "old a")),
        (&[("a", "A", Active), ("b", "B", Active)], (Some("b"), "")),
        (&[("a", "A", Prepared)], (None, "prepared a")),
        (&[("a", "A", Unknown)], (None, "prepared a")),
        (&[("a", "A", Old)], (None, "")),
        (&[("a", "", Active), ("b", "C", Active)], (None, "")),
    ];
    for (rows, (current, next)) in cases {
        let rotation = restored(rows, now);
        assert_eq!(ids(&rotation), (current, next.to_owned()), "{rows:?}");
    }
    let expired = restored(&[("a", "A", Active)], from_unix(2001));
    assert_eq!(ids(&expired), (None, String::new()));
}

#[test]
fn no_bundle_is_not_a_bundle_that_holds_everything() {
    let keys = in_slot_a(spires_certificate().public_key());
    let x509 = restore::<X509>(from(&spires(), None), &keys, false).unwrap();
    assert!(x509.current().is_none());
    assert_eq!(x509.slot(), SlotId::B, "the journal is found by the key in A");
}

#[test]
fn a_damaged_entry_stops_the_start() {
    let mut journal = spires();
    journal.entries.x509_c_as[0].certificate = Bytes::from_static(b"what");
    let keys = in_slot_a(spires_certificate().public_key());
    let error = restore::<X509>(from(&journal, None), &keys, false).unwrap_err();
    assert!(error.to_string().starts_with("unable to parse CA certificate"), "{error}");
    let damaged = StoredJournal { data: vec![0xff; 9], ..StoredJournal::default() };
    assert!(matches!(Journal::decode(&damaged), Err(RotationError::Journal(_))));
}
