use std::time::Duration;

use serde_json::{Value, json};
use steeple_plugin::{AgentAttributes, Challenger, contract};
use steeple_spiffe::TrustDomain;
use tokio::time::Instant;

use super::*;
use crate::kube::stand::{Answer, Asked, Ca, Stand, ok};

const CLUSTERS: &str = r#"
    "FOO" = {
        service_account_allow_list = ["NS1:SA1"]
        kube_config_file = "PATH"
        allowed_pod_label_keys = ["PODLABEL-A"]
        allowed_node_label_keys = ["NODELABEL-B"]
    }
    "POD" = {
        service_account_allow_list = ["NS1:SA1"]
        kube_config_file = "PATH"
        use_pod_uid_for_agent_id = true
        audience = []
    }
    "prod/eu" = { service_account_allow_list = ["NS1:SA1"] kube_config_file = "PATH" }
    "a/../b" = { service_account_allow_list = ["NS1:SA1"] kube_config_file = "PATH" }
    "NOWHERE" = { service_account_allow_list = ["NS1:SA1"] kube_config_file = "/not/there" }
    "HERE" = { service_account_allow_list = ["NS1:SA1"] audience = ["a", "b"] }
"#;

struct Nobody;

#[async_trait::async_trait]
impl Challenger for Nobody {
    async fn challenge(&mut self, _: &[u8]) -> Result<Vec<u8>, PluginError> {
        panic!("nobody is asked back")
    }
}

/// What an API server has recorded of one agent.
#[derive(Clone)]
struct Recorded {
    review: Value,
    pod: Value,
    node: Value,
}

impl Recorded {
    fn new() -> Self {
        Self {
            review: json!({"kind": "TokenReview", "status": {
                "authenticated": true,
                "audiences": ["spire-server"],
                "user": {
                    "username": "system:serviceaccount:NS1:SA1",
                    "groups": ["system:serviceaccounts"],
                    "extra": {
                        "authentication.kubernetes.io/pod-name": ["PODNAME-1"],
                        "authentication.kubernetes.io/pod-uid": ["PODUID-1"],
                    },
                },
            }}),
            pod: json!({
                "metadata": {"uid": "PODUID-1", "labels": {"PODLABEL-A": "A", "PODLABEL-B": "B"}},
                "spec": {"nodeName": "NODENAME-1"},
                "status": {"hostIP": "172.16.10.1"},
            }),
            node: json!({
                "metadata": {"uid": "NODEUID-1", "labels": {"NODELABEL-A": "A", "NODELABEL-B": "B"}},
            }),
        }
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let missing = |message: &str| {
            let status = json!({"kind": "Status", "message": message, "reason": "NotFound"});
            Answer::Json(404, status.to_string())
        };
        let found = |value: &Value, message: &str| match value {
            Value::Null => missing(message),
            value => ok(value.to_string()),
        };
        match (asked.method.as_str(), asked.target.as_str()) {
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews") => ok(self.review.to_string()),
            ("GET", "/api/v1/namespaces/NS1/pods/PODNAME-1") => {
                found(&self.pod, "pods \"PODNAME-1\" not found")
            }
            ("GET", "/api/v1/nodes/NODENAME-1") => {
                found(&self.node, "nodes \"NODENAME-1\" not found")
            }
            _ => missing("the server could not find the requested resource"),
        }
    }
}

