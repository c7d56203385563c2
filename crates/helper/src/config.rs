//! The configuration file: spiffe-helper's keys, defaults and complaints.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use steeple_runtime::{fsx, gotext};
use tracing::warn;

use crate::SYSTEM;
use crate::process::RenewSignal;

/// What the helper does.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Workload API's socket.
    pub(crate) agent_socket: PathBuf,
    pub(crate) daemon_mode: bool,
    /// Where the files are; relative to the working directory.
    pub(crate) cert_dir: PathBuf,
    pub(crate) x509: Option<X509Files>,
    pub(crate) jwt_svids: Vec<JwtSvidFile>,
    pub(crate) jwt_bundle_file: Option<String>,
    pub(crate) cert_mode: u32,
    pub(crate) key_mode: u32,
    pub(crate) jwt_bundle_mode: u32,
    pub(crate) jwt_svid_mode: u32,
    pub(crate) add_intermediates_to_bundle: bool,
    pub(crate) include_federated_domains: bool,
    pub(crate) omit_expired: bool,
    /// Which of several identities; the first without it.
    pub(crate) hint: String,
    /// The program to run, and its arguments.
    pub(crate) command: Option<(String, Vec<String>)>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) renew_signal: Option<RenewSignal>,
    pub(crate) health: Option<HealthConfig>,
}

/// The three files of an X.509-SVID. With one name for certificate and key,
/// both are in that file.
#[derive(Clone, Debug)]
pub(crate) struct X509Files {
    pub(crate) svid: String,
    pub(crate) key: String,
    pub(crate) bundle: String,
}

/// A token and its file.
#[derive(Clone, Debug)]
pub(crate) struct JwtSvidFile {
    pub(crate) audience: Vec<String>,
    pub(crate) file: String,
}

/// The HTTP listener that tells how the helper is.
#[derive(Clone, Debug)]
pub(crate) struct HealthConfig {
    pub(crate) port: u16,
    pub(crate) liveness_path: String,
    pub(crate) readiness_path: String,
}

