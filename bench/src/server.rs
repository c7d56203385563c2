//! A server of one folder, with a folder of its own for what it keeps.

use std::fs;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use steeple_net::channel::{self, Channel};
use steeple_pki::Certificate;
use steeple_proto::spire::api::server::bundle::v1::GetBundleRequest;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::types::Bundle;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::Status;

use crate::args::{Args, Bin};
use crate::check::{Answers, TRUST_DOMAIN};
use crate::error::{Error, Result};
use crate::postgres::Database;
use crate::process::Process;

/// How long a program may take until it answers.
pub const START: Duration = Duration::from_secs(600);
/// Where servers listen: below what Linux gives to clients.
const PORTS: Range<u16> = 20_000..32_000;
/// How often a program that starts is asked whether it is there.
const POLL: Duration = Duration::from_millis(1);

/// How a server is configured, beyond what all have in common.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether the limits are those that SPIRE has by default, rather than off.
    pub rate_limits: bool,
    /// The URL of a PostgreSQL server on which it gets a database, rather than an SQLite file.
    pub postgres: Option<String>,
}

impl Options {
    /// As the command line wants it, with rate limits off.
    pub fn of(args: &Args) -> Self {
        Self { rate_limits: false, postgres: args.postgres.clone() }
    }
}

/// A running server. It reads as its process.
pub struct Server {
    pub process: Process,
    /// Where it listens for agents, on 127.0.0.1.
    pub port: u16,
    /// Its bundle as it was at first.
    pub bundle: Bundle,
    /// From the start of the process to the first answer, in ms, when it was first started.
    pub started: f64,
    socket: PathBuf,
    bin: Bin,
    folder: TempDir,
    /// Dropped when the server no longer runs.
    _database: Option<Database>,
}

impl std::ops::Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Server {
    /// Starts the server of `bin` in a folder of its own, and waits for its first answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start(bin: &Bin, options: &Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench").tempdir_in("/tmp");
        let folder = folder.map_err(Error::io("/tmp"))?;
        let port = free_port()?;
        let database = options.postgres.as_deref();
        let database = database.map(|admin| Database::create(admin, &bin.label)).transpose()?;
        let config = config(folder.path(), port, options, database.as_ref());
        write(&folder.path().join("server.conf"), &config)?;
        let socket = folder.path().join("server.sock");
        let begun = Instant::now();
        let mut process = spawn(bin, folder.path())?;
        let bundle = ready(&mut process, &socket).await?;
        let started = begun.elapsed().as_secs_f64() * 1e3;
        write(&folder.path().join("bundle.pem"), &pem(&bundle)?)?;
        Ok(Self {
            process,
            port,
            bundle,
            started,
            socket,
            bin: bin.clone(),
            folder,
            _database: database,
        })
    }

    /// Starts it again, ending it before if that was not done; ms to the first answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn again(&mut self) -> Result<f64> {
        self.process.stop();
        let begun = Instant::now();
        self.process = spawn(&self.bin, self.folder.path())?;
        self.bundle = ready(&mut self.process, &self.socket).await?;
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Ends it as the kernel does when there is no memory left.
    pub fn kill(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.stop();
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// [`Error::Process`] with the end of its log.
    pub fn alive(&mut self) -> Result<()> {
        self.process.alive()
    }

    /// A new connection to its Unix socket, made with the first call.
    pub fn channel(&self) -> Channel {
        channel::unix(&self.socket)
    }

    /// What its answers are held against.
    ///
    /// # Errors
    /// When its bundle cannot be read.
    pub fn answers(&self) -> Result<Answers> {
        Answers::new(&self.bundle)
    }

    /// Where it keeps everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its SQLite file.
    pub fn datastore(&self) -> PathBuf {
        self.folder.path().join("datastore.sqlite3")
    }
}

fn spawn(bin: &Bin, folder: &Path) -> Result<Process> {
    let config = folder.join("server.conf");
    let arguments = ["run", "-config", &config.to_string_lossy()];
    Process::start(bin, "spire-server", &arguments, folder.join("server.log"))
}

async fn ready(process: &mut Process, socket: &Path) -> Result<Bundle> {
    until_answered(process, socket, || async {
        let mut client = BundleClient::new(channel::unix(socket));
        Ok(client.get_bundle(GetBundleRequest::default()).await?.into_inner())
    })
    .await
}

/// Asks until there is an answer, as soon as somebody listens on `socket`.
///
/// # Errors
/// When there is none in time, or the process ends.
pub async fn until_answered<T, F>(
    process: &mut Process,
    socket: &Path,
    mut ask: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = std::result::Result<T, Status>>,
{
    let end = Instant::now() + START;
    let mut last = "nobody listens".to_owned();
    while Instant::now() < end {
        if UnixStream::connect(socket).await.is_ok() {
            match tokio::time::timeout(START, ask()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => last = status.to_string(),
                Err(_) => return Err(process.failure("does not answer")),
            }
        }
        process.alive()?;
        tokio::time::sleep(POLL).await;
    }
    Err(process.failure(&format!("not ready after {START:?}: {last}")))
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

fn config(folder: &Path, port: u16, options: &Options, database: Option<&Database>) -> String {
    let folder = folder.display();
    let limits = match options.rate_limits {
        true => "",
        false => "ratelimit {\n        attestation = false\n        signing = false\n    }",
    };
    let (kind, source) = match database {
        Some(database) => ("postgres", database.url()),
        None => ("sqlite3", format!("{folder}/datastore.sqlite3")),
    };
    format!(
        r#"server {{
    bind_address = "127.0.0.1"
    bind_port = {port}
    socket_path = "{folder}/server.sock"
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = "{folder}/server"
    log_level = "WARN"
    {limits}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "{kind}"
            connection_string = "{source}"
        }}
    }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/keys.json" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
    )
}

/// Writes a file of ours.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io(path.display().to_string()))
}

/// A port that nobody has, and that the kernel gives to nobody who connects: an agent must not
/// find its own end there while its server is away.
fn free_port() -> Result<u16> {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id().wrapping_mul(97) as u16;
    let mut last = None;
    for _ in 0..PORTS.len() {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + first.wrapping_add(tried) % PORTS.len() as u16;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(Error::io("127.0.0.1")(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into())))
}
