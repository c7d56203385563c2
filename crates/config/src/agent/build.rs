//! Raw keys become the agent's configuration.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use steeple_hcl::Located;
use steeple_runtime::duration::{format_go, parse_go};
use steeple_spiffe::{SpiffeId, TrustDomain};

use super::{
    AgentConfig, AgentExperimental, AgentFlags, RebootstrapMode, SdsConfig, WorkloadKeyType,
    WorkloadRateLimits, bootstrap, broker, outage,
};
use crate::{
    checks::{Checker, absolute, on, overlay, overlay_switch, quote, set, shared_section, shorten},
    plugins::{self, Catalog, PluginType},
    problem::{Notice, NoticeKind, Problems},
    raw::agent::{Agent, Experimental, File, RateLimit, Sds},
    source::{Source, describe},
    telemetry::{self, ProfilingConfig, ProfilingKeys},
};

const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-agent/public/api.sock";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

static CATALOG: Catalog = Catalog {
    types: &[
        PluginType {
            kind: "KeyManager",
            at_least: 1,
            at_most: 1,
            built: &["disk", "memory", "pkcs11", "tpm"],
            missing: &[],
        },
        PluginType {
            kind: "NodeAttestor",
            at_least: 1,
            at_most: 1,
            built: &[
                "aws_iid",
                "azure_imds",
                "azure_msi",
                "composite",
                "gcp_iit",
                "http_challenge",
                "join_token",
                "k8s_psat",
                "sshpop",
                "tpm",
                "tpm_devid",
                "x509pop",
            ],
            missing: &[],
        },
        PluginType {
            kind: "WorkloadAttestor",
            at_least: 1,
            at_most: 0,
            built: &["docker", "k8s", "slurm", "systemd", "unix"],
            missing: &["windows"],
        },
        PluginType {
            kind: "SVIDStore",
            at_least: 0,
            at_most: 0,
            built: &["disk"],
            missing: &["aws_secretsmanager", "gcp_secretmanager"],
        },
    ],
};

/// The plugin types of the agent, with what is built in.
pub fn agent_plugins() -> &'static [PluginType] {
    CATALOG.types
}

pub(super) fn build(
    source: &Source,
    flags: &AgentFlags,
) -> Result<(AgentConfig, Vec<Notice>), Problems> {
    let decoded = source
        .decode::<File>()
        .map_err(|problems| Problems::new(problems, Vec::new(), Vec::new()))?;
    let mut checker = Checker::new(source.path.clone());
    checker.unknown_keys(decoded.unknown, section);
    let file = decoded.value;
    let mut agent = file.agent.value.unwrap_or_default();
    apply_flags(&mut agent, flags);

    let telemetry = telemetry::build(&mut checker, file.telemetry.value.unwrap_or_default());
    let profiling = profiling(&mut checker, &agent);
    let plugins = plugins::build(&mut checker, &file.plugins, &CATALOG).unwrap_or_default();
    let trust_domain = checker.trust_domain("agent.trust_domain", &agent.trust_domain);
    let authorized_delegates = delegates(&mut checker, &agent, trust_domain.as_ref());
    let (server_port, servers) = server(&mut checker, &agent);
    let join_token = join_token(&mut checker, &agent);
    let bootstrap = bootstrap::build(&mut checker, &agent);
    let rebootstrap_mode = rebootstrap_mode(&mut checker, &agent);
    let rebootstrap_delay = rebootstrap_delay(&mut checker, &agent);
    let sockets = sockets(&mut checker, &agent);
    let log = checker.log(
        "agent",
        &agent.log_level,
        &agent.log_format,
        &agent.log_file,
        &agent.log_source_location,
    );
    let workload_x509_svid_key_type = checker
        .parse::<WorkloadKeyType>(
            "agent.workload_x509_svid_key_type",
            &agent.workload_x509_svid_key_type,
            "",
        )
        .unwrap_or_default();
    let availability_target = availability_target(&mut checker, &agent);
    let x509_svid_cache_max_size =
        size(&mut checker, "x509_svid_cache_max_size", &agent.x509_svid_cache_max_size);
    let jwt_svid_cache_max_size =
        size(&mut checker, "jwt_svid_cache_max_size", &agent.jwt_svid_cache_max_size);
    let health_checks = Checker::health_checks(&file.health_checks.value.unwrap_or_default());
    let raw = agent.experimental.value.take().unwrap_or_default();
    let broker = broker::build(&mut checker, &raw.broker, sockets.public.as_deref());
    let experimental = experimental(&mut checker, &raw);
    let sds = sds(&mut checker, &agent);

    let config = trust_domain.zip(server_port).zip(bootstrap).map(
        |((trust_domain, server_port), bootstrap)| AgentConfig {
            config_path: source.path.clone(),
            trust_domain,
            server_address: servers.first().map(|(host, _)| host.clone()).unwrap_or_default(),
            server_port: servers.first().map_or(server_port, |(_, port)| *port),
            servers,
            data_dir: PathBuf::from(set(&agent.data_dir).unwrap_or(".")),
            socket_path: sockets.public,
            admin_socket_path: sockets.admin,
            disable_workload_api: on(&agent.disable_workload_api),
            disable_sds_api: on(&agent.disable_sds_api),
            sds,
            log,
            log_selectors: agent.log_selectors.value.unwrap_or_default(),
            bootstrap,
            rebootstrap_mode,
            rebootstrap_delay,
            join_token,
            allow_unauthenticated_verifiers: on(&agent.allow_unauthenticated_verifiers),
            allowed_foreign_jwt_claims: agent.allowed_foreign_jwt_claims.value.unwrap_or_default(),
            authorized_delegates,
            broker,
            availability_target,
            workload_x509_svid_key_type,
            x509_svid_cache_max_size,
            jwt_svid_cache_max_size,
            experimental,
            health_checks,
            telemetry,
            profiling,
            plugins,
        },
    );
    checker.finish(config)
}

