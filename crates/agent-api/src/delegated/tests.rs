//! The bytes that the core writes are the messages that the protocols describe.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use steeple_agent_core::wire::{Change, WithKey, delegated_x509_svids, watched};
use steeple_pki::x509::{
    Certificate, DistinguishedName, KeyUsage, SerialNumber, Template, self_sign,
};
use steeple_pki::{KeyType, PrivateKey, Signer};
use steeple_proto::spire::api::agent::delegatedidentity::v1 as spires;
use steeple_proto::steeple::agent::delegation::v1 as ours;
use steeple_spiffe::SpiffeId;

use super::*;

async fn certificate() -> Certificate {
    let key: Arc<dyn Signer> = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let now = SystemTime::now();
    let template = Template {
        subject: DistinguishedName::default(),
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: now,
        not_after: now + Duration::from_secs(60),
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: Vec::new(),
        uri_sans: vec!["spiffe://example.org/a/b".into()],
        dns_names: Vec::new(),
        policies: Vec::new(),
        extra_extensions: Vec::new(),
    };
    self_sign(&template, key).await.unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/a/b").unwrap()
}

#[tokio::test]
async fn a_message_for_delegates_is_what_spires_clients_decode() {
    let leaf = certificate().await;
    let chain = || [leaf.der(), leaf.der()].into_iter();
    let with_hint = |hint| WithKey::new(&id(), chain(), leaf.not_after(), hint, b"key");
    let identities = [with_hint("hint"), with_hint("")];
    let federates_with = ["spiffe://other.org".to_owned()];
    let frame = delegated_x509_svids(&identities, &federates_with);
    let message = spires::SubscribeToX509sviDsResponse::decode(frame.message()).unwrap();
    assert_eq!(message.federates_with, federates_with);
    assert_eq!(message.x509_svids.len(), 2);
    let svid = message.x509_svids[0].x509_svid.clone().unwrap();
    assert_eq!(message.x509_svids[0].x509_svid_key, b"key".as_slice());
    assert_eq!(svid.id.unwrap().path, "/a/b");
    assert_eq!(svid.cert_chain, [leaf.der_bytes(), leaf.der_bytes()]);
    assert_eq!(svid.expires_at, seconds(leaf.not_after()));
    assert_eq!(svid.hint, "hint");
    let nothing = delegated_x509_svids(&[], &[]);
    assert!(nothing.message().is_empty(), "a workload without identity");
}

#[tokio::test]
async fn changes_are_what_our_protocol_says() {
    let leaf = certificate().await;
    let svid = || WithKey::new(&id(), std::iter::once(leaf.der()), leaf.not_after(), "", b"key");
    let federates_with = ["spiffe://other.org".to_owned()];
    let frame = watched(&[
        Change {
            id: 300,
            upserted: vec![("e1", svid()), ("e2", svid())],
            removed: vec!["e3"],
            federates_with: &federates_with,
            more: true,
            incomplete: true,
            error: None,
        },
        Change { id: 7, error: Some((14, "gone")), ..Change::default() },
        Change::default(),
    ]);
    let message = ours::WatchX509sviDsResponse::decode(frame.message()).unwrap();
    let [first, second, third] = &message.changes[..] else { panic!("three changes") };
    assert_eq!((first.id, first.more, first.incomplete), (300, true, true));
    assert_eq!(first.upserted[1].entry_id, "e2");
    let svid = first.upserted[1].svid.clone().unwrap();
    assert_eq!(svid.x509_svid_key, b"key".as_slice());
    assert_eq!(svid.x509_svid.unwrap().cert_chain, [leaf.der_bytes()]);
    assert_eq!(first.removed, ["e3"]);
    assert_eq!(first.federates_with, federates_with);
    let error = second.error.clone().unwrap();
    assert_eq!((second.id, error.code, error.message.as_str()), (7, 14, "gone"));
    assert_eq!(*third, ours::Change::default());
}

#[test]
fn selectors_are_told_apart_as_spire_tells_them() {
    let selector =
        |kind: &str, value: &str| types::Selector { r#type: kind.into(), value: value.into() };
    assert_eq!(parsed(&[selector("", "x")]).unwrap_err(), "missing selector type");
    assert_eq!(parsed(&[selector("a:b", "x")]).unwrap_err(), "selector type contains ':'");
    assert_eq!(parsed(&[selector("a", "")]).unwrap_err(), "missing selector value");
    let found = parsed(&[selector("b", "x:y"), selector("a", "x"), selector("a", "x")]).unwrap();
    assert_eq!(found.to_string(), "a:x,b:x:y");
}