/// The server's half with a recorded API server.
struct Bench {
    attestor: server::Server,
    stand: Stand,
    ca: Ca,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let ca = Ca::new();
        let recorded = Recorded::new();
        let leaf = ca.leaf(&["127.0.0.1"]);
        let stand = Stand::start(Some((&leaf, &ca)), move |asked| recorded.answer(asked)).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        std::fs::write(folder.path().join("ca.crt"), &ca.pem).unwrap();
        std::fs::write(&path, kubeconfig(stand.port, "admin")).unwrap();
        let clusters = CLUSTERS.replace("PATH", &path.display().to_string());
        let data = Block::parse(&format!("clusters = {{ {clusters} }}")).unwrap();
        let port = stand.port.to_string();
        let surroundings = Environment::new(
            move |name| match name {
                "KUBERNETES_SERVICE_HOST" => Some("127.0.0.1".to_owned()),
                "KUBERNETES_SERVICE_PORT" => Some(port.clone()),
                // Another program's; SPIRE does not look at it either.
                "KUBECONFIG" => Some("/not/ours".to_owned()),
                _ => None,
            },
            folder.path(),
        );
        let config = config::server(Some(&data)).unwrap();
        let attestor = server::Server::new(config, domain(), &surroundings);
        Self { attestor, stand, ca, folder }
    }

    fn record(&self, change: impl FnOnce(&mut Recorded)) {
        let mut recorded = Recorded::new();
        change(&mut recorded);
        self.stand.answer(move |asked| recorded.answer(asked));
    }

    async fn attest(&self, payload: &[u8]) -> Result<AgentAttributes, PluginError> {
        self.attestor.attest(payload, &mut Nobody).await
    }

    async fn refused(&self, payload: &[u8]) -> (Code, String) {
        let error = self.attest(payload).await.unwrap_err();
        let text = error.message.strip_prefix("nodeattestor(k8s_psat): ").unwrap();
        (error.code, text.to_owned())
    }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn kubeconfig(port: u16, token: &str) -> String {
    let config = json!({
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "certificate-authority": "ca.crt",
        }}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
        "users": [{"name": "u", "user": {"token": token}}],
    });
    config.to_string()
}

fn evidence(cluster: &str) -> Vec<u8> {
    json!({"cluster": cluster, "token": "TOKEN"}).to_string().into_bytes()
}

#[tokio::test]
async fn an_agent_is_told_by_its_node_or_its_pod() {
    let bench = Bench::new().await;
    let agent = bench.attest(&evidence("FOO")).await.unwrap();
    assert_eq!(agent.agent_id.as_str(), "spiffe://example.org/spire/agent/k8s_psat/FOO/NODEUID-1");
    assert!(agent.can_reattest);
    assert_eq!(
        agent.selector_values,
        [
            "cluster:FOO",
            "agent_ns:NS1",
            "agent_sa:SA1",
            "agent_pod_name:PODNAME-1",
            "agent_pod_uid:PODUID-1",
            "agent_node_ip:172.16.10.1",
            "agent_node_name:NODENAME-1",
            "agent_node_uid:NODEUID-1",
            "agent_node_label:NODELABEL-B:B",
            "agent_pod_label:PODLABEL-A:A",
        ]
    );
    let asked = bench.stand.asked();
    assert!(asked.iter().all(|it| it.authorization.as_deref() == Some("Bearer admin")));
    let review: Value = serde_json::from_str(&asked[0].body).unwrap();
    assert_eq!(
        review,
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": "TOKEN", "audiences": ["spire-server"]},
        })
    );

    let agent = bench.attest(&evidence("POD")).await.unwrap();
    let id = "spiffe://example.org/spire/agent/k8s_psat/POD/pod/PODUID-1";
    assert_eq!(agent.agent_id.as_str(), id);
    assert_eq!(agent.selector_values.len(), 8);
    let review: Value = serde_json::from_str(&bench.stand.asked()[3].body).unwrap();
    assert_eq!(review["spec"], json!({"token": "TOKEN"}), "the API server's own audience");
}

#[tokio::test]
async fn a_clusters_name_is_part_of_the_path_as_it_stands() {
    let bench = Bench::new().await;
    let agent = bench.attest(&evidence("prod/eu")).await.unwrap();
    let id = "spiffe://example.org/spire/agent/k8s_psat/prod/eu/NODEUID-1";
    assert_eq!(agent.agent_id.as_str(), id);
    let (code, text) = bench.refused(&evidence("a/../b")).await;
    assert_eq!(code, Code::Internal);
    assert!(text.starts_with("failed to create agent ID for cluster \"a/../b\": "), "{text}");
    bench.record(|it| it.node["metadata"]["uid"] = json!("../../server"));
    let (_, text) = bench.refused(&evidence("FOO")).await;
    assert!(text.starts_with("failed to create agent ID for cluster \"FOO\": "), "{text}");
}

