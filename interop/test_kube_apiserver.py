"""The agent and a real API server of Kubernetes: watch, metadata, discovery, reviews, our roles."""

import copy
import os
import re
import threading
import time
import uuid

import pytest
from apiserver import ApiServer, Missing
from harness import wait_until
from kubelet import pod
from test_k8s import attested, container, fetch, groups, has_svid  # noqa: F401 (a fixture)

BROKER = "spiffe://example.org/broker"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    try:
        made = ApiServer(tmp_path_factory.mktemp("kube") / "cluster")
    except Missing as missing:
        pytest.skip(str(missing))
    made.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "shop", "labels": {"team": "a"}}})
    made.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "spire"}})
    made.apply("agent-rbac.yaml")
    made.bind("spire-agent-watch", made.AGENT)
    made.bind("spire-agent-namespaces", made.AGENT)
    yield made
    made.close()


def create(cluster, name, own):
    """A pod on our node, without a word of its containers; gives its uid and what is to be said."""
    wanted = pod(str(uuid.uuid4()), own, name)
    metadata = {key: wanted["metadata"][key] for key in ("name", "namespace", "labels")}
    containers = [{"name": it, "image": "x"} for it in ("web", "waiting")]
    spec = {"nodeName": "localhost", "serviceAccountName": "blogger", "containers": containers}
    made = cluster.ask("POST", "/api/v1/namespaces/shop/pods", {"metadata": metadata, "spec": spec})
    return made["metadata"]["uid"], wanted["status"]


def tell(cluster, name, status):
    path = f"/api/v1/namespaces/shop/pods/{name}/status"
    status = copy.deepcopy(status)
    for it in status["containerStatuses"] + status["initContainerStatuses"]:
        it.update(ready=False, restartCount=0)
    cluster.ask("PATCH", path, {"status": status}, kind="application/strategic-merge-patch+json")


def use(agent, data, others=""):
    text = agent.config.read_text()
    k8s = f'{others}WorkloadAttestor "k8s" {{ plugin_data {{ {data} }} }}'
    agent.config.write_text(re.sub(r'WorkloadAttestor "unix" .*', lambda _: k8s, text))


WITHOUT_KUBELET = """disable_kubelet_client = true
    node_name = "localhost"
    enable_namespace_labels = true
"""


def test_a_pod_is_watched_from_its_beginning_to_its_end(cluster, pair, groups, tmp_path, monkeypatch):  # noqa: F811
    own = container("1")
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "config")))
    server, agent = pair()
    use(agent, WITHOUT_KUBELET + "experimental { api_server { watch { enabled = true } cache { enabled = true } } }")
    agent.start(server.token())
    server.entry("/blog", agent.id(), "k8s:ns:shop", "k8s:ns-label:team:a", "k8s:container-name:web", "k8s:sa:blogger")
    uid, status = create(cluster, "blog-1", own)
    group = groups(uid, own)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(fetch(agent, group, seconds=20)))
    waiting.start()
    has_svid(agent, "spiffe://example.org/blog")
    time.sleep(1)
    assert not answers, "somebody knew the container before it was there"
    tell(cluster, "blog-1", status)
    waiting.join(40)
    assert answers[0][0] == ["spiffe://example.org/blog"], answers
    found = attested(agent)[-1]
    assert {f"k8s:pod-uid:{uid}", "k8s:ns-label:team:a", "k8s:pod-image-count:2"} <= found, found
    cluster.ask("DELETE", "/api/v1/namespaces/shop/pods/blog-1?gracePeriodSeconds=0")
    wait_until(lambda: fetch(agent, group, seconds=2)[0] == [], "the end of the pod")
    assert "Watching the Kubernetes API server failed" not in agent.daemon.log.read_text()