/// Why there is nothing to run by.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or understood.
    #[error("failed to parse {path:?}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// What it says makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl ConfigError {
    /// What failed, as the log has it.
    pub(crate) fn step(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "failed to parse configuration",
            Self::Invalid(_) => "invalid configuration",
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    add_intermediates_to_bundle: bool,
    agent_address: String,
    cmd: String,
    cmd_args: String,
    pid_file_name: String,
    cert_dir: String,
    cert_file_mode: i64,
    key_file_mode: i64,
    jwt_bundle_file_mode: i64,
    jwt_svid_file_mode: i64,
    include_federated_domains: bool,
    omit_expired: bool,
    renew_signal: String,
    daemon_mode: Option<bool>,
    health_checks: RawHealth,
    hint: String,
    svid_file_name: String,
    svid_key_file_name: String,
    svid_bundle_file_name: String,
    jwt_svids: Vec<RawJwt>,
    jwt_bundle_file_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawHealth {
    listener_enabled: bool,
    bind_port: i64,
    liveness_path: String,
    readiness_path: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawJwt {
    jwt_audience: String,
    jwt_extra_audiences: Vec<String>,
    jwt_svid_file_name: String,
}

impl Config {
    /// Reads the file; `daemon_mode` is the flag's say, `endpoint` the value of
    /// `SPIFFE_ENDPOINT_SOCKET`.
    ///
    /// # Errors
    /// When the file cannot be read, or says something impossible.
    pub fn load(
        path: &Path,
        daemon_mode: Option<bool>,
        endpoint: Option<String>,
    ) -> Result<Self, ConfigError> {
        let unreadable =
            |reason: String| ConfigError::Unreadable { path: path.display().to_string(), reason };
        let text = match fsx::read_limited(path, steeple_hcl::MAX_TEXT as u64) {
            Ok(Some(text)) => text,
            Ok(None) => {
                let missing = format!("open {}: no such file or directory", path.display());
                return Err(unreadable(missing));
            }
            Err(error) => return Err(unreadable(gotext::system(&error).to_string())),
        };
        let block = steeple_hcl::parse(&text).map_err(|error| unreadable(error.to_string()))?;
        let decoded = block.decode::<Raw>().map_err(|errors| unreadable(errors.to_string()))?;
        if let Some(error) = unknown(&decoded.unknown) {
            return Err(error);
        }
        Self::check(decoded.value, daemon_mode, endpoint)
    }

    fn check(raw: Raw, flag: Option<bool>, endpoint: Option<String>) -> Result<Self, ConfigError> {
        let daemon_mode = flag.or(raw.daemon_mode).unwrap_or(true);
        let jwt_svids =
            raw.jwt_svids.into_iter().map(JwtSvidFile::check).collect::<Result<_, _>>()?;
        if !daemon_mode {
            ignored("cmd", &raw.cmd);
            ignored("renew_signal", &raw.renew_signal);
            if !raw.pid_file_name.is_empty() {
                return invalid(
                    "pid_file_name is set but daemon_mode is false. pid_file_name is only \
                     supported in daemon_mode",
                );
            }
        }
        if !raw.pid_file_name.is_empty() && raw.renew_signal.is_empty() {
            return invalid("must specify renew_signal when using pid_file_name");
        }
        let x509 = X509Files::check(
            raw.svid_file_name,
            raw.svid_key_file_name,
            raw.svid_bundle_file_name,
        )?;
        let jwt_svids: Vec<JwtSvidFile> = jwt_svids;
        if x509.is_none() && raw.jwt_bundle_file_name.is_empty() && jwt_svids.is_empty() {
            return invalid(
                "at least one of the sets ('svid_file_name', 'svid_key_file_name', \
                 'svid_bundle_file_name'), 'jwt_svids', or 'jwt_bundle_file_name' must be fully \
                 specified",
            );
        }
        let agent_address = [raw.agent_address, endpoint.unwrap_or_default()]
            .into_iter()
            .find(|address| !address.is_empty())
            .unwrap_or_else(|| DEFAULT_SOCKET.to_owned());
        let renew_signal = match raw.renew_signal.as_str() {
            "" => None,
            name => Some(RenewSignal::parse(name).map_err(ConfigError::Invalid)?),
        };
        let command = match raw.cmd.as_str() {
            "" => None,
            program => {
                let arguments = crate::args::split(&raw.cmd_args).map_err(|reason| {
                    ConfigError::Invalid(format!("error parsing cmd arguments: {reason}"))
                })?;
                Some((program.to_owned(), arguments))
            }
        };
        Ok(Self {
            agent_socket: socket_path(&agent_address)?,
            daemon_mode,
            cert_dir: PathBuf::from(raw.cert_dir),
            x509,
            jwt_svids,
            jwt_bundle_file: Some(raw.jwt_bundle_file_name).filter(|name| !name.is_empty()),
            cert_mode: mode("cert", raw.cert_file_mode, 0o644)?,
            key_mode: mode("key", raw.key_file_mode, 0o600)?,
            jwt_bundle_mode: mode("jwt bundle", raw.jwt_bundle_file_mode, 0o600)?,
            jwt_svid_mode: mode("jwt svid", raw.jwt_svid_file_mode, 0o600)?,
            add_intermediates_to_bundle: raw.add_intermediates_to_bundle,
            include_federated_domains: raw.include_federated_domains,
            omit_expired: raw.omit_expired,
            hint: raw.hint,
            command,
            pid_file: Some(raw.pid_file_name).filter(|it| !it.is_empty()).map(PathBuf::from),
            renew_signal,
            health: HealthConfig::check(raw.health_checks)?,
        })
    }
}

impl JwtSvidFile {
    fn check(raw: RawJwt) -> Result<Self, ConfigError> {
        if raw.jwt_svid_file_name.is_empty() {
            return invalid("'jwt_file_name' is required in 'jwt_svids'");
        }
        if raw.jwt_audience.is_empty() {
            return invalid("'jwt_audience' is required in 'jwt_svids'");
        }
        let audience = std::iter::once(raw.jwt_audience).chain(raw.jwt_extra_audiences).collect();
        Ok(Self { audience, file: raw.jwt_svid_file_name })
    }
}

impl X509Files {
    fn check(svid: String, key: String, bundle: String) -> Result<Option<Self>, ConfigError> {
        match [&svid, &key, &bundle].iter().filter(|name| name.is_empty()).count() {
            0 if bundle == svid || bundle == key => {
                invalid("'svid_bundle_file_name' must be a file of its own")
            }
            0 => Ok(Some(Self { svid, key, bundle })),
            3 => Ok(None),
            _ => invalid(
                "all or none of 'svid_file_name', 'svid_key_file_name', 'svid_bundle_file_name' \
                 must be specified",
            ),
        }
    }
}

impl HealthConfig {
    fn check(raw: RawHealth) -> Result<Option<Self>, ConfigError> {
        if !raw.listener_enabled {
            return Ok(None);
        }
        if raw.bind_port < 0 {
            return invalid("bind port must be positive");
        }
        let Ok(port) = u16::try_from(raw.bind_port) else {
            return invalid("bind port must be at most 65535");
        };
        let or = |text: String, default: &str| if text.is_empty() { default.into() } else { text };
        Ok(Some(Self {
            port: if port == 0 { DEFAULT_HEALTH_PORT } else { port },
            liveness_path: or(raw.liveness_path, "/live"),
            readiness_path: or(raw.readiness_path, "/ready"),
        }))
    }
}

/// Keys that nobody knows, those of one place. spiffe-helper passes over those
/// of other blocks; so does this.
fn unknown(keys: &[steeple_hcl::UnknownKey]) -> Option<ConfigError> {
    let of = |section: &str| {
        let of_section = keys.iter().filter(|key| key.section == section);
        let mut names: Vec<String> =
            of_section.map(|key| key.key.chars().take(MAX_ECHO).collect()).collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(MAX_KEYS);
        names.join(",")
    };
    let top = keys.iter().any(|key| key.section == "root");
    let token = keys.iter().find(|key| key.section.starts_with("root.jwt_svids"));
    let text = match (top, token) {
        (true, _) => format!("unknown top level key(s): {}", of("root")),
        (false, Some(key)) => {
            let place = key.section.trim_start_matches("root.");
            format!("unknown key(s) in {place}: {}", of(&key.section))
        }
        (false, None) => return None,
    };
    Some(ConfigError::Invalid(text))
}

fn invalid<T>(text: &str) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid(text.to_owned()))
}

