//! Workloads by reference, and who may ask for them.

use steeple_proto::spiffe::broker::{
    KubernetesObjectKey, KubernetesObjectReference, KubernetesObjectType, WorkloadPidReference,
};

use super::*;

const BROKER: &str = "spiffe://example.org/broker";

struct Cluster {
    node: Node,
    api: Stand,
}

fn deployment() -> Value {
    json!({"kind": "PartialObjectMetadata", "metadata": {
        "name": "blog", "namespace": "shop", "uid": "d-1", "labels": {"tier": "web"},
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u1"},
            {"apiVersion": "apps/v1", "kind": "Thing", "name": "t", "uid": "u2", "controller": true}
        ]
    }})
}

fn not_found(what: &str) -> Answer {
    let text = json!({"kind": "Status", "reason": "NotFound", "code": 404,
        "message": format!("{what} not found")});
    Answer::Json(404, text.to_string())
}

/// What an API server answers, and whether it allows reviews.
fn api(asked: &Asked, allowed: bool) -> Answer {
    let path = asked.target.split('?').next().unwrap();
    let list = |items: Vec<Value>| {
        ok(json!({"metadata": {"resourceVersion": "5"}, "items": items}).to_string())
    };
    let mut elsewhere = pod("elsewhere", &container('f'));
    elsewhere["metadata"]["name"] = json!("far");
    if asked.target.contains("watch=1") {
        return Answer::Hang;
    }
    match (asked.method.as_str(), path) {
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews") => {
            ok(json!({"kind": "SubjectAccessReview", "status": {"allowed": allowed}}).to_string())
        }
        ("GET", "/apis") => ok(json!({"groups": [{
            "name": "apps",
            "versions": [{"version": "v1beta1"}, {"version": "v1"}],
            "preferredVersion": {"version": "v1"}
        }]})
        .to_string()),
        ("GET", "/apis/apps/v1") => ok(json!({"resources": [
            {"name": "deployments/status", "kind": "Deployment", "namespaced": true},
            {"name": "deployments", "kind": "Deployment", "namespaced": true}
        ]})
        .to_string()),
        ("GET", "/apis/apps/v1beta1") => ok(json!({"resources": [
            {"name": "relics", "kind": "Relic", "namespaced": true}
        ]})
        .to_string()),
        ("GET", "/api/v1") => ok(json!({"resources": [
            {"name": "nodes", "kind": "Node", "namespaced": false},
            {"name": "pods", "kind": "Pod", "namespaced": true}
        ]})
        .to_string()),
        ("GET", "/apis/apps/v1/namespaces/shop/deployments/blog") => ok(deployment().to_string()),
        ("GET", "/apis/apps/v1/deployments") => list(vec![deployment()]),
        ("GET", "/api/v1/nodes/n1") => {
            ok(json!({"metadata": {"name": "n1", "uid": "n-1"}}).to_string())
        }
        ("GET", "/api/v1/namespaces/shop") => {
            ok(json!({"metadata": {"name": "shop", "labels": {"team": "a"}}}).to_string())
        }
        ("GET", "/api/v1/namespaces") => {
            list(vec![json!({"metadata": {"name": "shop", "uid": "s", "labels": {"team": "a"}}})])
        }
        ("GET", "/api/v1/pods") => list(vec![elsewhere]),
        ("GET", "/api/v1/namespaces/shop/pods/far") => ok(elsewhere.to_string()),
        _ => not_found(path),
    }
}

impl Cluster {
    async fn new() -> Self {
        let node = Node::of(vec![pod(POD, CONTAINER)]).await;
        let leaf = node.ca.leaf(&["127.0.0.1"]);
        let api = Stand::start(Some((&leaf, &node.ca)), |asked| api(asked, true)).await;
        Self { node, api }
    }

