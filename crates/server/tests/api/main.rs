//! The server's APIs from outside: a whole server in this process, over its Unix socket and TLS.

#![expect(clippy::unwrap_used, reason = "tests")]

mod access;
mod attestation;
mod downstream;
mod entries;
mod racing;
mod several;
mod support;
mod svids;

use steeple_proto::spire::api::server::agent::v1::GetAgentRequest;
use steeple_proto::spire::api::server::debug::v1::GetInfoRequest;
use steeple_proto::spire::api::server::debug::v1::debug_client::DebugClient;
use steeple_proto::spire::api::server::localauthority::v1 as authority_pb;
use steeple_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use support::{directory, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_with_the_same_authorities() {
    let directory = directory();
    let first = start(&directory, "").await;
    let agent = first.new_agent().await;
    let before = first.bundle().await;
    first.stop().await;

    let second = start(&directory, "").await;
    assert_eq!(second.bundle().await, before);
    let request = GetAgentRequest { id: Some(agent.id.clone()), output_mask: None };
    assert!(second.agents().get_agent(request).await.is_ok());
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_debug_are_for_the_socket_alone() {
    let directory = directory();
    let server = start(&directory, "").await;
    let health = HealthClient::new(server.local()).check(HealthCheckRequest::default()).await;
    assert_eq!(health.unwrap().into_inner().status, 1);
    let named = HealthCheckRequest { service: "x".to_owned() };
    let refused = HealthClient::new(server.local()).check(named).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "per-service health is not supported");

    let info = DebugClient::new(server.local()).get_info(GetInfoRequest {}).await.unwrap();
    let info = info.into_inner();
    assert_eq!((info.agents_count, info.entries_count, info.federated_bundles_count), (0, 0, 1));
    let subjects: Vec<_> = info.svid_chain.iter().map(|cert| cert.subject.as_str()).collect();
    assert_eq!(subjects[0], "O=SPIRE,C=US");
    assert!(subjects[1].ends_with(",O=SPIFFE,C=US"), "{subjects:?}");

    let remote = server.remote(None).await;
    let absent = DebugClient::new(remote).get_info(GetInfoRequest {}).await.unwrap_err();
    assert_eq!(absent.code(), Code::Unimplemented);
    assert_eq!(absent.message(), "unknown service spire.api.server.debug.v1.Debug");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_rotation_brings_a_new_authority_and_retires_the_old_one() {
    let directory = directory();
    let server = start(&directory, "").await;
    let mut authorities = LocalAuthorityClient::new(server.local());
    let old = authorities
        .get_x509_authority_state(authority_pb::GetX509AuthorityStateRequest {})
        .await
        .unwrap()
        .into_inner();
    let old = old.active.unwrap().authority_id;
    let prepared = authorities
        .prepare_x509_authority(authority_pb::PrepareX509AuthorityRequest {})
        .await
        .unwrap()
        .into_inner();
    let new = prepared.prepared_authority.unwrap().authority_id;
    assert_eq!(server.bundle().await.x509_authorities.len(), 2);

    let activate = authority_pb::ActivateX509AuthorityRequest { authority_id: new.clone() };
    let activated = authorities.activate_x509_authority(activate).await.unwrap().into_inner();
    assert_eq!(activated.activated_authority.unwrap().authority_id, new);
    let taint = authority_pb::TaintX509AuthorityRequest { authority_id: new };
    let refused = authorities.taint_x509_authority(taint).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "unable to taint current local authority");
    let taint = authority_pb::TaintX509AuthorityRequest { authority_id: old.clone() };
    authorities.taint_x509_authority(taint).await.unwrap();
    let tainted = server.bundle().await.x509_authorities.iter().filter(|it| it.tainted).count();
    assert_eq!(tainted, 1);
    let revoke = authority_pb::RevokeX509AuthorityRequest { authority_id: old };
    authorities.revoke_x509_authority(revoke).await.unwrap();
    assert_eq!(server.bundle().await.x509_authorities.len(), 1);
    server.stop().await;
}
