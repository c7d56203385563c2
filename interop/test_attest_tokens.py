"""Join tokens that survive a reboot: several nodes, expiry, addresses, selectors, revocation; beside SPIRE on one database."""

import json
import shutil
import sqlite3

import netns
import pytest
from harness import Agent, Server, spire_binaries

MISSING = netns.missing()
JOINED = "spiffe://example.org/spire/agent/join_token/"
needs_spire = pytest.mark.skipif(spire_binaries() is None, reason="SPIRE_BIN_DIR not set")


def create(server, *flags):
    made = server.json("token", "create", "-ttl", "3600", *flags)
    return made["value"], made["token"]["id"]


def attested(server):
    return {f"spiffe://{it['id']['trust_domain']}{it['id']['path']}": it for it in server.json("agent", "list")["agents"]}


def known(server, ident):
    return next(it for it in server.json("token", "list")["tokens"] if it["id"] == ident)


def reboot(agent, keeps=()):
    """Its disk is as new, but for these files."""
    assert agent.stop() == 0
    kept = {name: (agent.folder / "data" / name).read_bytes() for name in keeps}
    shutil.rmtree(agent.folder / "data")
    (agent.folder / "data").mkdir()
    for name, content in kept.items():
        (agent.folder / "data" / name).write_bytes(content)


def refused(agent, token, *words):
    agent.start(token, wait=False)
    try:
        assert agent.daemon.process.wait(timeout=60) == 1
    finally:
        agent.daemon.kill()
    said = (agent.folder / "agent.log").read_text()
    for word in words:
        assert word in said, said


def passes(server, column):
    """Lets a time of all tokens be over, however slow the machine is."""
    with sqlite3.connect(server.database, timeout=20) as database:
        database.execute(f"update steeple_join_tokens set {column} = 1")


@pytest.fixture
def server(tmp_path, keep):
    return keep(Server(tmp_path / "server", extra="ratelimit { attestation = false }")).start()


def test_nodes_join_by_one_token_and_come_back_as_who_they_were(tmp_path, server, keep):
    token, ident = create(server, "-uses", "2", "-selector", "rack:7", "-selector", "env:test:a", "-description", "rack 7")
    agents = [keep(Agent(tmp_path / name, server)) for name in ("one", "two", "three")]
    for it in agents[:2]:
        it.start(token)
    found = attested(server)
    assert len(found) == 2 and all(it.startswith(f"{JOINED}{ident}/") for it in found)
    assert all(it["can_reattest"] and it["attestation_type"] == "join_token" for it in found.values())
    for agent_id in found:
        shown = server.json("agent", "show", "-spiffeID", agent_id)["selectors"]
        assert shown == [
            {"type": "env", "value": "test:a"}, {"type": "join_token", "value": f"id:{ident}"}, {"type": "rack", "value": "7"}
        ]
    refused(agents[2], token, "join token does not let more nodes join")

    for it in agents[:2]:
        reboot(it, ["join-token-node"])
        it.start(token)
    assert set(attested(server)) == set(found)
    listed = known(server, ident)
    assert (listed["uses"], listed["max_uses"], listed["description"]) == (2, 2, "rack 7")

    # A disk without what the node is known by is another node, and there is no room for one.
    reboot(agents[0])
    refused(agents[0], token, "join token does not let more nodes join")
    server.cli("token", "revoke", "-id", ident)
    reboot(agents[1], ["join-token-node"])
    refused(agents[1], token, "join token does not exist or has already been used")
    assert "token not found" in server.cli("token", "revoke", "-id", ident, check=False).stderr
    assert server.json("token", "list")["tokens"] == []


def test_the_database_and_the_logs_do_not_give_a_token_away(tmp_path, server, keep):
    token, ident = create(server)
    agent = keep(Agent(tmp_path / "agent", server)).start(token)
    node = (agent.folder / "data" / "join-token-node").read_text()
    assert agent.stop() == 0 and server.stop() == 0
    secret = token.split("_", 2)[2]
    for file in [*server.folder.rglob("*"), *agent.folder.rglob("*.log")]:
        if file.is_file():
            content = file.read_bytes()
            assert secret.encode() not in content and node.encode() not in content, file
    with sqlite3.connect(server.database) as database:
        [row] = database.execute("select token_id, digest from steeple_join_tokens").fetchall()
    assert row[0] == ident and len(row[1]) == 64


def test_a_token_ends_first_for_new_nodes_and_then_for_all(tmp_path, server, keep):
    token, ident = create(server, "-joinTTL", "1800", "-uses", "9")
    listed = known(server, ident)
    assert int(listed["expires_at"]) - int(listed["joins_until"]) == 1800
    early = keep(Agent(tmp_path / "early", server)).start(token)
    passes(server, "join_expiry")
    refused(Agent(tmp_path / "late", server), token, "join token expired")
    reboot(early, ["join-token-node"])
    early.start(token)
    assert known(server, ident)["uses"] == 1
    passes(server, "expiry")
    reboot(early, ["join-token-node"])
    refused(early, token, "join token expired")