    fn attestor(&self, settings: &str) -> K8s {
        let port = self.api.port.to_string();
        let attestor = self.node.attestor_in(settings, move |name| match name {
            "KUBERNETES_SERVICE_HOST" => Some("127.0.0.1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some(port.clone()),
            _ => None,
        });
        attestor.unwrap()
    }
}

fn broker(policy: &str, scope: &str) -> String {
    format!(
        "experimental {{ broker {{ access_policy = \"{policy}\"\n\
         brokers = [{{ id = \"{BROKER}\", pod_reference_scope = \"{scope}\" }}] }} }}"
    )
}

fn any(name: &str, message: &impl prost::Message) -> WorkloadReference {
    let type_url = format!("type.googleapis.com/spiffe.broker.{name}");
    WorkloadReference { type_url, value: message.encode_to_vec() }
}

fn object(plural: &str, group: &str, key: Option<(&str, &str)>, uid: &str) -> WorkloadReference {
    let reference = KubernetesObjectReference {
        r#type: Some(KubernetesObjectType { plural: plural.into(), group: group.into() }),
        key: key.map(|(namespace, name)| KubernetesObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        }),
        uid: uid.into(),
    };
    any("KubernetesObjectReference", &reference)
}

async fn ask(attestor: &K8s, reference: &WorkloadReference) -> Result<Vec<String>, (Code, String)> {
    let caller = SpiffeId::parse(BROKER).unwrap();
    ask_as(attestor, reference, Some(&caller)).await
}

async fn ask_as(
    attestor: &K8s,
    reference: &WorkloadReference,
    caller: Option<&SpiffeId>,
) -> Result<Vec<String>, (Code, String)> {
    let found = attestor.attest_reference(reference, caller).await.map_err(|error| {
        let text = error.message.strip_prefix("workloadattestor(k8s): ");
        (error.code, text.unwrap().to_owned())
    })?;
    let mut found: Vec<String> = found.iter().map(ToString::to_string).collect();
    found.sort();
    Ok(found)
}

/// The selectors of the pod alone.
fn of_the_pod_alone(uid: &str) -> Vec<String> {
    of_the_pod(uid).into_iter().filter(|it| !it.starts_with("k8s:container-")).collect()
}

#[tokio::test]
async fn processes_and_pods_of_the_node_by_reference() {
    let cluster = Cluster::new().await;
    let attestor = cluster.attestor(&broker("permissive", "agent_node"));
    let pid = any("WorkloadPIDReference", &WorkloadPidReference { pid: PID });
    assert_eq!(ask(&attestor, &pid).await.unwrap(), of_the_pod(POD));
    for reference in [
        object("pods", "core", Some(("shop", "blog-1")), ""),
        object("pods", "core", None, POD),
        object("pods", "core", Some(("shop", "blog-1")), POD),
    ] {
        assert_eq!(ask(&attestor, &reference).await.unwrap(), of_the_pod_alone(POD));
    }
    assert_eq!(cluster.api.asked().len(), 0, "the API server was asked");
    // Without a broker nobody has to be configured.
    let attestor = cluster.attestor("");
    assert_eq!(ask_as(&attestor, &pid, None).await.unwrap(), of_the_pod(POD));
    let (code, text) = ask(&attestor, &pid).await.unwrap_err();
    assert_eq!((code, text.as_str()), (Code::Internal, "broker configuration missing"));
}

#[tokio::test]
async fn pods_that_are_not_there_or_are_others() {
    let cluster = Cluster::new().await;
    let attestor = cluster.attestor(&broker("permissive", "agent_node"));
    for (reference, code, text) in [
        (
            object("pods", "core", Some(("shop", "far")), ""),
            Code::NotFound,
            "pod shop/far not found on agent node".to_owned(),
        ),
        (
            object("pods", "core", None, "elsewhere"),
            Code::NotFound,
            "pod with UID elsewhere not found on agent node".to_owned(),
        ),
        (
            object("pods", "core", Some(("shop", "blog-1")), "other"),
            Code::NotFound,
            format!("pod shop/blog-1 has UID {POD}, expected other"),
        ),
        (
            object("pods", "core", Some(("", "blog-1")), ""),
            Code::InvalidArgument,
            "namespace is required when name is set for a namespaced resource".to_owned(),
        ),
    ] {
        assert_eq!(ask(&attestor, &reference).await.unwrap_err(), (code, text));
    }
    let attestor = cluster.attestor(&broker("permissive", "cluster"));
    for reference in [
        object("pods", "core", Some(("shop", "far")), ""),
        object("pods", "core", None, "elsewhere"),
    ] {
        let found = ask(&attestor, &reference).await.unwrap();
        assert!(found.contains(&"k8s:pod-name:far".to_owned()), "{found:?}");
    }
    for (reference, text) in [
        (object("pods", "core", Some(("shop", "none")), ""), "pod shop/none not found"),
        (object("pods", "core", None, "none"), "Pod with UID none not found"),
        (object("pods", "core", Some(("..", "..")), ""), "invalid resource name \"..\""),
    ] {
        let (code, found) = ask(&attestor, &reference).await.unwrap_err();
        assert!(found.ends_with(text), "{found}");
        let expected = if text.starts_with("invalid") { Code::Internal } else { Code::NotFound };
        assert_eq!(code, expected, "{found}");
    }
}

