//! A server and an agent of one folder, started with the configuration that all of them get.

use std::fs;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use steeple_net::channel::{self, Channel};
use steeple_pki::Certificate;
use steeple_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::bundle::v1::GetBundleRequest;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::types::{Bundle, Entry, Selector, Spiffeid};
use tempfile::TempDir;
use tonic::Status;

use crate::args::Bin;
use crate::check::{Answers, TRUST_DOMAIN};
use crate::error::{Error, Result};
use crate::process::Process;
use crate::scenario::{entries, fetch};

/// How long a program may take until it answers.
const START: Duration = Duration::from_secs(60);

/// A running server with its agent.
pub struct Deployment {
    pub label: String,
    pub server: Process,
    pub agent: Process,
    /// From starting the server to its first answer, and from starting the agent to the first
    /// SVID, in ms.
    pub started: (f64, f64),
    /// What its answers are held against.
    pub answers: Answers,
    server_socket: PathBuf,
    agent_socket: PathBuf,
    /// The ID of the agent: the parent of entries for it.
    agent_path: String,
    /// Where the server listens.
    pub port: u16,
    /// The server's bundle as it was at first.
    pub bundle: Bundle,
    programs: PathBuf,
    folder: TempDir,
}

impl Deployment {
    /// Starts both programs in a folder of their own, with an entry for whoever runs this, and
    /// waits for the first SVID.
    ///
    /// # Errors
    /// When one of them does not get there.
    pub async fn start(bin: &Bin) -> Result<Self> {
        Self::pair(bin, bin).await
    }

    /// As [`Self::start`], with the server of one folder and the agent of another.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn pair(theirs: &Bin, bin: &Bin) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench").tempdir_in("/tmp");
        let folder = folder.map_err(Error::io("/tmp"))?;
        let path = |name: &str| folder.path().join(name);
        let port = free_port()?;

        write(&path("server.conf"), &server_config(folder.path(), port))?;
        let begun = Instant::now();
        let config = path("server.conf");
        let arguments = ["run", "-config", &config.to_string_lossy()];
        let mut server =
            Process::start(&theirs.folder.join("spire-server"), &arguments, path("server.log"))?;
        let server_socket = path("server.sock");
        let server_channel = channel::unix(&server_socket);
        let bundle = until_answered(&mut server, || bundle(server_channel.clone())).await?;
        let server_started = begun.elapsed().as_secs_f64() * 1e3;

        write(&path("bundle.pem"), &pem(&bundle)?)?;
        let request = CreateJoinTokenRequest { ttl: 600, ..Default::default() };
        let token = AgentClient::new(server_channel.clone()).create_join_token(request).await;
        let token = token.map_err(Error::call("CreateJoinToken"))?.into_inner().value;
        let agent_path = format!("/spire/agent/join_token/{token}");
        entries::create(server_channel, entry("/bench", &agent_path, own_uid())).await?;

        write(&path("agent.conf"), &agent_config(folder.path(), port))?;
        let begun = Instant::now();
        let config = path("agent.conf");
        let arguments = ["run", "-config", &config.to_string_lossy(), "-joinToken", &token];
        let mut agent =
            Process::start(&bin.folder.join("spire-agent"), &arguments, path("agent.log"))?;
        let agent_socket = path("public/api.sock");
        until_answered(&mut agent, || fetch::first_update(channel::unix(&agent_socket))).await?;
        let agent_started = begun.elapsed().as_secs_f64() * 1e3;

