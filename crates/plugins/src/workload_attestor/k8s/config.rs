//! The settings, as SPIRE's plugin reads them, and two switches of ours.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use steeple_hcl::Block;
use steeple_plugin::{Code, PluginError};
use steeple_runtime::duration::parse_go;
use steeple_spiffe::SpiffeId;

use super::error;
use crate::kube::SERVICE_ACCOUNT;

const SECURE_PORT: u16 = 10250;
const NODE_NAME_ENV: &str = "MY_NODE_NAME";
const POLL_ATTEMPTS: u32 = 60;
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(10);
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    kubelet_read_only_port: i64,
    kubelet_secure_port: i64,
    disable_kubelet_client: bool,
    max_poll_attempts: i64,
    poll_retry_interval: String,
    kubelet_ca_path: String,
    skip_kubelet_verification: bool,
    token_path: String,
    certificate_path: String,
    private_key_path: String,
    use_anonymous_authentication: bool,
    node_name_env: String,
    node_name: String,
    reload_interval: String,
    disable_container_selectors: bool,
    use_new_container_locator: Option<bool>,
    verbose_container_locator_logs: bool,
    enable_namespace_labels: bool,
    sigstore: Option<IgnoredAny>,
    experimental: Option<RawExperimental>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawExperimental {
    api_server: Option<RawApiServer>,
    broker: Option<RawBroker>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawApiServer {
    cache: Option<RawSwitch>,
    watch: Option<RawSwitch>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawSwitch {
    enabled: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawBroker {
    access_policy: String,
    brokers: Vec<RawBrokerEntry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawBrokerEntry {
    id: String,
    pod_reference_scope: String,
}

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// How many lists a caller looks at before it gives up.
    pub(crate) max_poll_attempts: u32,
    /// Between the beginnings of two requests to the kubelet.
    pub(crate) poll_retry_interval: Duration,
    /// None with `disable_kubelet_client`.
    pub(crate) kubelet: Option<KubeletConfig>,
    pub(crate) container_selectors: bool,
    pub(crate) namespace_labels: bool,
    pub(crate) new_container_locator: bool,
    pub(crate) verbose_locator: bool,
    /// Whether metadata of objects is kept by list and watch.
    pub(crate) api_server_cache: bool,
    /// The node whose pods are watched at the API server; ours.
    pub(crate) watch_node: Option<String>,
    pub(crate) broker: Option<BrokerConfig>,
}

/// How the kubelet is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KubeletConfig {
    pub(crate) port: u16,
    pub(crate) secure: bool,
    pub(crate) verify: bool,
    pub(crate) ca_path: PathBuf,
    pub(crate) auth: KubeletAuth,
    /// Empty is this node, whatever its name.
    pub(crate) node_name: String,
    pub(crate) reload_interval: Duration,
    /// How long one list may take.
    pub(crate) deadline: Duration,
}

/// Who the kubelet sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KubeletAuth {
    Anonymous,
    Token(PathBuf),
    Certificate {
        certificate: PathBuf,
        key: PathBuf,
    },
    /// One of the two paths is missing; said when the files are read, as SPIRE does.
    Half(&'static str),
}

/// Who may ask by reference, and how that is authorised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerConfig {
    /// Whether Kubernetes is asked about each object.
    pub(crate) enforced: bool,
    /// The brokers by SPIFFE ID, and whether pods of other nodes are theirs to name.
    pub(crate) brokers: BTreeMap<String, PodScope>,
}

/// Which pods a broker may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodScope {
    AgentNode,
    Cluster,
}

/// What is wrong with the settings, in the order in which SPIRE finds it. SPIRE starts with the
/// first as its error.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, text: impl Into<String>) {
        self.0.push(text.into());
    }
}