#[tokio::test]
async fn a_kubelet_that_is_away_stops_those_who_need_it() {
    let cluster = Cluster::new().await;
    cluster.node.kubelet.answer(|_| Answer::Json(500, "down".to_owned()));
    let far = object("pods", "core", Some(("shop", "far")), "");
    let attestor = cluster.attestor(&broker("permissive", "agent_node"));
    let (code, text) = ask(&attestor, &far).await.unwrap_err();
    assert_eq!(code, Code::Unavailable);
    assert_eq!(text, "unexpected status code on pods response: 500 down");
    let attestor = cluster.attestor(&broker("permissive", "cluster"));
    assert!(ask(&attestor, &far).await.is_ok());
    let settings = format!("disable_kubelet_client = true\n{}", broker("permissive", "cluster"));
    let attestor = cluster.attestor(&settings);
    assert!(ask(&attestor, &far).await.is_ok());
    let pid = any("WorkloadPIDReference", &WorkloadPidReference { pid: PID });
    let (code, text) = ask(&attestor, &pid).await.unwrap_err();
    assert_eq!((code, text.as_str()), (Code::FailedPrecondition, "kubelet client is disabled"));
}

#[tokio::test]
async fn other_objects_have_the_selectors_of_their_metadata() {
    let cluster = Cluster::new().await;
    let expected: Vec<String> = [
        "k8s:apiVersion:apps/v1",
        "k8s:controller-key:apps/Thing/t",
        "k8s:controller-uid:apps/Thing/u2",
        "k8s:group:apps",
        "k8s:key:shop/blog",
        "k8s:kind:Deployment",
        "k8s:label:tier:web",
        "k8s:name:blog",
        "k8s:namespace:shop",
        "k8s:ns-label:team:a",
        "k8s:owner-key:apps/Thing/t",
        "k8s:owner-key:core/Node/n",
        "k8s:owner-uid:apps/Thing/u2",
        "k8s:owner-uid:core/Node/u1",
        "k8s:plural:deployments",
        "k8s:resource:deployments.apps",
        "k8s:uid:d-1",
        "k8s:version:v1",
    ]
    .map(str::to_owned)
    .to_vec();
    for cache in ["", "api_server { cache { enabled = true } }\n"] {
        let settings = broker("permissive", "agent_node").replacen(
            "experimental {",
            &format!("experimental {{ {cache}"),
            1,
        );
        let attestor = cluster.attestor(&format!("enable_namespace_labels = true\n{settings}"));
        for reference in [
            object("deployments", "apps", Some(("shop", "blog")), ""),
            object("deployments", "apps", None, "d-1"),
            object("deployments", "apps", Some(("shop", "blog")), "d-1"),
        ] {
            assert_eq!(ask(&attestor, &reference).await.unwrap(), expected, "{cache}");
        }
        if cache.is_empty() {
            let node = ask(&attestor, &object("nodes", "core", Some(("", "n1")), "")).await;
            let node = node.unwrap();
            for selector in ["k8s:key:n1", "k8s:group:core", "k8s:apiVersion:v1"] {
                assert!(node.contains(&selector.to_owned()), "{selector}: {node:?}");
            }
            assert!(!node.iter().any(|it| it.starts_with("k8s:namespace")), "{node:?}");
        }
        let (code, text) = ask(&attestor, &object("deployments", "apps", Some(("shop", "no")), ""))
            .await
            .unwrap_err();
        assert_eq!((code, text.as_str()), (Code::NotFound, "Deployment shop/no not found"));
    }
    let asked = cluster.api.asked();
    let partial = asked.iter().find(|it| it.target.ends_with("/deployments/blog")).unwrap();
    assert!(partial.accept.contains("as=PartialObjectMetadata;"), "{}", partial.accept);
    let discoveries = asked.iter().filter(|it| it.target == "/apis").count();
    assert_eq!(discoveries, 2, "once for each attestor");
}

