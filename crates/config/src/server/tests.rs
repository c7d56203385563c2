use std::{fs, path::PathBuf, time::Duration};

use super::{Overload, OverloadClass, ServerConfig, ServerFlags, load_server};
use crate::{KeyType, LimitBy, Notice, NoticeKind, PluginData, ProblemKind, Problems, RateLimit};

const PLUGINS: &str = r#"
plugins {
    DataStore "sql" {
        plugin_data { database_type = "sqlite3" connection_string = "db.sqlite3" }
    }
    KeyManager "memory" {}
}
"#;

fn load_with(
    text: &str,
    flags: &ServerFlags,
    expand: bool,
) -> Result<(ServerConfig, Vec<Notice>), Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.conf");
    fs::write(&path, text).unwrap();
    load_server(Some(&path), flags, expand, &|name| {
        (name == "DOMAIN").then(|| "env.example".to_owned())
    })
}

fn load(server: &str) -> Result<(ServerConfig, Vec<Notice>), Problems> {
    let text = format!("server {{ trust_domain = \"example.org\" data_dir = \"d\"\n{server}\n}}");
    load_with(&(text + PLUGINS), &ServerFlags::default(), false)
}

fn problems(server: &str) -> Vec<String> {
    load(server).unwrap_err().iter().map(|problem| problem.text.clone()).collect()
}

fn notices(server: &str) -> Vec<(NoticeKind, String)> {
    load(server).unwrap().1.into_iter().map(|notice| (notice.kind, notice.key)).collect()
}

#[test]
fn fills_in_the_defaults() {
    let (config, notices) = load("").unwrap();
    assert_eq!(config.trust_domain.as_str(), "example.org");
    assert_eq!((config.bind_address.as_str(), config.bind_port), ("0.0.0.0", 8081));
    assert_eq!(config.socket_path.to_str(), Some("/tmp/spire-server/private/api.sock"));
    assert_eq!(config.ca_ttl, Duration::from_secs(24 * 3600));
    assert_eq!(config.default_x509_svid_ttl, Duration::from_secs(3600));
    assert_eq!(config.default_jwt_svid_ttl, Duration::from_secs(300));
    assert_eq!(config.agent_ttl, None);
    assert_eq!((config.ca_key_type, config.jwt_key_type), (KeyType::EcP256, KeyType::EcP256));
    assert_eq!(
        (&*config.ca_subject.country, &*config.ca_subject.organization),
        (&["US".to_owned()][..], &["SPIFFE".to_owned()][..])
    );
    assert_eq!((config.rate_limit.attestation, config.rate_limit.signing), (1, 500));
    assert_eq!((config.health_checks.bind_port.as_str(), notices.len()), ("80", 0));
}

#[test]
fn takes_numbers_in_quotes_and_the_jwt_key_type_from_the_ca() {
    let (config, _) = load("bind_port = \"9000\" ca_key_type = \"RSA-2048\"").unwrap();
    assert_eq!((config.bind_port, config.jwt_key_type), (9000, KeyType::Rsa2048));
}

#[test]
fn a_flag_wins_unless_it_is_empty() {
    let flags = ServerFlags {
        trust_domain: "flag.example".to_owned(),
        server_port: 1234,
        log_source_location: true,
        ..ServerFlags::default()
    };
    let text = "server { trust_domain = \"a\" data_dir = \"kept\" bind_port = 1 }";
    let (config, _) = load_with(&format!("{text}{PLUGINS}"), &flags, false).unwrap();
    assert_eq!((config.trust_domain.as_str(), config.bind_port), ("flag.example", 1234));
    assert_eq!(config.data_dir.to_str(), Some("kept"));
    assert!(config.log.source_location);
}

#[test]
fn variables_are_put_in_only_when_asked_for() {
    let text = format!("server {{ trust_domain = \"${{DOMAIN}}\" data_dir = \"d\" }}{PLUGINS}");
    let (config, _) = load_with(&text, &ServerFlags::default(), true).unwrap();
    assert_eq!(config.trust_domain.as_str(), "env.example");
    assert!(load_with(&text, &ServerFlags::default(), false).is_err());
}

