use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use steeple_spiffe::TrustDomain;
use tempfile::TempDir;

use super::*;
use crate::kube::stand::{Answer, Asked, Ca, Leaf, Stand, ok};

mod kubelet;
mod reference;
mod watch;

const POD: &str = "2c48913c-b29f-11e7-9350-020968147796";
const OTHER_POD: &str = "d488cae9-b2a0-11e7-9350-020968147796";
const CONTAINER: &str = "9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961";
const PID: i32 = 4711;

/// A node: its kubelet, its process table, and the files that an agent there has.
struct Node {
    folder: TempDir,
    kubelet: Stand,
    ca: Ca,
}

impl Node {
    /// A node whose kubelet, over TLS, answers so.
    async fn new(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let ca = Ca::new();
        let leaf = ca.leaf(&["localhost"]);
        Self::with(ca, &leaf, handler).await
    }

    async fn with(
        ca: Ca,
        leaf: &Leaf,
        handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let kubelet = Stand::start(Some((leaf, &ca)), handler).await;
        let node = Self { folder: tempfile::tempdir().unwrap(), kubelet, ca };
        node.write("ca.crt", &node.ca.pem);
        node.write("token", "first\n");
        node.in_container(PID, Some(POD), CONTAINER);
        node
    }

    /// A node with these pods.
    async fn of(pods: Vec<Value>) -> Self {
        let list = list(&pods);
        Self::new(move |_| ok(list.clone())).await
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, contents: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn in_container(&self, pid: i32, pod: Option<&str>, container: &str) {
        let path = match pod {
            Some(pod) => format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/\
                 cri-containerd-{container}.scope",
                pod.replace('-', "_")
            ),
            None => format!("/../crio-{container}.scope"),
        };
        self.write(&format!("proc/{pid}/cgroup"), &format!("0::{path}\n"));
    }

    /// The attestor with the kubelet of this node, and more settings.
    fn attestor(&self, settings: &str) -> Result<K8s, PluginError> {
        self.attestor_in(settings, |_| None)
    }

    fn attestor_in(
        &self,
        settings: &str,
        variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Result<K8s, PluginError> {
        let own = [
            ("kubelet_secure_port", self.kubelet.port.to_string()),
            ("kubelet_ca_path", format!("{:?}", self.path("ca.crt"))),
            ("token_path", format!("{:?}", self.path("token"))),
            ("poll_retry_interval", "\"20ms\"".to_owned()),
        ];
        let mut text = settings.to_owned();
        for (key, value) in own {
            let clear = settings.contains("kubelet_read_only_port");
            let kubelet = key.starts_with("kubelet") || key == "token_path";
            let left_out = (clear && key == "kubelet_secure_port")
                || (settings.contains("disable_kubelet_client") && kubelet);
            if !settings.contains(key) && !left_out {
                text.push_str(&format!("\n{key} = {value}"));
            }
        }
        let domain = TrustDomain::parse("example.org").unwrap();
        let mut host = HostContext::new(domain);
        host.proc_root = self.folder.path().join("proc");
        let environment = Environment::new(variable, self.folder.path());
        let data = Block::parse(&text).unwrap();
        let mut config = config::read(Some(&data), &|name| environment.variable(name))?;
        if let Some(kubelet) = &mut config.kubelet {
            // A busy machine is no kubelet that hangs.
            kubelet.deadline = Duration::from_secs(120);
        }
        K8s::build(config, &host, environment)
    }

    async fn attest(&self, settings: &str) -> Result<Vec<String>, PluginError> {
        values(&self.attestor(settings)?, PID).await
    }
}

async fn values(attestor: &K8s, pid: i32) -> Result<Vec<String>, PluginError> {
    let mut values: Vec<String> =
        attestor.attest(pid).await?.iter().map(ToString::to_string).collect();
    values.sort();
    Ok(values)
}

fn list(pods: &[Value]) -> String {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}).to_string()
}

/// A pod with one running container.
fn pod(uid: &str, container: &str) -> Value {
    json!({
        "metadata": {
            "name": "blog-1", "namespace": "shop", "uid": uid,
            "labels": {"app": "blog", "empty": ""},
            "annotations": {"note": "x".repeat(100)},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "blog", "uid": "rs-1",
                 "controller": true}
            ]
        },
        "spec": {"serviceAccountName": "blogger", "nodeName": "node-7", "containers": [{}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [{
                "name": "web", "image": "docker.io/blog:v1", "imageID": "docker.io/blog@sha256:aa",
                "containerID": format!("containerd://{container}"), "state": {"running": {}}
            }]
        }
    })
}