        Ok(Self {
            label: bin.label.clone(),
            server,
            agent,
            started: (server_started, agent_started),
            answers: Answers::new(&bundle)?,
            server_socket,
            agent_socket,
            agent_path,
            port,
            bundle,
            programs: bin.folder.clone(),
            folder,
        })
    }

    /// A new connection to the server's Unix socket, made with the first call.
    pub fn server_channel(&self) -> Channel {
        channel::unix(&self.server_socket)
    }

    /// A new connection to the Workload API, made with the first call.
    pub fn agent_channel(&self) -> Channel {
        channel::unix(&self.agent_socket)
    }

    /// The agent's socket.
    pub fn agent_socket(&self) -> &Path {
        &self.agent_socket
    }

    /// An entry that gives whoever runs this the identity with `path`.
    pub fn own_entry(&self, path: &str) -> Entry {
        entry(path, &self.agent_path, own_uid())
    }

    /// Ends the agent and starts it again with the identity that it has; it may not answer yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_agent(&mut self) -> Result<()> {
        self.agent.stop();
        self.agent = self.another_agent("agent.log")?;
        Ok(())
    }

    /// Lets another process of the agent take over if it can do that, else restarts it. The old
    /// one is gone afterwards.
    ///
    /// # Errors
    /// When that does not come to pass.
    pub async fn replace_agent(&mut self) -> Result<()> {
        if !self.folder.path().join("agent/handover.sock").exists() {
            return self.restart_agent();
        }
        let new = self.another_agent("agent-2.log")?;
        let mut old = std::mem::replace(&mut self.agent, new);
        let end = Instant::now() + START;
        while old.alive().is_ok() {
            if Instant::now() >= end {
                return Err(old.failure("did not give way to the new one"));
            }
            self.agent.alive()?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn another_agent(&self, log: &str) -> Result<Process> {
        let path = |name: &str| self.folder.path().join(name);
        let config = path("agent.conf");
        let arguments = ["run", "-config", &config.to_string_lossy()];
        Process::start(&self.programs.join("spire-agent"), &arguments, path(log))
    }

    /// Fails when one of the programs has ended.
    ///
    /// # Errors
    /// [`Error::Process`] with the end of its log.
    pub fn alive(&mut self) -> Result<()> {
        self.server.alive()?;
        self.agent.alive()
    }

    /// Asks both programs to end.
    pub fn stop(mut self) {
        self.agent.stop();
        self.server.stop();
    }
}

/// An entry below the agent with `parent`, for the user `uid`.
pub fn entry(path: &str, parent: &str, uid: u32) -> Entry {
    let id = |path: &str| Spiffeid { trust_domain: TRUST_DOMAIN.into(), path: path.into() };
    let selector = Selector { r#type: "unix".into(), value: format!("uid:{uid}") };
    Entry {
        spiffe_id: Some(id(path)),
        parent_id: Some(id(parent)),
        selectors: vec![selector],
        ..Default::default()
    }
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

async fn bundle(channel: Channel) -> std::result::Result<Bundle, Status> {
    let bundle = BundleClient::new(channel).get_bundle(GetBundleRequest::default()).await?;
    Ok(bundle.into_inner())
}

/// Asks until there is an answer.
async fn until_answered<T, F>(process: &mut Process, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = std::result::Result<T, Status>>,
{
    let end = Instant::now() + START;
    loop {
        match tokio::time::timeout(START, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) if Instant::now() >= end => {
                return Err(process.failure(&format!("not ready after {START:?}: {status}")));
            }
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(_) => return Err(process.failure("does not answer")),
        }
        process.alive()?;
    }
}

fn pem(bundle: &Bundle) -> Result<String> {
    let wrong = |what| Error::Wrong { call: "GetBundle", what };
    let mut text = String::new();
    for authority in &bundle.x509_authorities {
        let certificate = Certificate::from_der(authority.asn1.clone());
        text += &certificate.map_err(|error| wrong(error.to_string()))?.pem();
    }
    if text.is_empty() { Err(wrong("no X.509 authority".into())) } else { Ok(text) }
}

fn server_config(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        r#"server {{
    bind_address = "127.0.0.1"
    bind_port = {port}
    socket_path = "{folder}/server.sock"
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = "{folder}/server"
    log_level = "WARN"
    ratelimit {{
        attestation = false
        signing = false
    }}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = "{folder}/datastore.sqlite3"
        }}
    }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/keys.json" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
    )
}

fn agent_config(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        r#"agent {{
    trust_domain = "{TRUST_DOMAIN}"
    server_address = "127.0.0.1"
    server_port = {port}
    socket_path = "{folder}/public/api.sock"
    data_dir = "{folder}/agent"
    trust_bundle_path = "{folder}/bundle.pem"
    log_level = "WARN"
    x509_svid_cache_max_size = 100000
}}
plugins {{
    KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io(path.display().to_string()))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.and_then(|it| it.local_addr()).map(|it| it.port()).map_err(Error::io("127.0.0.1"))
}