fn size(checker: &mut Checker, name: &str, value: &Located<i64>) -> usize {
    usize::try_from(value.value.unwrap_or_default()).unwrap_or_else(|_| {
        let text = format!("{name} should not be negative");
        checker.problem(value.line(), &format!("agent.{name}"), text);
        0
    })
}

/// SPIRE's name for a block whose keys it looks at.
fn section(block: &str) -> Option<String> {
    const BROKER: &str = "agent.experimental.broker";
    match block {
        "agent" => Some("agent".to_owned()),
        "agent.experimental.ratelimit" => Some("ratelimit".to_owned()),
        block if block.starts_with(BROKER) => block.strip_prefix("agent.").map(str::to_owned),
        block => shared_section(block),
    }
}

fn apply_flags(agent: &mut Agent, flags: &AgentFlags) {
    overlay(&mut agent.data_dir, &flags.data_dir);
    overlay(&mut agent.join_token, &flags.join_token);
    overlay(&mut agent.join_token_file, &flags.join_token_file);
    overlay(&mut agent.log_file, &flags.log_file);
    overlay(&mut agent.log_format, &flags.log_format);
    overlay(&mut agent.log_level, &flags.log_level);
    overlay(&mut agent.rebootstrap_delay, &flags.rebootstrap_delay);
    overlay(&mut agent.rebootstrap_mode, &flags.rebootstrap_mode);
    overlay(&mut agent.server_address, &flags.server_address);
    overlay(&mut agent.socket_path, &flags.socket_path);
    overlay(&mut agent.trust_bundle_path, &flags.trust_bundle);
    overlay(&mut agent.trust_bundle_format, &flags.trust_bundle_format);
    overlay(&mut agent.trust_bundle_url, &flags.trust_bundle_url);
    overlay(&mut agent.trust_domain, &flags.trust_domain);
    let unauthenticated = &mut agent.allow_unauthenticated_verifiers;
    overlay_switch(unauthenticated, flags.allow_unauthenticated_verifiers);
    overlay_switch(&mut agent.disable_sds_api, flags.disable_sds_api);
    overlay_switch(&mut agent.disable_workload_api, flags.disable_workload_api);
    overlay_switch(&mut agent.insecure_bootstrap, flags.insecure_bootstrap);
    overlay_switch(&mut agent.log_source_location, flags.log_source_location);
    if flags.server_port != 0 {
        agent.server_port = Located::from_elsewhere(flags.server_port);
    }
}

