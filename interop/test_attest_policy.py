"""Which nodes are let in (`attestation_policy`), several proofs for one agent (`composite`), and why a node was not
let in (`spire-server agent explain`): ours, with real attestors."""

import subprocess

import netns
import pytest
from attestation import agents
from harness import Agent, Daemon, Server, binaries, wait_until
from test_attest_x509pop import KEYS, Pki

REALM = "spiffe://example.org"
NOT_ADMITTED = "failed to attest: node does not satisfy the attestation policy"
MISSING = netns.missing()
alone_with_its_hosts = pytest.mark.skipif(bool(MISSING), reason=f"skipped: {MISSING}")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    pki = Pki(tmp_path_factory.mktemp("pki") / "pki")
    for name in ("web-1", "web-2", "db-1"):
        pki.machine(name, KEYS["p256"])
    return pki


def refused(agent, why, token=None):
    """Starts an agent that must not get in, and gives what it says of that. Some refusals it takes as final."""
    log = agent.folder / "agent.log"
    said = lambda: log.read_text().replace("\\", "") if log.exists() else ""  # noqa: E731
    agent.start(token, wait=False)
    wait_until(lambda: why in said(), f"the agent to be refused for: {why}; see {log}")
    agent.stop()
    return said()


class Here(Server):
    """A server that knows this machine by the name `node.test`, in its own eyes alone."""

    def start(self, wait=True):
        table = self.folder / "hosts"
        table.write_text("127.0.0.1 localhost\n127.0.0.1 node.test\n")
        script = f'mount --bind "{table}" /etc/hosts && exec "$@"'
        self.daemon = Daemon(["unshare", "--mount", "sh", "-c", script, "sh", self.bins / "spire-server", "run",
                              "-config", self.config], self.folder / "server.log")
        self.wait()
        return self


def explain(server, *flags):
    return server.json("agent", "explain", *flags)


POLICY = """attestation_policy {
        rule "web servers" {
            attestors = ["x509pop"]
            all = ["x509pop:subject:cn:web-*", "x509pop:ca:fingerprint:*"]
            none = ["x509pop:subject:cn:web-2"]
        }
        rule "everybody" { any = ["x509pop:*", "spiffe_id:*/join_token/*"] }
    }"""


def test_only_nodes_that_satisfy_every_rule_are_let_in_and_the_others_are_told_little(tmp_path, keep, pki):
    server = keep(Server(tmp_path / "server", extra=POLICY, plugins=pki.trust())).start()
    good = keep(Agent(tmp_path / "web-1", server, attestor=pki.attestor("web-1"))).start()
    by_token = keep(Agent(tmp_path / "token", server)).start(server.token())
    assert good.daemon.alive() and by_token.daemon.alive()
    assert set(agents(server)) >= {pki.path("web-1")} and len(agents(server)) == 2
    for name, rule in (
        ("db-1", 'rule "web servers" wants a selector "x509pop:subject:cn:web-*" (all), which the node lacks'),
        ("web-2", 'rule "web servers" wants no selector "x509pop:subject:cn:web-2" (none), and the node has '
                  '"x509pop:subject:cn:web-2"'),
    ):
        said = refused(keep(Agent(tmp_path / name, server, attestor=pki.attestor(name))), NOT_ADMITTED)
        assert "PermissionDenied" in said
        assert "web servers" not in said
        log = (server.folder / "server.log").read_text()
        assert "Node does not satisfy the attestation policy" in log
        found = explain(server, "-spiffeID", REALM + pki.path(name))
        assert found["verdict"] == f"{REALM}{pki.path(name)} is not attested; it was refused: {rule}."
        last = found["refusals"][0]
        assert (last["rule"], last["reason"], last["address"]) == ("web servers", rule, "127.0.0.1")
        assert sorted(last["selectors"]) == pki.selectors(name)
    assert pki.path("db-1") not in agents(server)
    text = server.cli("agent", "explain", "-attestor", "x509pop").stdout
    assert text.startswith("The last refusal that fits was at ")
    assert "would be: " + REALM + pki.path("db-1") in text
    known = explain(server, "-spiffeID", REALM + pki.path("web-1"))["agent"]
    assert (known["state"], known["attestation_type"], known["can_reattest"]) == ("active", "x509pop", True)
    assert known["serial_number"] and sorted(known["selectors"]) == pki.selectors("web-1")
    assert known.get("policy_violation", "") == ""