#[tokio::test]
async fn in_a_cluster_it_asks_as_its_own_service_account() {
    let bench = Bench::new().await;
    bench.record(|it| it.review["status"]["audiences"] = json!(["b"]));
    std::fs::write(bench.folder.path().join("token"), "own\n").unwrap();
    bench.attest(&evidence("HERE")).await.unwrap();
    assert_eq!(bench.stand.asked()[0].authorization.as_deref(), Some("Bearer own"));
    assert!(!bench.ca.pem.is_empty());

    let outside = Environment::new(|_| None, bench.folder.path());
    let data = "clusters = { \"X\" = { service_account_allow_list = [\"a:b\"] } }";
    let config = config::server(Some(&Block::parse(data).unwrap())).unwrap();
    let attestor = server::Server::new(config, domain(), &outside);
    let error = attestor.attest(&evidence("X"), &mut Nobody).await.unwrap_err();
    let expected = "nodeattestor(k8s_psat): unable to validate token with TokenReview API for \
                    cluster \"X\": unable to get clientset: unable to create client config: \
                    unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and \
                    KUBERNETES_SERVICE_PORT must be defined";
    assert_eq!(error.message, expected);
}

#[tokio::test]
async fn payloads_that_are_none_are_refused_and_not_repeated() {
    let bench = Bench::new().await;
    let large = vec![b' '; 40_000];
    let long = json!({"cluster": "x".repeat(2000), "token": "t"}).to_string();
    for (payload, expected) in [
        (&b"{"[..], "failed to unmarshal data payload: unexpected end of JSON input"),
        (
            b"{\"token\":secret}",
            "failed to unmarshal data payload: invalid character 's' looking for beginning of value",
        ),
        (
            b"{\"token\":1}",
            "failed to unmarshal data payload: json: cannot unmarshal number into Go struct field \
             PSATAttestationData.token of type string",
        ),
        (
            b" [\"FOO\",\"TOKEN\"]",
            "failed to unmarshal data payload: json: cannot unmarshal array into Go value of type \
             k8s.PSATAttestationData",
        ),
        (b"{}", "missing cluster in attestation data"),
        (b"{\"cluster\":\"\",\"token\":\"t\"}", "missing cluster in attestation data"),
        (b"{\"cluster\":\"FOO\"}", "missing token in attestation data"),
        (b"{\"cluster\":\"X\",\"token\":\"t\"}", "not configured for cluster \"X\""),
        (&large, "failed to unmarshal data payload: it is larger than 32768 bytes"),
        (
            long.as_bytes(),
            "failed to unmarshal data payload: the name of the cluster is longer than 1024 bytes",
        ),
    ] {
        assert_eq!(bench.refused(payload).await, (Code::InvalidArgument, expected.to_owned()));
    }
    assert!(bench.stand.asked().is_empty(), "nobody was asked");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn what_the_review_does_not_say_nobody_gets() {
    let bench = Bench::new().await;
    let name = |username: &str| json!({"username": username, "extra": {}});
    let review = "failed to parse username from token review status for cluster \"FOO\": ";
    let validate = "unable to validate token with TokenReview API for cluster \"FOO\": ";
    let pod_name = "failed to get pod name from token review status for cluster \"FOO\": ";
    let pod_uid = "failed to get pod UID from token review status for cluster \"FOO\": ";
    let extra = "authentication.kubernetes.io";
    let user = &Recorded::new().review["status"]["user"].clone();
    let with_extra = |key: &str, value: Value| {
        let mut user = user.clone();
        user["extra"][format!("{extra}/{key}")] = value;
        json!({"user": user})
    };
    for (status, code, expected) in [
        (
            json!({"authenticated": false}),
            Code::PermissionDenied,
            "token not authenticated according to TokenReview API for cluster \"FOO\"".to_owned(),
        ),
        (
            json!({"error": "[invalid bearer token, expired]"}),
            Code::Internal,
            format!(
                "{validate}token review API response contains an error: [invalid bearer token, \
                 expired]"
            ),
        ),
        (
            json!({"audiences": ["aud3", "x"]}),
            Code::Internal,
            format!(
                "{validate}token review API did not validate audience: wanted one of \
                 [\"spire-server\"] but got [\"aud3\" \"x\"]"
            ),
        ),
        (json!({"user": {}}), Code::Internal, format!("{review}empty username")),
        (
            json!({"user": name("admin")}),
            Code::Internal,
            format!("{review}unexpected username format: admin"),
        ),
        (
            // Somebody of another authenticator who called himself so.
            json!({"user": name("my:oidc:NS1:SA1")}),
            Code::Internal,
            format!("{review}unexpected username format: my:oidc:NS1:SA1"),
        ),
        (
            json!({"user": name("system:serviceaccount:NS1:SA1:x")}),
            Code::Internal,
            format!("{review}unexpected username format: system:serviceaccount:NS1:SA1:x"),
        ),
        (
            json!({"user": name("system:serviceaccount::SA1")}),
            Code::Internal,
            format!("{review}missing namespace"),
        ),
        (
            json!({"user": name("system:serviceaccount:NS1:")}),
            Code::Internal,
            format!("{review}missing service account name"),
        ),
        (
            json!({"user": name("system:serviceaccount:NS1:OTHER")}),
            Code::PermissionDenied,
            "\"NS1:OTHER\" is not an allowed service account for cluster \"FOO\"".to_owned(),
        ),
        (
            json!({"user": name("system:serviceaccount:NS1:SA1")}),
            Code::Internal,
            format!("{pod_name}missing pod name"),
        ),
        (
            with_extra("pod-name", json!([])),
            Code::Internal,
            format!("{pod_name}expected 1 name but got: 0"),
        ),
        (
            with_extra("pod-name", json!([""])),
            Code::Internal,
            format!("{pod_name}pod name is empty"),
        ),
        (
            with_extra("pod-uid", json!(["a", "b"])),
            Code::Internal,
            format!("{pod_uid}expected 1 UID but got: 2"),
        ),
        (with_extra("pod-uid", json!([""])), Code::Internal, format!("{pod_uid}pod UID is empty")),
    ] {
        let Value::Object(changes) = status else { panic!("not an object") };
        bench.record(|it| {
            for (key, value) in changes {
                it.review["status"][key] = value;
            }
        });
        assert_eq!(bench.refused(&evidence("FOO")).await, (code, expected));
    }
}

#[tokio::test]
async fn a_pod_that_is_gone_or_another_one_is_nobody() {
    let bench = Bench::new().await;
    bench.record(|it| it.pod = Value::Null);
    let text = "failed to get pod from k8s API server for cluster \"FOO\": unable to query pods \
                API: pods \"PODNAME-1\" not found";
    assert_eq!(bench.refused(&evidence("FOO")).await, (Code::Internal, text.to_owned()));
    bench.record(|it| it.pod["metadata"]["uid"] = json!("OTHER"));
    let text = "pod UID mismatch for pod \"PODNAME-1\" in cluster \"FOO\": token bound to pod UID \
                \"PODUID-1\"";
    assert_eq!(bench.refused(&evidence("FOO")).await, (Code::PermissionDenied, text.to_owned()));
    let node = "failed to get node from k8s API server for cluster \"FOO\": ";
    bench.record(|it| it.pod["spec"] = json!({}));
    let text = format!("{node}empty node name");
    assert_eq!(bench.refused(&evidence("FOO")).await, (Code::Internal, text));
    bench.record(|it| it.node = Value::Null);
    let text = format!("{node}unable to query nodes API: nodes \"NODENAME-1\" not found");
    assert_eq!(bench.refused(&evidence("FOO")).await, (Code::Internal, text));
    bench.record(|it| it.node = json!({}));
    let text = "node UID is empty for cluster \"FOO\"".to_owned();
    assert_eq!(bench.refused(&evidence("FOO")).await, (Code::Internal, text));
    let text = "unable to validate token with TokenReview API for cluster \"NOWHERE\": unable to \
                get clientset: unable to create client config: open /not/there: no such file or \
                directory";
    assert_eq!(bench.refused(&evidence("NOWHERE")).await, (Code::Internal, text.to_owned()));
}

#[tokio::test]
async fn names_in_answers_lead_nowhere_else() {
    let bench = Bench::new().await;
    for name in ["../../../secrets/x", "a/b", "..", "%2e%2e", &"x".repeat(300)] {
        bench.record(|it| it.pod["spec"]["nodeName"] = json!(name));
        let before = bench.stand.asked().len();
        let (code, text) = bench.refused(&evidence("FOO")).await;
        assert_eq!(code, Code::Internal);
        assert!(text.contains("invalid resource name"), "{text}");
        assert_eq!(bench.stand.asked().len(), before + 2, "no node was asked for");
    }
}

#[tokio::test]
async fn a_token_of_ours_that_was_replaced_is_read_again() {
    let bench = Bench::new().await;
    let recorded = Recorded::new();
    bench.stand.answer(move |asked| match asked.authorization.as_deref() {
        Some("Bearer new") => recorded.answer(asked),
        _ => Answer::Json(401, String::new()),
    });
    let (_, text) = bench.refused(&evidence("FOO")).await;
    let reason = "unable to query token review API: the server has asked for the client to provide \
                  credentials";
    assert!(text.ends_with(reason), "{text}");
    assert_eq!(bench.stand.asked().len(), 1, "the same token is not tried twice");
    // A token that goes stale while it is held is replaced within the same attestation.
    let recorded = Recorded::new();
    bench.stand.answer(move |asked| recorded.answer(asked));
    bench.attest(&evidence("FOO")).await.unwrap();
    let recorded = Recorded::new();
    bench.stand.answer(move |asked| match asked.authorization.as_deref() {
        Some("Bearer new") => recorded.answer(asked),
        _ => Answer::Json(401, String::new()),
    });
    let path = bench.folder.path().join("kubeconfig");
    std::fs::write(path, kubeconfig(bench.stand.port, "new")).unwrap();
    bench.attest(&evidence("FOO")).await.unwrap();
}

#[tokio::test]
async fn a_hanging_or_endless_cluster_costs_no_other_one_anything() {
    let (bad, good) = (Bench::new().await, Bench::new().await);
    let config = |bench: &Bench| bench.folder.path().join("kubeconfig").display().to_string();
    let clusters = format!(
        "clusters = {{ \"BAD\" = {{ service_account_allow_list = [\"NS1:SA1\"] kube_config_file = \
         \"{}\" }} \"GOOD\" = {{ service_account_allow_list = [\"NS1:SA1\"] kube_config_file = \
         \"{}\" }} }}",
        config(&bad),
        config(&good),
    );
    let config = config::server(Some(&Block::parse(&clusters).unwrap())).unwrap();
    let surroundings = Environment::new(|_| None, bad.folder.path());
    let attestor =
        server::Server::new(config, domain(), &surroundings).with_deadline(Duration::from_secs(8));
    let attempt = async |cluster: &str| attestor.attest(&evidence(cluster), &mut Nobody).await;

    bad.stand.answer(|_| Answer::Hang);
    let crowd = futures_util::future::join_all((0..100).map(|_| attempt("BAD")));
    let others = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        attempt("GOOD").await.unwrap();
        (begun.elapsed(), bad.stand.asked().len())
    };
    let (crowd, (others, asked)) = tokio::join!(crowd, others);
    assert!(others < Duration::from_secs(7), "{others:?}");
    assert!(asked <= 32, "no more than there are places: {asked}");
    let texts: Vec<String> = crowd.into_iter().map(|it| it.unwrap_err().message).collect();
    let late = "nodeattestor(k8s_psat): unable to validate token with TokenReview API for cluster \
                \"BAD\": unable to query token review API: context deadline exceeded";
    let full = "nodeattestor(k8s_psat): too many agents of cluster \"BAD\" are being attested";
    assert!(texts.iter().all(|it| it == late || it == full), "{texts:?}");

    let head = "HTTP/1.1 200 OK\r\n\r\n{\"x\":\"";
    bad.stand.answer(|_| Answer::Endless(head.to_owned(), vec![b'a'; 1 << 16]));
    let text = attempt("BAD").await.unwrap_err().message;
    assert!(text.ends_with("the answer is larger than 2097152 bytes"), "{text}");
    bad.stand.answer(|_| Answer::Json(302, String::new()));
    let text = attempt("BAD").await.unwrap_err().message;
    assert!(text.ends_with("status code 302 but did not return more information"), "{text}");
    let mut liar = Recorded::new();
    liar.pod["status"]["hostIP"] = json!("1".repeat(100_000));
    bad.stand.answer(move |asked| liar.answer(asked));
    let text = attempt("BAD").await.unwrap_err().message;
    assert!(text.ends_with("its selectors have more than 65536 bytes"), "{text}");
}

