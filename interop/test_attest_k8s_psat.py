"""Agents in pods, by the tokens of their service accounts, and the manifests that run them there.

The API server is a recorded one, or a real one where KUBEBUILDER_ASSETS is set.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from apiserver import ApiServer, Missing
from attestation import why_refused
from harness import HERE, Agent, Server, binaries, wait_until
from kubelet import HttpsServer
from kubelet import pod as described
from test_k8s import container, groups, kubelet, use_k8s  # noqa: F401 (fixtures)

SERVER = "system:serviceaccount:spire-server:spire-server"


def attestor(cluster, token):
    return f'NodeAttestor "k8s_psat" {{ plugin_data {{ cluster = "{cluster}" token_path = "{token}" }} }}'


def clusters(**each):
    """The server's half; each cluster is its kubeconfig and further settings."""
    settings = "".join(
        f'"{name}" = {{ service_account_allow_list = ["spire:spire-agent"] kube_config_file = "{config}" {more} }}\n'
        for name, (config, more) in each.items()
    )
    return f'NodeAttestor "k8s_psat" {{ plugin_data {{ clusters = {{ {settings} }} }} }}'


def kubeconfig(path, port, ca, token="admin"):
    config = {
        "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(ca)}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path.write_text(json.dumps(config))
    return path


def selectors(agent):
    (listed,) = agent.server.json("agent", "list")["agents"]
    assert {it["type"] for it in listed["selectors"]} == {"k8s_psat"}
    return {it["value"] for it in listed["selectors"]}


def refusal(agent):
    """Why the server does not take the agent."""
    why = why_refused(agent)
    assert agent.server.json("agent", "list")["agents"] == []
    return why


class Recorded:
    """What stands in for an API server: one agent's pod and node."""

    def __init__(self, folder):
        self.uid, self.node = str(uuid.uuid4()), str(uuid.uuid4())
        self.review = {
            "authenticated": True,
            "audiences": ["spire-server"],
            "user": {
                "username": "system:serviceaccount:spire:spire-agent",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["agent-x"],
                    "authentication.kubernetes.io/pod-uid": [self.uid],
                },
            },
        }
        self.patience = 0
        self.tokens = []
        self.https = HttpsServer(folder, self.answer)
        self.config = kubeconfig(folder / "kubeconfig", self.https.port, self.https.ca)

    def answer(self, request):
        time.sleep(self.patience)
        path = request.path.split("?")[0]
        if path == "/apis/authentication.k8s.io/v1/tokenreviews":
            assert request.headers["Authorization"] == "Bearer admin"
            # SPIRE's client writes protobuf; it reads JSON.
            audiences = ["spire-server"] if b"spire-server" in request.sent else []
            token = re.search(rb"[a-z]\.[a-z]\.[a-z]", request.sent).group().decode()
            self.tokens.append({"token": token, "audiences": audiences})
            body = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": self.tokens[-1]}
            request.json({**body, "status": self.review}, 201)
        elif path == "/api/v1/namespaces/spire/pods/agent-x":
            labels = {"app": "agent", "secret": "x"}
            metadata = {"name": "agent-x", "namespace": "spire", "uid": self.uid, "labels": labels}
            body = {"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": {"hostIP": "10.0.0.7"}}
            request.json({"kind": "Pod", "apiVersion": "v1", **body})
        elif path == "/api/v1/nodes/node-1":
            metadata = {"name": "node-1", "uid": self.node, "labels": {"zone": "a", "other": "b"}}
            request.json({"kind": "Node", "apiVersion": "v1", "metadata": metadata})
        else:
            request.json({"kind": "Status", "apiVersion": "v1", "message": f"no {path}", "code": 404}, 404)

    def values(self, cluster):
        return {
            f"cluster:{cluster}", "agent_ns:spire", "agent_sa:spire-agent", "agent_pod_name:agent-x",
            f"agent_pod_uid:{self.uid}", "agent_node_ip:10.0.0.7", "agent_node_name:node-1",
            f"agent_node_uid:{self.node}", "agent_node_label:zone:a", "agent_pod_label:app:agent",
        }  # fmt: skip


