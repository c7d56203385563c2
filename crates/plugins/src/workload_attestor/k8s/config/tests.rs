use super::*;

fn read_in(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let find =
        |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    read(Some(&Block::parse(text).unwrap()), &find).map_err(|error| {
        assert_eq!(error.code, Code::InvalidArgument);
        error.message.strip_prefix("workloadattestor(k8s): ").unwrap().to_owned()
    })
}

fn refusal(text: &str) -> String {
    read_in(text, &[]).unwrap_err()
}

#[test]
fn nothing_set_is_spires_defaults() {
    let config = read_in("", &[]).unwrap();
    assert_eq!(config, read(None, &|_| None).unwrap());
    assert_eq!(
        config,
        Config {
            max_poll_attempts: 60,
            poll_retry_interval: Duration::from_millis(500),
            container_selectors: true,
            namespace_labels: false,
            new_container_locator: true,
            verbose_locator: false,
            api_server_cache: false,
            watch_node: None,
            broker: None,
            kubelet: Some(KubeletConfig {
                port: 10250,
                secure: true,
                verify: true,
                ca_path: "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt".into(),
                auth: KubeletAuth::Token(
                    "/var/run/secrets/kubernetes.io/serviceaccount/token".into()
                ),
                node_name: String::new(),
                reload_interval: Duration::from_secs(60),
                deadline: Duration::from_secs(10),
            }),
        }
    );
}

#[test]
fn every_key_is_read() {
    let text = r#"
        kubelet_secure_port = 1
        max_poll_attempts = 2
        poll_retry_interval = "3s"
        kubelet_ca_path = "ca"
        skip_kubelet_verification = true
        certificate_path = "cert"
        private_key_path = "key"
        node_name = "given"
        reload_interval = "4s"
        disable_container_selectors = true
        use_new_container_locator = false
        verbose_container_locator_logs = true
        enable_namespace_labels = true
        experimental {
            api_server {
                cache { enabled = true }
                watch { enabled = true }
            }
            broker {
                access_policy = "permissive"
                brokers = [
                    { id = "spiffe://example.org/a", pod_reference_scope = "cluster" },
                    { id = "spiffe://example.org/b" },
                ]
            }
        }"#;
    let config = read_in(text, &[("MY_NODE_NAME", "other")]).unwrap();
    let scopes = [("a", PodScope::Cluster), ("b", PodScope::AgentNode)];
    let scopes = scopes.map(|(name, scope)| (format!("spiffe://example.org/{name}"), scope));
    assert_eq!(
        config,
        Config {
            max_poll_attempts: 2,
            poll_retry_interval: Duration::from_secs(3),
            container_selectors: false,
            namespace_labels: true,
            new_container_locator: false,
            verbose_locator: true,
            api_server_cache: true,
            watch_node: Some("given".to_owned()),
            broker: Some(BrokerConfig { enforced: false, brokers: scopes.into() }),
            kubelet: Some(KubeletConfig {
                port: 1,
                secure: true,
                verify: false,
                ca_path: "ca".into(),
                auth: KubeletAuth::Certificate { certificate: "cert".into(), key: "key".into() },
                node_name: "given".to_owned(),
                reload_interval: Duration::from_secs(4),
                deadline: Duration::from_secs(10),
            }),
        }
    );
    let repeated = r#"experimental { broker { access_policy = "enforced"
        brokers { id = "spiffe://example.org/a" } brokers { id = "spiffe://example.org/b" } } }"#;
    assert_eq!(read_in(repeated, &[]).unwrap().broker.unwrap().brokers.len(), 2);
}

#[test]
fn the_node_is_named_or_found_in_the_environment() {
    let env = [("MY_NODE_NAME", "default"), ("OTHER", "other")];
    let name = |text: &str| read_in(text, &env).unwrap().kubelet.unwrap().node_name;
    assert_eq!(name(""), "default");
    assert_eq!(name("node_name_env = \"OTHER\""), "other");
    assert_eq!(name("node_name_env = \"UNSET\""), "");
    assert_eq!(name("node_name_env = \"OTHER\"\nnode_name = \"given\""), "given");
}

#[test]
fn ports_and_ways_to_authenticate() {
    let kubelet = |text: &str| read_in(text, &[]).unwrap().kubelet.unwrap();
    let clear = kubelet("kubelet_read_only_port = 10255");
    assert_eq!((clear.port, clear.secure), (10255, false));
    assert_eq!(kubelet("kubelet_secure_port = -1").port, 10250);
    assert_eq!(kubelet("use_anonymous_authentication = true").auth, KubeletAuth::Anonymous);
    let without_key = kubelet("certificate_path = \"a\"").auth;
    let text = "the private key path is required with the certificate path";
    assert_eq!(without_key, KubeletAuth::Half(text));
    let without_certificate = kubelet("private_key_path = \"a\"").auth;
    let text = "the certificate path is required with the private key path";
    assert_eq!(without_certificate, KubeletAuth::Half(text));
    assert_eq!(kubelet("token_path = \"t\"").auth, KubeletAuth::Token("t".into()));
    assert_eq!(
        refusal("kubelet_secure_port = 1\nkubelet_read_only_port = 2"),
        "cannot use both the read-only and secure port"
    );
    assert!(refusal("kubelet_secure_port = 70000").contains("70000"));
}

