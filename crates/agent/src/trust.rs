//! The bundle that the server is recognised by before the first contact.

use std::path::Path;
use std::time::{Duration, SystemTime};

use steeple_agent_core::storage::{AgentData, BootstrapUse};
use steeple_config::{AgentConfig, Bootstrap, RebootstrapMode, TrustBundleFormat};
use steeple_net::channel;
use steeple_net::https::{FetchError, FetchLimits, get, get_unix};
use steeple_pki::{Bundle, Certificate};
use steeple_proto::workload::X509BundlesRequest;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_runtime::duration::format_go;
use steeple_runtime::{fsx, gotext};
use steeple_spiffe::TrustDomain;
use steeple_telemetry::gauge;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{debug, info, warn};
use url::Url;

use crate::attestation::FirstTrust;
use crate::data::DataFile;
use crate::error::{AgentError, code_name};

/// Where the first bundle comes from, and how often it was asked for.
pub(crate) struct TrustSource<'c> {
    config: &'c AgentConfig,
    data: &'c DataFile,
}

impl<'c> TrustSource<'c> {
    pub(crate) fn new(config: &'c AgentConfig, data: &'c DataFile) -> Self {
        Self { config, data }
    }

    /// The bundle on disk, else the configured one. Counts the attempt.
    pub(crate) async fn first_trust(&self, now: SystemTime) -> Result<FirstTrust, AgentError> {
        let stored = self.data.read().bundle;
        if !stored.is_empty() {
            return Ok(FirstTrust::Bundle(stored));
        }
        self.data.update(|data| {
            if data.bootstrap_use == BootstrapUse::Unspecified {
                data.bootstrap_use = BootstrapUse::Bootstrap;
            }
            data.connection_attempts += 1;
            data.bootstrap_start_time.get_or_insert(now);
        })?;
        self.tell();
        let authorities = match &self.config.bootstrap {
            Bootstrap::Insecure => return Ok(FirstTrust::Insecure),
            Bootstrap::Path { path, format } => {
                let unread = |why: String| failed(format!("could not parse trust bundle: {why}"));
                let missing = || format!("open {}: no such file or directory", path.display());
                let bundle = fsx::read_limited(path, MAX_BUNDLE)
                    .map_err(|error| unread(error.to_string()))?
                    .ok_or_else(|| unread(missing()))?;
                self.parse(&bundle, *format)?
            }
            Bootstrap::Url { url, unix_socket, format } => {
                self.parse(&self.download(url, unix_socket.as_deref()).await?, *format)?
            }
            Bootstrap::WorkloadApi { address } => {
                self.announce();
                debug!(
                    Logger = LOGGER,
                    "Fetching trust bundle from SPIFFE Workload API: {address}"
                );
                from_workload_api(address, &self.config.trust_domain).await?
            }
        };
        if authorities.is_empty() {
            return Err(failed("no certificates found in trust bundle".into()));
        }
        Ok(FirstTrust::Bundle(authorities))
    }

    /// Whether no attestation has succeeded yet.
    pub(crate) fn is_bootstrap(&self) -> bool {
        self.data.read().bootstrap_use == BootstrapUse::Bootstrap
    }

    /// The server was reached and believed: the attempts are over. What the agent `begins` with is
    /// recorded in the same writing of the file, which waits for the disk.
    pub(crate) fn succeeded(
        &self,
        now: SystemTime,
        begins: impl FnOnce(&mut AgentData),
    ) -> Result<(), AgentError> {
        let data = self.data.read();
        if let Some(started) = data.bootstrap_start_time {
            let took = format_go(now.duration_since(started).unwrap_or_default());
            info!(Logger = LOGGER, "Success after {took} attempts={}", data.connection_attempts);
        }
        info!(Logger = LOGGER, "Setting use.");
        self.data.update(|data| {
            data.bootstrap_use = BootstrapUse::Rebootstrap;
            data.bootstrap_start_time = None;
            data.connection_attempts = 0;
            begins(data);
        })?;
        self.tell();
        Ok(())
    }

