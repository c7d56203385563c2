//! The whole agent, on its own sockets, against a fake server over real TLS.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steeple_agent::{Agent, AgentError};
use steeple_config::{AgentFlags, load_agent};
use steeple_net::channel::Channel;
use steeple_net::unix::Sockets;
use steeple_pki::Certificate;
use steeple_proto::spire::api::types::permission_denied_details::Reason;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_proto::workload::{X509svidRequest, X509svidResponse};
use steeple_runtime::SystemClock;
use steeple_runtime::log::{Level, LogConfig, LogHandle, subscriber};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status, Streaming};

use self::fake::Server;

/// A node: a directory that outlives the agents that run on it.
struct Node {
    directory: tempfile::TempDir,
    port: u16,
    memory_keys: bool,
    bootstrap: &'static str,
    token: &'static str,
}

const CONFIG: &str = r#"
agent {
    data_dir = "DIR/data"
    socket_path = "DIR/api.sock"
    server_address = "127.0.0.1"
    server_port = "PORT"
    trust_domain = "example.org"
    join_token = "TOKEN"
    BOOTSTRAP
    experimental { sync_interval = "100ms" }
}
plugins {
    KEYS
    NodeAttestor "join_token" { plugin_data {} }
    WorkloadAttestor "unix" { plugin_data {} }
}
"#;
const DISK: &str = r#"KeyManager "disk" { plugin_data { directory = "DIR/data" } }"#;
const MEMORY: &str = r#"KeyManager "memory" { plugin_data {} }"#;

struct Running {
    stop: Option<oneshot::Sender<()>>,
    agent: JoinHandle<Result<(), AgentError>>,
    socket: PathBuf,
}

impl Node {
    fn of(server: &Server) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("bundle.pem"), server.authority.certificate.pem())
            .unwrap();
        let bootstrap = "trust_bundle_path = \"DIR/bundle.pem\"";
        let port = server.address.port();
        Self { directory, port, memory_keys: false, bootstrap, token: "token" }
    }

    fn start(&self) -> Running {
        let text = CONFIG
            .replace("KEYS", if self.memory_keys { MEMORY } else { DISK })
            .replace("BOOTSTRAP", self.bootstrap)
            .replace("TOKEN", self.token)
            .replace("PORT", &self.port.to_string());
        let path = self.directory.path();
        let file = path.join("agent.conf");
        std::fs::write(&file, text.replace("DIR", path.to_str().unwrap())).unwrap();
        let (config, _) =
            load_agent(Some(&file), &AgentFlags::default(), false, &|_| None).unwrap();
        let log = log();
        let agent = Agent { config, log, clock: Arc::new(SystemClock), sockets: Sockets::new() };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let socket = path.join("api.sock");
        Running { stop: Some(stop), agent: tokio::spawn(agent.run(shutdown)), socket }
    }

    fn data(&self) -> serde_json::Value {
        let text = std::fs::read(self.directory.path().join("data/agent-data.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

impl Running {
    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.agent.await.unwrap().unwrap();
    }

    /// Why the agent stopped by itself.
    async fn failure(self) -> String {
        let outcome = tokio::time::timeout(Duration::from_secs(30), self.agent).await;
        outcome.unwrap().unwrap().unwrap_err().to_string()
    }

    async fn stream(&self) -> Result<Streaming<X509svidResponse>, Status> {
        let channel: Channel = steeple_net::channel::unix(&self.socket);
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
        Ok(SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await?.into_inner())
    }

    /// The identities served, once there are any.
    async fn identities(&self) -> Vec<String> {
        ids(&self.first().await)
    }

    async fn first(&self) -> X509svidResponse {
        eventually("an identity", async || self.stream().await.ok()?.message().await.ok()?).await
    }
}

/// Shown when `STEEPLE_TEST_LOG` is set.
fn log() -> LogHandle {
    let config = LogConfig { level: Level::Debug, ..LogConfig::default() };
    let (logged, handle) = subscriber(&config).unwrap();
    if std::env::var_os("STEEPLE_TEST_LOG").is_some() {
        let _ = tracing::subscriber::set_global_default(logged);
    }
    handle
}

async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let trying = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), trying).await;
    found.unwrap_or_else(|_| panic!("{what}: not within half a minute"))
}

