//! Agents that come at the same moment, to two servers on one database.

use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::stream;
use steeple_plugin::{HostContext, NodeEvidence};
use steeple_plugins::node_attestor::http_challenge;
use steeple_proto::spire::api::server::agent::v1 as pb;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use steeple_proto::spire::api::server::agent::v1::attest_agent_response::Step as Answer;
use steeple_proto::spire::api::types;
use steeple_proto::steeple::server::jointoken::v1 as tokens;
use steeple_proto::steeple::server::jointoken::v1::join_token_client::JoinTokenClient;
use steeple_spiffe::TrustDomain;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::support::{Running, attest, csr_for, directory, new_key, start_on};

const UNLIMITED: &str = "ratelimit { attestation = false signing = false }";

async fn two_servers(directories: &[TempDir; 2]) -> [Running; 2] {
    let database = directories[0].path().join("shared.sqlite3");
    let database = database.to_string_lossy();
    let start =
        |at: usize| start_on("example.org", &directories[at], UNLIMITED, "sqlite3", &database);
    let first = start(0).await;
    [first, start(1).await]
}

/// A whole conversation by HTTP challenge, each on a port of its own of this one host.
async fn attest_by_http(server: &Running) -> Result<types::Spiffeid, Status> {
    let host = HostContext::new(TrustDomain::parse("example.org").unwrap());
    let settings = steeple_hcl::Block::parse("hostname = \"127.0.0.1\"").unwrap();
    let evidence: Arc<dyn NodeEvidence> = http_challenge::agent(Some(&settings), &host).unwrap();
    let request = |step| pb::AttestAgentRequest { step: Some(step) };
    let payload = evidence.payload().await.unwrap().into();
    let first = Step::Params(Params {
        data: Some(types::AttestationData { r#type: http_challenge::NAME.to_owned(), payload }),
        params: Some(pb::AgentX509svidParams { csr: csr_for(&new_key()).into() }),
    });
    let (requests, outgoing) = mpsc::channel(1);
    requests.try_send(request(first)).unwrap();
    let mut client = AgentClient::new(server.remote(None).await);
    let outgoing = stream::unfold(outgoing, |mut outgoing| async move {
        outgoing.recv().await.map(|request| (request, outgoing))
    });
    let answers = client.attest_agent(outgoing).await;
    let mut answers = answers?.into_inner();
    loop {
        match answers.message().await?.expect("an answer or a status").step.unwrap() {
            Answer::Challenge(challenge) => {
                let response = evidence.respond(&challenge).await.unwrap().into();
                let _ = requests.send(request(Step::ChallengeResponse(response))).await;
            }
            Answer::Result(result) => return Ok(result.svid.unwrap().id.unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_agents_with_evidence_that_counts_once_one_gets_in() {
    let directories = [directory(), directory()];
    let servers = two_servers(&directories).await;
    let attempts = (0..24).map(|number| attest_by_http(&servers[number % 2]));
    let (won, lost): (Vec<_>, Vec<_>) =
        join_all(attempts).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    let text = "attestation data has already been used to attest an agent";
    for status in lost.into_iter().filter_map(Result::err) {
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.message(), format!("nodeattestor(http_challenge): {text}"));
    }
    let id = won.into_iter().next().unwrap().unwrap();
    assert_eq!(id.path, "/spire/agent/http_challenge/127.0.0.1");
    let request = pb::BanAgentRequest { id: Some(id.clone()) };
    servers[0].agents().ban_agent(request).await.unwrap();
    assert!(attest_by_http(&servers[1]).await.is_err());
    let request = pb::DeleteAgentRequest { id: Some(id.clone()) };
    servers[0].agents().delete_agent(request).await.unwrap();
    assert_eq!(attest_by_http(&servers[1]).await.unwrap(), id, "evicting lets it come again");
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_nodes_with_one_token_as_many_join_as_may() {
    let directories = [directory(), directory()];
    let servers = two_servers(&directories).await;
    let mut client = JoinTokenClient::new(servers[0].local());
    let request = tokens::CreateJoinTokenRequest { ttl: 3600, max_uses: 5, ..Default::default() };
    let token = client.create_join_token(request).await.unwrap().into_inner().value;
    let attempts = (0..24).map(|number| {
        let own = format!("{token}.node-number-{number:08}");
        let server = &servers[number % 2];
        async move { (attest(server.remote(None).await, &own).await, own) }
    });
    let (won, lost): (Vec<_>, Vec<_>) =
        join_all(attempts).await.into_iter().partition(|(attempt, _)| attempt.is_ok());
    assert_eq!(won.len(), 5);
    let text = "failed to attest: join token does not let more nodes join";
    for status in lost.into_iter().filter_map(|(attempt, _)| attempt.err()) {
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
    }
    for (first, own) in won {
        let again = attest(servers[1].remote(None).await, &own).await.unwrap();
        assert_eq!(again.id, first.unwrap().id, "a node that joined comes back as it was");
    }
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_learn_nothing_of_right_ones() {
    let directories = [directory(), directory()];
    let servers = two_servers(&directories).await;
    let mut client = JoinTokenClient::new(servers[0].local());
    let request = tokens::CreateJoinTokenRequest { ttl: 3600, ..Default::default() };
    let token = client.create_join_token(request).await.unwrap().into_inner().value;
    let last = if token.ends_with('x') { "y" } else { "x" };
    let wrong = format!("{}{last}", &token[..token.len() - 1]);
    let short = &token[..token.len() - 1];
    let node = format!("{token}.{}", "n".repeat(200));
    for wrong in [&*wrong, short, &node, "sjt_", "sjt_0123456789abcdef_"] {
        let refused = attest(servers[1].remote(None).await, wrong).await.err().unwrap();
        let text = "failed to attest: join token does not exist or has already been used";
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, text));
    }
    let request =
        pb::CreateJoinTokenRequest { ttl: 60, token: "sjt_mine".to_owned(), agent_id: None };
    let refused = servers[0].agents().create_join_token(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = JoinTokenClient::new(servers[0].remote(None).await)
        .list_join_tokens(tokens::ListJoinTokensRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "tokens are operators' business");
    for server in servers {
        server.stop().await;
    }
}
