use std::{fs, time::Duration};

use super::{
    AgentConfig, AgentFlags, Bootstrap, OfflineCacheConfig, RebootstrapMode, TrustBundleFormat,
    WorkloadKeyType, load_agent,
};
use crate::{Notice, Problems};

fn load_with(agent: &str, flags: &AgentFlags) -> Result<(AgentConfig, Vec<Notice>), Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.conf");
    let text = format!(
        "agent {{ trust_domain = \"example.org\" server_address = \"s\" server_port = 8081
{agent}
}}
plugins {{
    KeyManager \"memory\" {{}}
    NodeAttestor \"join_token\" {{}}
    WorkloadAttestor \"unix\" {{}}
}}"
    );
    fs::write(&path, text).unwrap();
    load_agent(Some(&path), flags, false, &|_| None)
}

fn load(agent: &str) -> Result<(AgentConfig, Vec<Notice>), Problems> {
    load_with(agent, &AgentFlags::default())
}

fn problems(agent: &str) -> Vec<String> {
    load(agent).unwrap_err().iter().map(|problem| problem.text.clone()).collect()
}

#[test]
fn fills_in_the_defaults() {
    let (config, notices) = load("trust_bundle_path = \"b\"").unwrap();
    assert_eq!(config.data_dir.to_str(), Some("."));
    let socket = config.socket_path.as_deref().and_then(|path| path.to_str());
    assert_eq!(socket, Some("/tmp/spire-agent/public/api.sock"));
    assert_eq!(config.admin_socket_path, None);
    assert_eq!(config.rebootstrap_mode, RebootstrapMode::Never);
    assert_eq!(config.rebootstrap_delay, Duration::from_secs(600));
    assert_eq!(config.workload_x509_svid_key_type, WorkloadKeyType::EcP256);
    let path = Bootstrap::Path { path: "b".into(), format: TrustBundleFormat::Pem };
    assert_eq!(config.bootstrap, path);
    assert!(config.experimental.use_sync_authorized_entries);
    assert!(notices.is_empty());
}

#[test]
fn trust_comes_from_exactly_one_place() {
    let none = "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be \
                configured unless insecure_bootstrap is set";
    assert_eq!(problems(""), [none]);
    let both = "only one of insecure_bootstrap or trust_bundle_path can be specified, not both";
    assert_eq!(problems("insecure_bootstrap = true trust_bundle_path = \"b\""), [both]);
    let http = "trust bundle URL must start with https://";
    assert_eq!(problems("trust_bundle_url = \"http://x\""), [http]);
    let (config, _) =
        load("trust_bundle_url = \"http://x\" trust_bundle_unix_socket = \"/s\"").unwrap();
    assert!(matches!(config.bootstrap, Bootstrap::Url { unix_socket: Some(_), .. }));
    let (config, _) = load("insecure_bootstrap = true").unwrap();
    assert_eq!(config.bootstrap, Bootstrap::Insecure);
    let (config, _) = load("trust_bundle_spiffe_workload_api = \"unix:///s\"").unwrap();
    assert!(matches!(config.bootstrap, Bootstrap::WorkloadApi { .. }));
}

#[test]
fn flags_win_and_a_false_one_does_not_unset() {
    let flags = AgentFlags {
        trust_bundle: "flag".to_owned(),
        join_token: "token".to_owned(),
        disable_sds_api: true,
        ..AgentFlags::default()
    };
    let file = "trust_bundle_path = \"file\" disable_workload_api = true";
    let (config, _) = load_with(file, &flags).unwrap();
    assert!(matches!(&config.bootstrap, Bootstrap::Path { path, .. } if path.ends_with("flag")));
    assert_eq!(config.join_token.as_deref(), Some("token"));
    assert!(config.disable_sds_api && config.disable_workload_api);
    assert_eq!(config.socket_path, None);
}