#[test]
fn every_problem_is_reported_at_once_with_its_place() {
    let error = load(
        "agent_ttl = \"1d\"\nbind_port = \"x\"\nca_key_type = \"rsa\"\nbogus = 1\nadmin_ids = [\"x\"]",
    )
    .unwrap_err();
    // A value of the wrong type leaves nothing to check, so it comes first.
    let texts: Vec<_> = error.iter().map(|problem| (problem.line, problem.key.as_str())).collect();
    assert_eq!(texts, [(Some(3), "server.bind_port")]);

    let error = load("agent_ttl = \"1d\"\nca_key_type = \"rsa\"\nbogus = 1\nadmin_ids = [\"x\"]")
        .unwrap_err();
    let places: Vec<_> = error.iter().map(|problem| (problem.line, problem.key.as_str())).collect();
    assert_eq!(
        places,
        [
            (Some(2), "server.agent_ttl"),
            (Some(3), "server.ca_key_type"),
            (Some(4), "server.bogus"),
            (Some(5), "server.admin_ids[0]"),
        ]
    );
    let shown = error.to_string();
    assert!(shown.contains(
        "could not parse agent ttl \"1d\": time: unknown unit \"d\" in duration \"1d\" ("
    ));
    assert!(shown.contains("server.conf:3: server.ca_key_type)"));
}

#[test]
fn unknown_keys_are_refused_where_spire_looks() {
    let error = load("b = 1\na = 2\nca_subject { x = 1 }\nratelimit { y = 1 }").unwrap_err();
    assert!(error.iter().all(|problem| problem.kind == ProblemKind::Unknown));
    assert!(error.iter().all(|problem| problem.text == "unknown configuration detected"));
    let sections: Vec<_> = error
        .unknown_sections()
        .iter()
        .map(|one| (one.section.as_str(), one.keys.join(",")))
        .collect();
    assert_eq!(
        sections,
        [
            ("server", "a,b".to_owned()),
            ("ca_subject", "x".to_owned()),
            ("ratelimit", "y".to_owned()),
        ]
    );
    let elsewhere = notices("experimental { x = 1 }");
    assert_eq!(elsewhere, [(NoticeKind::NoEffect, "server.experimental.x".to_owned())]);
}

#[test]
fn bounds_of_what_is_done_at_once_are_set_one_by_one() {
    let overload =
        |text: &str| load(&format!("experimental {{ {text} }}")).unwrap().0.experimental.overload;
    assert_eq!(overload(""), Overload::default());
    let set = overload("overload { at_once = 9 attest { waiting = 0 longest_wait = \"3s\" } }");
    let attest = OverloadClass {
        waiting: Some(0),
        longest_wait: Some(Duration::from_secs(3)),
        ..OverloadClass::default()
    };
    assert_eq!(set, Overload { at_once: Some(9), attest, ..Overload::default() });
    let wrong =
        "experimental { overload { connections = 0 sign { at_once = -1 longest_wait = \"x\" } } }";
    let error = load(wrong).unwrap_err();
    let keys: Vec<_> = error.iter().map(|problem| problem.key.as_str()).collect();
    let key = |name: &str| format!("server.experimental.overload.{name}");
    assert_eq!(keys, [key("connections"), key("sign.at_once"), key("sign.longest_wait")]);
}

#[test]
fn limits_are_spires_unless_they_are_set() {
    let limits = |text: &str| load(text).unwrap().0.rate_limit;
    let spires = RateLimit {
        attestation: 1,
        signing: 500,
        publish: 500,
        post_status: 10,
        admin: 0,
        bundle: 0,
        sync: 0,
        by: LimitBy::Ip,
    };
    assert_eq!(limits(""), spires);
    let off = RateLimit { attestation: 0, signing: 0, ..spires };
    assert_eq!(limits("ratelimit { attestation = false signing = false }"), off);
    let set = limits(
        "ratelimit { signing = false limits { attestation = 20 signing = 9 admin = 5 by = \"spiffe_id\" } }",
    );
    let by = LimitBy::SpiffeId;
    assert_eq!(set, RateLimit { attestation: 20, signing: 0, admin: 5, by, ..spires });
    let error = load("ratelimit { limits { admin = -1 by = \"name\" x = 1 } }").unwrap_err();
    let keys: Vec<_> = error.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "server.ratelimit.limits.x",
            "server.ratelimit.limits.admin",
            "server.ratelimit.limits.by"
        ]
    );
}

