//! Raw keys become the server's configuration.

use std::{path::PathBuf, time::Duration};

use steeple_hcl::Located;
use steeple_spiffe::SpiffeId;

use super::{
    CaSubject, PruneAttestedNodes, ServerConfig, ServerExperimental, ServerFlags,
    attestation_policy, guard, overload, ttl,
};
use crate::{
    checks::{Checker, absolute, on, overlay, overlay_switch, quote, set, shared_section, shorten},
    common::KeyType,
    datastore, federation,
    plugins::{self, Catalog, PluginConfig, PluginData, PluginType},
    problem::{Notice, NoticeKind, Problems},
    raw::server::{Experimental, File, Server},
    source::Source,
    telemetry::{self, ProfilingConfig, ProfilingKeys},
};

const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-server/private/api.sock";
const HOUR: Duration = Duration::from_secs(60 * 60);
const MINUTE: Duration = Duration::from_secs(60);

static CATALOG: Catalog = Catalog {
    types: &[
        PluginType { kind: "DataStore", at_least: 1, at_most: 1, built: &["sql"], missing: &[] },
        PluginType {
            kind: "KeyManager",
            at_least: 1,
            at_most: 1,
            built: &["disk", "memory", "pkcs11"],
            missing: &["aws_kms", "azure_key_vault", "gcp_kms", "hashicorp_vault"],
        },
        PluginType {
            kind: "NodeAttestor",
            at_least: 0,
            at_most: 0,
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
            kind: "UpstreamAuthority",
            at_least: 0,
            at_most: 1,
            built: &["disk", "spire"],
            missing: &["aws_pca", "awssecret", "cert-manager", "ejbca", "gcp_cas", "vault"],
        },
        PluginType {
            kind: "CredentialComposer",
            at_least: 0,
            at_most: 0,
            built: &["uniqueid"],
            missing: &[],
        },
        PluginType {
            kind: "Notifier",
            at_least: 0,
            at_most: 0,
            built: &[],
            missing: &["gcs_bundle", "k8sbundle"],
        },
        PluginType {
            kind: "BundlePublisher",
            at_least: 0,
            at_most: 0,
            built: &[],
            missing: &[
                "aws_rolesanywhere_trustanchor",
                "aws_s3",
                "azure_blob",
                "gcp_cloudstorage",
                "k8s_configmap",
            ],
        },
    ],
};

/// The plugin types of the server, with what is built in.
pub fn server_plugins() -> &'static [PluginType] {
    CATALOG.types
}