    /// The state of the bootstrap, for dashboards.
    fn tell(&self) {
        let data = self.data.read();
        let mode = match data.bootstrap_use {
            BootstrapUse::Rebootstrap => "rebootstrap",
            _ => "bootstrap",
        };
        let since = data.bootstrap_start_time;
        let bootstrapped = if since.is_none() { 1.0 } else { 0.0 };
        // Go's zero time, which SPIRE shows, is in the year one.
        let seconds = since
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(GO_ZERO_TIME, |since| since.as_secs() as f64);
        gauge(&["bootstrapped"], bootstrapped, &[]);
        gauge(&["bootstrap_seconds"], seconds, &[("mode", mode)]);
        let attempts = data.connection_attempts as f64;
        gauge(&["bootstrap_attempts"], attempts, &[("mode", mode)]);
    }

    /// Whether to bootstrap again when the server's authority is unknown: if
    /// the configuration says so and this agent may be attested again.
    pub(crate) fn may_rebootstrap(&self) -> Result<bool, AgentError> {
        let data = self.data.read();
        let barred = !data.svid.is_empty() && !data.reattestable;
        match self.config.rebootstrap_mode {
            RebootstrapMode::Never => Ok(false),
            RebootstrapMode::Always if barred => Err(failed(NOT_REATTESTABLE.into())),
            RebootstrapMode::Auto if barred => {
                warn!("{NOT_REATTESTABLE}. Disabling");
                Ok(false)
            }
            RebootstrapMode::Auto | RebootstrapMode::Always => Ok(true),
        }
    }

    /// The server is not the one that the bundle on disk tells of. After
    /// `rebootstrap_delay` the bundle goes, and the configured one is asked.
    pub(crate) fn disagrees(&self, now: SystemTime) -> Result<(), AgentError> {
        let data = self.data.read();
        if data.bundle.is_empty() {
            info!("Trust Bundle and Server don't agree, bootstrapping again");
            return Ok(());
        }
        let started = data.bootstrap_start_time.unwrap_or(now);
        let waited = now.duration_since(started).unwrap_or_default();
        if waited < self.config.rebootstrap_delay {
            let time_left = format_go(self.config.rebootstrap_delay - waited);
            info!(time_left, "Trust Bundle and Server don't agree, ignoring for now");
            return self.data.update(|data| data.bootstrap_start_time = Some(started));
        }
        warn!("Trust Bundle and Server don't agree, rebootstrapping");
        self.data.update(|data| {
            data.bundle.clear();
            data.bootstrap_use = BootstrapUse::Rebootstrap;
            data.bootstrap_start_time = Some(now);
            data.connection_attempts = 0;
        })
    }

    fn announce(&self) {
        let data = self.data.read();
        let attempt = data.connection_attempts;
        let started = started_at(data.bootstrap_start_time);
        match data.bootstrap_use {
            BootstrapUse::Rebootstrap => {
                info!(
                    Logger = LOGGER,
                    "Server reattestation attempt {attempt}. Started {started}."
                );
            }
            _ => info!(Logger = LOGGER, "Server attestation attempt {attempt}. Started {started}."),
        }
    }

    async fn download(&self, url: &str, socket: Option<&Path>) -> Result<Vec<u8>, AgentError> {
        self.announce();
        let limits = FetchLimits { deadline: Duration::from_secs(60), size: MAX_BUNDLE as usize };
        let asked = match socket {
            None => url.to_owned(),
            Some(_) => {
                let unable = |error| failed(format!("unable to parse trust bundle URL: {error}"));
                self.with_query(url).map_err(unable)?.into()
            }
        };
        let fetched = match socket {
            None => get(&asked, limits).await,
            Some(socket) => get_unix(&asked, socket, limits).await,
        };
        fetched.map(|body| body.to_vec()).map_err(|error| {
            let error = match (&error, socket) {
                (FetchError::Connect(error), Some(socket)) => {
                    let why = gotext::system(error);
                    format!("Get {asked:?}: dial unix {}: connect: {why}", socket.display())
                }
                (FetchError::Connect(error), None) => format!("Get {asked:?}: {error}"),
                (error, _) => error.to_string(),
            };
            failed(format!("unable to fetch trust bundle URL {asked}: {error}"))
        })
    }

