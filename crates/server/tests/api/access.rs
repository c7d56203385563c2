//! Who may do what over TLS.

use std::sync::Arc;

use steeple_pki::x509::DistinguishedName;
use steeple_pki::{Certificate, csr};
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::server::bundle::v1::{
    AppendBundleRequest, BatchSetFederatedBundleRequest, GetBundleRequest,
    PublishJwtAuthorityRequest,
};
use steeple_proto::spire::api::server::entry::v1 as entry_pb;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::server::svid::v1 as svid_pb;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_proto::spire::api::types;
use tonic::{Code, Status};

use crate::support::{Agent, Running, csr_for, directory, entry, id, new_key, start, start_for};

/// An identity minted by the operator.
pub(crate) async fn minted(server: &Running, path: &str) -> Agent {
    minted_as(server, &format!("spiffe://example.org{path}"), path).await
}

async fn minted_as(server: &Running, uri: &str, path: &str) -> Agent {
    let key = new_key();
    let csr = csr::create(&key, &DistinguishedName::default(), &[uri]).unwrap();
    let request = svid_pb::MintX509svidRequest { csr: csr.into(), ttl: 0 };
    let response = SvidClient::new(server.local()).mint_x509svid(request).await.unwrap();
    let svid = response.into_inner().svid.unwrap();
    let chain = svid.cert_chain.into_iter().map(|der| Certificate::from_der(der).unwrap());
    Agent { id: id(path), chain: chain.collect(), key: Arc::new(key) }
}