#[tokio::test]
async fn references_that_make_no_sense() {
    let cluster = Cluster::new().await;
    let attestor = cluster.attestor(&broker("permissive", "cluster"));
    let invalid = Code::InvalidArgument;
    let empty = any("KubernetesObjectReference", &KubernetesObjectReference::default());
    let other = WorkloadReference { type_url: "type.googleapis.com/x".into(), value: vec![] };
    let garbage = |name: &str| WorkloadReference {
        type_url: format!("type.googleapis.com/spiffe.broker.{name}"),
        value: vec![0xff],
    };
    for (reference, code, text) in [
        (empty, invalid, "object reference is missing type"),
        (object("", "core", None, "u"), invalid, "object reference type is missing plural"),
        (object("pods", "", None, "u"), invalid, "object reference type is missing group"),
        (object("pods", "core", None, ""), invalid, "object reference is missing key and UID"),
        (
            object("pods", "core", Some(("shop", "")), "u"),
            invalid,
            "object reference key is missing name",
        ),
        (other, invalid, "unsupported reference type: type.googleapis.com/x"),
        (
            object("things", "apps", None, "u"),
            invalid,
            "unknown Kubernetes resource things.apps: no matches for apps/, Resource=things",
        ),
        (
            object("things", "../x", None, "u"),
            invalid,
            "unknown Kubernetes resource things.../x: no matches for ../x/, Resource=things",
        ),
        (
            object("deployments/status", "apps", None, "u"),
            invalid,
            "unknown Kubernetes resource deployments/status.apps: no matches for apps/, \
             Resource=deployments/status",
        ),
        (
            object("nodes", "core", Some(("shop", "n1")), ""),
            invalid,
            "namespace must be empty for cluster-scoped resource",
        ),
        (
            object("deployments", "apps", Some(("", "blog")), ""),
            invalid,
            "namespace is required when name is set for a namespaced resource",
        ),
        (
            object("deployments", "apps", Some(("shop", "blog")), "x"),
            Code::NotFound,
            "deployments.apps shop/blog has UID d-1, expected x",
        ),
        (
            object("deployments", "apps", None, "x"),
            Code::NotFound,
            "Deployment with UID x not found",
        ),
    ] {
        assert_eq!(ask(&attestor, &reference).await.unwrap_err(), (code, text.to_owned()));
    }
    for (name, text) in [
        ("WorkloadPIDReference", "unable to unmarshal PID reference: "),
        ("KubernetesObjectReference", "unable to unmarshal object reference: "),
    ] {
        let (code, found) = ask(&attestor, &garbage(name)).await.unwrap_err();
        assert!(code == invalid && found.starts_with(text), "{found}");
    }
    let (code, text) =
        ask(&attestor, &object("deployments", "apps", Some(("shop", "../blog")), ""))
            .await
            .unwrap_err();
    assert_eq!(code, Code::Internal);
    assert_eq!(text, "unable to get Deployment: invalid resource name \"../blog\"");
    assert!(cluster.api.asked().iter().all(|it| !it.target.contains("..")));
}

