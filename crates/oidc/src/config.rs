//! The configuration file, with SPIRE's defaults and error texts.

mod raw;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use steeple_config::expand_env;
use steeple_runtime::log::{LogConfig, LogError};
use steeple_runtime::{duration, fsx};
use steeple_spiffe::TrustDomain;
use steeple_web::Listener;

use crate::go::{self, Url};
use raw::File;

const POLL_INTERVAL: Duration = Duration::from_secs(10);
const FILE_SYNC_INTERVAL: Duration = Duration::from_secs(60);
const CACHE_DIR: &str = "./.acme-cache";
const HTTPS_ADDR: &str = ":443";
const MAX_LEN: u64 = 1024 * 1024;

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("unable to load configuration: {0}")]
    Read(io::Error),
    #[error("unable to load configuration: open {0}: no such file or directory")]
    Missing(String),
    #[error("unable to decode configuration: {0}")]
    Decode(String),
    #[error(transparent)]
    Log(#[from] LogError),
    /// A setting that cannot be; the texts are SPIRE's.
    #[error("{0}")]
    Setting(String),
}

/// All that is configured.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) log: LogConfig,
    pub(crate) log_requests: bool,
    /// Without duplicates.
    pub(crate) domains: Vec<String>,
    pub(crate) set_key_use: bool,
    pub(crate) allow_insecure_scheme: bool,
    pub(crate) listen: Listen,
    pub(crate) origin: OriginConfig,
    pub(crate) poll_interval: Duration,
    pub(crate) health: Option<HealthConfig>,
    /// As written, and in parts.
    pub(crate) jwt_issuer: Option<(String, Url)>,
    pub(crate) jwks_uri: Option<String>,
    /// Begins with a slash.
    pub(crate) path_prefix: String,
}

/// Where requests come in.
#[derive(Debug)]
pub(crate) enum Listen {
    Http(String),
    Unix(PathBuf),
    Files { addr: String, cert: PathBuf, key: PathBuf, sync_interval: Duration },
    Acme(AcmeConfig),
}

#[derive(Debug)]
pub(crate) struct AcmeConfig {
    pub(crate) addr: String,
    pub(crate) directory_url: String,
    pub(crate) email: String,
    pub(crate) cache_dir: Option<PathBuf>,
}

/// Where keys come from.
#[derive(Debug)]
pub(crate) enum OriginConfig {
    ServerApi(PathBuf),
    WorkloadApi(PathBuf, TrustDomain),
    File(PathBuf),
}

#[derive(Debug)]
pub(crate) struct HealthConfig {
    pub(crate) port: u16,
    pub(crate) ready_path: String,
    pub(crate) live_path: String,
}

/// Reads the file at `path`; answers with what it configures, and with what to warn of.
pub(crate) fn load(path: &Path, expand: bool) -> Result<(Config, Vec<String>), ConfigError> {
    let text = fsx::read_limited(path, MAX_LEN).map_err(ConfigError::Read)?;
    let text = text.ok_or_else(|| ConfigError::Missing(path.display().to_string()))?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if expand {
        text = expand_env(&text, &|name| std::env::var(name).ok());
    }
    parse(&text)
}

fn setting<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Setting(text.into()))
}

/// The checks come in SPIRE's order, so that of several mistakes the same is reported.
pub(crate) fn parse(text: &str) -> Result<(Config, Vec<String>), ConfigError> {
    let block =
        steeple_hcl::parse(text.as_bytes()).map_err(|it| ConfigError::Decode(it.to_string()))?;
    let decoded = block.decode::<File>().map_err(|it| ConfigError::Decode(it.to_string()))?;
    let mut notices: Vec<String> = decoded
        .unknown
        .iter()
        .take(20)
        .map(|it| format!("Unknown key {} in the configuration is ignored", go::quote(&it.key)))
        .collect();
    let file = decoded.value;
    if file.domains.is_empty() {
        return setting("at least one domain must be configured");
    }
    let mut domains: Vec<String> = Vec::new();
    for domain in &file.domains {
        if !domains.contains(domain) {
            domains.push(domain.clone());
        }
    }
    check_acme(&file)?;
    let sync_interval = check_serving_cert(&file)?;
    let poll_interval = poll_interval(&file)?;
    let health = file.health_checks.as_ref().map(health).transpose()?;
    let listen = listen(&file, sync_interval)?;
    check_addresses(&file)?;
    let origin = origin(&file)?;
    let jwt_issuer = jwt_issuer(&file.jwt_issuer)?;
    let jwks_uri = jwks_uri(&file.jwks_uri)?;
    if jwks_uri.is_none() && jwt_issuer.is_some() {
        notices.push(
            "The jwt_issuer configuration will also affect the jwks_uri behavior when jwks_uri \
             is not set"
                .to_owned(),
        );
    }
    let path_prefix = match file.server_path_prefix.as_str() {
        "" => "/".to_owned(),
        prefix if prefix.starts_with('/') => prefix.to_owned(),
        _ => return setting("server_path_prefix must begin with a slash"),
    };
    let config = Config {
        log: log(&file)?,
        log_requests: file.log_requests,
        domains,
        set_key_use: file.set_key_use,
        allow_insecure_scheme: file.allow_insecure_scheme,
        listen,
        origin,
        poll_interval,
        health,
        jwt_issuer,
        jwks_uri,
        path_prefix,
    };
    Ok((config, notices))
}