#[test]
fn settings_are_judged_in_spires_words() {
    let refused = |data: &str| {
        let error = check_server(Some(&Block::parse(data).unwrap())).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message
    };
    assert_eq!(
        refused("clusters = { \"FOO\" = {} }"),
        "nodeattestor(k8s_psat): cluster \"FOO\" configuration must have at least one service \
         account allowed"
    );
    let text = refused("clusters = 1");
    assert!(
        text.starts_with("nodeattestor(k8s_psat): plugin configuration is malformed"),
        "{text}"
    );
    let note = "No clusters configured, PSAT attestation is effectively disabled";
    assert_eq!(check_server(None).unwrap(), [note]);
    let data = Block::parse(&format!("clusters = {{ {CLUSTERS} }}")).unwrap();
    assert!(check_server(Some(&data)).unwrap().is_empty());

    let error = check_agent(None).unwrap_err();
    assert_eq!(error.message, "nodeattestor(k8s_psat): missing required cluster block");
}

#[tokio::test]
async fn the_agent_shows_the_token_that_is_in_the_file_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let shown = path.display();
    let data = format!("cluster = \"production\"\n token_path = \"{shown}\"");
    let data = Block::parse(&data).unwrap();
    let evidence = agent(Some(&data), &HostContext::new(domain())).unwrap();
    let refused = async || evidence.payload().await.unwrap_err();
    let prefix = format!("nodeattestor(k8s_psat): unable to load token from {shown}: ");
    let error = refused().await;
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(error.message, format!("{prefix}open {shown}: no such file or directory"));
    std::fs::write(&path, "").unwrap();
    assert_eq!(refused().await.message, format!("{prefix}\"{shown}\" is empty"));
    std::fs::write(&path, "x".repeat(20_000)).unwrap();
    assert!(refused().await.message.starts_with(&prefix));
    for token in ["one", "two\n"] {
        std::fs::write(&path, token).unwrap();
        contract::node_evidence(evidence.as_ref()).await;
        let payload: Value = serde_json::from_slice(&evidence.payload().await.unwrap()).unwrap();
        assert_eq!(payload, json!({"cluster": "production", "token": token}));
    }
}

#[test]
fn no_payload_or_review_panics() {
    use proptest::prelude::*;
    proptest!(|(bytes: Vec<u8>, user: String, cluster: String)| {
        parse_payload(&bytes);
        parse_review(&bytes);
        let review = json!({"status": {"user": {"username": user}}}).to_string();
        let text = json!({"cluster": cluster, "token": user}).to_string();
        parse_review(review.as_bytes());
        parse_payload(text.as_bytes());
        for end in 0..text.len() {
            prop_assert!(!parse_payload(&text.as_bytes()[..end]));
        }
    });
}
