//! What a server below may have, and what its CA cannot be used for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_pki::x509::{
    self, DistinguishedName, ExtKeyUsage, Issuer, KeyUsage, SerialNumber, Template,
};
use steeple_pki::{Certificate, PrivateKey, Signer, csr};
use steeple_proto::spire::api::server::entry::v1 as entry_pb;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::server::svid::v1 as svid_pb;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_proto::spire::api::types;
use tonic::{Code, Status};

use crate::support::{Agent, Running, directory, entry, id, new_key, start};

/// A downstream server's CA: what its CSR and its wish got it.
async fn ca_for(server: &Running, lower: &Agent, key: &PrivateKey, ttl: i32) -> Vec<Certificate> {
    let subject = DistinguishedName { common_name: "evil".into(), ..Default::default() };
    let csr = csr::create(key, &subject, &["spiffe://other.org/spire/server"]).unwrap();
    let request = svid_pb::NewDownstreamX509caRequest { csr: csr.into(), preferred_ttl: ttl };
    let mut client = SvidClient::new(server.remote(Some(lower)).await);
    let issued = client.new_downstream_x509ca(request).await.unwrap().into_inner();
    issued.ca_cert_chain.into_iter().map(|der| Certificate::from_der(der).unwrap()).collect()
}

async fn lower_server(server: &Running) -> Agent {
    let lower = crate::access::minted(server, "/lower").await;
    server.create(types::Entry { downstream: true, ..entry(&id("/node"), "/lower") }).await;
    lower
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_of_a_server_below_has_our_names_and_ends_before_ours() {
    let directory = directory();
    let server = start(&directory, "").await;
    let lower = lower_server(&server).await;
    let root = server.bundle().await.x509_authorities.remove(0);
    let root = Certificate::from_der(root.asn1).unwrap();
    for ttl in [i32::MAX, 0, -1, i32::MIN, 1] {
        let key = new_key();
        let chain = ca_for(&server, &lower, &key, ttl).await;
        let ca = &chain[0];
        assert_eq!(ca.uri_sans(), ["spiffe://example.org"], "{ttl}");
        assert!(ca.not_after() <= root.not_after(), "{ttl}");
        assert_eq!(ca.public_key(), key.public_key(), "{ttl}");
        assert!(!format!("{ca:?}").contains("evil"), "{ttl}");
    }
    server.stop().await;
}

/// An SVID that the CA below signs for whomever it likes.
async fn forged(chain: &[Certificate], ca_key: &Arc<dyn Signer>, uri: &str) -> Agent {
    let key = new_key();
    let now = SystemTime::now();
    let template = Template {
        subject: DistinguishedName::default(),
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: now - Duration::from_secs(10),
        not_after: now + Duration::from_secs(600),
        ca: false,
        key_usage: KeyUsage::DIGITAL_SIGNATURE,
        ext_key_usage: vec![ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
        uri_sans: vec![uri.to_owned()],
        dns_names: vec![],
        policies: vec![],
        extra_extensions: vec![],
    };
    let svid = x509::issue(&template, &Issuer::new(&chain[0], Arc::clone(ca_key))).await.unwrap();
    let chain = std::iter::once(svid).chain(chain.iter().cloned()).collect();
    Agent { id: types::Spiffeid::default(), chain, key: Arc::new(key) }
}

async fn as_agent(server: &Running, caller: &Agent) -> Result<(), Status> {
    let mut client = EntryClient::new(server.remote(Some(caller)).await);
    let request = entry_pb::GetAuthorizedEntriesRequest { output_mask: None };
    client.get_authorized_entries(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_below_cannot_pass_for_an_agent_or_for_another_trust_domain() {
    let directory = directory();
    let server = start(&directory, r#"admin_ids = ["spiffe://other.org/boss"]"#).await;
    let lower = lower_server(&server).await;
    let agent = server.new_agent().await;
    as_agent(&server, &agent).await.unwrap();
    let key = new_key();
    let chain = ca_for(&server, &lower, &key, 3600).await;
    let key: Arc<dyn Signer> = Arc::new(key);

    // An agent is who uses the serial number that this server gave it.
    let known = format!("spiffe://example.org{}", agent.id.path);
    for uri in [known.as_str(), "spiffe://example.org/spire/agent/join_token/unknown"] {
        let refused = as_agent(&server, &forged(&chain, &key, uri).await).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{uri}: {refused}");
    }
    let boss = forged(&chain, &key, "spiffe://other.org/boss").await;
    let refused = as_agent(&server, &boss).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    as_agent(&server, &agent).await.expect("the agent itself is none the worse");
    server.stop().await;
}