@pytest.mark.parametrize("cache", ["false", "true"])
def test_brokers_are_told_of_what_the_cluster_allows(cache, cluster, pair, tmp_path, monkeypatch):
    from apiserver import build_broker

    broker = build_broker()
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "config")))
    server, agent = pair()
    policy = f"""experimental {{
        api_server {{ cache {{ enabled = {cache} }} }}
        broker {{
            access_policy = "enforced"
            brokers = [{{ id = "{BROKER}", pod_reference_scope = "cluster" }}]
        }}
    }}"""
    others = 'WorkloadAttestor "unix" { plugin_data {} }\n    '
    use(agent, "disable_kubelet_client = true\n" + policy, others)
    socket = agent.folder / "broker" / "broker.sock"
    types = '[{ type_url = "type.googleapis.com/spiffe.broker.KubernetesObjectReference" }]'
    entry = f'broker {{ socket_path = "{socket}" brokers = [{{ id = "{BROKER}", allowed_reference_types = {types} }}] }}'
    agent.config.write_text(agent.config.read_text().replace("experimental {", f"experimental {{\n{entry}", 1))
    agent.start(server.token())
    server.entry("/broker", agent.id(), f"unix:uid:{os.getuid()}")
    server.entry("/config", agent.id(), "k8s:resource:configmaps.core", "k8s:name:settings", "k8s:label:tier:web")
    server.entry("/pod", agent.id(), "k8s:pod-name:far", "k8s:ns:shop")
    maps = "/api/v1/namespaces/shop/configmaps"
    settings = {"metadata": {"name": "settings", "labels": {"tier": "web"}}, "data": {"a": "b"}}
    name = f"settings-{cache}"
    made = cluster.ask("POST", maps, settings)
    far, _ = create(cluster, "far", container("2"))
    environment = {"SPIFFE_ENDPOINT_SOCKET": f"unix://{agent.socket}"}
    wait_until(lambda: "spiffe://example.org/broker" in agent.ids(), "the broker's own identity")

    def ask(reference):
        any_type = "type.googleapis.com/spiffe.broker.KubernetesObjectReference"
        request = {"reference": {"reference": {"@type": any_type, **reference}}}
        call = {"method": "broker.x509", "request": request}
        return broker.calls(["broker", f"unix://{socket}"], [call], environment)[0]

    config = {"type": {"plural": "configmaps", "group": "core"}, "key": {"namespace": "shop", "name": "settings"}}
    by_uid = {"type": {"plural": "pods", "group": "core"}, "uid": far}
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    try:
        # The agent itself may not look at ConfigMaps yet.
        assert ask(config).get("code"), "read without permission"
        watch = ["get", "list", "watch"]
        rules = [{"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": watch}]
        cluster.ask("POST", role, {"metadata": {"name": f"agent-{name}"}, "rules": rules})
        cluster.bind(f"agent-{name}", cluster.AGENT)
        cluster.bind("spire-agent-broker", cluster.AGENT)
        log = agent.daemon.log

        def denied():
            ask(config)
            return "Kubernetes authorizer does not allow the broker" in log.read_text()

        wait_until(denied, "the refusal of the authorizer", 60)
        verbs = ["impersonate-via-spire"]
        rules = [{"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": verbs}]
        cluster.ask("POST", role, {"metadata": {"name": f"broker-{name}"}, "rules": rules})
        cluster.bind(f"broker-{name}", BROKER)

        def identities(reference):
            answer = ask(reference)
            return [svid["id"] for svid in answer["messages"][0]["svids"]] if answer.get("messages") else answer

        wait_until(lambda: identities(config) == ["spiffe://example.org/config"], "the object's identity", 60)
        assert identities({**config, "uid": made["metadata"]["uid"]}) == ["spiffe://example.org/config"]
        assert identities(by_uid) == ["spiffe://example.org/pod"]
        assert identities({**config, "uid": str(uuid.uuid4())})["code"]
        assert identities({"type": {"plural": "nothings", "group": "core"}, "uid": far})["code"]
    finally:
        cluster.ask("DELETE", f"{maps}/settings")
        cluster.ask("DELETE", "/api/v1/namespaces/shop/pods/far?gracePeriodSeconds=0")
        bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
        for it in cluster.ask("GET", bindings)["items"]:
            if it["roleRef"]["name"] in (f"agent-{name}", f"broker-{name}"):
                cluster.ask("DELETE", f"{bindings}/{it['metadata']['name']}")