pub(super) fn build(
    source: &Source,
    flags: &ServerFlags,
) -> Result<(ServerConfig, Vec<Notice>), Problems> {
    let decoded = source
        .decode::<File>()
        .map_err(|problems| Problems::new(problems, Vec::new(), Vec::new()))?;
    let mut checker = Checker::new(source.path.clone());
    checker.unknown_keys(decoded.unknown, section);
    let file = decoded.value;
    let mut server = file.server.value.unwrap_or_default();
    apply_flags(&mut server, flags);

    let telemetry = telemetry::build(&mut checker, file.telemetry.value.unwrap_or_default());
    let profiling = profiling(&mut checker, &server);
    let plugins = plugins::build(&mut checker, &file.plugins, &CATALOG);
    let (datastore, plugins) = split_datastore(&mut checker, plugins);
    let federation = federation::build(&mut checker, &server.federation);

    let experimental = server.experimental.value.take().unwrap_or_default();
    let trust_domain = checker.trust_domain("server.trust_domain", &server.trust_domain);
    if set(&server.data_dir).is_none() {
        checker.problem(None, "server.data_dir", "data_dir must be configured");
    }
    let (bind_address, bind_port) = endpoint(&mut checker, &server);
    let socket_path = socket_path(&mut checker, &server);
    let log = checker.log(
        "server",
        &server.log_level,
        &server.log_format,
        &server.log_file,
        &server.log_source_location,
    );
    let (ca_key_type, jwt_key_type) = key_types(&mut checker, &server);
    let health_checks = Checker::health_checks(&file.health_checks.value.unwrap_or_default());
    let rate_limit = server.ratelimit.value.take().unwrap_or_default();
    let rate_limit = guard::rate_limit(&mut checker, rate_limit);
    let proxy_protocol_trusted_cidrs = guard::trusted_cidrs(&mut checker, &server);
    let lifetimes = lifetimes(&mut checker, &server);
    let admin_ids = admin_ids(&mut checker, &server);
    let ca_subject = ca_subject(&mut checker, &server);
    let staleness = staleness(&mut checker, &server);
    let prune_attested_nodes = prune(&mut checker, &server);
    let attestation_policy =
        attestation_policy::build(&mut checker, &server.attestation_policy, &plugins);
    let experimental = build_experimental(&mut checker, &experimental);

    let config = trust_domain.zip(bind_port).zip(socket_path).zip(datastore).map(
        |(((trust_domain, bind_port), socket_path), datastore)| ServerConfig {
            config_path: source.path.clone(),
            trust_domain,
            data_dir: PathBuf::from(set(&server.data_dir).unwrap_or_default()),
            bind_address,
            bind_port,
            socket_path,
            log,
            admin_ids,
            attestation_policy,
            agent_ttl: lifetimes.agent,
            default_x509_svid_ttl: lifetimes.x509,
            default_jwt_svid_ttl: lifetimes.jwt,
            ca_ttl: lifetimes.ca,
            ca_key_type,
            jwt_key_type,
            ca_subject,
            jwt_issuer: set(&server.jwt_issuer).map(str::to_owned),
            disable_jwt_svids: on(&server.disable_jwt_svids),
            audit_log_enabled: on(&server.audit_log_enabled),
            max_attested_node_info_staleness: staleness.unwrap_or_default(),
            prune_attested_nodes,
            rate_limit,
            proxy_protocol_trusted_cidrs,
            experimental,
            federation,
            health_checks,
            telemetry,
            profiling,
            datastore,
            plugins,
        },
    );
    if let Some(config) = &config {
        note_consequences(&mut checker, config, &server);
    }
    checker.finish(config)
}

fn staleness(checker: &mut Checker, server: &Server) -> Option<Duration> {
    checker.duration(
        "server.max_attested_node_info_staleness",
        &server.max_attested_node_info_staleness,
        |text| format!("could not parse max attested node staleness {text}"),
    )
}

/// What follows from values that are fine each by itself.
fn note_consequences(checker: &mut Checker, config: &ServerConfig, server: &Server) {
    let (agent, x509, jwt) =
        (&server.agent_ttl, &server.default_x509_svid_ttl, &server.default_jwt_svid_ttl);
    ttl::check(checker, config, agent, x509, jwt);
    if config.disable_jwt_svids {
        let line = server.disable_jwt_svids.line();
        let text = "JWT-SVID profile is disabled";
        checker.note(NoticeKind::Info, line, "server.disable_jwt_svids", text);
    }
}

/// SPIRE's name for a block whose keys it looks at.
fn section(block: &str) -> Option<String> {
    let name = match block {
        "server" => "server",
        "server.ca_subject" => "ca_subject",
        "server.attestation_policy" => "attestation_policy",
        name if name.starts_with("server.attestation_policy.rule") => "attestation_policy rule",
        "server.ratelimit" => "ratelimit",
        "server.ratelimit.limits" => "ratelimit limits",
        "server.federation.bundle_endpoint" => "bundle endpoint",
        "server.federation.bundle_endpoint.acme" => "bundle endpoint ACME",
        block => return shared_section(block),
    };
    Some(name.to_owned())
}

fn apply_flags(server: &mut Server, flags: &ServerFlags) {
    overlay(&mut server.bind_address, &flags.bind_address);
    overlay(&mut server.data_dir, &flags.data_dir);
    overlay(&mut server.log_file, &flags.log_file);
    overlay(&mut server.log_format, &flags.log_format);
    overlay(&mut server.log_level, &flags.log_level);
    overlay(&mut server.socket_path, &flags.socket_path);
    overlay(&mut server.trust_domain, &flags.trust_domain);
    overlay_switch(&mut server.log_source_location, flags.log_source_location);
    if flags.server_port != 0 {
        server.bind_port = Located::from_elsewhere(flags.server_port);
    }
}