/// Reads the settings; `env` is the environment.
///
/// # Errors
/// With the first thing that is wrong.
pub(crate) fn read(
    data: Option<&Block>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, PluginError> {
    let mut problems = Problems::default();
    let mut raw = decode(data, &mut problems)?;
    let experimental = raw.experimental.take().unwrap_or_default();
    let on = |switch: &Option<RawSwitch>| switch.as_ref().is_some_and(|it| it.enabled);
    let api_server = experimental.api_server.unwrap_or_default();
    let watch = on(&api_server.watch);
    let broker = experimental.broker.map(|raw| broker(&raw, &mut problems));
    if raw.disable_kubelet_client {
        check_without_kubelet(&raw, watch, broker.as_ref(), &mut problems);
    }
    let poll = interval("poll retry", &raw.poll_retry_interval, POLL_INTERVAL, &mut problems);
    let reload = interval("reload", &raw.reload_interval, RELOAD_INTERVAL, &mut problems);
    let (port, secure) = port(&raw, &mut problems);
    let node_name = node_name(&raw, env);
    if watch && node_name.is_empty() {
        problems.add(format!(
            "experimental.api_server.watch needs the name of the node: set node_name, or the \
             environment variable {}",
            if raw.node_name_env.is_empty() { NODE_NAME_ENV } else { &raw.node_name_env }
        ));
    }
    if raw.sigstore.is_some() {
        problems.add(
            "sigstore is not available yet: image signatures cannot be verified, and without \
             that no workload would be attested as this configuration demands",
        );
    }
    if let Some(first) = problems.0.into_iter().next() {
        return Err(error(Code::InvalidArgument, first));
    }
    let disabled = raw.disable_kubelet_client;
    Ok(Config {
        max_poll_attempts: match u32::try_from(raw.max_poll_attempts) {
            Ok(0) => POLL_ATTEMPTS,
            Ok(attempts) => attempts,
            Err(_) if raw.max_poll_attempts < 0 => POLL_ATTEMPTS,
            Err(_) => u32::MAX,
        },
        poll_retry_interval: poll,
        container_selectors: !raw.disable_container_selectors,
        namespace_labels: raw.enable_namespace_labels,
        new_container_locator: raw.use_new_container_locator.unwrap_or(true),
        verbose_locator: raw.verbose_container_locator_logs,
        api_server_cache: on(&api_server.cache),
        watch_node: watch.then(|| node_name.clone()),
        broker,
        kubelet: (!disabled).then(|| KubeletConfig {
            port,
            secure,
            verify: !raw.skip_kubelet_verification,
            ca_path: path_or(&raw.kubelet_ca_path, "ca.crt"),
            auth: auth(&raw),
            node_name,
            reload_interval: reload,
            deadline: DEADLINE,
        }),
    })
}

fn decode(data: Option<&Block>, problems: &mut Problems) -> Result<Raw, PluginError> {
    let Some(data) = data else { return Ok(Raw::default()) };
    let decoded = data.decode::<Raw>().map_err(|errors| {
        error(Code::InvalidArgument, format!("unable to decode configuration: {errors}"))
    })?;
    // Told for each block by itself.
    let mut unknown: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for it in &decoded.unknown {
        let (parent, key) = it.key.rsplit_once('.').unwrap_or(("", &it.key));
        unknown.entry(parent).or_default().push(key);
    }
    for keys in unknown.values_mut() {
        keys.sort_unstable();
        problems.add(format!("unknown configurations detected: {}", keys.join(",")));
    }
    Ok(decoded.value)
}

/// An interval; none, nothing and less than nothing are the default.
fn interval(what: &str, text: &str, default: Duration, problems: &mut Problems) -> Duration {
    if text.is_empty() {
        return default;
    }
    // The parser knows no negative durations, Go's does.
    let negative = text.strip_prefix('-');
    match parse_go(negative.unwrap_or(text)) {
        Ok(given) if negative.is_none() && !given.is_zero() => given,
        Ok(_) => default,
        Err(reason) => {
            problems.add(format!("unable to parse {what} interval: {reason}"));
            default
        }
    }
}

/// The read-only port, if it is set, is taken without TLS.
fn port(raw: &Raw, problems: &mut Problems) -> (u16, bool) {
    let (read_only, secure) = (raw.kubelet_read_only_port, raw.kubelet_secure_port);
    if secure > 0 && read_only > 0 {
        problems.add("cannot use both the read-only and secure port");
    }
    let (port, is_secure) = match (read_only, secure) {
        (port, _) if port > 0 => (port, false),
        (_, port) if port > 0 => (port, true),
        _ => return (SECURE_PORT, true),
    };
    let port = u16::try_from(port).unwrap_or_else(|_| {
        problems.add(format!("kubelet port {port} is not between 1 and 65535"));
        SECURE_PORT
    });
    (port, is_secure)
}

fn node_name(raw: &Raw, env: &dyn Fn(&str) -> Option<String>) -> String {
    match (&raw.node_name, &raw.node_name_env) {
        (name, _) if !name.is_empty() => name.clone(),
        (_, variable) if !variable.is_empty() => env(variable).unwrap_or_default(),
        _ => env(NODE_NAME_ENV).unwrap_or_default(),
    }
}

fn auth(raw: &Raw) -> KubeletAuth {
    match (&raw.certificate_path, &raw.private_key_path) {
        _ if raw.use_anonymous_authentication => KubeletAuth::Anonymous,
        (certificate, key) if !certificate.is_empty() && !key.is_empty() => {
            KubeletAuth::Certificate { certificate: certificate.into(), key: key.into() }
        }
        (certificate, _) if !certificate.is_empty() => {
            KubeletAuth::Half("the private key path is required with the certificate path")
        }
        (_, key) if !key.is_empty() => {
            KubeletAuth::Half("the certificate path is required with the private key path")
        }
        _ => KubeletAuth::Token(path_or(&raw.token_path, "token")),
    }
}

fn path_or(given: &str, of_service_account: &str) -> PathBuf {
    match given {
        "" => PathBuf::from(SERVICE_ACCOUNT).join(of_service_account),
        given => PathBuf::from(given),
    }
}

/// What makes no sense without the kubelet. The watch of ours needs the node's name just as much.
fn check_without_kubelet(
    raw: &Raw,
    watch: bool,
    broker: Option<&BrokerConfig>,
    problems: &mut Problems,
) {
    for (name, is_set) in [
        ("kubelet_read_only_port", raw.kubelet_read_only_port > 0),
        ("kubelet_secure_port", raw.kubelet_secure_port > 0),
        ("kubelet_ca_path", !raw.kubelet_ca_path.is_empty()),
        ("skip_kubelet_verification", raw.skip_kubelet_verification),
        ("token_path", !raw.token_path.is_empty()),
        ("certificate_path", !raw.certificate_path.is_empty()),
        ("private_key_path", !raw.private_key_path.is_empty()),
        ("use_anonymous_authentication", raw.use_anonymous_authentication),
        ("node_name_env", !raw.node_name_env.is_empty() && !watch),
        ("node_name", !raw.node_name.is_empty() && !watch),
        ("reload_interval", !raw.reload_interval.is_empty()),
    ] {
        if is_set {
            problems.add(format!("disable_kubelet_client cannot be used with {name}"));
        }
    }
    for (id, scope) in broker.iter().flat_map(|broker| &broker.brokers) {
        if *scope != PodScope::Cluster && !watch {
            problems.add(format!(
                "experimental.broker.brokers[{id}].pod_reference_scope must be \"cluster\" when \
                 disable_kubelet_client is true"
            ));
        }
    }
}

fn broker(raw: &RawBroker, problems: &mut Problems) -> BrokerConfig {
    const PATH: &str = "experimental.broker";
    let enforced = match raw.access_policy.as_str() {
        "permissive" => false,
        "enforced" => true,
        "" => {
            problems.add(format!(
                "{PATH}.access_policy: must be specified as one of [permissive, enforced]"
            ));
            true
        }
        other => {
            problems.add(format!(
                "{PATH}.access_policy: unsupported value {:?}; must be one of [permissive, \
                 enforced]",
                shorten(other)
            ));
            true
        }
    };
    if raw.brokers.is_empty() {
        problems.add(format!("{PATH}.brokers: at least one broker is required"));
    }
    let mut brokers = BTreeMap::new();
    let mut seen = Vec::new();
    for (index, entry) in raw.brokers.iter().enumerate() {
        let id = entry.id.as_str();
        if id.is_empty() {
            problems.add(format!("{PATH}.brokers[{index}].id: must be specified"));
            continue;
        }
        if seen.contains(&id) {
            problems.add(format!("{PATH}.brokers[{}].id: duplicate broker id", shorten(id)));
            continue;
        }
        seen.push(id);
        if let Err(reason) = SpiffeId::parse(id) {
            problems.add(format!("{PATH}.brokers[{}].id: {reason}", shorten(id)));
            continue;
        }
        let scope = match entry.pod_reference_scope.as_str() {
            "" | "agent_node" => PodScope::AgentNode,
            "cluster" => PodScope::Cluster,
            other => {
                problems.add(format!(
                    "{PATH}.brokers[{id}].pod_reference_scope: unsupported value {:?}; must be \
                     one of [agent_node, cluster]",
                    shorten(other)
                ));
                continue;
            }
        };
        brokers.insert(id.to_owned(), scope);
    }
    BrokerConfig { enforced, brokers }
}

/// As much of a setting as an error repeats.
fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests;