LABELS = 'allowed_node_label_keys = ["zone"] allowed_pod_label_keys = ["app"]'


@pytest.fixture
def recorded(tmp_path):
    made = []

    def make():
        folder = tmp_path / f"cluster{len(made)}"
        folder.mkdir()
        made.append(Recorded(folder))
        return made[-1]

    yield make
    for it in made:
        it.https.close()


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text("a.b.c")
    return path


@pytest.mark.parametrize("ours", ["both", "server", "agent"])
def test_an_agent_attests_by_its_token_and_again_when_it_starts_anew(ours, tmp_path, keep, recorded, token, request):
    spire = None if ours == "both" else request.getfixturevalue("spire")
    cluster = recorded()
    plugins = clusters(production=(cluster.config, LABELS), pods=(cluster.config, "use_pod_uid_for_agent_id = true"))
    server = Server(tmp_path / "server", bins=None if ours != "agent" else spire, plugins=plugins)
    keep(server).start()
    memory = 'KeyManager "memory" { plugin_data {} }'
    bins = None if ours != "server" else spire
    agent = keep(
        Agent(tmp_path / "agent", server, bins=bins, attestor=attestor("production", token), key_manager=memory)
    ).start()
    expected = f"spiffe://example.org/spire/agent/k8s_psat/production/{cluster.node}"
    assert agent.id() == expected
    assert selectors(agent) == cluster.values("production")
    assert cluster.tokens == [{"token": "a.b.c", "audiences": ["spire-server"]}]
    agent.stop()
    token.write_text("d.e.f")
    agent.start()
    assert agent.id() == expected
    assert cluster.tokens[1]["token"] == "d.e.f"
    agent.stop()
    text = agent.config.read_text().replace('cluster = "production"', 'cluster = "pods"')
    agent.config.write_text(text)
    agent.start()
    ids = {it["id"]["path"] for it in server.json("agent", "list")["agents"]}
    assert f"/spire/agent/k8s_psat/pods/pod/{cluster.uid}" in ids


def test_refusals_are_spires(tmp_path, keep, recorded, token, spire):
    """Every case against both servers, by our agent and by SPIRE's own."""
    cluster = recorded()
    good = json.loads(json.dumps(cluster.review))
    user = good["user"]
    stranger = {**user, "username": "system:serviceaccount:shop:blogger"}
    cases = [
        ({"authenticated": False}, "PermissionDenied", "token not authenticated according to TokenReview API"),
        ({"error": "[invalid bearer token]"}, "Internal", "token review API response contains an error: [invalid"),
        ({"audiences": ["other"]}, "Internal", "did not validate audience: wanted one of"),
        ({"user": stranger}, "PermissionDenied", "is not an allowed service account for cluster"),
        ({"user": {**user, "extra": {}}}, "Internal", "failed to get pod name from token review status for cluster"),
        ({"user": {**user, "username": "admin"}}, "Internal", "unexpected username format: admin"),
    ]
    for bins in (None, spire):
        name = "spire" if bins else "ours"
        server = Server(tmp_path / f"server-{name}", bins=bins, plugins=clusters(production=(cluster.config, "")))
        keep(server).start()
        for index, (change, code, text) in enumerate(cases):
            cluster.review = {**good, **change}
            agent = Agent(tmp_path / f"{name}{index}", server, bins=bins, attestor=attestor("production", token))
            line = refusal(keep(agent))
            assert code in line and text in line and "nodeattestor(k8s_psat): " in line, line
        cluster.review = good
        agent = Agent(tmp_path / f"{name}-unknown", server, bins=bins, attestor=attestor("elsewhere", token))
        assert 'not configured for cluster' in refusal(keep(agent))
        agent = Agent(tmp_path / f"{name}-none", server, bins=bins, attestor=attestor("production", tmp_path / "none"))
        line = refusal(keep(agent))
        assert f"unable to load token from {tmp_path}/none: open {tmp_path}/none: no such file or directory" in line


