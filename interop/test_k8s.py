"""Processes in the groups of pods, and a kubelet over HTTPS that says what those are."""

import json
import os
import re
import subprocess
import textwrap
import threading
import time
import uuid

import pytest
from harness import HERE, binaries, wait_until
from kubelet import Groups, HttpsServer, Kubelet, pod


@pytest.fixture
def groups():
    """Makes groups of pods' containers as a kubelet names them."""
    made = []

    def make(uid, container, systemd=False):
        if systemd:
            escaped = uid.replace("-", "_")
            path = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice"
            path = f"{path}/cri-containerd-{container}.scope"
        else:
            path = f"kubepods/besteffort/pod{uid}/{container}"
        group = Groups(path)
        made.append(group)
        if not group:
            pytest.skip("no group of the kernel can be made here")
        return group

    yield make
    for group in made:
        group.close()


@pytest.fixture
def kubelet(tmp_path):
    made = []

    def make(**options):
        made.append(Kubelet(tmp_path / f"kubelet{len(made)}", **options))
        return made[-1]

    yield make
    for it in made:
        it.close()


def container(letter):
    return uuid.uuid4().hex + letter * 32


def use_k8s(agent, kubelet, extra=""):
    """Has the agent attest by the kubelet alone."""
    text = agent.config.read_text()
    attestor = f"""WorkloadAttestor "k8s" {{ plugin_data {{
        kubelet_secure_port = {kubelet.port}
        kubelet_ca_path = "{kubelet.ca}"
        token_path = "{kubelet.token}"
        {extra}
    }} }}"""
    text = re.sub(r'WorkloadAttestor "unix" .*', lambda _: attestor, text)
    agent.config.write_text(text)
    return agent


def fetch(agent, group, seconds=60):
    """The SPIFFE IDs that a process in these groups gets."""
    command = group.command(
        agent.bins / "spire-agent", "api", "fetch", "x509", "-socketPath", agent.socket, "-output", "json",
        "-timeout", f"{seconds}s",
    )
    result = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 10)
    if result.returncode:
        return [], result.stderr + result.stdout
    return sorted(svid["spiffe_id"] for svid in json.loads(result.stdout)["svids"]), ""


def attested(agent):
    """The selectors of the last process that was attested with any, as the log has them."""
    lines = [line for line in agent.daemon.log.read_text().splitlines() if "PID attested to have selectors" in line]
    found = []
    for line in lines:
        # SPIRE prints messages, we print selectors.
        text = re.search(r'selectors="((?:[^"\\]|\\.)*)"', line)
        text = text.group(1).replace('\\"', '"') if text else ""
        messages = re.findall(r'type:"(.*?)" +value:"(.*?)"', text)
        found.append({f"{kind}:{value}" for kind, value in messages} or set(filter(None, text.split(","))))
    return [selectors for selectors in found if selectors]


def has_svid(agent, spiffe_id):
    """Waits until the agent could give a workload this identity."""
    wait_until(lambda: re.search(f'SVID updated.*"{spiffe_id}"', agent.daemon.log.read_text()), f"the SVID of {spiffe_id}")


def registered(server, agent):
    server.entry(
        "/blog", agent.id(), "k8s:ns:shop", "k8s:sa:blogger", "k8s:container-name:web",
        "k8s:container-image:docker.io/blog@sha256:aa", "k8s:pod-label:app.kubernetes.io/part-of:a.b",
    )
    return "spiffe://example.org/blog"


@pytest.mark.parametrize("systemd", [False, True])
def test_a_process_in_a_pod_gets_the_identity_of_the_pod(systemd, pair, kubelet, groups):
    uid, own, other = str(uuid.uuid4()), container("1"), container("2")
    many = [pod(str(uuid.uuid4()), container("f"), f"other-{index}") for index in range(300)]
    server, agent = pair()
    use_k8s(agent, kubelet(pods=[*many, pod(uid, own)])).start(server.token())
    spiffe_id = registered(server, agent)
    group = groups(uid, own, systemd)
    wait_until(lambda: fetch(agent, group)[0] == [spiffe_id], "the identity of the pod")
    # The pod is right, the container is none of its.
    agent_timeout = fetch(agent, groups(uid, other, systemd), seconds=3)
    assert agent_timeout[0] == []
    assert agent.ids() == [], "a process outside of pods"
    assert f"k8s:pod-uid:{uid}" in attested(agent)[-1]