#[test]
fn trusted_proxies_and_a_policy_are_read() {
    let (config, _) = load(
        "proxy_protocol_trusted_cidrs = [\"10.0.0.0/8\", \"2001:db8::/32\"]
        experimental {
            require_pq_kem = true
            auth_opa_policy_engine { local { rego_path = \"p.rego\" policy_data_path = \"d.json\" } }
        }",
    )
    .unwrap();
    let ranges: Vec<_> = config
        .proxy_protocol_trusted_cidrs
        .iter()
        .map(|range| format!("{}/{}", range.address, range.bits))
        .collect();
    assert_eq!(ranges, ["10.0.0.0/8", "2001:db8::/32"]);
    assert!(config.experimental.require_pq_kem);
    let policy = config.experimental.policy.unwrap();
    assert_eq!((policy.rego, policy.data), ("p.rego".into(), Some("d.json".into())));
    let error = load("experimental { auth_opa_policy_engine { } }").unwrap_err();
    let texts: Vec<_> = error.iter().map(|problem| problem.text.as_str()).collect();
    assert_eq!(texts, ["policy engine configuration must define a provider"]);
}

#[test]
fn what_cannot_be_left_out_is_refused() {
    let text = "server { trust_domain = \"a\" data_dir = \"b\" }
        plugins {
            DataStore \"sql\" { plugin_data { database_type = \"sqlite3\" connection_string = \"x\" } }
            KeyManager \"memory\" {}
            UpstreamAuthority \"vault\" {}
            NodeAttestor \"aws_iid\" { enabled = false }
        }";
    let error = load_with(text, &ServerFlags::default(), false).unwrap_err();
    assert!(error.only_not_available());
    let texts: Vec<_> = error.iter().map(|problem| problem.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "plugin \"vault\" of type \"UpstreamAuthority\" is not available yet in this version of Steeple",
        ]
    );
}

#[test]
fn a_plugin_with_a_program_is_external_whatever_its_name() {
    let text = "server { trust_domain = \"a\" data_dir = \"b\" }
        plugins {
            DataStore \"sql\" { plugin_data { database_type = \"sqlite3\" connection_string = \"x\" } }
            KeyManager \"aws_kms\" {
                plugin_cmd = \"bin/kms\" plugin_args = [\"-a\", \"b\"] plugin_checksum = \"00\"
            }
        }";
    let (config, notices) = load_with(text, &ServerFlags::default(), false).unwrap();
    assert!(notices.iter().all(|notice| notice.kind != NoticeKind::NoEffect));
    let external = config.plugins[0].external.as_ref().unwrap();
    assert_eq!(external.command, PathBuf::from("bin/kms"));
    assert_eq!(external.args, ["-a", "b"]);
    assert_eq!(external.checksum, "00");
}

#[test]
fn the_join_token_attestor_is_never_external() {
    let text = "server { trust_domain = \"a\" data_dir = \"b\" }
        plugins {
            DataStore \"sql\" { plugin_data { database_type = \"sqlite3\" connection_string = \"x\" } }
            KeyManager \"memory\" {}
            NodeAttestor \"join_token\" { plugin_cmd = \"/bin/mine\" }
        }";
    let error = load_with(text, &ServerFlags::default(), false).unwrap_err();
    let texts: Vec<_> = error.iter().map(|problem| problem.text.as_str()).collect();
    assert_eq!(
        texts,
        ["the built-in join_token node attestor cannot be overridden by an external plugin"]
    );
}

#[test]
fn plugins_keep_their_order_in_every_spelling() {
    let text = "server { trust_domain = \"a\" data_dir = \"b\" }
        plugins {
            \"KeyManager\" { disk { plugin_data = { keys_path = \"k\" } } }
            DataStore \"sql\" plugin_data { database_type = \"sqlite3\" connection_string = \"x\" }
            NodeAttestor \"join_token\" { plugin_data_file = \"f\" enabled = false }
        }";
    let (config, _) = load_with(text, &ServerFlags::default(), false).unwrap();
    let names: Vec<_> = config
        .plugins
        .iter()
        .map(|one| (one.kind.as_str(), one.name.as_str(), one.enabled))
        .collect();
    assert_eq!(names, [("KeyManager", "disk", true), ("NodeAttestor", "join_token", false)]);
    assert_eq!(config.plugins[0].data.text().unwrap(), "keys_path = \"k\"");
    assert!(matches!(&config.plugins[1].data, PluginData::File(path) if path.ends_with("f")));
    assert_eq!(config.datastore.connection_string, "x");
}