/// The port, and every server.
fn server(checker: &mut Checker, agent: &Agent) -> (Option<u16>, Vec<(String, u16)>) {
    let listed = agent.server_addresses.value.as_ref().is_some_and(|list| !list.is_empty());
    if set(&agent.server_address).is_none() && !listed {
        let line = agent.server_address.line();
        checker.problem(line, "agent.server_address", "server_address must be configured");
    }
    let port = agent.server_port.value.unwrap_or_default();
    let line = agent.server_port.line();
    if port == 0 {
        checker.problem(line, "agent.server_port", "server_port must be configured");
    }
    let valid = u16::try_from(port);
    if valid.is_err() {
        let text = format!("server_port {port} is not between 1 and 65535");
        checker.problem(line, "agent.server_port", text);
    }
    let valid = valid.ok().filter(|port| *port != 0);
    (valid, outage::servers(checker, agent, valid.unwrap_or_default()))
}

fn join_token(checker: &mut Checker, agent: &Agent) -> Option<String> {
    let token = set(&agent.join_token);
    let Some(path) = set(&agent.join_token_file) else { return token.map(str::to_owned) };
    let line = agent.join_token_file.line();
    let key = "agent.join_token_file";
    if token.is_some() {
        let text = "only one of join_token or join_token_file can be specified, not both";
        checker.problem(line, key, text);
        return None;
    }
    match fs::read(path) {
        Ok(bytes) => {
            let token = String::from_utf8_lossy(&bytes).trim().to_owned();
            if token.is_empty() {
                checker.problem(line, key, "join token file is empty");
                return None;
            }
            Some(token)
        }
        Err(error) => {
            let why = describe("open", Path::new(path), &error);
            let text = format!("unable to read join token file {}: {why}", quote(path));
            checker.problem(line, key, text);
            None
        }
    }
}

fn rebootstrap_mode(checker: &mut Checker, agent: &Agent) -> RebootstrapMode {
    let mode = match set(&agent.rebootstrap_mode) {
        None | Some("never") => RebootstrapMode::Never,
        Some("auto") => RebootstrapMode::Auto,
        Some("always") => RebootstrapMode::Always,
        Some(other) => {
            let text = format!("unknown rebootstrap mode specified: {}", shorten(other));
            checker.problem(agent.rebootstrap_mode.line(), "agent.rebootstrap_mode", text);
            RebootstrapMode::Never
        }
    };
    if mode != RebootstrapMode::Never && on(&agent.insecure_bootstrap) {
        let text = "insecure_bootstrap option can not be used with rebootstrapping";
        checker.problem(agent.insecure_bootstrap.line(), "agent.insecure_bootstrap", text);
    }
    mode
}

struct Sockets {
    public: Option<PathBuf>,
    admin: Option<PathBuf>,
}

fn sockets(checker: &mut Checker, agent: &Agent) -> Sockets {
    let enabled = !on(&agent.disable_workload_api) || !on(&agent.disable_sds_api);
    let mut resolve = |name: &str, value: &Located<String>, path: &str| {
        absolute(path)
            .map_err(|error| {
                let text = format!("failed to get absolute path for {name}: {error}");
                checker.problem(value.line(), &format!("agent.{name}"), text);
            })
            .ok()
    };
    let public = set(&agent.socket_path).unwrap_or(DEFAULT_SOCKET_PATH);
    let public = resolve("socket_path", &agent.socket_path, public).filter(|_| enabled);
    let wanted = set(&agent.admin_socket_path);
    let admin =
        wanted.and_then(|path| resolve("admin_socket_path", &agent.admin_socket_path, path));
    if wanted.is_some_and(|path| shares_directory(path, public.as_deref())) {
        let text = "admin socket cannot be in the same directory or a subdirectory as that \
                    containing the Workload API socket";
        checker.problem(agent.admin_socket_path.line(), "agent.admin_socket_path", text);
    }
    Sockets { public, admin }
}

/// Whether a socket stands in or below the directory of the public one.
pub(super) fn shares_directory(socket: &str, public: Option<&Path>) -> bool {
    let directory = public.and_then(Path::parent).filter(|directory| *directory != Path::new("/"));
    match (absolute(socket), directory) {
        (Ok(socket), Some(directory)) => socket.starts_with(directory),
        _ => false,
    }
}