#[test]
fn a_join_token_never_shows() {
    let (config, _) = load("insecure_bootstrap = true join_token = \"hush\"").unwrap();
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn the_admin_socket_keeps_its_distance() {
    let text = "admin socket cannot be in the same directory or a subdirectory as that containing \
                the Workload API socket";
    let inside = "insecure_bootstrap = true admin_socket_path = \"/tmp/spire-agent/public/x/a\"";
    assert_eq!(problems(inside), [text]);
    let beside = "insecure_bootstrap = true admin_socket_path = \"/tmp/spire-agent/public/../a\"";
    let (config, _) = load(beside).unwrap();
    let admin = config.admin_socket_path.as_deref().and_then(|path| path.to_str());
    assert_eq!(admin, Some("/tmp/spire-agent/a"));
}

#[test]
fn all_problems_come_at_once() {
    let found = problems(
        "insecure_bootstrap = true rebootstrap_mode = \"auto\"
         availability_target = \"1h\"
         x509_svid_cache_max_size = -1
         workload_x509_svid_key_type = \"rsa-4096\"
         experimental { jwt_svid_cache_hit_timeout = \"30s\" }",
    );
    assert_eq!(
        found,
        [
            "insecure_bootstrap option can not be used with rebootstrapping",
            "availability_target must be at least 24h0m0s",
            "x509_svid_cache_max_size should not be negative",
            "key type \"rsa-4096\" is unknown; must be one of [rsa-2048, ec-p256, ec-p384]",
            "jwt_svid_cache_hit_timeout (30s) must be less than 30s",
        ]
    );
}

#[test]
fn delegates_are_of_the_own_trust_domain() {
    let delegates =
        |ids: &str| load(&format!("insecure_bootstrap = true authorized_delegates = [{ids}]"));
    let (config, notices) = delegates("\"spiffe://example.org/d\"").unwrap();
    assert_eq!(config.authorized_delegates[0].as_str(), "spiffe://example.org/d");
    assert!(notices.is_empty());
    let shown = delegates("\"spiffe://other.org/d\"").unwrap_err().to_string();
    let text = "error validating authorized delegate: SPIFFE ID \"spiffe://other.org/d\" is not \
                a member of trust domain \"example.org\"";
    assert!(shown.contains(text), "{shown}");
}

#[test]
fn brokers_are_read_with_what_they_may_ask_about() {
    let broker = |text: &str| {
        load(&format!("insecure_bootstrap = true experimental {{ broker {{ {text} }} }}"))
    };
    let (config, _) = broker(
        "socket_path = \"/run/b/broker.sock\" bind_address = \"127.0.0.1:8443\"
         brokers = [{ id = \"spiffe://other.org/b\"
             allowed_reference_types = [{ type_url = \"a\" allow_over_tcp = true }, { type_url = \"b\" }] }]",
    )
    .unwrap();
    let broker_config = config.broker.unwrap();
    assert_eq!(broker_config.socket_path.unwrap().to_str(), Some("/run/b/broker.sock"));
    assert_eq!(broker_config.bind_address.as_deref(), Some("127.0.0.1:8443"));
    let allowed = &broker_config.brokers[0].allowed_reference_types;
    let allowed: Vec<_> =
        allowed.iter().map(|it| (it.type_url.as_str(), it.allow_over_tcp)).collect();
    assert_eq!(allowed, [("a", true), ("b", false)]);
    let wrong = |address: &str| broker(&format!("bind_address = \"{address}\"")).unwrap_err();
    for (address, text) in [
        (
            "nope",
            "invalid experimental.broker.bind_address \"nope\": address nope: missing port in address",
        ),
        (
            "a:70000",
            "invalid experimental.broker.bind_address \"a:70000\": address 70000: invalid port",
        ),
    ] {
        let shown = wrong(address).to_string();
        assert!(shown.contains(text), "{shown}");
    }
    let neither = broker("brokers = []").unwrap_err().to_string();
    assert!(neither.contains("requires socket_path, bind_address, or both"), "{neither}");
}

#[test]
fn rate_limits_are_per_method_and_off_where_nothing_is_said() {
    let limits = |text: &str| {
        load(&format!("insecure_bootstrap = true experimental {{ ratelimit {{ {text} }} }}"))
    };
    let (config, _) = limits("fetch_x509_svid = 5 stream_secrets = 0").unwrap();
    let expected = crate::WorkloadRateLimits { fetch_x509_svid: 5, ..Default::default() };
    assert_eq!(config.experimental.rate_limits, expected);
    let shown = limits("fetch_jwt_bundles = -1").unwrap_err().to_string();
    let text = "experimental.ratelimit.fetch_jwt_bundles must not be negative";
    assert!(shown.contains(text), "{shown}");
}

#[test]
fn sds_names_have_defaults_and_clash_with_a_warning() {
    let (config, _) = load("insecure_bootstrap = true").unwrap();
    let sds = config.sds;
    let names = [&sds.default_svid_name, &sds.default_bundle_name, &sds.default_all_bundles_name];
    assert_eq!(names, ["default", "ROOTCA", "ALL"]);
    assert!(!sds.disable_spiffe_cert_validation);
    let (config, notices) = load(
        "insecure_bootstrap = true
         sds { default_svid_name = \"me\" default_bundle_name = \"ALL\"
               disable_spiffe_cert_validation = true }",
    )
    .unwrap();
    assert_eq!(config.sds.default_svid_name, "me");
    assert!(config.sds.disable_spiffe_cert_validation);
    assert!(notices.iter().any(|it| it.text.contains("will be ignored")), "{notices:?}");
}

#[test]
fn the_agent_needs_its_plugins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.conf");
    fs::write(&path, "agent {} plugins {}").unwrap();
    let error = load_agent(Some(&path), &AgentFlags::default(), false, &|_| None).unwrap_err();
    let shown = error.to_string();
    assert!(!error.only_at_start());
    for text in [
        "server_address must be configured",
        "server_port must be configured",
        "trust_domain must be configured",
        "plugin type \"NodeAttestor\" constraint not satisfied: expected exactly 1 but got 0",
        "plugin type \"WorkloadAttestor\" constraint not satisfied: expected at least 1 but got 0",
    ] {
        assert!(shown.contains(text), "{text} in {shown}");
    }
}

#[test]
fn what_only_run_refuses_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.conf");
    let plugins = "plugins { NodeAttestor \"x509pop\" {} NodeAttestor \"join_token\" {} }";
    let agent = "agent { server_address = \"a\" server_port = 1 trust_domain = \"a\" \
                 insecure_bootstrap = true }";
    fs::write(&path, format!("{agent}\n{plugins}")).unwrap();
    let error = load_agent(Some(&path), &AgentFlags::default(), false, &|_| None).unwrap_err();
    assert!(error.only_at_start() && !error.only_not_available(), "{error}");
    assert_eq!(error.iter().count(), 3, "{error}");
}

#[test]
fn further_servers_stand_beside_the_first_and_an_offline_cache_is_off_until_asked_for() {
    let servers = |text: &str| {
        let (config, _) = load(&format!("insecure_bootstrap = true {text}")).unwrap();
        (config.servers, config.experimental.offline_cache)
    };
    let one = vec![("s".to_owned(), 8081)];
    assert_eq!(servers(""), (one, None));
    let (list, cache) = servers(
        "server_addresses = [\"s:8081\", \"t\", \"u:1\"] experimental { offline_cache {} }",
    );
    let three = [("s", 8081), ("t", 8081), ("u", 1)].map(|(host, port)| (host.to_owned(), port));
    assert_eq!(list, three);
    let day = Duration::from_secs(86400);
    assert_eq!(cache, Some(OfflineCacheConfig { max_age: day, jwt_svids: false }));
    let (_, cache) = servers("experimental { offline_cache { enabled = false } }");
    assert_eq!(cache, None);
    assert_eq!(
        problems("insecure_bootstrap = true server_addresses = [\"a b\"]"),
        ["\"a b\" is not a server's address: host or host:port"]
    );
    let wrong =
        problems("insecure_bootstrap = true experimental { offline_cache { max_age = \"0s\" } }");
    assert_eq!(wrong, ["could not parse offline_cache.max_age: not longer than nothing"]);
}
