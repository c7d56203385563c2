//! Join tokens, renewal, bans and evictions.

use futures_util::future::join_all;
use futures_util::stream;
use std::sync::Arc;
use steeple_net::channel::Channel;
use steeple_net::status::detail;
use steeple_pki::Certificate;
use steeple_proto::spire::api::server::agent::v1 as pb;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::entry::v1::GetAuthorizedEntriesRequest;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::types;
use steeple_proto::spire::api::types::permission_denied_details::Reason;
use tonic::{Code, Status};

use crate::support::{Agent, attest, csr_for, directory, evidence, id, new_key, start};

const UNLIMITED: &str = "ratelimit { attestation = false signing = false }";
const USED: &str = "failed to attest: join token does not exist or has already been used";

async fn refusal(channel: Channel) -> Status {
    let request = GetAuthorizedEntriesRequest { output_mask: None };
    EntryClient::new(channel).get_authorized_entries(request).await.unwrap_err()
}

fn reason(status: &Status) -> Option<Reason> {
    let detail: types::PermissionDeniedDetails =
        detail(status, "spire.api.types.PermissionDeniedDetails")?;
    Reason::try_from(detail.reason).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_simultaneous_attempts_one_gets_the_token_and_the_rest_one_status() {
    let directory = directory();
    let server = start(&directory, UNLIMITED).await;
    let token = server.token().await;
    let channel = server.remote(None).await;
    let attempts = (0..100).map(|_| attest(channel.clone(), &token));
    let (won, lost): (Vec<_>, Vec<_>) =
        join_all(attempts).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for status in lost.into_iter().filter_map(Result::err) {
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, USED));
    }
    let agents = server.agents().list_agents(pb::ListAgentsRequest::default()).await.unwrap();
    let winner = won.into_iter().next().unwrap().unwrap();
    let listed = agents.into_inner().agents;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].x509svid_serial_number, winner.chain[0].serial_decimal());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_certificate_says_what_the_server_says_and_nothing_of_the_csr() {
    let directory = directory();
    let server = start(&directory, UNLIMITED).await;
    let agent = server.new_agent().await;
    let leaf = &agent.chain[0];
    assert!(agent.id.path.starts_with("/spire/agent/join_token/"));
    assert_eq!(leaf.uri_sans(), [format!("spiffe://example.org{}", agent.id.path)]);
    let subject = leaf.subject().unwrap();
    assert_eq!(
        (subject.common_name.as_str(), subject.organization.as_slice()),
        ("", &["SPIRE".to_owned()][..])
    );
    assert!(!leaf.is_ca());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_evidence_gets_a_precise_status_and_spends_no_token() {
    let directory = directory();
    let server = start(&directory, UNLIMITED).await;
    let token = server.token().await;
    let mut tampered = csr_for(&new_key());
    let last = tampered.len() - 4;
    tampered[last] ^= 1;
    for (csr, text) in [
        (Vec::new(), "malformed param: missing CSR"),
        (
            b"junk".to_vec(),
            "failed to parse CSR: malformed CSR: unexpected DER element with tag 0x6a",
        ),
        (
            vec![0x30; 20_000],
            "failed to parse CSR: CSR is too large: 20000 bytes, at most 16384 are accepted",
        ),
        (tampered, "failed to parse CSR: failed to verify CSR signature"),
    ] {
        let stream = stream::iter([evidence(&token, csr)]);
        let answers = AgentClient::new(server.remote(None).await).attest_agent(stream).await;
        let refused = answers.unwrap().into_inner().message().await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, text));
    }
    assert!(attest(server.remote(None).await, &token).await.is_ok(), "the token was spent");
    for odd in ["", "no such token", "\u{0}", &"x".repeat(10_000)] {
        let refused = attest(server.remote(None).await, odd).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{odd:.20}");
        assert!(refused.message().len() < 200);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_told_once_and_then_gone() {
    let directory = directory();
    let server = start(&directory, UNLIMITED).await;
    let request = pb::CreateJoinTokenRequest { ttl: 1, token: "old".to_owned(), agent_id: None };
    server.agents().create_join_token(request).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    for text in ["join token expired", USED] {
        let refused = attest(server.remote(None).await, "old").await.err().unwrap();
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, text));
    }
    let request = pb::CreateJoinTokenRequest::default();
    let refused = server.agents().create_join_token(request).await.unwrap_err();
    assert_eq!(refused.message(), "ttl is required, you must provide one");
    server.stop().await;
}