fn availability_target(checker: &mut Checker, agent: &Agent) -> Option<Duration> {
    let key = "agent.availability_target";
    let value = &agent.availability_target;
    match parse_go(set(value)?) {
        Ok(target) if target >= DAY => return Some(target),
        Ok(_) => {
            let text = format!("availability_target must be at least {}", format_go(DAY));
            checker.problem(value.line(), key, text);
        }
        Err(error) => {
            let text = format!("unable to parse availability_target: {error}");
            checker.problem(value.line(), key, text);
        }
    }
    None
}

fn rebootstrap_delay(checker: &mut Checker, agent: &Agent) -> Duration {
    let wrong = |_: &str| "error parsing rebootstrap delay duration".to_owned();
    let delay = checker.duration("agent.rebootstrap_delay", &agent.rebootstrap_delay, wrong);
    delay.unwrap_or(Duration::from_secs(10 * 60))
}

fn profiling(checker: &mut Checker, agent: &Agent) -> Option<ProfilingConfig> {
    let keys = ProfilingKeys {
        enabled: &agent.profiling_enabled,
        port: &agent.profiling_port,
        freq: &agent.profiling_freq,
        names: &agent.profiling_names,
    };
    telemetry::profiling(checker, "agent", &keys)
}

fn sds(checker: &mut Checker, agent: &Agent) -> SdsConfig {
    let read = |get: fn(&Sds) -> &Located<String>, default: &str| {
        agent.sds.as_ref().and_then(|sds| set(get(sds))).unwrap_or(default).to_owned()
    };
    let config = SdsConfig {
        default_svid_name: read(|sds| &sds.default_svid_name, "default"),
        default_bundle_name: read(|sds| &sds.default_bundle_name, "ROOTCA"),
        default_all_bundles_name: read(|sds| &sds.default_all_bundles_name, "ALL"),
        disable_spiffe_cert_validation: agent
            .sds
            .as_ref()
            .is_some_and(|sds| on(&sds.disable_spiffe_cert_validation)),
    };
    if config.default_bundle_name == config.default_all_bundles_name {
        let text = "The \"default_bundle_name\" and \"default_all_bundles_name\" configurables \
                    have the same value. \"default_all_bundles_name\" will be ignored. Please \
                    configure distinct values or use the defaults. This will be a configuration \
                    error in a future release.";
        checker.note(NoticeKind::Warning, agent.sds.line(), "agent.sds", text);
    }
    config
}

/// Who may ask for the identities of others: each has to be of the own trust domain.
fn delegates(
    checker: &mut Checker,
    agent: &Agent,
    trust_domain: Option<&TrustDomain>,
) -> Vec<SpiffeId> {
    let delegates = &agent.authorized_delegates;
    let mut authorized = Vec::new();
    for (index, text) in delegates.value.iter().flatten().enumerate() {
        let why = match (SpiffeId::parse(text), trust_domain) {
            (Err(error), _) => error.to_string(),
            (Ok(id), Some(domain)) if !id.is_member_of(domain) => format!(
                "SPIFFE ID {} is not a member of trust domain {}",
                quote(id.as_str()),
                quote(domain.as_str())
            ),
            (Ok(id), _) => {
                authorized.push(id);
                continue;
            }
        };
        let key = format!("agent.authorized_delegates[{index}]");
        let text = format!("error validating authorized delegate: {why}");
        checker.problem(delegates.line(), &key, text);
    }
    authorized
}

