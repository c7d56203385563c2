//! A server in this process, and callers of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steeple_config::{ServerFlags, load_server};
use steeple_net::channel::{self, Channel};
use steeple_net::tls::{ClientTls, Identity, IdentitySlot, Roots};
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{Certificate, KeyType, PrivateKey, Signer, csr};
use steeple_proto::spire::api::server::agent::v1 as agent_pb;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use steeple_proto::spire::api::server::agent::v1::attest_agent_response;
use steeple_proto::spire::api::server::bundle::v1 as bundle_pb;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::server::entry::v1 as entry_pb;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::types;
use steeple_runtime::{SystemClock, log};
use steeple_server::Server;
use steeple_spiffe::{SpiffeId, TrustDomain};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;

/// A running server on a directory of its own.
pub(crate) struct Running {
    pub(crate) port: u16,
    directory: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// An attested agent.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) id: types::Spiffeid,
    pub(crate) chain: Vec<Certificate>,
    pub(crate) key: Arc<PrivateKey>,
}

/// The test's own directory.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("srv").tempdir_in("/tmp").unwrap()
}

/// Starts a server in `directory`; `extra` goes into its `server` block.
pub(crate) async fn start(directory: &TempDir, extra: &str) -> Running {
    start_for("example.org", directory, extra).await
}

/// Starts a server of some trust domain.
pub(crate) async fn start_for(trust_domain: &str, directory: &TempDir, extra: &str) -> Running {
    let database = directory.path().join("data/datastore.sqlite3");
    start_on(trust_domain, directory, extra, "sqlite3", &database.to_string_lossy()).await
}

/// Starts a server on some database.
pub(crate) async fn start_on(
    trust_domain: &str,
    directory: &TempDir,
    extra: &str,
    database_type: &str,
    connection_string: &str,
) -> Running {
    let root = directory.path().to_owned();
    let port = steeple_testkit::free_port().unwrap();
    let data = root.join("data");
    let text = format!(
        r#"
        server {{
            bind_address = "127.0.0.1"
            bind_port = "{port}"
            socket_path = "{root}/s.sock"
            trust_domain = "{trust_domain}"
            data_dir = "{data}"
            {extra}
        }}
        plugins {{
            DataStore "sql" {{ plugin_data {{
                database_type = "{database_type}"
                connection_string = "{connection_string}"
            }} }}
            KeyManager "disk" {{ plugin_data {{ keys_path = "{data}/keys.json" }} }}
            NodeAttestor "join_token" {{ plugin_data {{}} }}
            NodeAttestor "http_challenge" {{ plugin_data {{}} }}
        }}
        "#,
        root = root.display(),
        data = data.display(),
    );
    let file = root.join("server.conf");
    std::fs::write(&file, text).unwrap();
    let (config, _) = load_server(Some(&file), &ServerFlags::default(), false, &|_| None).unwrap();
    let (_subscriber, log) = log::subscriber(&config.log).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server { config, log, clock: Arc::new(SystemClock) };
    let task = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        server.run(shutdown).await.unwrap();
    });
    let running = Running { port, directory: root, stop: Some(stop), task };
    running.wait_until_it_answers().await;
    running
}

impl Running {
    async fn wait_until_it_answers(&self) {
        for _ in 0..1000 {
            if self.local().connect().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server did not start");
    }

    /// Stops it the way a signal would.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }

    /// A caller on the Unix socket.
    pub(crate) fn local(&self) -> Channel {
        channel::unix(&self.directory.join("s.sock"))
    }

    pub(crate) fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.local())
    }

    pub(crate) fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.local())
    }

    pub(crate) async fn bundle(&self) -> types::Bundle {
        let request = bundle_pb::GetBundleRequest::default();
        BundleClient::new(self.local()).get_bundle(request).await.unwrap().into_inner()
    }

    /// A caller over TLS, as nobody or as an agent.
    pub(crate) async fn remote(&self, identity: Option<&Agent>) -> Channel {
        let roots = self.bundle().await.x509_authorities;
        let roots = roots.iter().map(|root| Certificate::from_der(root.asn1.clone()).unwrap());
        let home = TrustDomain::parse("example.org").unwrap();
        let identity = identity.map(|agent| {
            let key = Arc::clone(&agent.key) as Arc<dyn Signer>;
            IdentitySlot::from(Identity::new(&agent.chain, key))
        });
        let tls = ClientTls::new(SpiffeId::server(&home), Roots::new(roots.collect()), identity);
        channel::tls("127.0.0.1", self.port, tls).unwrap()
    }

    pub(crate) async fn token(&self) -> String {
        let request = agent_pb::CreateJoinTokenRequest { ttl: 600, ..Default::default() };
        self.agents().create_join_token(request).await.unwrap().into_inner().value
    }

    /// Attests an agent by a new join token.
    pub(crate) async fn new_agent(&self) -> Agent {
        let token = self.token().await;
        attest(self.remote(None).await, &token).await.unwrap()
    }

    /// Creates an entry and answers its id.
    pub(crate) async fn create(&self, entry: types::Entry) -> String {
        let request = entry_pb::BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
        let response = self.entries().batch_create_entry(request).await.unwrap().into_inner();
        let result = response.results.into_iter().next().unwrap();
        assert_eq!(result.status.unwrap().code, 0);
        result.entry.unwrap().id
    }
}

pub(crate) fn id(path: &str) -> types::Spiffeid {
    types::Spiffeid { trust_domain: "example.org".to_owned(), path: path.to_owned() }
}

pub(crate) fn entry(parent: &types::Spiffeid, path: &str) -> types::Entry {
    types::Entry {
        spiffe_id: Some(id(path)),
        parent_id: Some(parent.clone()),
        selectors: vec![types::Selector { r#type: "unix".to_owned(), value: "uid:1".to_owned() }],
        ..types::Entry::default()
    }
}

pub(crate) fn new_key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

/// A request for a key; what it says about names must not matter.
pub(crate) fn csr_for(key: &PrivateKey) -> Vec<u8> {
    let subject = DistinguishedName { common_name: "root".to_owned(), ..Default::default() };
    csr::create(key, &subject, &["spiffe://example.org/spire/server"]).unwrap()
}

pub(crate) fn evidence(token: &str, csr: Vec<u8>) -> agent_pb::AttestAgentRequest {
    agent_pb::AttestAgentRequest {
        step: Some(Step::Params(Params {
            data: Some(types::AttestationData {
                r#type: "join_token".to_owned(),
                payload: token.as_bytes().to_vec().into(),
            }),
            params: Some(agent_pb::AgentX509svidParams { csr: csr.into() }),
        })),
    }
}

/// Attests with a key of its own.
pub(crate) async fn attest(channel: Channel, token: &str) -> Result<Agent, Status> {
    let key = new_key();
    let request = evidence(token, csr_for(&key));
    let stream = futures_util::stream::iter([request]);
    let mut answers = AgentClient::new(channel).attest_agent(stream).await?.into_inner();
    let answer = answers.message().await?.expect("an answer or a status");
    let Some(attest_agent_response::Step::Result(result)) = answer.step else {
        panic!("a join token has no challenges")
    };
    let svid = result.svid.unwrap();
    let chain = svid.cert_chain.into_iter().map(|der| Certificate::from_der(der).unwrap());
    Ok(Agent { id: svid.id.unwrap(), chain: chain.collect(), key: Arc::new(key) })
}