def test_a_refused_join_token_is_not_spent_and_never_shown(tmp_path, keep):
    folder = tmp_path / "server"
    strict = 'attestation_policy { default = "refuse" }'
    server = keep(Server(folder, extra=strict)).start()
    token = server.token()
    agent = keep(Agent(tmp_path / "agent", server))
    refused(agent, NOT_ADMITTED, token)
    found = explain(server)
    assert found["refusals"][0]["reason"].startswith('no rule speaks of node attestor "join_token"')
    assert found["refusals"][0]["agent_id"] == f"{REALM}/spire/agent/join_token/***"
    assert token not in server.cli("agent", "explain").stdout
    assert token not in (folder / "server.log").read_text().split("Node does not satisfy")[-1]
    server.stop()
    lenient = Server(folder, port=server.port)
    keep(lenient).start()
    agent.start(token)
    assert list(agents(lenient)) == [f"/spire/agent/join_token/{token}"]


@pytest.mark.parametrize("policy, complaint", [
    ("", "attestation_policy has no rule and refuses nobody"),
    ('default = "deny"', 'default must be "admit" or "refuse", not "deny"'),
    ('rule "r" {}', "the rule asks for nothing: one of all, any and none is needed"),
    ('rule "r" { all = ["x509pop"] }', 'selector pattern "x509pop" must be formatted as type:value'),
    ('rule "r" { any = [] }', "the list is empty"),
    ('rule "r" { attestors = ["x509pop"] all = ["a:b"] }', 'node attestor "x509pop" is not configured'),
    ('rule "r" { every = ["a:b"] }', "every"),
])
def test_what_is_wrong_with_a_policy_is_said_with_file_line_and_key(tmp_path, policy, complaint):
    server = Server(tmp_path / "server", extra=f"attestation_policy {{\n        {policy}\n    }}")
    said = subprocess.run([binaries() / "spire-server", "validate", "-config", server.config],
                          capture_output=True, text=True, check=False)
    assert said.returncode != 0
    shown = said.stdout + said.stderr
    assert complaint in shown
    assert "server.conf" in shown and "attestation_policy" in shown


class Composite:
    """An x509pop certificate and an HTTP answer at this host, both for one agent."""

    def __init__(self, pki, allow_alone="[]", first="x509pop", second="http_challenge"):
        self.pki, self.order = pki, f'["{first}", "{second}"]'
        self.server = f"""{pki.trust()}
    NodeAttestor "http_challenge" {{ plugin_data {{ tofu = true }} }}
    NodeAttestor "composite" {{ plugin_data {{ attestors = {self.order}\n allow_alone = {allow_alone} }} }}"""

    def agent(self, name, order=None):
        return f"""{self.pki.attestor(name)}
    {HTTP}
    NodeAttestor "composite" {{ plugin_data {{ attestors = {order or self.order} }} }}"""


HTTP = 'NodeAttestor "http_challenge" { plugin_data { hostname = "node.test" } }'


@alone_with_its_hosts
def test_an_agent_with_both_proofs_gets_the_firsts_id_and_the_selectors_of_both(tmp_path, keep, pki):
    composite = Composite(pki)
    server = keep(Here(tmp_path / "server", plugins=composite.server)).start()
    agent = keep(Agent(tmp_path / "agent", server, attestor=composite.agent("web-1"))).start()
    selectors = sorted(pki.selectors("web-1") + [
        "composite:attestor:http_challenge", "composite:attestor:x509pop", "http_challenge:hostname:node.test",
        f"composite:agent_id:{REALM}/spire/agent/http_challenge/node.test", "composite:once:http_challenge",
    ])
    assert agents(server) == {pki.path("web-1"): (selectors, False)}
    server.entry("/work", agent.id(), "unix:uid:0")
    wait_until(lambda: agent.ids() == [f"{REALM}/work"], "the workload's identity")
    known = explain(server, "-spiffeID", agent.id())
    assert sorted(known["agent"]["parts"]) == ["http_challenge", "x509pop"]
    assert (known["agent"]["attestation_type"], known["agent"]["entries"]) == ("composite", 1)
    text = server.cli("agent", "explain", "-spiffeID", agent.id()).stdout
    assert "is attested by composite and in good standing." in text and "counts once" in text
    # The host's answer counted once: another machine's certificate does not make it count again.
    refused(keep(Agent(tmp_path / "other", server, attestor=composite.agent("web-2"))),
            "failed to attest: the evidence of a part has already been used by another agent")
    assert list(agents(server)) == [pki.path("web-1")]


