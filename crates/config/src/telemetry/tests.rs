use std::{fs, time::Duration};

use super::*;
use crate::{Problems, ServerConfig, ServerFlags, load_server};

fn load(telemetry: &str, server: &str) -> Result<ServerConfig, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.conf");
    let text = format!(
        "server {{ trust_domain = \"example.org\" data_dir = \"d\" {server} }}
         plugins {{
           DataStore \"sql\" {{ plugin_data {{
             database_type = \"sqlite3\" connection_string = \"d\" }} }}
           KeyManager \"memory\" {{ plugin_data {{}} }}
         }}
         telemetry {{ {telemetry} }}"
    );
    fs::write(&file, text).unwrap();
    load_server(Some(&file), &ServerFlags::default(), false, &|_| None).map(|(config, _)| config)
}

#[test]
fn every_key_of_spire_is_read() {
    let config = load(
        r#"Prometheus { host = "0.0.0.0" port = 9988
             tls { cert_file = "c" key_file = "k" client_ca_file = "a" use_spire_svid = true
                   authorized_spiffe_ids = ["spiffe://example.org/p"] } }
           DogStatsd = [{ address = "localhost:8125" }]
           Statsd = [{ address = "localhost:1337" }, { address = "collector:8125" }]
           M3 = [{ address = "localhost:9000" env = "prod" }]
           InMem {}
           MetricPrefix = "mine" EnableTrustDomainLabel = true EnableHostnameLabel = false
           AllowedPrefixes = ["a"] BlockedPrefixes = ["b"] AllowedLabels = [] BlockedLabels = ["c"]"#,
        "",
    )
    .unwrap()
    .telemetry;
    assert_eq!(
        config,
        TelemetryConfig {
            prometheus: Some(PrometheusConfig {
                host: "0.0.0.0".into(),
                port: 9988,
                tls: Some(PrometheusTlsConfig {
                    cert_file: Some("c".into()),
                    key_file: Some("k".into()),
                    client_ca_file: Some("a".into()),
                    use_spire_svid: true,
                    authorized_spiffe_ids: vec!["spiffe://example.org/p".into()],
                }),
            }),
            dog_statsd: vec!["localhost:8125".into()],
            statsd: vec!["localhost:1337".into(), "collector:8125".into()],
            m3: vec![M3Config { address: "localhost:9000".into(), env: "prod".into() }],
            in_mem: true,
            otlp: None,
            metric_prefix: Some("mine".into()),
            trust_domain_label: true,
            hostname_label: false,
            allowed_prefixes: vec!["a".into()],
            blocked_prefixes: vec!["b".into()],
            allowed_labels: Some(Vec::new()),
            blocked_labels: vec!["c".into()],
        }
    );
}

#[test]
fn nothing_configured_means_no_sink() {
    let config = load("", "").unwrap().telemetry;
    assert_eq!(config, TelemetryConfig { hostname_label: true, ..TelemetryConfig::default() });
}

#[test]
fn unknown_keys_of_sinks_are_refused_by_spires_names() {
    let problems = load(
        r#"Prometheus { prt = 1 } Statsd = [{ adress = "x" }] M3 = [{ x = 1 }] InMem { y = 2 }
           Otlp { endpoint = "http://c:4318" z = 3 } Whatever = 4"#,
        "",
    )
    .unwrap_err();
    let mut sections: Vec<&str> =
        problems.unknown_sections().iter().map(|it| it.section.as_str()).collect();
    sections.sort_unstable();
    assert_eq!(sections, ["InMem", "M3", "Otlp", "Prometheus", "Statsd"]);
}

#[test]
fn otlp_has_defaults_and_limits() {
    let otlp = load(r#"Otlp { endpoint = "http://c:4318/" }"#, "").unwrap().telemetry.otlp.unwrap();
    assert_eq!((otlp.endpoint.as_str(), otlp.interval), ("http://c:4318", DEFAULT_INTERVAL));
    assert!(otlp.protocol == OtlpProtocol::Http && !otlp.traces && otlp.sample_ratio == 1.0);

    let full = r#"Otlp { endpoint = "https://c" protocol = "grpc" interval = "5s" traces = true
                  sample_ratio = 0.25 headers { authorization = "Bearer secret" } }"#;
    let otlp = load(full, "").unwrap().telemetry.otlp.unwrap();
    assert_eq!((otlp.protocol, otlp.interval), (OtlpProtocol::Grpc, Duration::from_secs(5)));
    assert!(otlp.traces && otlp.sample_ratio == 0.25);
    assert_eq!(otlp.headers["authorization"], "Bearer secret");
    assert!(!format!("{otlp:?}").contains("secret"), "headers may be secrets");

    let bad = r#"Otlp { endpoint = "c:4318" protocol = "udp" interval = "x" sample_ratio = 2.0 }"#;
    assert_eq!(load(bad, "").unwrap_err().iter().count(), 4);
    assert_eq!(load("Otlp {}", "").unwrap_err().iter().count(), 1);
}

#[test]
fn profiling_is_off_unless_enabled() {
    let keys = "profiling_port = 6060 profiling_freq = 5 profiling_names = [\"cpu\"]";
    assert_eq!(load("", keys).unwrap().profiling, None);
    let enabled = load("", &format!("profiling_enabled = true {keys}")).unwrap().profiling;
    assert_eq!(
        enabled,
        Some(ProfilingConfig {
            port: Some(6060),
            frequency: Some(Duration::from_secs(5)),
            names: vec!["cpu".into()],
        })
    );
    let bad = "profiling_enabled = true profiling_port = 70000";
    assert_eq!(load("", bad).unwrap_err().iter().count(), 1);
}