/// The datastore's own configuration, and the plugins that are left.
fn split_datastore(
    checker: &mut Checker,
    plugins: Option<Vec<PluginConfig>>,
) -> (Option<datastore::DataStoreConfig>, Vec<PluginConfig>) {
    let (stores, plugins): (Vec<_>, Vec<_>) =
        plugins.into_iter().flatten().partition(|plugin| plugin.kind == "DataStore");
    let store = stores.into_iter().find(|store| store.name == "sql").and_then(|store| {
        let parsed;
        let block = match &store.data {
            PluginData::None => None,
            PluginData::Inline(block) => Some(block),
            PluginData::File(path) => {
                let text = store
                    .data
                    .text()
                    .map_err(|error| crate::source::describe("open", path, &error));
                match text.and_then(|text| {
                    steeple_hcl::Block::parse(&text).map_err(|error| error.to_string())
                }) {
                    Ok(block) => {
                        parsed = block;
                        Some(&parsed)
                    }
                    Err(why) => {
                        let key = "plugins.DataStore.sql.plugin_data_file";
                        checker.problem(store.line, key, why);
                        return None;
                    }
                }
            }
        };
        datastore::build(checker, block, store.line)
    });
    for plugin in &plugins {
        note_settings_of_join_token(checker, plugin);
    }
    (store, plugins)
}

/// The server's join_token takes no settings; SPIRE names those it finds.
fn note_settings_of_join_token(checker: &mut Checker, plugin: &PluginConfig) {
    #[derive(serde::Deserialize)]
    struct NoSettings {}
    let PluginData::Inline(block) = &plugin.data else { return };
    if (plugin.kind.as_str(), plugin.name.as_str()) != ("NodeAttestor", "join_token") {
        return;
    }
    let key = "plugins.NodeAttestor.join_token";
    match block.decode::<NoSettings>() {
        Ok(decoded) => {
            for unknown in decoded.unknown {
                let text = format!("unknown setting \"{}\" encountered", shorten(&unknown.key));
                checker.note(NoticeKind::NoEffect, plugin.line, key, text);
            }
        }
        Err(_) => checker.problem(plugin.line, key, "plugin configuration is malformed"),
    }
}

fn endpoint(checker: &mut Checker, server: &Server) -> (String, Option<u16>) {
    let host = set(&server.bind_address).unwrap_or("0.0.0.0").trim_matches(['[', ']']).to_owned();
    let port = match server.bind_port.value {
        // SPIRE cannot tell zero from absent.
        None | Some(0) => Some(8081),
        Some(_) => checker.port("server.bind_port", &server.bind_port, &shorten(&host)),
    };
    (host, port)
}

fn socket_path(checker: &mut Checker, server: &Server) -> Option<PathBuf> {
    absolute(set(&server.socket_path).unwrap_or(DEFAULT_SOCKET_PATH))
        .map_err(|error| {
            let text = format!("failed to get absolute path for socket path: {error}");
            checker.problem(server.socket_path.line(), "server.socket_path", text);
        })
        .ok()
}

fn profiling(checker: &mut Checker, server: &Server) -> Option<ProfilingConfig> {
    let keys = ProfilingKeys {
        enabled: &server.profiling_enabled,
        port: &server.profiling_port,
        freq: &server.profiling_freq,
        names: &server.profiling_names,
    };
    telemetry::profiling(checker, "server", &keys)
}

fn key_types(checker: &mut Checker, server: &Server) -> (KeyType, KeyType) {
    let ca = checker
        .parse::<KeyType>("server.ca_key_type", &server.ca_key_type, "error parsing ca_key_type: ")
        .unwrap_or_default();
    let jwt = checker
        .parse::<KeyType>(
            "server.jwt_key_type",
            &server.jwt_key_type,
            "error parsing jwt_key_type: ",
        )
        .unwrap_or(ca);
    (ca, jwt)
}

struct Lifetimes {
    agent: Option<Duration>,
    x509: Duration,
    jwt: Duration,
    ca: Duration,
}