def test_a_cluster_that_hangs_holds_up_no_other(tmp_path, keep, recorded, token):
    bad, good = recorded(), recorded()
    bad.patience = 60
    server = Server(tmp_path / "server", plugins=clusters(bad=(bad.config, ""), good=(good.config, LABELS)))
    keep(server).start()
    waiting = [keep(Agent(tmp_path / f"bad{n}", server, attestor=attestor("bad", token))) for n in range(3)]
    for agent in waiting:
        agent.start(wait=False)
    wait_until(lambda: len(bad.https.asked) >= 1, "the first question to the cluster that hangs")
    begun = time.monotonic()
    agent = keep(Agent(tmp_path / "good", server, attestor=attestor("good", token))).start()
    assert time.monotonic() - begun < 15
    assert selectors(agent) == good.values("good")
    assert all(agent.daemon.alive() for agent in waiting)


# A real API server.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    try:
        made = ApiServer(tmp_path_factory.mktemp("kube") / "cluster")
    except Missing as missing:
        pytest.skip(str(missing))
    for manifest in ("namespaces.yaml", "server-rbac.yaml", "agent-rbac.yaml"):
        made.apply(manifest)
    yield made
    made.close()


def node(cluster, name):
    labels = {"topology.kubernetes.io/zone": "a", "other": "b"}
    return cluster.ask("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})


def pod(cluster, name, on, namespace="spire", account="spire-agent"):
    """A pod as a scheduler and a kubelet would have made it of the DaemonSet."""
    spec = {"nodeName": on, "serviceAccountName": account, "containers": [{"name": "a", "image": "x"}]}
    path = f"/api/v1/namespaces/{namespace}/pods"
    made = cluster.ask("POST", path, {"metadata": {"name": name, "labels": {"app": "spire-agent"}}, "spec": spec})
    status = {"status": {"hostIP": "10.0.0.9", "hostIPs": [{"ip": "10.0.0.9"}]}}
    kind = "application/strategic-merge-patch+json"
    cluster.ask("PATCH", f"{path}/{name}/status", status, kind=kind)
    return made


@pytest.mark.parametrize("ours", ["both", "server", "agent"])
def test_a_pod_of_a_real_cluster_attests(ours, cluster, tmp_path, keep, request):
    spire = None if ours == "both" else request.getfixturevalue("spire")
    host = node(cluster, f"node-{ours}")
    own = pod(cluster, f"agent-{ours}", f"node-{ours}")
    config = cluster.kubeconfig(tmp_path / "config", cluster.token("spire-server", namespace="spire-server"))
    labels = 'allowed_node_label_keys = ["topology.kubernetes.io/zone"] allowed_pod_label_keys = ["app"]'
    plugins = clusters(production=(config, labels))
    server = keep(Server(tmp_path / "server", bins=spire if ours == "agent" else None, plugins=plugins)).start()
    token = tmp_path / "token"
    token.write_text(cluster.token("spire-agent", "spire-server", own))
    bins = spire if ours == "server" else None
    agent = keep(Agent(tmp_path / "agent", server, bins=bins, attestor=attestor("production", token))).start()
    assert agent.id() == f"spiffe://example.org/spire/agent/k8s_psat/production/{host['metadata']['uid']}"
    assert selectors(agent) == {
        "cluster:production", "agent_ns:spire", "agent_sa:spire-agent", f"agent_pod_name:agent-{ours}",
        f"agent_pod_uid:{own['metadata']['uid']}", "agent_node_ip:10.0.0.9", f"agent_node_name:node-{ours}",
        f"agent_node_uid:{host['metadata']['uid']}", "agent_node_label:topology.kubernetes.io/zone:a",
        "agent_pod_label:app:spire-agent",
    }  # fmt: skip


def test_tokens_of_others_earn_nothing(cluster, tmp_path, keep):
    node(cluster, "node-others")
    own = pod(cluster, "agent-others", "node-others")
    config = cluster.kubeconfig(tmp_path / "config", cluster.token("spire-server", namespace="spire-server"))
    server = keep(Server(tmp_path / "server", plugins=clusters(production=(config, "")))).start()
    cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
    cluster.ask("POST", "/api/v1/namespaces/shop/serviceaccounts", {"metadata": {"name": "blogger"}})
    blog = pod(cluster, "blog", "node-others", "shop", "blogger")
    good = cluster.token("spire-agent", "spire-server", own)
    head, claims, signature = good.split(".")
    decoded = json.loads(base64.urlsafe_b64decode(claims + "=="))
    decoded["kubernetes.io"]["serviceaccount"]["name"] = "other"
    forged = base64.urlsafe_b64encode(json.dumps(decoded).encode()).rstrip(b"=").decode()
    gone = pod(cluster, "agent-gone", "node-others")
    of_the_gone = cluster.token("spire-agent", "spire-server", gone)
    cluster.ask("DELETE", "/api/v1/namespaces/spire/pods/agent-gone?gracePeriodSeconds=0")
    pod(cluster, "agent-gone", "node-others")  # Another one of the same name.
    invalid = "token review API response contains an error: "
    cases = {
        "of the API server's own audience": (cluster.token("spire-agent", None, own), invalid),
        "for somebody else": (cluster.token("spire-agent", "vault", own), invalid),
        "of no pod": (cluster.token("spire-agent", "spire-server"), "missing pod name"),
        "of another account": (
            cluster.token("blogger", "spire-server", blog, namespace="shop"),
            "is not an allowed service account for cluster",
        ),
        "of a pod that is gone": (of_the_gone, invalid),
        "forged": (f"{head}.{forged}.{signature}", invalid),
        "truncated": (good[:-20], invalid),
        "none": ("nonsense", invalid),
    }
    for index, (what, (text, expected)) in enumerate(cases.items()):
        path = tmp_path / f"token{index}"
        path.write_text(text)
        agent = keep(Agent(tmp_path / f"agent{index}", server, attestor=attestor("production", path)))
        assert expected in refusal(agent), what
    # What the API server says of nodes is not for a server without the role.
    cluster.ask("DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/spire-server")
    try:
        path = tmp_path / "good"
        path.write_text(good)
        agent = keep(Agent(tmp_path / "agent-good", server, attestor=attestor("production", path)))
        assert 'cannot create resource "tokenreviews"' in refusal(agent)
    finally:
        for document in (HERE.parent / "conf/kubernetes/server-rbac.yaml").read_text().split("\n---\n"):
            if "kind: ClusterRoleBinding" in document:
                path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
                cluster.ask("POST", path, document.encode(), kind="application/yaml")


IN_POD = """#!/bin/sh
# A mount namespace with the files and variables that a pod has.
export KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT={port}
exec unshare --mount sh -c 'mount -t tmpfs none /run && mkdir -p {place} && cp {files}/* {place}/ && exec "$@"' sh {program} "$@"
"""


def test_in_a_cluster_the_servers_own_account_is_used(cluster, tmp_path, keep):
    node(cluster, "node-pod")
    own = pod(cluster, "agent-pod", "node-pod")
    files = tmp_path / "files"
    files.mkdir()
    (files / "token").write_text(cluster.token("spire-server", namespace="spire-server"))
    (files / "ca.crt").write_bytes(cluster.ca.read_bytes())
    bins = tmp_path / "bin"
    bins.mkdir()
    place = "/run/secrets/kubernetes.io/serviceaccount"
    script = IN_POD.format(port=cluster.port, place=place, files=files, program=binaries() / "spire-server")
    (bins / "spire-server").write_text(script)
    (bins / "spire-server").chmod(0o755)
    server = keep(Server(tmp_path / "server", bins=bins, plugins=clusters(production=("", "")))).start()
    token = tmp_path / "token"
    token.write_text(cluster.token("spire-agent", "spire-server", own))
    agent = keep(Agent(tmp_path / "agent", server, attestor=attestor("production", token))).start()
    assert f"agent_pod_uid:{own['metadata']['uid']}" in selectors(agent)


# The manifests.


def may(cluster, user, verb, resource, namespace="", group="", sub="", name=""):
    attributes = {
        "verb": verb, "resource": resource, "subresource": sub, "namespace": namespace, "group": group, "name": name,
    }  # fmt: skip
    body = {"spec": {"user": user, "groups": groups_of(user), "resourceAttributes": attributes}}
    review = cluster.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return review["status"]["allowed"]


def groups_of(user):
    _, _, namespace, _ = user.split(":")
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]


