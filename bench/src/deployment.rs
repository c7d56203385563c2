//! A server and an agent of one folder, started with the configuration that all of them get.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use steeple_net::channel::{self, Channel};
use steeple_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::types::{Entry, Selector, Spiffeid};

use tonic::Code;

use crate::args::Bin;
use crate::check::{Answers, TRUST_DOMAIN};
use crate::error::{Error, Result};
use crate::process::Process;
use crate::scenario::{entries, fetch};
use crate::server::{Options, START, Server, until_answered, write};

/// A running server with its agent.
pub struct Deployment {
    pub server: Server,
    pub agent: Process,
    /// From starting the agent to its first answer, and to the first SVID, in ms.
    pub started: (f64, f64),
    /// What its answers are held against.
    pub answers: Answers,
    agent_socket: PathBuf,
    /// The ID of the agent: the parent of entries for it.
    agent_path: String,
    bin: Bin,
}

impl Deployment {
    /// Starts both programs in a folder of their own, with an entry for whoever runs this, and
    /// waits for the first SVID.
    ///
    /// # Errors
    /// When one of them does not get there.
    pub async fn start(bin: &Bin, options: &Options) -> Result<Self> {
        Self::with(Server::start(bin, options).await?, bin).await
    }

    /// As [`Self::start`] with SQLite, with the server of one folder and the agent of another.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn pair(theirs: &Bin, bin: &Bin) -> Result<Self> {
        Self::with(Server::start(theirs, &Options::default()).await?, bin).await
    }

    /// As [`Self::start`], on a server that runs.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn with(server: Server, bin: &Bin) -> Result<Self> {
        let request = CreateJoinTokenRequest { ttl: 600, ..Default::default() };
        let token = AgentClient::new(server.channel()).create_join_token(request).await;
        let token = token.map_err(Error::call("CreateJoinToken"))?.into_inner().value;
        let agent_path = format!("/spire/agent/join_token/{token}");
        entries::create(server.channel(), entry("/bench", &agent_path, own_uid())).await?;

        let path = |name: &str| server.folder().join(name);
        write(&path("agent.conf"), &agent_config(server.folder(), server.port))?;
        let begun = Instant::now();
        let config = path("agent.conf");
        let arguments = ["run", "-config", &config.to_string_lossy(), "-joinToken", &token];
        let mut agent = Process::start(bin, "spire-agent", &arguments, path("agent.log"))?;
        let agent_socket = path("public/api.sock");
        let ask = || async {
            match fetch::first_update(channel::unix(&agent_socket)).await {
                Err(status) if status.code() != Code::PermissionDenied => Err(status),
                // To have nothing for the caller yet is an answer.
                answer => Ok(answer.is_ok()),
            }
        };
        let has_svid = until_answered(&mut agent, &agent_socket, ask).await?;
        let answered = begun.elapsed().as_secs_f64() * 1e3;
        if !has_svid {
            let ask = || fetch::first_update(channel::unix(&agent_socket));
            until_answered(&mut agent, &agent_socket, ask).await?;
        }
        let started = (answered, begun.elapsed().as_secs_f64() * 1e3);
        let (answers, bin) = (server.answers()?, bin.clone());
        Ok(Self { server, agent, started, answers, agent_socket, agent_path, bin })
    }

    /// A new connection to the server's Unix socket, made with the first call.
    pub fn server_channel(&self) -> Channel {
        self.server.channel()
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
        if !self.server.folder().join("agent/handover.sock").exists() {
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
        let path = |name: &str| self.server.folder().join(name);
        let config = path("agent.conf");
        let arguments = ["run", "-config", &config.to_string_lossy()];
        Process::start(&self.bin, "spire-agent", &arguments, path(log))
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