    /// Over a Unix socket the answering helper learns who asks, and how often.
    fn with_query(&self, url: &str) -> Result<Url, url::ParseError> {
        let mut url = Url::parse(url)?;
        let data = self.data.read();
        let mode = match data.bootstrap_use {
            BootstrapUse::Rebootstrap => "rebootstrap",
            _ => "bootstrap",
        };
        url.query_pairs_mut()
            .append_pair("spiffe-trust-domain", self.config.trust_domain.as_str())
            .append_pair("spire-attest-mode", mode)
            .append_pair("spire-attest-start-time", &started_at(data.bootstrap_start_time))
            .append_pair("spire-connection-attempts", &data.connection_attempts.to_string())
            .append_pair("spire-server-address", &self.config.server_address)
            .append_pair("spire-server-port", &self.config.server_port.to_string());
        Ok(url)
    }

    fn parse(
        &self,
        document: &[u8],
        format: TrustBundleFormat,
    ) -> Result<Vec<Certificate>, AgentError> {
        let trust_domain = self.config.trust_domain.clone();
        match format {
            TrustBundleFormat::Pem => {
                let text = std::str::from_utf8(document)
                    .map_err(|_| failed("could not parse trust bundle: not text".into()))?;
                Certificate::parse_pem_bundle(text).map_err(|error| failed(error.to_string()))
            }
            TrustBundleFormat::Spiffe => {
                let bundle: Bundle =
                    steeple_pki::bundle::parse(trust_domain, document).map_err(|error| {
                        failed(format!("unable to parse SPIFFE trust bundle: {error}"))
                    })?;
                Ok(bundle.certificates().cloned().collect())
            }
        }
    }
}

async fn from_workload_api(
    address: &str,
    trust_domain: &TrustDomain,
) -> Result<Vec<Certificate>, AgentError> {
    let unable = |error: &dyn std::fmt::Display| {
        failed(format!("unable to fetch trust bundle from SPIFFE Workload API {address}: {error}"))
    };
    let path = address.strip_prefix("unix://").or_else(|| address.strip_prefix("unix:"));
    let channel = match path {
        Some(path) => channel::unix(Path::new(path)),
        None => {
            let socket = address.strip_prefix("tcp://").and_then(|socket| socket.parse().ok());
            channel::tcp(socket.ok_or_else(|| unable(&"no socket address"))?)
        }
    };
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let mut request = tonic::Request::new(X509BundlesRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("ASCII"));
    let first = async { client.fetch_x509_bundles(request).await?.into_inner().message().await };
    let answer = tokio::time::timeout(WORKLOAD_API_TIMEOUT, first)
        .await
        .map_err(|_| unable(&"context deadline exceeded"))?
        .map_err(|status| {
            let (code, why) = (code_name(&status), status.message());
            unable(&format_args!("rpc error: code = {code} desc = {why}"))
        })?;
    let bundles = answer.unwrap_or_default().bundles;
    let der = bundles.get(&trust_domain.id_string()).ok_or_else(|| {
        failed(format!(
            "SPIFFE Workload API {address} did not provide a trust bundle for trust domain {:?}",
            trust_domain.as_str()
        ))
    })?;
    Certificate::parse_concatenated_der(der).map_err(|error| unable(&error))
}

fn started_at(started: Option<SystemTime>) -> String {
    let started = OffsetDateTime::from(started.unwrap_or(SystemTime::UNIX_EPOCH));
    let seconds = started.replace_nanosecond(0).unwrap_or(started);
    seconds.format(&Rfc3339).unwrap_or_default()
}

fn failed(reason: String) -> AgentError {
    AgentError::Bootstrap(reason)
}

/// The seconds of Go's zero time.
const GO_ZERO_TIME: f64 = -62_135_596_800.0;
const NOT_REATTESTABLE: &str = "you have requested rebootstrap support but the NodeAttestor plugin or the spire server configuration is not allowing it";
const LOGGER: &str = "TrustBundleSources";
const MAX_BUNDLE: u64 = 5 * 1024 * 1024;
const WORKLOAD_API_TIMEOUT: Duration = Duration::from_secs(60);
