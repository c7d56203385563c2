//! SVIDs by entry.

use steeple_pki::Certificate;
use steeple_pki::verify::{self, X509Roots};
use steeple_proto::spire::api::server::entry::v1 as entry_pb;
use steeple_proto::spire::api::server::svid::v1 as pb;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_proto::spire::api::types;
use steeple_spiffe::TrustDomain;
use tonic::Code;

use crate::support::{Running, csr_for, directory, entry, new_key, start};

fn params(entry_id: &str, csr: &[u8]) -> pb::NewX509svidParams {
    pb::NewX509svidParams { entry_id: entry_id.to_owned(), csr: csr.to_vec().into() }
}

async fn create_many(server: &Running, parent: &types::Spiffeid, count: usize) -> Vec<String> {
    let entries = (0..count).map(|number| entry(parent, &format!("/w{number}"))).collect();
    let request = entry_pb::BatchCreateEntryRequest { entries, output_mask: None };
    let response = server.entries().batch_create_entry(request).await.unwrap().into_inner();
    response.results.into_iter().map(|result| result.entry.unwrap().id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_item_by_item_and_by_entry_alone() {
    let directory = directory();
    let server = start(&directory, "").await;
    let agent = server.new_agent().await;
    let mut wish = entry(&agent.id, "/web");
    wish.dns_names = vec!["web.example.org".to_owned()];
    let mine = server.create(wish).await;
    let not_mine = server.create(entry(&crate::support::id("/elsewhere"), "/other")).await;
    let csr = csr_for(&new_key());
    let mut tampered = csr.clone();
    let last = tampered.len() - 4;
    tampered[last] ^= 1;

    let request = pb::BatchNewX509svidRequest {
        params: vec![
            params(&mine, &csr),
            params(&not_mine, &csr),
            params("", &csr),
            params(&mine, &[]),
            params(&mine, b"junk"),
            params(&mine, &tampered),
        ],
    };
    let mut client = SvidClient::new(server.remote(Some(&agent)).await);
    let results = client.batch_new_x509svid(request).await.unwrap().into_inner().results;
    let told: Vec<_> = results
        .iter()
        .map(|result| result.status.as_ref().unwrap())
        .map(|status| (Code::from_i32(status.code), status.message.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (Code::Ok, "OK"),
            (Code::NotFound, "entry not found or not authorized"),
            (Code::InvalidArgument, "missing entry ID"),
            (Code::InvalidArgument, "missing CSR"),
            (Code::InvalidArgument, "malformed CSR: unexpected DER element with tag 0x6a"),
            (Code::InvalidArgument, "invalid CSR signature: x509: ECDSA verification failure"),
        ]
    );
    let svid = results[0].svid.as_ref().unwrap();
    let leaf = Certificate::from_der(svid.cert_chain[0].clone()).unwrap();
    assert_eq!(leaf.uri_sans(), ["spiffe://example.org/web"]);
    assert_eq!(leaf.dns_sans(), ["web.example.org"]);
    assert_eq!(leaf.subject().unwrap().common_name, "web.example.org");

    let roots = server.bundle().await.x509_authorities;
    let roots = X509Roots {
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        authorities: vec![Certificate::from_der(roots[0].asn1.clone()).unwrap()],
    };
    verify::x509_svid(&[leaf], &roots, std::time::SystemTime::now()).unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_entry_signs_no_more() {
    let directory = directory();
    let server = start(&directory, "").await;
    let agent = server.new_agent().await;
    let mine = server.create(entry(&agent.id, "/web")).await;
    let mut client = SvidClient::new(server.remote(Some(&agent)).await);
    let request = pb::NewJwtsvidRequest { entry_id: mine.clone(), audience: vec!["a".to_owned()] };
    let jwt = client.new_jwtsvid(request.clone()).await.unwrap().into_inner().svid.unwrap();
    assert_eq!(jwt.id.unwrap().path, "/web");
    let delete = entry_pb::BatchDeleteEntryRequest { ids: vec![mine] };
    server.entries().batch_delete_entry(delete).await.unwrap();
    let refused = client.new_jwtsvid(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(refused.message(), "entry not found or not authorized");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_are_signed_in_one_call_and_one_more_is_too_many() {
    let directory = directory();
    let server = start(&directory, "").await;
    let agent = server.new_agent().await;
    let ids = create_many(&server, &agent.id, 500).await;
    let csr = csr_for(&new_key());
    let mut client = SvidClient::new(server.remote(Some(&agent)).await);
    let request =
        pb::BatchNewX509svidRequest { params: ids.iter().map(|id| params(id, &csr)).collect() };
    let response = client.batch_new_x509svid(request.clone()).await.unwrap().into_inner();
    for (number, result) in response.results.iter().enumerate() {
        let svid = result.svid.as_ref().unwrap();
        assert_eq!(svid.id.as_ref().unwrap().path, format!("/w{number}"), "out of order");
    }
    let mut too_many = request;
    too_many.params.push(params(&ids[0], &csr));
    let refused = client.batch_new_x509svid(too_many).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(
        refused.message(),
        "rejecting request due to certificate signing rate limiting: rate (501) exceeds burst \
         size (500)"
    );
    let none = pb::BatchNewX509svidRequest { params: Vec::new() };
    let refused = client.batch_new_x509svid(none).await.unwrap_err();
    assert_eq!(refused.message(), "missing parameters");
    server.stop().await;
}