def rules(cluster, namespace, account, within):
    """All that an account may do in a namespace and outside of any, by the API server's own word."""
    body = {"spec": {"namespace": within}}
    token = cluster.token(account, namespace=namespace)
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    admin, cluster.admin = cluster.admin, token
    try:
        status = cluster.ask("POST", path, body)["status"]
    finally:
        cluster.admin = admin
    assert not status["incomplete"]
    return {
        (verb, group, resource)
        for rule in status["resourceRules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_roles_allow_what_is_needed_and_no_more(cluster):
    # What every account may: ask about itself.
    cluster.ask("POST", "/api/v1/namespaces/spire/serviceaccounts", {"metadata": {"name": "nobody"}})
    everybody = rules(cluster, "spire", "nobody", "spire")
    assert all(group in ("authorization.k8s.io", "authentication.k8s.io") for _, group, _ in everybody), everybody

    reviews = ("create", "authentication.k8s.io", "tokenreviews")
    server = {reviews, ("get", "", "nodes")}
    for namespace in ("spire-server", "default", "kube-system"):
        assert rules(cluster, "spire-server", "spire-server", namespace) - everybody == server, namespace
    assert rules(cluster, "spire-server", "spire-server", "spire") - everybody == server | {("get", "", "pods")}
    for namespace in ("spire", "spire-server", "default"):
        assert rules(cluster, "spire", "spire-agent", namespace) - everybody == {("get", "", "nodes/pods")}

    agent = cluster.AGENT
    for allowed, question in [
        (True, dict(user=SERVER, verb="create", resource="tokenreviews", group="authentication.k8s.io")),
        (True, dict(user=SERVER, verb="get", resource="nodes", name="node-1")),
        (True, dict(user=SERVER, verb="get", resource="pods", namespace="spire", name="agent-x")),
        (False, dict(user=SERVER, verb="get", resource="pods", namespace="shop", name="x")),
        (False, dict(user=SERVER, verb="get", resource="pods")),
        (False, dict(user=SERVER, verb="list", resource="pods", namespace="spire")),
        (False, dict(user=SERVER, verb="list", resource="nodes")),
        (False, dict(user=SERVER, verb="get", resource="secrets", namespace="spire-server")),
        (False, dict(user=SERVER, verb="update", resource="configmaps", namespace="spire")),
        (False, dict(user=SERVER, verb="create", resource="serviceaccounts", sub="token", namespace="spire")),
        (False, dict(user=SERVER, verb="impersonate", resource="users")),
        (True, dict(user=agent, verb="get", resource="nodes", sub="pods", name="node-1")),
        (False, dict(user=agent, verb="get", resource="nodes", sub="proxy", name="node-1")),
        (False, dict(user=agent, verb="get", resource="nodes", name="node-1")),
        (False, dict(user=agent, verb="create", resource="tokenreviews", group="authentication.k8s.io")),
        (False, dict(user=agent, verb="get", resource="pods", namespace="spire")),
        (False, dict(user=agent, verb="create", resource="pods", sub="exec", namespace="spire")),
        (False, dict(user=agent, verb="create", resource="serviceaccounts", sub="token", namespace="spire")),
        (False, dict(user=agent, verb="get", resource="secrets", namespace="spire")),
    ]:
        assert may(cluster, **question) == allowed, question


@pytest.mark.parametrize("program", ["server", "agent"])
def test_the_manifests_are_accepted_and_what_is_in_them_is_valid(program, cluster, tmp_path):
    applied = cluster.apply(f"{program}.yaml", dry_run=True)
    made = {it["kind"]: it for it in applied}
    workload = made["StatefulSet" if program == "server" else "DaemonSet"]
    template = workload["spec"]["template"]
    namespace = workload["metadata"]["namespace"]
    # Pod security is asked about pods, not about what makes them.
    pods = f"/api/v1/namespaces/{namespace}/pods"
    body = {"metadata": {"generateName": "try-", "labels": template["metadata"]["labels"]}, "spec": template["spec"]}
    if program == "server":
        spec = json.loads(json.dumps(template["spec"]))
        spec["volumes"].append({"name": "data", "emptyDir": {}})
        body["spec"] = spec
    cluster.ask("POST", pods + "?dryRun=All&fieldValidation=Strict", body)
    (container,) = template["spec"]["containers"]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["capabilities"].get("add", []) == ([] if program == "server" else ["SYS_PTRACE"])
    if program == "server":
        worse = json.loads(json.dumps(body))
        worse["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = ["SYS_PTRACE"]
        with pytest.raises(AssertionError, match="violates PodSecurity"):
            cluster.ask("POST", pods + "?dryRun=All", worse)

    (name, text), = made["ConfigMap"]["data"].items()
    config = tmp_path / name
    config.write_text(text)
    result = subprocess.run(
        [binaries() / f"spire-{program}", "validate", "-config", config], capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stdout + result.stderr
    # What the configuration names is where the pod has it.
    mounts = [it["mountPath"] for it in container["volumeMounts"]]
    for path in re.findall(r'"(/(?:run|var)/[^"]+)"', text):
        assert any(path.startswith(f"{mount}/") or path == mount for mount in mounts), path
    command = container["command"]
    assert command[-1].endswith(f"/{name}") and command[0] == f"spire-{program}"


def test_the_agents_one_capability_is_enough(tmp_path, keep, groups, kubelet, request):  # noqa: F811
    """With those of the DaemonSet, and no other, it knows the pod of another user's process."""
    if os.geteuid() != 0:
        pytest.skip("skipped: needs root, to have capabilities to give away")
    own, uid = container("1"), str(uuid.uuid4())
    stand = kubelet(pods=[described(uid, own)])
    # Another user must get to the socket, which it would not below pytest's own folder.
    folder = Path(tempfile.mkdtemp(prefix="steeple-"))
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    folder.chmod(0o755)
    server = keep(Server(tmp_path / "server")).start()
    agent = keep(use_k8s(Agent(folder / "agent", server), stand))
    limit = ["setpriv", "--bounding-set=-all,+sys_ptrace", "--inh-caps=-all"]
    agent.prefix = [*limit, "--no-new-privs"]
    agent.start(server.token())
    status = Path(f"/proc/{agent.daemon.process.pid}/status").read_text()
    assert int(re.search(r"CapEff:\s*(\w+)", status).group(1), 16) == 1 << 19, status
    server.entry("/blog", agent.id(), "k8s:ns:shop", "k8s:container-name:web")
    group = groups(uid, own)
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    program = folder / "spire-agent"
    shutil.copy(agent.bins / "spire-agent", program)
    program.chmod(0o755)
    command = group.command(*become, program, "api", "fetch", "x509", "-socketPath", agent.socket, "-timeout", "10s")

    def fetched():
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    wait_until(lambda: "spiffe://example.org/blog" in fetched().stdout, "the identity of the pod", 60)