async fn count(server: &Running, caller: Option<&Agent>) -> Result<i32, Status> {
    let mut client = EntryClient::new(server.remote(caller).await);
    let counted = client.count_entries(entry_pb::CountEntriesRequest::default()).await?;
    Ok(counted.into_inner().count)
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_gets_the_bundle_and_strangers_nothing_else() {
    let directory = directory();
    let server = start(&directory, "").await;
    let remote = server.remote(None).await;
    let bundle = BundleClient::new(remote).get_bundle(GetBundleRequest::default()).await;
    assert_eq!(bundle.unwrap().into_inner().trust_domain, "example.org");

    let agent = server.new_agent().await;
    let workload = minted(&server, "/web").await;
    for stranger in [None, Some(&agent), Some(&workload)] {
        let refused = count(&server, stranger).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(
            refused.message(),
            "authorization denied for method /spire.api.server.entry.v1.Entry/CountEntries"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_are_made_by_configuration_or_by_an_entry_and_unmade_at_once() {
    let directory = directory();
    let server = start(&directory, r#"admin_ids = ["spiffe://example.org/boss"]"#).await;
    let boss = minted(&server, "/boss").await;
    assert_eq!(count(&server, Some(&boss)).await.unwrap(), 0);

    let ops = minted(&server, "/ops").await;
    assert!(count(&server, Some(&ops)).await.is_err());
    let grant = types::Entry { admin: true, ..entry(&id("/node"), "/ops") };
    let granted = server.create(grant).await;
    assert_eq!(count(&server, Some(&ops)).await.unwrap(), 1);
    let revoke = entry_pb::BatchDeleteEntryRequest { ids: vec![granted] };
    server.entries().batch_delete_entry(revoke).await.unwrap();
    assert_eq!(count(&server, Some(&ops)).await.unwrap_err().code(), Code::PermissionDenied);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downstream_server_gets_a_ca_of_its_own() {
    let directory = directory();
    let server = start(&directory, "").await;
    let lower = minted(&server, "/lower").await;
    let request = svid_pb::NewDownstreamX509caRequest {
        csr: csr_for(&new_key()).into(),
        preferred_ttl: 3600,
    };
    let mut client = SvidClient::new(server.remote(Some(&lower)).await);
    let refused = client.new_downstream_x509ca(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let grant = types::Entry { downstream: true, ..entry(&id("/node"), "/lower") };
    server.create(grant).await;
    let issued = client.new_downstream_x509ca(request).await.unwrap().into_inner();
    let ca = Certificate::from_der(issued.ca_cert_chain[0].clone()).unwrap();
    assert!(ca.is_ca());
    assert_eq!(ca.uri_sans(), ["spiffe://example.org"]);
    assert_eq!(issued.x509_authorities.len(), 1);
    let junk = svid_pb::NewDownstreamX509caRequest { csr: vec![1, 2].into(), preferred_ttl: 0 };
    let refused = client.new_downstream_x509ca(junk).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("malformed CSR: "));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downstream_server_cannot_fill_the_bundle_or_take_a_key_id() {
    let directory = directory();
    let server = start(&directory, "").await;
    let lower = minted(&server, "/lower").await;
    server.create(types::Entry { downstream: true, ..entry(&id("/node"), "/lower") }).await;
    let mut client = BundleClient::new(server.remote(Some(&lower)).await);
    let public_key = new_key().public_key().spki_der().to_vec();
    let key = |key_id: &str| types::JwtKey {
        key_id: key_id.to_owned(),
        public_key: public_key.clone().into(),
        expires_at: 4_000_000_000,
        ..types::JwtKey::default()
    };
    let publish = |key| PublishJwtAuthorityRequest { jwt_authority: Some(key) };

    let refused = client.publish_jwt_authority(publish(key(&"k".repeat(256)))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let theirs = server.bundle().await.jwt_authorities[0].key_id.clone();
    let refused = client.publish_jwt_authority(publish(key(&theirs))).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert_eq!(server.bundle().await.jwt_authorities.len(), 1);

    let jwt_authorities = (0..998).map(|number| key(&format!("key{number}"))).collect();
    let append = AppendBundleRequest { jwt_authorities, ..AppendBundleRequest::default() };
    BundleClient::new(server.local()).append_bundle(append).await.unwrap();
    client.publish_jwt_authority(publish(key("last"))).await.unwrap();
    client.publish_jwt_authority(publish(key("last"))).await.expect("it is there already");
    let refused = client.publish_jwt_authority(publish(key("more"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(server.bundle().await.jwt_authorities.len(), 1000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_ca_authenticates_nobody() {
    let other_directory = directory();
    let other = start(&other_directory, "").await;
    let impostor = minted(&other, "/boss").await;
    let directory = directory();
    let server = start(&directory, r#"admin_ids = ["spiffe://example.org/boss"]"#).await;
    let refused = count(&server, Some(&impostor)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(
        !refused.message().contains("certificate signed by unknown authority"),
        "an agent would take the server's certificate for untrusted"
    );
    other.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_of_another_trust_domain_needs_its_bundle_and_to_be_named() {
    let (other_directory, directory) = (directory(), directory());
    let other = start_for("other.org", &other_directory, "").await;
    let boss = minted_as(&other, "spiffe://other.org/boss", "/boss").await;
    let clerk = minted_as(&other, "spiffe://other.org/clerk", "/clerk").await;
    let server = start(&directory, r#"admin_ids = ["spiffe://other.org/boss"]"#).await;
    let refused = count(&server, Some(&boss)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(refused.message(), "no bundle found for trust domain \"other.org\"");

    let foreign = types::Bundle { trust_domain: "other.org".to_owned(), ..other.bundle().await };
    let set = BatchSetFederatedBundleRequest { bundle: vec![foreign], output_mask: None };
    BundleClient::new(server.local()).batch_set_federated_bundle(set).await.unwrap();
    assert_eq!(count(&server, Some(&boss)).await.unwrap(), 0);
    let refused = count(&server, Some(&clerk)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    other.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_four_mebibytes_is_refused() {
    let directory = directory();
    let server = start(&directory, "").await;
    let long = types::Entry { hint: "x".repeat(5 << 20), ..types::Entry::default() };
    let request = entry_pb::BatchCreateEntryRequest { entries: vec![long], output_mask: None };
    let refused = server.entries().batch_create_entry(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("grpc: received message larger than max"));
    server.stop().await;
}
