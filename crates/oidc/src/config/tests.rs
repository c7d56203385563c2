//! Settings and mistakes, with SPIRE's words for them.

use super::*;

const BASE: &str = "domains = [\"a.test\"]\n";

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_minimal_file_has_spires_defaults() {
    let text = format!(
        "{BASE}serving_cert_file {{ cert_file_path = \"c\" key_file_path = \"k\" }}
        server_api {{ address = \"unix:///run/s.sock\" }} health_checks {{}}"
    );
    let (config, notices) = parse(&text).unwrap();
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!(config.poll_interval, Duration::from_secs(10));
    let Listen::Files { addr, sync_interval, .. } = &config.listen else { panic!("no files") };
    assert_eq!((addr.as_str(), *sync_interval), (":443", Duration::from_secs(60)));
    let OriginConfig::ServerApi(path) = &config.origin else { panic!("no server") };
    assert_eq!(path, Path::new("/run/s.sock"));
    let health = config.health.unwrap();
    assert_eq!(
        (health.port, health.ready_path.as_str(), health.live_path.as_str()),
        (8008, "/ready", "/live")
    );
}

#[test]
fn everything_can_be_set() {
    let text = r#"
        log_format = "json" log_level = "warn" log_requests = true
        domains = ["a.test", "b.test", "a.test"]
        set_key_use = true allow_insecure_scheme = true
        listen_socket_path = "/s" jwt_issuer = "https://i.test" jwks_uri = "https://j.test/k"
        server_path_prefix = "/p"
        workload_api { socket_path = "/w" trust_domain = "spiffe://td.test" poll_interval = "3s" }
        health_checks { bind_port = "81" ready_path = "/r" live_path = "/l" }
        experimental { listen_named_pipe_name = "x" }
    "#;
    let (config, notices) = parse(text).unwrap();
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!(config.domains, ["a.test", "b.test"]);
    assert!(config.set_key_use && config.allow_insecure_scheme && config.log_requests);
    assert!(matches!(&config.listen, Listen::Unix(path) if path == Path::new("/s")));
    let OriginConfig::WorkloadApi(path, trust_domain) = &config.origin else { panic!() };
    assert_eq!((path.as_path(), trust_domain.as_str()), (Path::new("/w"), "td.test"));
    assert_eq!(config.poll_interval, Duration::from_secs(3));
    assert_eq!(config.health.unwrap().port, 81);
}

#[test]
fn an_acme_cache_can_be_moved_and_switched_off() {
    let acme = |more: &str| {
        let text = format!("{BASE}acme {{ tos_accepted = true email = \"e\" {more} }} file {{}}");
        match parse(&text).unwrap().0.listen {
            Listen::Acme(acme) => acme,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(acme("").cache_dir.as_deref(), Some(Path::new("./.acme-cache")));
    assert_eq!(acme("").addr, ":443");
    assert_eq!(acme("cache_dir = \"\"").cache_dir, None);
    assert_eq!(
        acme("cache_dir = \"/c\" addr = \":8443\"").cache_dir.as_deref(),
        Some(Path::new("/c"))
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one list")]
fn mistakes_are_told_in_spires_words() {
    let http = "insecure_addr = \":80\"";
    let acme = "acme { tos_accepted = true email = \"e\" }";
    let files = "serving_cert_file { cert_file_path = \"c\" key_file_path = \"k\" }";
    let unix = "listen_socket_path = \"/s\"";
    let file = "file {}";
    let server = "server_api { address = \"unix:/s\" }";
    let both = |a: &str, b: &str| format!("{a}\n{b}\n{file}");
    let http_and = |more: &str| format!("{http}\n{more}");
    let cases = [
        (both(acme, http), "insecure_addr and the acme section are mutually exclusive"),
        (both("acme {}", ""), "tos_accepted must be set to true in the acme configuration section"),
        (
            both("acme { tos_accepted = true }", ""),
            "email must be configured in the acme configuration section",
        ),
        (
            both("serving_cert_file {}", ""),
            "cert_file_path must be configured in the serving_cert_file configuration section",
        ),
        (
            both("serving_cert_file { cert_file_path = \"c\" }", ""),
            "key_file_path must be configured in the serving_cert_file configuration section",
        ),
        (
            both(
                "serving_cert_file { cert_file_path = \"c\" key_file_path = \"k\" addr = \"x\" }",
                "",
            ),
            "invalid addr in the serving_cert_file configuration section: address x: missing port in address",
        ),
        (
            both(
                "serving_cert_file { cert_file_path = \"c\" key_file_path = \"k\" file_sync_interval = \"x\" }",
                "",
            ),
            "invalid file_sync_interval in the serving_cert_file configuration section: time: invalid duration \"x\"",
        ),
        (
            file.to_owned(),
            "either acme, serving_cert_file, insecure_addr or listen_socket_path must be configured",
        ),
        (both(acme, files), "acme and serving_cert_file are mutually exclusive"),
        (both(acme, unix), "listen_socket_path and the acme section are mutually exclusive"),
        (both(files, http), "serving_cert_file and insecure_addr are mutually exclusive"),
        (both(files, unix), "serving_cert_file and listen_socket_path are mutually exclusive"),
        (both(http, unix), "insecure_addr and listen_socket_path are mutually exclusive"),
        (
            http_and("server_api { address = \"unix:/s\" poll_interval = \"x\" }"),
            "invalid poll_interval in the server_api configuration section: time: invalid duration \"x\"",
        ),
        (
            http_and("server_api {}"),
            "address must be configured in the server_api configuration section",
        ),
        (
            http_and("server_api { address = \"dns:///x\" }"),
            "address must use the unix name system in the server_api configuration section",
        ),
        (
            http_and("workload_api { socket_path = \"s\" }"),
            "trust_domain must be configured in the workload_api configuration section",
        ),
        (
            http_and("workload_api { trust_domain = \"td\" }"),
            "socket_path must be configured in the workload_api configuration section",
        ),
        (
            http_and(""),
            "exactly one of the server_api, workload_api, or file sections must be configured",
        ),
        (
            both(http, server),
            "the server_api, workload_api, and file sections are mutually exclusive",
        ),
        (both(http, "jwt_issuer = \"a.test\""), "the jwt_issuer url must contain a scheme"),
        (both(http, "jwt_issuer = \"https:///x\""), "the jwt_issuer url must contain a host"),
    ];
    for (text, expected) in cases {
        assert_eq!(error(&format!("{BASE}{text}")), expected, "{text}");
    }
    assert_eq!(error(http), "at least one domain must be configured");
    let jwks = format!("{BASE}{http}\njwks_uri = \":x\"\n{file}");
    assert!(error(&jwks).starts_with("the jwks_uri setting could not be parsed: "));
    let issuer = format!("{BASE}{http}\njwt_issuer = \":x\"\n{file}");
    assert!(error(&issuer).starts_with("the jwt_issuer url could not be parsed: "));
    assert!(error("domains = [").starts_with("unable to decode configuration: "));
    assert!(
        error(&format!("{BASE}{http}\nlog_level = \"x\"\n{file}"))
            .contains("not a valid logrus Level")
    );
}

#[test]
fn unknown_keys_are_ignored_with_a_warning() {
    let (_, notices) =
        parse(&format!("{BASE}insecure_addr = \":80\"\nfile {{}}\nsurprise = 1")).unwrap();
    assert_eq!(notices, ["Unknown key \"surprise\" in the configuration is ignored"]);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Path::new("/nowhere/x.conf"), false).unwrap_err().to_string();
    assert_eq!(
        error,
        "unable to load configuration: open /nowhere/x.conf: no such file or directory"
    );
}

#[test]
fn the_samples_are_valid_and_name_every_key() {
    for name in ["oidc-discovery-provider", "oidc-discovery-provider_full"] {
        let path = format!("../../conf/oidc-discovery-provider/{name}.conf");
        let (_, notices) = load(Path::new(&path), false).unwrap();
        assert_eq!(notices, Vec::<String>::new(), "{name}");
    }
    let full =
        include_str!("../../../../conf/oidc-discovery-provider/oidc-discovery-provider_full.conf");
    let keys = include_str!("raw.rs").lines().filter_map(|line| {
        line.trim().strip_prefix("pub(super) ")?.split_once(':').map(|(key, _)| key)
    });
    for key in keys.filter(|key| !key.contains(' ') && !key.contains("named_pipe")) {
        assert!(key == "experimental" || full.contains(key), "{key} is not in the sample");
    }
}