def test_a_pod_that_the_kubelet_does_not_know_yet_is_waited_for(pair, kubelet, groups):
    uid, own = str(uuid.uuid4()), container("1")
    server, agent = pair()
    node = kubelet(late=[pod(uid, own)])
    use_k8s(agent, node).start(server.token())
    spiffe_id = registered(server, agent)
    group = groups(uid, own)
    wait_until(lambda: "/blog" in server.cli("entry", "show").stdout, "the entry")
    wait_until(lambda: fetch(agent, group)[0] == [spiffe_id], "the identity of a pod that came late")
    assert node.lists > 3
    assert "Container id not found; will retry after backoff" in agent.daemon.log.read_text()


def test_spires_agent_finds_the_same_selectors(pair, kubelet, groups, spire):
    uid, own = str(uuid.uuid4()), container("1")
    node = kubelet(pods=[pod(uid, own)])
    group = groups(uid, own)
    found = []
    for bins in (None, spire):
        server, agent = pair(agent_bins=bins)
        use_k8s(agent, node).start(server.token())
        spiffe_id = registered(server, agent)
        wait_until(lambda: fetch(agent, group)[0] == [spiffe_id], "the identity")
        found.append(attested(agent)[-1])
    assert found[0] == found[1]
    assert len(found[0]) == 20, sorted(found[0])


def test_a_watch_of_the_api_server_wakes_who_waits(pair, kubelet, groups, tmp_path, monkeypatch):
    uid, own = str(uuid.uuid4()), container("1")
    watching, known = threading.Event(), threading.Event()

    def answer(handler):
        if "watch=1" not in handler.path:
            return handler.json({"kind": "PodList", "metadata": {"resourceVersion": "5"}, "items": []})
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        watching.set()
        known.wait(60)
        event = json.dumps({"type": "ADDED", "object": {**pod(uid, own)}}).encode() + b"\n"
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        handler.wfile.flush()
        time.sleep(60)

    api = HttpsServer(tmp_path / "api", answer)
    config = tmp_path / "kubeconfig"
    config.write_text(f"""apiVersion: v1
kind: Config
clusters:
- name: cluster
  cluster:
    server: https://127.0.0.1:{api.port}
    certificate-authority: {api.ca}
contexts:
- name: agent
  context:
    cluster: cluster
    user: agent
current-context: agent
users:
- name: agent
  user:
    token: abc
""")
    monkeypatch.setenv("KUBECONFIG", str(config))
    server, agent = pair()
    node = kubelet()
    watch = 'node_name = "localhost"\nexperimental { api_server { watch { enabled = true } } }'
    # Only an event can wake anybody in time.
    use_k8s(agent, node, watch + '\npoll_retry_interval = "10m"').start(server.token())
    spiffe_id = registered(server, agent)
    group = groups(uid, own)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(fetch(agent, group)))
    waiting.start()
    assert watching.wait(60), "nobody watches"
    has_svid(agent, spiffe_id)
    known.set()
    waiting.join(80)
    api.close()
    assert answers and answers[0][0] == [spiffe_id], answers
    assert node.lists == 0


def test_a_kubelet_that_is_away_costs_the_others_nothing(pair, kubelet, groups):
    uid, own = str(uuid.uuid4()), container("1")
    server, agent = pair()
    node = kubelet()
    node.close()
    text = use_k8s(agent, node, "max_poll_attempts = 2").config.read_text()
    k8s = 'WorkloadAttestor "k8s"'
    agent.config.write_text(text.replace(k8s, f'WorkloadAttestor "unix" {{}}\n{k8s}'))
    agent.start(server.token())
    server.entry("/root", agent.id(), f"unix:uid:{os.getuid()}")
    group = groups(uid, own)
    wait_until(lambda: fetch(agent, group)[0] == ["spiffe://example.org/root"], "the identity by the other attestor")
    log = agent.daemon.log.read_text()
    assert "Unable to get pod list; giving up" in log
    assert re.search(r'workload attestor \\?"k8s\\?" failed', log)


def test_the_daemon_sets_configuration_is_valid(tmp_path):
    manifest = (HERE.parent / "conf/kubernetes/agent.yaml").read_text()
    text = manifest.split("agent.conf: |\n", 1)[1].split("\n---", 1)[0]
    token, config = tmp_path / "token", tmp_path / "agent.conf"
    token.write_text("abc")
    config.write_text(textwrap.dedent(text).replace("/run/spire/token/token", str(token)))
    command = [binaries() / "spire-agent", "validate", "-config", config]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr + result.stdout