async fn renew(server: &crate::support::Running, agent: &Agent) -> Agent {
    let key = new_key();
    let params = pb::AgentX509svidParams { csr: csr_for(&key).into() };
    let request = pb::RenewAgentRequest { params: Some(params) };
    let mut client = AgentClient::new(server.remote(Some(agent)).await);
    let svid = client.renew_agent(request).await.unwrap().into_inner().svid.unwrap();
    let chain = svid.cert_chain.into_iter().map(|der| Certificate::from_der(der).unwrap());
    Agent { id: agent.id.clone(), chain: chain.collect(), key: Arc::new(key) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_use_of_a_renewed_svid_ends_the_one_before() {
    let directory = directory();
    let server = start(&directory, UNLIMITED).await;
    let old = server.new_agent().await;
    let new = renew(&server, &old).await;
    let request = GetAuthorizedEntriesRequest { output_mask: None };
    for agent in [&old, &new, &new] {
        let mut client = EntryClient::new(server.remote(Some(agent)).await);
        client.get_authorized_entries(request).await.unwrap();
    }
    let refused = refusal(server.remote(Some(&old)).await).await;
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "authorization denied for method /spire.api.server.entry.v1.Entry/GetAuthorizedEntries"
    );
    assert_eq!(reason(&refused), Some(Reason::AgentNotActive));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn banned_and_evicted_agents_are_told_which_of_it_they_are() {
    let directory = directory();
    let server = start(&directory, UNLIMITED).await;
    let agent = server.new_agent().await;
    let channel = server.remote(Some(&agent)).await;
    let request = GetAuthorizedEntriesRequest { output_mask: None };
    EntryClient::new(channel.clone()).get_authorized_entries(request).await.unwrap();

    let ban = pb::BanAgentRequest { id: Some(agent.id.clone()) };
    server.agents().ban_agent(ban).await.unwrap();
    let banned = refusal(channel.clone()).await;
    assert_eq!(reason(&banned), Some(Reason::AgentBanned));
    let token = agent.id.path.rsplit('/').next().unwrap().to_owned();
    let again = pb::CreateJoinTokenRequest { ttl: 60, token: token.clone(), agent_id: None };
    server.agents().create_join_token(again).await.unwrap();
    let refused = attest(server.remote(None).await, &token).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "failed to attest: agent is banned");

    let evict = pb::DeleteAgentRequest { id: Some(agent.id.clone()) };
    server.agents().delete_agent(evict.clone()).await.unwrap();
    let evicted = refusal(channel).await;
    assert_eq!(reason(&evicted), Some(Reason::AgentNotAttested));
    let missing = server.agents().delete_agent(evict).await.unwrap_err();
    assert_eq!((missing.code(), missing.message()), (Code::NotFound, "agent not found"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tells_its_version_and_no_novel() {
    let directory = directory();
    let server = start(&directory, UNLIMITED).await;
    let agent = server.new_agent().await;
    let mut client = AgentClient::new(server.remote(Some(&agent)).await);
    let status =
        |agent_version: String| pb::PostStatusRequest { agent_version, ..Default::default() };
    client.post_status(status("1.2.3".to_owned())).await.unwrap();
    let refused = client.post_status(status("x".repeat(256))).await.unwrap_err();
    assert_eq!(refused.message(), "agent version is too long (max 255 characters)");
    let get = pb::GetAgentRequest { id: Some(agent.id.clone()), output_mask: None };
    let stored = server.agents().get_agent(get).await.unwrap().into_inner();
    assert_eq!((stored.agent_version.as_str(), stored.banned), ("1.2.3", false));
    let workload = pb::GetAgentRequest { id: Some(id("/web")), output_mask: None };
    let refused = server.agents().get_agent(workload).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().ends_with("path is not in the agent namespace"));
    server.stop().await;
}