#[tokio::test]
async fn nothing_is_told_before_kubernetes_allowed_it() {
    let cluster = Cluster::new().await;
    let attestor = cluster.attestor(&broker("enforced", "cluster"));
    let pid = any("WorkloadPIDReference", &WorkloadPidReference { pid: PID });
    let blog = object("deployments", "apps", Some(("shop", "blog")), "");
    let near = object("pods", "core", None, POD);
    for reference in [&pid, &blog, &near] {
        assert!(ask(&attestor, reference).await.is_ok());
    }
    let reviews = || -> Vec<Value> {
        let asked = cluster.api.asked();
        let posts = asked.iter().filter(|it| it.method == "POST");
        posts.map(|it| serde_json::from_str(&it.body).unwrap()).collect()
    };
    let attributes = |group: &str, resource: &str, name: &str| {
        json!({"group": group, "resource": resource, "namespace": "shop", "name": name,
            "verb": "impersonate-via-spire"})
    };
    let sent = reviews();
    assert_eq!(sent.len(), 3);
    for (review, (group, resource, name)) in sent.iter().zip([
        ("", "pods", "blog-1"),
        ("apps", "deployments", "blog"),
        ("", "pods", "blog-1"),
    ]) {
        assert_eq!(review["kind"], "SubjectAccessReview");
        assert_eq!(review["spec"]["user"], BROKER);
        assert_eq!(review["spec"]["resourceAttributes"], attributes(group, resource, name));
        assert_eq!(review["spec"].get("groups"), None);
    }
    cluster.api.answer(|asked| api(asked, false));
    for reference in [&pid, &blog, &near] {
        let (code, text) = ask(&attestor, reference).await.unwrap_err();
        assert_eq!(code, Code::PermissionDenied);
        assert_eq!(
            text,
            "Kubernetes authorizer does not allow the broker to use impersonate-via-spire for the \
             referenced object"
        );
    }
    cluster.api.answer(|asked| match asked.method.as_str() {
        "POST" => Answer::Json(
            403,
            json!({"kind": "Status", "message": "no reviews for you"}).to_string(),
        ),
        _ => api(asked, true),
    });
    let (code, text) = ask(&attestor, &pid).await.unwrap_err();
    assert_eq!(code, Code::Internal);
    assert_eq!(text, "unable to check Kubernetes authorization for broker: no reviews for you");
    // An answer without a verdict is none.
    cluster.api.answer(|asked| match asked.method.as_str() {
        "POST" => ok("{}"),
        _ => api(asked, true),
    });
    assert_eq!(ask(&attestor, &pid).await.unwrap_err().0, Code::PermissionDenied);
    // The workload itself, through the Workload API, is no broker.
    let asked = reviews().len();
    assert!(attestor.attest(PID).await.is_ok());
    assert_eq!(reviews().len(), asked);
}

#[tokio::test]
async fn a_broker_that_is_not_configured_learns_nothing() {
    let cluster = Cluster::new().await;
    let attestor = cluster.attestor(&broker("permissive", "cluster"));
    let stranger = SpiffeId::parse("spiffe://example.org/stranger").unwrap();
    let pid = any("WorkloadPIDReference", &WorkloadPidReference { pid: PID });
    let (code, text) = ask_as(&attestor, &pid, Some(&stranger)).await.unwrap_err();
    assert_eq!(code, Code::PermissionDenied);
    assert_eq!(text, "broker \"spiffe://example.org/stranger\" is not configured");
    assert_eq!(cluster.node.kubelet.asked().len() + cluster.api.asked().len(), 0);
}

#[tokio::test]
async fn labels_of_the_namespace_are_the_api_servers_word() {
    let cluster = Cluster::new().await;
    let attestor = cluster.attestor("enable_namespace_labels = true");
    let found = values(&attestor, PID).await.unwrap();
    assert!(found.contains(&"k8s:ns-label:team:a".to_owned()), "{found:?}");
    cluster.api.answer(|_| not_found("namespaces \"shop\""));
    let error = values(&attestor, PID).await.unwrap_err();
    assert_eq!(error.code, Code::Internal);
    assert_eq!(
        error.message,
        "workloadattestor(k8s): unable to get namespace labels for \"shop\": unable to get \
         namespace \"shop\": namespaces \"shop\" not found"
    );
    let nowhere = cluster.node.attestor("enable_namespace_labels = true").unwrap();
    let error = values(&nowhere, PID).await.unwrap_err();
    assert!(error.message.contains("unable to load Kubernetes client config"), "{error}");
}