fn ids(response: &X509svidResponse) -> Vec<String> {
    response
        .svids
        .iter()
        .map(|svid| svid.spiffe_id.trim_start_matches("spiffe://example.org/").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_attests_once_and_keeps_its_identity_over_a_restart() {
    let server = Server::start().await;
    server.add_entry("a");
    let node = Node::of(&server);
    let agent = node.start();
    assert_eq!(agent.identities().await, ["a"]);
    agent.stop().await;
    let data = node.data();
    assert_eq!(data["svid"].as_array().unwrap().len(), 1);
    assert_eq!(data["bootstrap_use"], 2);
    let again = node.start();
    assert_eq!(again.identities().await, ["a"]);
    again.stop().await;
    assert_eq!(server.state().attestations, 1);
    assert_eq!(server.state().reported_version.as_deref(), Some(steeple_runtime::VERSION));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_in_memory_a_restart_means_a_new_attestation() {
    let server = Server::start().await;
    server.add_entry("a");
    let node = Node { memory_keys: true, ..Node::of(&server) };
    for _ in 0..2 {
        let agent = node.start();
        agent.identities().await;
        agent.stop().await;
    }
    assert_eq!(server.state().attestations, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_survived_with_what_is_cached() {
    let mut server = Server::start().await;
    server.add_entry("a");
    let node = Node::of(&server);
    let agent = node.start();
    assert_eq!(agent.identities().await, ["a"]);
    let mut open = agent.stream().await.unwrap();
    open.message().await.unwrap();
    server.stop().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(agent.identities().await, ["a"], "newcomers are served from the cache");
    server.add_entry("b");
    server.resume().await;
    let update = open.message().await.unwrap().unwrap();
    assert_eq!(ids(&update), ["a", "b"], "the open stream hears of what happened meanwhile");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_entry_ends_the_streams_that_had_it() {
    let server = Server::start().await;
    server.add_entry("a");
    let node = Node::of(&server);
    let agent = node.start();
    agent.identities().await;
    let mut open = agent.stream().await.unwrap();
    open.message().await.unwrap();
    server.state().entries.clear();
    let status = open.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_agent_forgets_its_identity_and_stops() {
    let server = Server::start().await;
    let node = Node::of(&server);
    server.add_entry("a");
    let agent = node.start();
    agent.identities().await;
    server.state().refusal = Some(Reason::AgentBanned);
    let failure = agent.failure().await;
    assert!(
        failure
            .starts_with("failed to fetch authorized entries: rpc error: code = PermissionDenied"),
        "{failure}"
    );
    assert!(node.data()["svid"].is_null());
    assert_eq!(node.data()["bundle"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_agent_attests_again_only_where_that_is_allowed() {
    for reattestable in [false, true] {
        let server = Server::start().await;
        server.add_entry("a");
        server.state().reattestable = reattestable;
        let node = Node::of(&server);
        let agent = node.start();
        agent.identities().await;
        server.state().refusal = Some(Reason::AgentNotAttested);
        if reattestable {
            eventually("a new attestation", async || {
                (server.state().attestations == 2).then_some(())
            })
            .await;
            server.add_entry("b");
            eventually("the new entry", async || {
                (agent.identities().await == ["a", "b"]).then_some(())
            })
            .await;
            agent.stop().await;
        } else {
            agent.failure().await;
            assert!(node.data()["svid"].is_null());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_lives_are_renewed_in_time_for_workloads_and_agent() {
    let server = Server::start().await;
    server.add_entry("a");
    server.state().svid_ttl = Duration::from_secs(4);
    server.state().agent_ttl = Duration::from_secs(4);
    let node = Node::of(&server);
    let agent = node.start();
    agent.identities().await;
    let mut open = agent.stream().await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let update = open.message().await.unwrap().unwrap();
        let chain = Certificate::parse_concatenated_der(&update.svids[0].x509_svid).unwrap();
        assert!(chain[0].is_valid_at(std::time::SystemTime::now()));
        seen.push(chain[0].serial_decimal());
    }
    seen.dedup();
    assert_eq!(seen.len(), 4, "every update brought a new SVID");
    eventually("two renewals of the agent", async || (server.state().renewals >= 2).then_some(()))
        .await;
    assert_eq!(server.state().attestations, 1);
    server.add_entry("b");
    eventually("the renewed identity at work", async || {
        (agent.identities().await == ["a", "b"]).then_some(())
    })
    .await;
    agent.stop().await;
    let keys = std::fs::read_to_string(node.directory.path().join("data/keys.json")).unwrap();
    assert!(keys.contains("agent-svid-A") && keys.contains("agent-svid-B"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_entries_come_in_pages_and_a_server_without_sync_serves_too() {
    for without_sync in [false, true] {
        let server = Server::start().await;
        server.state().page_size = Some(3);
        server.state().without_sync = without_sync;
        let own = ["m0", "m1"];
        own.iter().for_each(|id| server.add_entry(id));
        (0..20).for_each(|n| server.add_entry_for(&format!("x{n}"), "uid:4000000"));
        let node = Node::of(&server);
        let agent = node.start();
        assert_eq!(agent.identities().await, own);
        server.add_entry("m2");
        server.state().entries.remove("m0");
        eventually("the change", async || (agent.identities().await == ["m1", "m2"]).then_some(()))
            .await;
        agent.stop().await;
        let state = server.state();
        assert!(
            state.minted.values().all(|count| *count == 1),
            "nothing is signed twice: {:?}",
            state.minted
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_shrink_to_what_the_server_takes() {
    let server = Server::start().await;
    server.state().max_batch = 2;
    server.add_entry("a");
    (0..9).for_each(|n| server.add_entry_for(&format!("x{n}"), "uid:4000000"));
    let node = Node::of(&server);
    let agent = node.start();
    assert_eq!(agent.identities().await, ["a"]);
    eventually("all signed", async || (server.state().minted.len() == 10).then_some(())).await;
    assert_eq!(server.state().requested.first(), Some(&10));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_is_not_talked_to() {
    let server = Server::start().await;
    let impostor = Server::start().await;
    server.add_entry("a");
    let node = Node::of(&server);
    let agent = node.start();
    agent.identities().await;
    agent.stop().await;
    let mut server = server;
    server.stop().await;
    let deceived = Node { port: impostor.address.port(), ..node };
    let agent = deceived.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(impostor.state().attestations, 0);
    assert_eq!(impostor.state().reported_version, None);
    agent.agent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_bootstrap_takes_the_bundle_from_whoever_answers() {
    let server = Server::start().await;
    server.add_entry("a");
    let node = Node { bootstrap: "insecure_bootstrap = true", ..Node::of(&server) };
    let agent = node.start();
    assert_eq!(agent.identities().await, ["a"]);
    agent.stop().await;
    assert_eq!(node.data()["bundle"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_no_ends_the_start() {
    let server = Server::start().await;
    let node = Node { token: "wrong", ..Node::of(&server) };
    assert_eq!(
        node.start().failure().await,
        "failed to receive attestation response: rpc error: code = PermissionDenied desc = bad token"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_rebootstrap_a_new_authority_of_the_server_is_accepted_after_the_delay() {
    for bootstrap in [
        "trust_bundle_path = \"DIR/bundle.pem\"\n rebootstrap_mode = \"always\"\n rebootstrap_delay = \"1s\"",
        "trust_bundle_path = \"DIR/bundle.pem\"\n rebootstrap_mode = \"auto\"\n rebootstrap_delay = \"1s\"",
    ] {
        let mut server = Server::start().await;
        server.add_entry("a");
        server.state().reattestable = true;
        let node = Node { bootstrap, ..Node::of(&server) };
        let agent = node.start();
        agent.identities().await;
        server.replace_authority().await;
        let bundle = server.authority.certificate.pem();
        std::fs::write(node.directory.path().join("bundle.pem"), bundle).unwrap();
        assert_eq!(agent.failure().await, "shutting down for rebootstrapping");
        let again = node.start();
        assert_eq!(again.identities().await, ["a"]);
        again.stop().await;
        assert_eq!(server.state().attestations, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rebootstrapping_needs_an_attestation_that_can_be_repeated() {
    for (mode, failure) in [
        ("auto", "x509: certificate signed by unknown authority"),
        ("always", "you have requested rebootstrap support"),
    ] {
        let mut server = Server::start().await;
        server.add_entry("a");
        let bootstrap = match mode {
            "auto" => "trust_bundle_path = \"DIR/bundle.pem\"\n rebootstrap_mode = \"auto\"",
            _ => "trust_bundle_path = \"DIR/bundle.pem\"\n rebootstrap_mode = \"always\"",
        };
        let node = Node { bootstrap, ..Node::of(&server) };
        let agent = node.start();
        if mode == "auto" {
            agent.identities().await;
            server.replace_authority().await;
        }
        let said = agent.failure().await;
        assert!(said.contains(failure), "{mode}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rebootstrap_an_unknown_authority_is_the_end() {
    let mut server = Server::start().await;
    server.add_entry("a");
    let node = Node::of(&server);
    let agent = node.start();
    agent.identities().await;
    server.replace_authority().await;
    let failure = agent.failure().await;
    assert!(failure.contains("x509: certificate signed by unknown authority"), "{failure}");
}