fn experimental(checker: &mut Checker, raw: &Experimental) -> AgentExperimental {
    let key = |name: &str| format!("agent.experimental.{name}");
    for (name, value, instead) in [
        ("named_pipe_name", &raw.named_pipe_name, "socket_path"),
        ("admin_named_pipe_name", &raw.admin_named_pipe_name, "admin_socket_path"),
    ] {
        if set(value).is_some() {
            let text = format!(
                "invalid configuration: {name} is not supported in this platform; please use \
                 {instead} instead"
            );
            checker.problem(value.line(), &key(name), text);
        }
    }
    let sync_interval = checker.duration(&key("sync_interval"), &raw.sync_interval, |_| {
        "could not parse synchronization interval".to_owned()
    });
    let jwt_svid_cache_hit_timeout = cache_hit_timeout(checker, raw);
    if raw.use_sync_authorized_entries.value.is_some() {
        let text = "The 'use_sync_authorized_entries' configuration is deprecated. The option to \
                    disable it will be removed in SPIRE 1.13.";
        let line = raw.use_sync_authorized_entries.line();
        checker.note(NoticeKind::Deprecated, line, &key("use_sync_authorized_entries"), text);
    }
    let rate_limits = rate_limits(checker, &raw.ratelimit);
    let flags = checker.feature_flags(&key("feature_flags"), &raw.feature_flags);
    if any_experimental(raw) {
        let text = "Experimental features have been enabled. Please see doc/upgrading.md for \
                    upgrade and compatibility considerations for experimental features.";
        checker.note(NoticeKind::Warning, None, "agent.experimental", text);
    }
    AgentExperimental {
        require_pq_kem: on(&raw.require_pq_kem),
        disable_push: on(&raw.disable_push),
        disable_handover: on(&raw.disable_handover),
        sync_interval: sync_interval.filter(|interval| !interval.is_zero()),
        jwt_svid_cache_hit_timeout,
        use_sync_authorized_entries: raw.use_sync_authorized_entries.value.unwrap_or(true),
        offline_cache: outage::offline_cache(checker, &raw.offline_cache),
        rate_limits,
        wit_svid: flags.wit_svid,
        workload_http_api: on(&raw.workload_http_api),
    }
}

fn cache_hit_timeout(checker: &mut Checker, raw: &Experimental) -> Option<Duration> {
    const LEAST: Duration = Duration::from_secs(5);
    const LIMIT: Duration = Duration::from_secs(30);
    let key = "agent.experimental.jwt_svid_cache_hit_timeout";
    let value = &raw.jwt_svid_cache_hit_timeout;
    let text = set(value)?;
    let timeout = match parse_go(text) {
        Ok(timeout) => timeout,
        Err(error) => {
            let text = format!("could not parse jwt_svid_cache_hit_timeout: {error}");
            checker.problem(value.line(), key, text);
            return None;
        }
    };
    let shown = format_go(timeout);
    if timeout < LEAST {
        let text = format!("jwt_svid_cache_hit_timeout ({shown}) must be greater than 5s");
        checker.problem(value.line(), key, text);
    } else if timeout >= LIMIT {
        let text = format!("jwt_svid_cache_hit_timeout ({shown}) must be less than 30s");
        checker.problem(value.line(), key, text);
    } else {
        let text = "The use of 'jwt_svid_cache_hit_timeout' is experimental";
        checker.note(NoticeKind::Warning, value.line(), key, text);
    }
    Some(timeout)
}

fn rate_limits(checker: &mut Checker, raw: &Located<RateLimit>) -> WorkloadRateLimits {
    let Some(limits) = raw.as_ref() else { return WorkloadRateLimits::default() };
    let mut limit = |name: &str, value: &Located<i64>| {
        let limit = value.value.unwrap_or_default();
        if limit < 0 {
            let key = format!("agent.experimental.ratelimit.{name}");
            let text = format!("experimental.ratelimit.{name} must not be negative");
            checker.problem(value.line(), &key, text);
        }
        u32::try_from(limit.max(0)).unwrap_or(u32::MAX)
    };
    WorkloadRateLimits {
        fetch_x509_svid: limit("fetch_x509_svid", &limits.fetch_x509_svid),
        fetch_jwt_svid: limit("fetch_jwt_svid", &limits.fetch_jwt_svid),
        fetch_x509_bundles: limit("fetch_x509_bundles", &limits.fetch_x509_bundles),
        fetch_jwt_bundles: limit("fetch_jwt_bundles", &limits.fetch_jwt_bundles),
        stream_secrets: limit("stream_secrets", &limits.stream_secrets),
        fetch_secrets: limit("fetch_secrets", &limits.fetch_secrets),
    }
}

/// Whether any experimental key says something.
fn any_experimental(raw: &Experimental) -> bool {
    set(&raw.sync_interval).is_some()
        || set(&raw.jwt_svid_cache_hit_timeout).is_some()
        || raw.use_sync_authorized_entries.is_present()
        || on(&raw.require_pq_kem)
        || raw.ratelimit.is_present()
        || raw.broker.is_present()
        || raw.offline_cache.is_present()
        || raw.feature_flags.value.as_ref().is_some_and(|flags| !flags.is_empty())
}