#[test]
fn attempts_and_intervals_below_one_are_the_defaults() {
    for text in [
        "max_poll_attempts = 0\npoll_retry_interval = \"0\"",
        "max_poll_attempts = -3\npoll_retry_interval = \"-2s\"",
    ] {
        let config = read_in(text, &[]).unwrap();
        assert_eq!(config.max_poll_attempts, 60);
        assert_eq!(config.poll_retry_interval, Duration::from_millis(500));
    }
    let error = refusal("poll_retry_interval = \"soon\"");
    assert_eq!(error, "unable to parse poll retry interval: time: invalid duration \"soon\"");
    let error = refusal("reload_interval = \"soon\"");
    assert_eq!(error, "unable to parse reload interval: time: invalid duration \"soon\"");
}

#[test]
fn keys_that_nobody_knows_are_refused_at_every_level() {
    for (text, keys) in [
        ("b = 1\na = 2", "a,b"),
        ("experimental { x = 1 }", "x"),
        ("experimental { api_server { x = 1 } }", "x"),
        ("experimental { api_server { cache { y = 1 } } }", "y"),
        ("experimental { api_server { watch { y = 1 } } }", "y"),
        ("experimental { broker { access_policy = \"enforced\"\nz = 1 } }", "z"),
    ] {
        assert_eq!(refusal(text), format!("unknown configurations detected: {keys}"), "{text}");
    }
    assert!(refusal("kubelet_secure_port = \"x\"").starts_with("unable to decode configuration: "));
}

#[test]
fn brokers_are_checked_in_spires_words() {
    let broker = |text: &str| refusal(&format!("experimental {{ broker {{ {text} }} }}"));
    let path = "experimental.broker";
    assert_eq!(
        broker("brokers = [{ id = \"spiffe://a/b\" }]"),
        format!("{path}.access_policy: must be specified as one of [permissive, enforced]")
    );
    assert_eq!(
        broker("access_policy = \"no\""),
        format!(
            "{path}.access_policy: unsupported value \"no\"; must be one of [permissive, enforced]"
        )
    );
    let broker = |text: &str| broker(&format!("access_policy = \"enforced\"\nbrokers = [{text}]"));
    assert_eq!(broker(""), format!("{path}.brokers: at least one broker is required"));
    assert_eq!(broker("{ id = \"\" }"), format!("{path}.brokers[0].id: must be specified"));
    assert_eq!(
        broker("{ id = \"spiffe://a/b\" }, { id = \"spiffe://a/b\" }"),
        format!("{path}.brokers[spiffe://a/b].id: duplicate broker id")
    );
    let wrong = broker("{ id = \"http://a/b\" }");
    assert!(wrong.starts_with(&format!("{path}.brokers[http://a/b].id: ")), "{wrong}");
    assert_eq!(
        broker("{ id = \"spiffe://a/b\", pod_reference_scope = \"world\" }"),
        format!(
            "{path}.brokers[spiffe://a/b].pod_reference_scope: unsupported value \"world\"; must \
             be one of [agent_node, cluster]"
        )
    );
}

#[test]
fn without_the_kubelet_its_settings_make_no_sense() {
    for setting in [
        "kubelet_read_only_port = 1",
        "kubelet_secure_port = 1",
        "kubelet_ca_path = \"x\"",
        "skip_kubelet_verification = true",
        "token_path = \"x\"",
        "certificate_path = \"x\"",
        "private_key_path = \"x\"",
        "use_anonymous_authentication = true",
        "node_name_env = \"x\"",
        "node_name = \"x\"",
        "reload_interval = \"1s\"",
    ] {
        let name = setting.split(' ').next().unwrap();
        assert_eq!(
            refusal(&format!("disable_kubelet_client = true\n{setting}")),
            format!("disable_kubelet_client cannot be used with {name}")
        );
    }
    let broker = "experimental { broker { access_policy = \"enforced\"\n\
                  brokers = [{ id = \"spiffe://a/b\" }] } }";
    assert_eq!(
        refusal(&format!("disable_kubelet_client = true\n{broker}")),
        "experimental.broker.brokers[spiffe://a/b].pod_reference_scope must be \"cluster\" when \
         disable_kubelet_client is true"
    );
    let config = read_in("disable_kubelet_client = true", &[]).unwrap();
    assert_eq!(config.kubelet, None);
    let watch = "disable_kubelet_client = true\nnode_name = \"n\"\n\
                 experimental { api_server { watch { enabled = true } } }";
    assert_eq!(read_in(watch, &[]).unwrap().watch_node.as_deref(), Some("n"));
}

#[test]
fn a_watch_needs_the_name_of_the_node() {
    let watch = "experimental { api_server { watch { enabled = true } } }";
    assert_eq!(
        refusal(watch),
        "experimental.api_server.watch needs the name of the node: set node_name, or the \
         environment variable MY_NODE_NAME"
    );
    let config = read_in(watch, &[("MY_NODE_NAME", "n")]).unwrap();
    assert_eq!(config.watch_node.as_deref(), Some("n"));
}

#[test]
fn sigstore_is_accepted_by_name_and_refused_aloud() {
    let text =
        "sigstore { allowed_identities { \"https://issuer\" = [\"s\"] }\nrekor_url = \"x\" }";
    assert!(refusal(text).starts_with("sigstore is not available yet: "));
}