fn log(file: &File) -> Result<LogConfig, ConfigError> {
    let level = if file.log_level.is_empty() { "info" } else { &file.log_level };
    Ok(LogConfig {
        level: level.parse()?,
        format: file.log_format.parse()?,
        file: Some(&file.log_path).filter(|it| !it.is_empty()).map(PathBuf::from),
        source_location: false,
    })
}

fn check_acme(file: &File) -> Result<(), ConfigError> {
    let Some(acme) = &file.acme else { return Ok(()) };
    if !file.insecure_addr.is_empty() {
        setting("insecure_addr and the acme section are mutually exclusive")
    } else if !acme.tos_accepted {
        setting("tos_accepted must be set to true in the acme configuration section")
    } else if acme.email.is_empty() {
        setting("email must be configured in the acme configuration section")
    } else if let Err(reason) = Listener::check(acme_addr(acme)) {
        setting(format!("invalid addr in the acme configuration section: {reason}"))
    } else {
        Ok(())
    }
}

fn acme_addr(acme: &raw::Acme) -> &str {
    if acme.addr.is_empty() { HTTPS_ADDR } else { &acme.addr }
}

fn check_serving_cert(file: &File) -> Result<Duration, ConfigError> {
    const SECTION: &str = "in the serving_cert_file configuration section";
    let Some(files) = &file.serving_cert_file else { return Ok(FILE_SYNC_INTERVAL) };
    if files.cert_file_path.is_empty() {
        return setting(format!("cert_file_path must be configured {SECTION}"));
    }
    if files.key_file_path.is_empty() {
        return setting(format!("key_file_path must be configured {SECTION}"));
    }
    if !files.addr.is_empty()
        && let Err(reason) = Listener::check(&files.addr)
    {
        return setting(format!("invalid addr {SECTION}: {reason}"));
    }
    interval(&files.file_sync_interval, FILE_SYNC_INTERVAL).map_err(|error| {
        ConfigError::Setting(format!("invalid file_sync_interval {SECTION}: {error}"))
    })
}

/// Zero and negative intervals are the default, too.
fn interval(text: &str, default: Duration) -> Result<Duration, String> {
    if text.is_empty() || text.starts_with('-') {
        return Ok(default);
    }
    let parsed = duration::parse_go(text).map_err(|error| error.to_string())?;
    Ok(if parsed.is_zero() { default } else { parsed })
}

fn poll_interval(file: &File) -> Result<Duration, ConfigError> {
    let mut found = POLL_INTERVAL;
    let trust_domain = file.workload_api.as_ref().map(|it| it.trust_domain.as_str());
    let sections = [
        ("server_api", file.server_api.as_ref().map(|it| &it.poll_interval)),
        ("workload_api", file.workload_api.as_ref().map(|it| &it.poll_interval)),
        ("file", file.file.as_ref().map(|it| &it.poll_interval)),
    ];
    for (section, text) in sections {
        let Some(text) = text else { continue };
        if section == "workload_api" && trust_domain == Some("") {
            return setting(
                "trust_domain must be configured in the workload_api configuration section",
            );
        }
        found = interval(text, POLL_INTERVAL).map_err(|error| {
            let text =
                format!("invalid poll_interval in the {section} configuration section: {error}");
            ConfigError::Setting(text)
        })?;
    }
    Ok(found)
}

fn health(raw: &raw::HealthChecks) -> Result<HealthConfig, ConfigError> {
    let path = |text: &str, default: &str| match text {
        "" => Ok(default.to_owned()),
        text if text.starts_with('/') => Ok(text.to_owned()),
        _ => {
            setting("the paths in the health_checks configuration section must begin with a slash")
        }
    };
    let port = if raw.bind_port <= 0 { 8008 } else { raw.bind_port };
    let Ok(port) = u16::try_from(port) else {
        return setting(format!(
            "invalid bind_port in the health_checks configuration section: {port}"
        ));
    };
    Ok(HealthConfig {
        port,
        ready_path: path(&raw.ready_path, "/ready")?,
        live_path: path(&raw.live_path, "/live")?,
    })
}