fn lifetimes(checker: &mut Checker, server: &Server) -> Lifetimes {
    let mut one = |name: &str, what: &str, value: &Located<String>| {
        checker.duration(&format!("server.{name}"), value, |text| {
            format!("could not parse {what} {text}")
        })
    };
    // SPIRE takes zero for unset everywhere but in what it shows.
    let not_zero = |duration: Option<Duration>, default: Duration| {
        duration.filter(|duration| !duration.is_zero()).unwrap_or(default)
    };
    let x509 = one("default_x509_svid_ttl", "default X509 SVID ttl", &server.default_x509_svid_ttl);
    let jwt = one("default_jwt_svid_ttl", "default JWT SVID ttl", &server.default_jwt_svid_ttl);
    Lifetimes {
        agent: one("agent_ttl", "agent ttl", &server.agent_ttl).filter(|ttl| !ttl.is_zero()),
        x509: not_zero(x509, HOUR),
        jwt: not_zero(jwt, 5 * MINUTE),
        ca: not_zero(one("ca_ttl", "default CA ttl", &server.ca_ttl), 24 * HOUR),
    }
}

fn admin_ids(checker: &mut Checker, server: &Server) -> Vec<SpiffeId> {
    let mut ids = Vec::new();
    for (index, text) in server.admin_ids.value.iter().flatten().enumerate() {
        match SpiffeId::parse(text) {
            Ok(id) => ids.push(id),
            Err(error) => {
                let text = format!("could not parse admin ID {}: {error}", quote(text));
                let key = format!("server.admin_ids[{index}]");
                checker.problem(server.admin_ids.line(), &key, text);
            }
        }
    }
    ids
}

fn ca_subject(checker: &mut Checker, server: &Server) -> CaSubject {
    let configured = server.ca_subject.as_ref().map(|subject| CaSubject {
        country: subject.country.value.clone().unwrap_or_default(),
        organization: subject.organization.value.clone().unwrap_or_default(),
        common_name: subject.common_name.value.clone().unwrap_or_default(),
    });
    let empty = |subject: &CaSubject| {
        subject.country.is_empty()
            && subject.organization.is_empty()
            && subject.common_name.is_empty()
    };
    if configured.as_ref().is_some_and(empty) {
        let text = "ca_subject configurable is set but empty; the default will be used";
        let line = server.ca_subject.line();
        checker.note(NoticeKind::Warning, line, "server.ca_subject", text);
    }
    configured.filter(|subject| !empty(subject)).unwrap_or_else(|| CaSubject {
        country: vec!["US".to_owned()],
        organization: vec!["SPIFFE".to_owned()],
        common_name: String::new(),
    })
}

fn prune(checker: &mut Checker, server: &Server) -> Option<PruneAttestedNodes> {
    let key = "server.prune_attested_nodes_expired_for";
    let Some(expired_for) = checker.duration(key, &server.prune_attested_nodes_expired_for, |_| {
        "could not parse prune_attested_nodes_expired_for".to_owned()
    }) else {
        let why = "prune_attested_nodes_expired_for is not set";
        checker.no_effect("server.prune_tofu_nodes", &server.prune_tofu_nodes, why);
        let batch_size = &server.prune_attested_nodes_batch_size;
        checker.no_effect("server.prune_attested_nodes_batch_size", batch_size, why);
        return None;
    };
    let batch_size = server.prune_attested_nodes_batch_size.value.unwrap_or_default();
    let batch_size = u32::try_from(batch_size).unwrap_or_else(|_| {
        let line = server.prune_attested_nodes_batch_size.line();
        let text = format!("prune_attested_nodes_batch_size {batch_size} is out of range");
        checker.problem(line, "server.prune_attested_nodes_batch_size", text);
        0
    });
    Some(PruneAttestedNodes {
        expired_for,
        batch_size,
        include_non_reattestable: on(&server.prune_tofu_nodes),
    })
}

