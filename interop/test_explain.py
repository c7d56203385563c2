"""`spire-agent explain` and `spire-server entry explain`, with whole programs."""

import json
import os
import subprocess

import pytest
from harness import wait_until


def with_admin(agent, extra=""):
    """Gives the agent an admin socket."""
    admin = agent.folder / "private" / "admin.sock"
    text = agent.config.read_text()
    agent.config.write_text(text.replace("agent {", f'agent {{\n    admin_socket_path = "{admin}"\n    {extra}', 1))
    return admin


def explain(agent, socket, *flags, check=True):
    command = [agent.bins / "spire-agent", "explain", "-socketPath", socket, *flags]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    if check and result.returncode:
        raise AssertionError(result.stderr)
    return result


def told(agent, socket, *flags):
    return json.loads(explain(agent, socket, "-output", "json", *flags).stdout)


@pytest.fixture
def domain(pair):
    server, agent = pair()
    socket = with_admin(agent, 'log_selectors = ["unix:uid"]')
    agent.start(server.token())
    return server, agent, socket


@pytest.fixture
def process():
    child = subprocess.Popen(["sleep", "600"])
    yield str(child.pid)
    child.kill()
    child.wait()


def test_a_process_learns_what_it_lacks_and_then_what_it_has(domain, process):
    server, agent, socket = domain
    uid = os.getuid()
    none = told(agent, socket, "-pid", process)
    assert "is authorized for no entry at all" in none["verdict"], none
    assert none["attestors"][0]["name"] == "unix" and not none["attestors"][0]["error"]
    assert f"unix:uid:{uid}" in none["selectors"] and "unix:path:…" in none["selectors"]

    near = server.entry("/near", agent.id(), f"unix:uid:{uid}", "unix:user:nobody-at-all")
    wait_until(lambda: told(agent, socket, "-pid", process)["near_misses"], "the entry to reach the agent")
    text = explain(agent, socket, "-pid", process).stdout
    assert text.startswith("No identity: no entry matches. The nearest one, of spiffe://example.org/near, also wants")
    assert "unix:user:nobody-at-all" not in text, "the log may not show it, so this does not either"
    [miss] = told(agent, socket, "-pid", process, "-showSelectors")["near_misses"]
    assert miss["entry_id"] == near and miss["missing"] == ["unix:user:nobody-at-all"]
    assert [it.split(":")[1] for it in miss["instead"]] == ["user"]

    server.entry("/web", agent.id(), f"unix:uid:{uid}", options=["-hint", "db"])
    wait_until(lambda: told(agent, socket, "-pid", process)["entries"], "the second entry")
    served = wait_until(
        lambda: (it := told(agent, socket, "-pid", process))["entries"][0]["state"] == "served" and it, "its SVID"
    )
    assert served["verdict"] == "One identity: spiffe://example.org/web."
    [entry] = served["entries"]
    assert int(entry["x509_svid_renews_at"]) < int(entry["x509_svid_expires_at"])
    assert served["agent"]["spiffe_id"] == agent.id() and served["agent"]["entries"] == 2
    assert int(served["sync"]["last_success"]) > 0 and served["sync"]["mode"] in ("push", "poll")


def test_hints_stores_and_missing_bundles_are_told(domain, process):
    server, agent, socket = domain
    selector = f"unix:uid:{os.getuid()}"
    # Two entries made in one second share the time of their creation; then the lower ID is the older.
    for entry_id in ["a-elder", "b-younger"]:
        server.entry(f"/{entry_id}", agent.id(), selector, options=["-entryID", entry_id, "-hint", "db"])
    server.entry("/stored", agent.id(), selector, options=["-entryID", "c-stored", "-storeSVID"])
    both = wait_until(
        lambda: (it := told(agent, socket, "-pid", process))["entries"][2:] and it["entries"][0]["state"] == "served"
        and it["entries"][1]["state"] == "hidden" and it,
        "all three",
    )
    assert [entry["state"] for entry in both["entries"]] == ["served", "hidden", "stored"]
    assert any("entry b-younger is left out" in finding for finding in both["findings"])


def test_selectors_alone_and_wrong_questions(domain):
    server, agent, socket = domain
    server.entry("/web", agent.id(), "unix:uid:4242", "unix:gid:4242")
    ask = ["-selector", "unix:uid:4242"]
    wait_until(lambda: told(agent, socket, *ask)["near_misses"], "the entry")
    assert told(agent, socket, *ask, "-selector", "unix:gid:4242")["entries"][0]["spiffe_id"].endswith("/web")
    for flags, text in [
        ([], "exactly one of -pid, -container and -selector is required"),
        (["-pid", "1", *ask], "exactly one of"),
        (["-pid", "99999999"], "cannot be attested"),
        (["-container", "xyz"], "at least the first 12 characters"),
        (["-container", "0123456789ab"], "no process of this container is found"),
    ]:
        wrong = explain(agent, socket, *flags, check=False)
        assert wrong.returncode == 1 and text in wrong.stderr, (flags, wrong.stderr)