#[test]
fn a_plugin_is_declared_once_and_the_counts_must_fit() {
    let text = "server { trust_domain = \"a\" data_dir = \"b\" }
        plugins { KeyManager \"disk\" {} KeyManager \"disk\" {} }";
    let error = load_with(text, &ServerFlags::default(), false).unwrap_err();
    assert!(error.to_string().contains("plugin \"KeyManager\"/\"disk\" declared more than once"));

    let error = load_with(
        "server { trust_domain = \"a\" data_dir = \"b\" } plugins {}",
        &ServerFlags::default(),
        false,
    );
    let text = error.unwrap_err().to_string();
    assert!(text.contains("expecting a DataStore plugin"));
    assert!(text.contains(
        "plugin type \"KeyManager\" constraint not satisfied: expected exactly 1 but got 0"
    ));
}

#[test]
fn lifetimes_that_outlive_the_ca_are_warned_of() {
    let (_, found) = load("agent_ttl = \"5h\"").unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, NoticeKind::Warning);
    assert!(found[0].text.starts_with("agent_ttl is too high for the configured ca_ttl value."));
}

#[test]
fn deprecated_keys_are_named() {
    let found = notices("experimental { sql_transaction_timeout = \"1m\" }");
    assert_eq!(found[0].0, NoticeKind::Deprecated);
    let both = problems("experimental { sql_transaction_timeout = \"1m\" event_timeout = \"1m\" }");
    let text =
        "both experimental sql_transaction_timeout and event_timeout set, only set event_timeout";
    assert_eq!(both, [text]);
}

#[test]
fn a_missing_file_is_named_in_full() {
    let path = std::path::Path::new("/nonexistent/../gone/server.conf");
    let error = load_server(Some(path), &ServerFlags::default(), false, &|_| None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not find config file /gone/server.conf: please use the -config flag"
    );
}

#[test]
fn broken_text_is_told_in_the_librarys_words() {
    let error =
        load_with("server {\n  bind_port = \n}", &ServerFlags::default(), false).unwrap_err();
    let shown = error.to_string();
    assert!(shown.contains("\": At 3:1: Unknown token: 3:1 RBRACE }"), "{shown}");
    assert!(shown.starts_with("unable to decode configuration at \""));
}

#[test]
fn an_attestation_policy_is_read_and_what_is_wrong_with_it_is_located() {
    let (config, _) = load(
        "attestation_policy {\n default = \"refuse\"\n rule \"b\" { none = [\"*:x\"] }\n rule \
         \"a\" { all = [\"k:a\", \"k:*\"] any = [\"k:b\"] }\n}",
    )
    .unwrap();
    let policy = config.attestation_policy;
    assert!(policy.refuses_others);
    let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(
        (&policy.rules[0].all[..], policy.rules[1].none.len()),
        (&["k:a".into(), "k:*".into()][..], 1)
    );
    let off = load("").unwrap().0.attestation_policy;
    assert!(off.rules.is_empty() && !off.refuses_others);

    let errors = load(
        "attestation_policy {\n default = \"no\"\n rule \"r\" {\n attestors = [\"k\"]\n all = \
         [\"k:a\", \":a\"]\n }\n rule \"s\" {}\n}",
    )
    .unwrap_err();
    let found: Vec<(usize, &str)> =
        errors.iter().map(|it| (it.line.unwrap_or(0), it.key.as_str())).collect();
    let key = "server.attestation_policy";
    for (line, tail) in
        [(3, "default"), (5, "rule.r.attestors"), (6, "rule.r.all[1]"), (8, "rule.s")]
    {
        let key = format!("{key}.{tail}");
        assert!(found.contains(&(line, key.as_str())), "{line} {key} in {found:?}");
    }
    assert_eq!(found.len(), 4, "{found:?}");
}