fn ignored(key: &str, value: &str) {
    if !value.is_empty() {
        warn!(
            system = SYSTEM,
            "{key} is set but daemon_mode is false. {key} will be ignored. This may become an \
             error in a future release."
        );
    }
}

/// A mode of a file: what the number says, which without a leading zero is not octal.
fn mode(what: &str, value: i64, default: u32) -> Result<u32, ConfigError> {
    match u32::try_from(value) {
        Ok(0) => Ok(default),
        Ok(mode) if mode <= 0o777 => Ok(mode),
        Ok(mode) => Err(ConfigError::Invalid(format!(
            "{what} file mode {mode} has more than permission bits; write it in octal, as 0644"
        ))),
        Err(_) => Err(ConfigError::Invalid(format!("{what} file mode must be positive"))),
    }
}

/// The path of a socket, be it written as a path or as SPIFFE's libraries write it.
fn socket_path(address: &str) -> Result<PathBuf, ConfigError> {
    if address.starts_with("tcp:") {
        return invalid("agent_address must be the path of a Unix socket");
    }
    let path = address
        .strip_prefix("unix:")
        .map_or(address, |path| path.strip_prefix("//").unwrap_or(path));
    Ok(PathBuf::from(path))
}

const DEFAULT_SOCKET: &str = "/tmp/spire-agent/public/api.sock";
const DEFAULT_HEALTH_PORT: u16 = 8081;
const MAX_ECHO: usize = 64;
const MAX_KEYS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper.conf");
        std::fs::write(&path, text).unwrap();
        Config::load(&path, None, None)
    }

    fn wrong(text: &str) -> String {
        load(text).unwrap_err().to_string()
    }

    const X509: &str = "svid_file_name = \"svid.pem\" svid_key_file_name = \"svid_key.pem\"
        svid_bundle_file_name = \"svid_bundle.pem\"";

    #[test]
    fn the_sample_of_spiffe_helper_is_read() {
        let config = load(
            r#"agent_address = "/tmp/spire-agent/public/api.sock"
            cmd = "ghostunnel"
            cmd_args = "server --listen localhost:8002"
            cert_dir = "certs"
            renew_signal = "SIGUSR1"
            svid_file_name = "svid.pem"
            svid_key_file_name = "svid_key.pem"
            svid_bundle_file_name = "svid_bundle.pem"
            jwt_svids = [{jwt_audience="a", jwt_extra_audiences=["b", "c"], jwt_svid_file_name="t"}]
            jwt_bundle_file_name = "bundle.json"
            cert_file_mode = 0444
            key_file_mode = 0400
            health_checks { listener_enabled = true }"#,
        )
        .unwrap();
        assert_eq!(config.agent_socket, Path::new("/tmp/spire-agent/public/api.sock"));
        assert_eq!(config.jwt_svids[0].audience, ["a", "b", "c"]);
        assert_eq!((config.cert_mode, config.key_mode), (0o444, 0o400));
        assert_eq!((config.jwt_bundle_mode, config.jwt_svid_mode), (0o600, 0o600));
        let (program, arguments) = config.command.unwrap();
        assert_eq!((program.as_str(), arguments.len()), ("ghostunnel", 3));
        let health = config.health.unwrap();
        assert_eq!((health.port, health.liveness_path.as_str()), (8081, "/live"));
        assert!(config.daemon_mode);
    }

    #[test]
    fn mistakes_are_told_in_spiffe_helpers_words() {
        for (text, told) in [
            (
                "svid_file_name = \"x\"".to_owned(),
                "all or none of 'svid_file_name', 'svid_key_file_name', 'svid_bundle_file_name' \
                 must be specified",
            ),
            (format!("{X509} nope = 1 ever = 2"), "unknown top level key(s): ever,nope"),
            (
                "jwt_svids = [{ jwt_audience = \"a\", jwt_svid_file_name = \"f\", odd = 1 }]"
                    .to_owned(),
                "unknown key(s) in jwt_svids[0]: odd",
            ),
            (
                "jwt_svids = [{ jwt_audience = \"a\" }]".to_owned(),
                "'jwt_file_name' is required in 'jwt_svids'",
            ),
            (
                format!("{X509} pid_file_name = \"p\""),
                "must specify renew_signal when using pid_file_name",
            ),
            (format!("{X509} cert_file_mode = -1"), "cert file mode must be positive"),
            (format!("{X509} renew_signal = \"HUP\""), "error getting signal: HUP"),
        ] {
            assert_eq!(wrong(&text), told);
        }
        assert!(wrong("").starts_with("at least one of the sets"));
        assert!(wrong("x = [").starts_with("failed to parse "));
    }

    #[test]
    fn the_socket_may_be_told_in_several_ways() {
        for (said, path) in
            [("/run/a.sock", "/run/a.sock"), ("unix:///run/a", "/run/a"), ("unix:a", "a")]
        {
            let config = load(&format!("{X509} agent_address = \"{said}\"")).unwrap();
            assert_eq!(config.agent_socket, Path::new(path));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper.conf");
        std::fs::write(&path, format!("{X509} daemon_mode = true")).unwrap();
        let config = Config::load(&path, Some(false), Some("unix:///env".into())).unwrap();
        assert_eq!(config.agent_socket, Path::new("/env"));
        assert!(!config.daemon_mode, "the flag wins");
    }
}