fn build_experimental(checker: &mut Checker, raw: &Experimental) -> ServerExperimental {
    let key = |name: &str| format!("server.experimental.{name}");
    if set(&raw.named_pipe_name).is_some() {
        let text = "invalid configuration: named_pipe_name is not supported in this platform; \
                    please use socket_path instead";
        checker.problem(raw.named_pipe_name.line(), &key("named_pipe_name"), text);
    }
    if set(&raw.event_timeout).is_some() && set(&raw.sql_transaction_timeout).is_some() {
        let text = "both experimental sql_transaction_timeout and event_timeout set, only set \
                    event_timeout";
        checker.problem(raw.sql_transaction_timeout.line(), &key("event_timeout"), text);
    }
    let mut one = |name: &str, what: &str, value: &Located<String>| {
        checker.duration(&key(name), value, |_| format!("could not parse {what}"))
    };
    let cache_reload_interval =
        one("cache_reload_interval", "cache reload interval", &raw.cache_reload_interval);
    let full_cache_reload_interval = one(
        "full_cache_reload_interval",
        "full cache reload interval",
        &raw.full_cache_reload_interval,
    );
    let prune_events_older_than =
        one("prune_events_older_than", "prune events interval", &raw.prune_events_older_than);
    let datastore_outage_grace =
        one("datastore_outage_grace", "datastore outage grace", &raw.datastore_outage_grace);
    one(
        "sql_transaction_timeout",
        "SQL transaction timeout interval",
        &raw.sql_transaction_timeout,
    );
    one("event_timeout", "event timeout interval", &raw.event_timeout);

    if set(&raw.sql_transaction_timeout).is_some() {
        let text = "experimental.sql_transaction_timeout is deprecated, use \
                    experimental.event_timeout instead";
        let line = raw.sql_transaction_timeout.line();
        checker.note(NoticeKind::Deprecated, line, &key("sql_transaction_timeout"), text);
    }
    let always = "the entry cache always follows the datastore's events, in order";
    checker.no_effect(&key("events_based_cache"), &raw.events_based_cache, always);
    checker.no_effect(&key("event_timeout"), &raw.event_timeout, always);
    let policy = guard::policy(checker, &raw.auth_opa_policy_engine);
    let overload = raw.overload.as_ref().map(|raw| overload::build(checker, raw));
    let wit_key_type = checker.parse::<KeyType>(
        &key("wit_key_type"),
        &raw.wit_key_type,
        "error parsing wit_key_type: ",
    );
    let flags = checker.feature_flags(&key("feature_flags"), &raw.feature_flags);
    if any_experimental(raw) {
        let text = "Experimental features have been enabled. Please see doc/upgrading.md for \
                    upgrade and compatibility considerations for experimental features.";
        checker.note(NoticeKind::Warning, None, "server.experimental", text);
    }
    ServerExperimental {
        agent_spiffe_id_as_selector: on(&raw.agent_spiffe_id_as_selector),
        policy,
        require_pq_kem: on(&raw.require_pq_kem),
        disable_push: on(&raw.disable_push),
        overload: overload.unwrap_or_default(),
        cache_reload_interval: cache_reload_interval.filter(|interval| !interval.is_zero()),
        prune_events_older_than: prune_events_older_than.filter(|age| !age.is_zero()),
        full_cache_reload_interval: full_cache_reload_interval.filter(|period| !period.is_zero()),
        datastore_outage_grace,
        wit_svid: flags.wit_svid,
        wit_key_type,
        wit_issuer: set(&raw.wit_issuer).map(str::to_owned),
    }
}

/// Whether any experimental key says something.
fn any_experimental(raw: &Experimental) -> bool {
    let switches = [&raw.agent_spiffe_id_as_selector, &raw.events_based_cache, &raw.require_pq_kem];
    let texts = [
        &raw.cache_reload_interval,
        &raw.full_cache_reload_interval,
        &raw.prune_events_older_than,
        &raw.event_timeout,
        &raw.sql_transaction_timeout,
        &raw.wit_key_type,
        &raw.wit_issuer,
    ];
    switches.into_iter().any(on)
        || texts.into_iter().any(|text| set(text).is_some())
        || raw.auth_opa_policy_engine.is_present()
        || raw.feature_flags.value.as_ref().is_some_and(|flags| !flags.is_empty())
}