@pytest.mark.skipif(bool(MISSING), reason=f"skipped: {MISSING}")
def test_a_token_for_a_network_lets_nobody_in_from_elsewhere(tmp_path, keep):
    net = netns.Network()
    try:
        server = keep(Server(tmp_path / "server", address=net.addresses[0])).start()
        there = net.addresses[0].rsplit(".", 1)[0] + ".100/32"
        token, ident = create(server, "-uses", "5", "-cidr", there, "-cidr", "2001:db8::/32")
        refused(Agent(tmp_path / "near", server), token, "join token may not be used from this address")
        far = keep(Agent(tmp_path / "far", server))
        far.prefix = net.prefix
        far.start(token)
        assert known(server, ident)["uses"] == 1
    finally:
        net.close()


def test_flags_that_make_no_sense_are_refused(server):
    for flags, words in [
        (["-ttl", "0"], "ttl is required, you must provide one"),
        (["-ttl", "5", "-joinTTL", "6"], "nodes cannot join for longer than the token lives"),
        (["-uses", "0"], "invalid value for uses: 0"),
        (["-uses", "2000000"], "too many uses (max 1000000)"),
        (["-cidr", "10.0.0.0"], "failed to parse CIDR 1: invalid CIDR address"),
        (["-selector", "a"], 'selector "a" must be formatted as type:value'),
        (["-selector", "join_token:id:x"], "selectors of type join_token are not a token's to give"),
        (["-selector", "spiffe_id:x"], "selectors of type spiffe_id are not a token's to give"),
        (["-selector", "composite:x"], "selectors of type composite are not a token's to give"),
        (["-description", "x" * 201], "description is too long"),
    ]:
        done = server.cli("token", "create", *flags, check=False)
        assert done.returncode == 1 and words in done.stderr, (flags, done.stderr)
    assert server.cli("token", "revoke", check=False).stderr == "Error: a token ID is required\n"
    assert server.cli("token", "list").stdout == "Found 0 join tokens\n"
    server.cli("token", "create", "-cidr", "10.1.2.3/8", "-selector", "rack:7")
    text = server.cli("token", "list").stdout
    assert text.startswith("Found 1 join token\n") and "10.0.0.0/8" in text and "rack:7" in text, text
    # SPIRE's tokens are as they were, and cannot pass for ours.
    assert server.cli("token", "generate", "-spiffeID", "spiffe://example.org/x").stdout.startswith("Token: ")


@needs_spire
def test_agents_of_spires_join_once_for_each_use_or_by_a_name_of_the_operators(tmp_path, server, keep):
    token, ident = create(server, "-uses", "2")
    agent = keep(Agent(tmp_path / "agent", server, bins=spire_binaries())).start(token)
    [first] = attested(server)
    assert not attested(server)[first]["can_reattest"]
    reboot(agent)
    agent.start(token)
    assert len(attested(server)) == 2 and known(server, ident)["uses"] == 2
    reboot(agent)
    refused(agent, token, "join token does not let more nodes join")

    token, ident = create(server)
    named = f"{token}.web-1-of-rack-seven"
    for _ in range(2):
        agent.start(named)
        assert agent.stop() == 0
        shutil.rmtree(agent.folder / "data")
        (agent.folder / "data").mkdir()
    assert known(server, ident)["uses"] == 1
    assert sum(it.startswith(f"{JOINED}{ident}/") for it in attested(server)) == 1


@needs_spire
def test_spires_server_runs_on_a_database_with_such_tokens(tmp_path, keep):
    ours = keep(Server(tmp_path / "server", extra="ratelimit { attestation = false }")).start()
    token, ident = create(ours, "-uses", "2")
    agent = keep(Agent(tmp_path / "agent", ours)).start(token)
    [joined] = attested(ours)
    agent.stop()
    assert ours.stop() == 0
    theirs = keep(Server(tmp_path / "server", bins=spire_binaries(), port=ours.port)).start()
    assert list(attested(theirs)) == [joined]
    assert json.loads(theirs.cli("agent", "show", "-spiffeID", joined, "-output", "json").stdout)["can_reattest"]
    theirs.cli("token", "generate", "-ttl", "60")
    agent.start()
    agent.stop()
    assert theirs.stop() == 0
    again = keep(Server(tmp_path / "server", port=ours.port)).start()
    assert known(again, ident)["uses"] == 1
    reboot(agent.start(), ["join-token-node"])
    agent.start(token)
    assert list(attested(again)) == [joined]