/// All selectors of that pod.
fn of_the_pod(uid: &str) -> Vec<String> {
    [
        "k8s:container-image:docker.io/blog:v1",
        "k8s:container-image:docker.io/blog@sha256:aa",
        "k8s:container-name:web",
        "k8s:node-name:node-7",
        "k8s:ns:shop",
        "k8s:pod-image-count:1",
        "k8s:pod-image:docker.io/blog:v1",
        "k8s:pod-image:docker.io/blog@sha256:aa",
        "k8s:pod-init-image-count:0",
        "k8s:pod-label:app:blog",
        "k8s:pod-label:empty:",
        "k8s:pod-name:blog-1",
        "k8s:pod-owner-uid:ReplicaSet:rs-1",
        "k8s:pod-owner:ReplicaSet:blog",
        &format!("k8s:pod-uid:{uid}"),
        "k8s:sa:blogger",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn container(letter: char) -> String {
    letter.to_string().repeat(64)
}

#[tokio::test]
async fn a_process_has_the_selectors_of_its_pod_and_container() {
    let node = Node::of(vec![pod(OTHER_POD, &container('b')), pod(POD, CONTAINER)]).await;
    assert_eq!(node.attest("").await.unwrap(), of_the_pod(POD));
    let without = node.attest("disable_container_selectors = true").await.unwrap();
    let expected: Vec<String> =
        of_the_pod(POD).into_iter().filter(|it| !it.starts_with("k8s:container-")).collect();
    assert_eq!(without, expected);
}

#[tokio::test]
async fn a_process_outside_of_pods_has_no_selectors_and_asks_nobody() {
    let node = Node::of(vec![]).await;
    node.write("proc/9/cgroup", "0::/system.slice/sshd.service\n");
    let attestor = node.attestor("").unwrap();
    assert_eq!(values(&attestor, 9).await.unwrap(), [""; 0]);
    assert_eq!(values(&attestor, 10).await.unwrap(), [""; 0], "there is no such process");
    assert_eq!(node.kubelet.asked().len(), 0);
}

#[tokio::test]
async fn only_the_pod_that_the_kernel_named_is_believed_in() {
    // The container is there, in a pod with another uid.
    let node = Node::of(vec![pod(OTHER_POD, CONTAINER)]).await;
    for settings in ["", "disable_container_selectors = true"] {
        let settings = format!("max_poll_attempts = 2\n{settings}");
        let error = node.attest(&settings).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
        assert_eq!(
            error.message,
            "workloadattestor(k8s): no selectors found after max poll attempts"
        );
    }
    // Where the kernel names no pod, the container finds it.
    node.in_container(PID, None, CONTAINER);
    assert_eq!(node.attest("").await.unwrap(), of_the_pod(OTHER_POD));
}

#[tokio::test]
async fn two_pods_with_one_container_are_nobody() {
    let node = Node::of(vec![pod(POD, CONTAINER), pod(OTHER_POD, CONTAINER)]).await;
    node.in_container(PID, None, CONTAINER);
    let error = node.attest("").await.unwrap_err();
    assert_eq!(error.code, Code::Internal);
    assert_eq!(error.message, "workloadattestor(k8s): two pods found with same container Id");
    node.in_container(PID, Some(POD), CONTAINER);
    assert_eq!(node.attest("").await.unwrap(), of_the_pod(POD));
}

#[tokio::test]
async fn init_containers_count_and_ephemeral_ones_do_not() {
    let mut it = pod(POD, &container('b'));
    it["status"]["initContainerStatuses"] = json!([
        {"name": "setup", "image": "busybox", "imageID": "busybox@sha256:bb",
         "containerID": format!("docker://{CONTAINER}")}
    ]);
    it["status"]["ephemeralContainerStatuses"] = json!([
        {"name": "debug", "image": "evil", "imageID": "evil",
         "containerID": format!("containerd://{}", container('e'))}
    ]);
    let node = Node::of(vec![it]).await;
    let found = node.attest("").await.unwrap();
    for selector in [
        "k8s:container-name:setup",
        "k8s:container-image:busybox",
        "k8s:pod-init-image:busybox@sha256:bb",
        "k8s:pod-init-image-count:1",
        "k8s:pod-image-count:1",
    ] {
        assert!(found.contains(&selector.to_owned()), "{selector}: {found:?}");
    }
    assert!(!found.contains(&"k8s:container-name:web".to_owned()));
    node.in_container(PID, Some(POD), &container('e'));
    let error = node.attest("max_poll_attempts = 1").await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn each_of_two_containers_has_its_own_selectors() {
    let mut it = pod(POD, CONTAINER);
    let second = container('c');
    it["status"]["containerStatuses"].as_array_mut().unwrap().push(json!(
        {"name": "sidecar", "image": "envoy", "imageID": "envoy@sha256:ee",
         "containerID": format!("cri-o://{second}")}
    ));
    let node = Node::of(vec![it]).await;
    node.in_container(2, Some(POD), &second);
    let attestor = node.attestor("").unwrap();
    let (first, second) =
        (values(&attestor, PID).await.unwrap(), values(&attestor, 2).await.unwrap());
    let own = |all: &[String]| -> Vec<String> {
        all.iter().filter(|it| it.starts_with("k8s:container-")).cloned().collect()
    };
    assert_eq!(own(&first)[2], "k8s:container-name:web");
    assert_eq!(
        own(&second),
        [
            "k8s:container-image:envoy",
            "k8s:container-image:envoy@sha256:ee",
            "k8s:container-name:sidecar"
        ]
    );
    assert!(first.contains(&"k8s:pod-image:envoy".to_owned()));
    assert!(first.contains(&"k8s:pod-image-count:2".to_owned()));
}

#[tokio::test]
async fn a_container_that_was_restarted_is_another_one() {
    let node = Node::of(vec![pod(POD, &container('b'))]).await;
    let attestor = node.attestor("max_poll_attempts = 1").unwrap();
    assert!(values(&attestor, PID).await.is_err(), "the one that was there before");
    node.in_container(PID, Some(POD), &container('b'));
    assert_eq!(values(&attestor, PID).await.unwrap(), of_the_pod(POD));
}

#[tokio::test]
async fn static_pods_are_found_by_the_container_and_by_the_kubelets_uid() {
    // A hash without dashes, which the new locator takes for no uid; the legacy one knows it.
    let hash = "0123456789abcdef0123456789abcdef";
    let mut it = pod(hash, CONTAINER);
    it["metadata"]["annotations"] = json!({"kubernetes.io/config.source": "file"});
    let node = Node::of(vec![it]).await;
    let path = format!("0::/kubepods/burstable/pod{hash}/{CONTAINER}\n");
    node.write(&format!("proc/{PID}/cgroup"), &path);
    assert_eq!(node.attest("").await.unwrap(), of_the_pod(hash));
    let uid = "01234567-89ab-cdef-0123-456789abcdef";
    node.in_container(PID, Some(uid), CONTAINER);
    let error = node.attest("max_poll_attempts = 1").await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded, "another pod's uid");
}

#[tokio::test]
async fn a_users_own_groups_are_not_taken_for_pods() {
    let node = Node::of(vec![pod(POD, CONTAINER)]).await;
    let path = format!(
        "0::/user.slice/user-1000.slice/user@1000.service/kubepods/besteffort/pod{POD}/{CONTAINER}\n"
    );
    node.write(&format!("proc/{PID}/cgroup"), &path);
    assert_eq!(node.attest("").await.unwrap(), [""; 0]);
    // Unless all of Kubernetes is there, and the agent with it.
    let own = format!("proc/{}/cgroup", std::process::id());
    node.write(&own, "0::/user.slice/user-1000.slice/user@1000.service/agent\n");
    assert_eq!(node.attest("").await.unwrap(), of_the_pod(POD));
    node.write(&own, "0::/user.slice/user-1001.slice/user@1001.service/agent\n");
    assert_eq!(node.attest("").await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_legacy_locator_looks_at_groups_alone() {
    let node = Node::of(vec![pod(POD, CONTAINER)]).await;
    assert_eq!(node.attest("use_new_container_locator = false").await.unwrap(), of_the_pod(POD));
    let groups = format!(
        "3:cpu:/kubepods/pod{POD}/{CONTAINER}\n2:x:/kubepods/pod{POD}/{}\n",
        container('b')
    );
    node.write(&format!("proc/{PID}/cgroup"), &groups);
    for locator in [true, false] {
        let settings = format!("use_new_container_locator = {locator}");
        let error = node.attest(&settings).await.unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("multiple container IDs found"), "{}", error.message);
    }
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_missed_by_its_own_only() {
    let mut broken = pod(OTHER_POD, &container('b'));
    broken["status"]["containerStatuses"] = json!("none");
    let node =
        Node::of(vec![json!({"metadata": {"name": "x"}}), broken, pod(POD, CONTAINER)]).await;
    assert_eq!(node.attest("").await.unwrap(), of_the_pod(POD));
    node.in_container(PID, Some(OTHER_POD), &container('b'));
    let error = node.attest("max_poll_attempts = 1").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    let text = "workloadattestor(k8s): unable to decode pod info from kubelet response: ";
    assert!(error.message.starts_with(text), "{}", error.message);
}