@alone_with_its_hosts
def test_one_half_alone_the_halves_swapped_and_half_an_answer_are_refused(tmp_path, keep, pki):
    composite = Composite(pki)
    server = keep(Here(tmp_path / "server", plugins=composite.server)).start()
    for name, attestor, why in (
        ("x509pop", pki.attestor("web-1"), 'node attestor "x509pop" is accepted only as part of a composite'),
        ("http", HTTP, 'node attestor "http_challenge" is accepted only as part of a composite'),
        ("swapped", composite.agent("web-1", '["http_challenge", "x509pop"]'),
         "evidence must be of x509pop and http_challenge in this order"),
    ):
        refused(keep(Agent(tmp_path / name, server, attestor=attestor)), why)
    assert agents(server) == {}
    assert len(explain(server)["refusals"]) == 3
    findings = explain(server, "-attestor", "x509pop")["findings"]
    assert any("allow_alone" in it for it in findings)


@alone_with_its_hosts
def test_a_half_may_be_used_alone_where_the_operator_says_so(tmp_path, keep, pki):
    composite = Composite(pki, allow_alone='["x509pop"]')
    server = keep(Here(tmp_path / "server", plugins=composite.server)).start()
    keep(Agent(tmp_path / "agent", server, attestor=pki.attestor("web-1"))).start()
    assert agents(server) == {pki.path("web-1"): (pki.selectors("web-1"), True)}


@alone_with_its_hosts
def test_a_half_that_counted_in_a_composite_does_not_count_again_alone(tmp_path, keep, pki):
    composite = Composite(pki, allow_alone='["http_challenge"]')
    server = keep(Here(tmp_path / "server", plugins=composite.server)).start()
    keep(Agent(tmp_path / "both", server, attestor=composite.agent("web-1"))).start()
    refused(keep(Agent(tmp_path / "half", server, attestor=HTTP)), "has already been used to attest an agent")
    assert list(agents(server)) == [pki.path("web-1")]


@alone_with_its_hosts
def test_a_policy_looks_at_all_that_a_composite_proves(tmp_path, keep, pki):
    composite = Composite(pki)
    policy = """attestation_policy { rule "both" { attestors = ["x509pop"]
        all = ["x509pop:subject:cn:web-*", "http_challenge:hostname:node.test"] } }"""
    server = keep(Here(tmp_path / "server", extra=policy, plugins=composite.server)).start()
    refused(keep(Agent(tmp_path / "db", server, attestor=composite.agent("db-1"))), NOT_ADMITTED)
    keep(Agent(tmp_path / "web", server, attestor=composite.agent("web-1"))).start()
    assert list(agents(server)) == [pki.path("web-1")]


def test_what_is_wrong_with_a_composite_stops_the_start(tmp_path, keep, pki):
    for name, plugins, why in (
        ("missing", 'NodeAttestor "composite" { plugin_data { attestors = ["x509pop", "http_challenge"] } }',
         'node attestor "x509pop" is a part, and is not configured'),
        ("token", 'NodeAttestor "composite" { plugin_data { attestors = ["join_token", "x509pop"] } }',
         "join_token cannot be a part"),
    ):
        server = keep(Server(tmp_path / name, plugins=plugins))
        said = subprocess.run([binaries() / "spire-server", "validate", "-config", server.config],
                              capture_output=True, text=True, check=False)
        assert said.returncode != 0 and why in (said.stdout + said.stderr).replace("\\", "")
        server.start(wait=False)
        wait_until(lambda: not server.daemon.alive(), "the server to give up")
        assert why in (server.folder / "server.log").read_text().replace("\\", "")


def test_bans_unknown_and_expired_tokens_are_explained(tmp_path, keep):
    server = keep(Server(tmp_path / "server")).start()
    agent = keep(Agent(tmp_path / "agent", server)).start(server.token())
    identity = agent.id()
    server.cli("agent", "ban", "-spiffeID", identity)
    found = explain(server, "-spiffeID", identity)
    assert found["verdict"] == f"{identity} is banned." and found["agent"]["state"] == "banned"
    assert "agent evict" in found["findings"][0]
    stranger = keep(Agent(tmp_path / "stranger", server))
    refused(stranger, "join token does not exist or has already been used", "no-such-token")
    found = explain(server, "-address", "127.0.0.1", "-attestor", "join_token")
    assert "does not exist or has already been used" in found["refusals"][0]["reason"]
    assert "no-such-token" not in str(found)
    nobody = explain(server, "-spiffeID", f"{REALM}/spire/agent/x509pop/nobody")
    assert "agent" not in nobody or nobody["agent"] is None
    assert nobody["verdict"].endswith("is not attested, and no refusal of it is remembered.")
    wrong = server.cli("agent", "explain", "-spiffeID", "not-an-id", check=False)
    assert wrong.returncode != 0 and "error parsing -spiffeID" in wrong.stderr