def test_an_agent_whose_server_is_away_says_so(domain, process):
    server, agent, socket = domain
    server.daemon.kill()
    findings = wait_until(
        lambda: [it for it in told(agent, socket, "-pid", process)["findings"] if "last sync failed" in it],
        "the agent to notice",
    )
    assert "what is told here is" in findings[0]


def test_without_an_admin_socket_it_is_said_what_to_do(pair, tmp_path):
    _, agent = pair()
    wrong = explain(agent, tmp_path / "none.sock", "-pid", "1", check=False)
    assert wrong.returncode == 1 and "set admin_socket_path in the agent's configuration" in wrong.stderr
    agent.start(agent.server.token())
    wrong = explain(agent, agent.socket, "-pid", "1", check=False)
    assert wrong.returncode == 1 and "it is not the admin socket of a Steeple agent" in wrong.stderr


def entry_explain(server, *flags):
    return server.json("entry", "explain", *flags)["explanations"]


def test_the_server_tells_the_way_from_an_entry_to_its_agents(pair, tmp_path):
    server, agent = pair(extra="experimental { agent_spiffe_id_as_selector = true }")
    agent.start(server.token())
    agent_id = agent.id()
    node = ["entry", "create", "-node", "-selector", f"spiffe_id:{agent_id}", "-spiffeID"]
    alias = server.json(*node, "spiffe://example.org/rack/one")["results"][0]["entry"]["id"]
    web = server.entry("/web", "spiffe://example.org/rack/one", "unix:uid:1")
    below = server.entry("/below", "spiffe://example.org/web", "unix:uid:2", options=["-x509SVIDTTL", "600"])
    [it] = entry_explain(server, "-entryID", below)
    assert it["verdict"] == "1 agent gives it to workloads with all its selectors."
    assert [(step["depth"], step["kind"]) for step in it["chain"]] == [(1, "entry"), (2, "alias")]
    assert [a["spiffe_id"] for a in it["agents"]] == [agent_id]
    assert it["agents"][0]["via"] == "spiffe://example.org/rack/one" and it["agents"][0]["authorized"]
    assert it["x509_svid"]["seconds"] == "600" and it["x509_svid"]["reason"] == "the entry's own TTL"
    assert it["jwt_svid"]["reason"].startswith("the server's default TTL")
    [covered] = entry_explain(server, "-entryID", alias)
    assert covered["verdict"] == "It is an alias: 1 agent has all its selectors."

    orphan = server.entry("/orphan", "spiffe://example.org/nobody", "unix:uid:1", "unix:gid:1")
    text = server.cli("entry", "explain", "-entryID", orphan).stdout
    assert text.startswith("Nobody gets it: its parent spiffe://example.org/nobody is neither an attested agent")
    # The agent shows one selector of two.
    server.json(*node, "spiffe://example.org/wide", "-selector", "spiffe_id:none")
    under = server.entry("/under", "spiffe://example.org/wide", "unix:uid:1")
    [it] = entry_explain(server, "-entryID", under, "-agent", agent_id)
    assert it["verdict"].startswith(f"Agent {agent_id} does not get it: for the alias spiffe://example.org/wide it lacks")
    [it] = entry_explain(server, "-spiffeID", "spiffe://example.org/web", "-selector", "unix:uid:7")
    assert it["verdict"] == "A workload with these selectors does not get it: it lacks unix:uid:1."
    assert it["entry"]["id"] == web

    server.cli("agent", "ban", "-spiffeID", agent_id)
    [it] = entry_explain(server, "-entryID", web)
    assert "banned or expired" in it["verdict"], it
    for flags, text in [
        ([], "either -entryID or -spiffeID is required"),
        (["-entryID", "nothing"], "entry not found"),
        (["-spiffeID", "x"], "error parsing -spiffeID"),
        (["-entryID", web, "-agent", "spiffe://other.org/a"], "is not a member of trust domain"),
    ]:
        wrong = server.cli("entry", "explain", *flags, check=False)
        assert wrong.returncode == 1 and text in wrong.stderr, (flags, wrong.stderr)


def test_spires_server_is_told_apart(pair, spire):
    server, agent = pair(server_bins=spire)
    parent = "spiffe://example.org/a"
    entry = server.entry("/web", parent, "unix:uid:1")
    wrong = server.cli("entry", "explain", "-entryID", entry, bins=agent.bins, check=False)
    assert wrong.returncode == 1 and "it is no Steeple server" in wrong.stderr