fn listen(file: &File, sync_interval: Duration) -> Result<Listen, ConfigError> {
    let (acme, files) = (&file.acme, &file.serving_cert_file);
    let http = Some(&file.insecure_addr).filter(|it| !it.is_empty());
    let unix = Some(&file.listen_socket_path).filter(|it| !it.is_empty());
    match (acme, files, http, unix) {
        (None, None, None, None) => setting(
            "either acme, serving_cert_file, insecure_addr or listen_socket_path must be configured",
        ),
        (Some(_), Some(_), ..) => setting("acme and serving_cert_file are mutually exclusive"),
        (Some(_), _, _, Some(_)) => {
            setting("listen_socket_path and the acme section are mutually exclusive")
        }
        (_, Some(_), Some(_), _) => {
            setting("serving_cert_file and insecure_addr are mutually exclusive")
        }
        (_, Some(_), _, Some(_)) => {
            setting("serving_cert_file and listen_socket_path are mutually exclusive")
        }
        (Some(_), _, Some(_), _) => setting("acme and insecure_addr are mutually exclusive"),
        (_, _, Some(_), Some(_)) => {
            setting("insecure_addr and listen_socket_path are mutually exclusive")
        }
        (None, None, Some(addr), None) => Ok(Listen::Http(addr.clone())),
        (None, None, None, Some(path)) => Ok(Listen::Unix(PathBuf::from(path))),
        (None, Some(files), None, None) => Ok(Listen::Files {
            addr: if files.addr.is_empty() { HTTPS_ADDR.to_owned() } else { files.addr.clone() },
            cert: PathBuf::from(&files.cert_file_path),
            key: PathBuf::from(&files.key_file_path),
            sync_interval,
        }),
        (Some(acme), None, None, None) => {
            let cache_dir = acme.cache_dir.as_deref().unwrap_or(CACHE_DIR);
            Ok(Listen::Acme(AcmeConfig {
                addr: acme_addr(acme).to_owned(),
                directory_url: acme.directory_url.clone(),
                email: acme.email.clone(),
                // Set to nothing, there is none.
                cache_dir: Some(cache_dir).filter(|it| !it.is_empty()).map(PathBuf::from),
            }))
        }
    }
}

fn check_addresses(file: &File) -> Result<(), ConfigError> {
    if let Some(server) = &file.server_api {
        if server.address.is_empty() {
            return setting("address must be configured in the server_api configuration section");
        }
        if !server.address.starts_with("unix:") {
            return setting(
                "address must use the unix name system in the server_api configuration section",
            );
        }
    }
    if file.workload_api.as_ref().is_some_and(|it| it.socket_path.is_empty()) {
        return setting("socket_path must be configured in the workload_api configuration section");
    }
    Ok(())
}

fn origin(file: &File) -> Result<OriginConfig, ConfigError> {
    match (&file.server_api, &file.workload_api, &file.file) {
        (None, None, None) => setting(
            "exactly one of the server_api, workload_api, or file sections must be configured",
        ),
        (Some(server), None, None) => {
            let path = server.address.trim_start_matches("unix:");
            // unix:path, unix:/path or unix:///path, as gRPC names them.
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(OriginConfig::ServerApi(PathBuf::from(path)))
        }
        (None, Some(workload), None) => {
            let trust_domain = TrustDomain::from_name_or_id(&workload.trust_domain)
                .map_err(|error| ConfigError::Setting(error.to_string()))?;
            Ok(OriginConfig::WorkloadApi(PathBuf::from(&workload.socket_path), trust_domain))
        }
        (None, None, Some(file)) => Ok(OriginConfig::File(PathBuf::from(&file.path))),
        _ => setting("the server_api, workload_api, and file sections are mutually exclusive"),
    }
}

fn jwt_issuer(text: &str) -> Result<Option<(String, Url)>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    match go::parse_url(text) {
        Err(error) => setting(format!("the jwt_issuer url could not be parsed: {error}")),
        Ok(url) if url.scheme.is_empty() => setting("the jwt_issuer url must contain a scheme"),
        Ok(url) if url.host.is_empty() => setting("the jwt_issuer url must contain a host"),
        Ok(url) => Ok(Some((text.to_owned(), url))),
    }
}

fn jwks_uri(text: &str) -> Result<Option<String>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let reason = match go::parse_url(text) {
        Err(error) => error,
        Ok(url) if url.scheme.is_empty() => "it has no scheme".to_owned(),
        Ok(url) if url.host.is_empty() => "it has no host".to_owned(),
        Ok(_) => return Ok(Some(text.to_owned())),
    };
    setting(format!("the jwks_uri setting could not be parsed: {reason}"))
}
