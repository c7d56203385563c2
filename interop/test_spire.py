"""SPIRE's own binaries beside ours: mixed pairs, shared files, the same answers."""

import json
import os
import re
import sqlite3

import pytest
from harness import Server, binaries, spire_binaries, wait_until

REALM = "spiffe://example.org"


def identity_flows(server, agent):
    """Attest, create an entry, and see the identity arrive and go again."""
    agent.start(server.token())
    entry = server.entry("/mixed", agent.id(), f"unix:uid:{uid()}")
    wait_until(lambda: agent.ids() == [f"{REALM}/mixed"], "the identity")
    token = json.loads(agent.cli("api", "fetch", "jwt", "-audience", "a", "-output", "json").stdout)
    svid = token[0]["svids"][0]["svid"]
    assert "SVID is valid." in agent.cli("api", "validate", "jwt", "-audience", "a", "-svid", svid).stdout
    server.cli("entry", "delete", "-entryID", entry)
    wait_until(lambda: agent.ids() == [], "the identity to go")


def uid():
    return os.getuid()


def test_their_agent_on_our_server(pair, spire):
    identity_flows(*pair(agent_bins=spire))


def test_our_agent_on_their_server(pair, spire):
    identity_flows(*pair(server_bins=spire))


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_a_server_is_replaced_in_place(first, pair, spire, tmp_path):
    """Same database, keys and sockets; the CA goes on, the agents go on."""
    order = [spire, binaries()] if first == "theirs" else [binaries(), spire]
    server, agent = pair(server_bins=order[0])
    agent.start(server.token())
    selector = f"unix:uid:{uid()}"
    server.entry("/before", agent.id(), selector, options=["-dns", "x.example.org", "-hint", "h"])
    wait_until(lambda: agent.ids() == [f"{REALM}/before"], "the identity")
    bundle = server.json("bundle", "show")
    entries = server.json("entry", "show")
    assert server.stop() == 0
    server.bins = order[1]
    server.start()
    assert server.json("entry", "show") == entries
    after = server.json("bundle", "show")
    assert after["x509_authorities"] == bundle["x509_authorities"], "a second CA was made"
    assert after["jwt_authorities"] == bundle["jwt_authorities"]
    server.entry("/after", agent.id(), selector)
    wait_until(lambda: agent.ids() == [f"{REALM}/after", f"{REALM}/before"], "the new identity")
    assert server.stop() == 0
    server.bins = order[0]
    server.start()
    server.entry("/again", agent.id(), selector)
    wait_until(lambda: f"{REALM}/again" in agent.ids(), "an identity after going back")
    assert server.json("bundle", "show")["x509_authorities"] == bundle["x509_authorities"]


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_an_agent_is_replaced_in_place(first, pair, spire):
    """agent-data.json and the agent's keys.json: no new attestation."""
    order = [spire, binaries()] if first == "theirs" else [binaries(), spire]
    server, agent = pair(agent_bins=order[0])
    agent.start(server.token())
    identity = agent.id()
    server.entry("/kept", identity, f"unix:uid:{uid()}")
    for bins in [order[1], order[0]]:
        agent.stop()
        agent.bins = bins
        agent.start()
        wait_until(lambda: agent.ids() == [f"{REALM}/kept"], "the identity")
        assert agent.id() == identity


def test_both_servers_on_one_database(pair, spire, tmp_path):
    """Either follows what the other writes while both are running."""
    ours, agent = pair()
    agent.start(ours.token())
    theirs = Server(tmp_path / "theirs", bins=spire)
    text = theirs.config.read_text().replace(str(theirs.database), str(ours.database))
    theirs.config.write_text(text)
    theirs.start()
    try:
        selector = f"unix:uid:{uid()}"
        entry = theirs.entry("/by-theirs", agent.id(), selector)
        wait_until(lambda: f"{REALM}/by-theirs" in agent.ids(), "their entry on our server")
        theirs.cli("entry", "delete", "-entryID", entry)
        wait_until(lambda: agent.ids() == [], "their deletion on our server")
        ours.entry("/by-ours", agent.id(), selector)
        assert f"{REALM}/by-ours" in theirs.cli("entry", "show").stdout
        assert len(ours.json("bundle", "show")["x509_authorities"]) == 2
    finally:
        theirs.stop()


def test_the_schema_is_theirs(pair, spire):
    def schema(database):
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            rows = connection.execute(
                "select type, name, tbl_name, sql from sqlite_master where name not like 'sqlite_%' order by type, name"
            )
            return [(kind, name, table, " ".join((sql or "").split())) for kind, name, table, sql in rows]

    ours, _ = pair()
    theirs, _ = pair(server_bins=spire)
    assert schema(ours.database) == schema(theirs.database)


VERBS = [
    ["entry", "show"],
    ["entry", "show", "-output", "json"],
    ["entry", "count"],
    ["entry", "show", "-entryID", "none"],
    ["entry", "create", "-parentID", "x", "-spiffeID", "y", "-selector", "a:b"],
    ["entry", "create", "-parentID", f"{REALM}/p", "-spiffeID", "spiffe://other/w", "-selector", "a:b"],
    ["entry", "create", "-parentID", f"{REALM}/p", "-spiffeID", f"{REALM}/spire/x", "-selector", "a:b"],
    ["entry", "create", "-parentID", f"{REALM}/p", "-spiffeID", f"{REALM}/w", "-selector", "a:"],
    ["entry", "create", "-parentID", f"{REALM}/p", "-spiffeID", f"{REALM}/w", "-selector", "a:b", "-dns", "-"],
    ["entry", "create", "-parentID", f"{REALM}/p", "-spiffeID", f"{REALM}/w", "-selector", "a:b",
     "-federatesWith", "nowhere.org"],
    ["entry", "delete", "-entryID", "none"],
    ["entry", "update", "-entryID", "none", "-parentID", f"{REALM}/p", "-spiffeID", f"{REALM}/w", "-selector", "a:b"],
    ["agent", "list"],
    ["agent", "show", "-spiffeID", f"{REALM}/spire/agent/none"],
    ["agent", "ban", "-spiffeID", f"{REALM}/spire/agent/none"],
    ["agent", "evict", "-spiffeID", f"{REALM}/none"],
    ["agent", "count"],
    ["bundle", "count"],
    ["bundle", "list"],
    ["bundle", "delete", "-id", "none.org"],
    ["token", "generate", "-ttl", "0"],
    ["x509", "mint", "-spiffeID", "spiffe://other/x"],
    ["x509", "mint", "-spiffeID", f"{REALM}/spire/x"],
    ["jwt", "mint", "-spiffeID", f"{REALM}/x"],
    ["jwt", "mint", "-spiffeID", "spiffe://other/x", "-audience", "a"],
    ["healthcheck", "-verbose"],
    ["localauthority", "x509", "activate"],
    ["localauthority", "x509", "taint", "-authorityID", "none"],
    ["localauthority", "jwt", "revoke", "-authorityID", "none"],
    ["logger", "get"],
    ["logger", "set", "-level", "nonsense"],
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    if spire_binaries() is None:
        pytest.skip("SPIRE_BIN_DIR not set")
    folder = tmp_path_factory.mktemp("both")
    ours = Server(folder / "ours").start()
    theirs = Server(folder / "theirs", bins=spire_binaries()).start()
    for server in [ours, theirs]:
        server.entry("/w", f"{REALM}/p", "unix:uid:7", options=["-entryID", "fixed", "-admin", "-hint", "h"])
    yield ours, theirs
    ours.stop()
    theirs.stop()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb))
def test_both_command_lines_print_the_same_on_both_servers(verb, both, spire):
    """Four combinations, one answer: stdout, stderr, exit code."""
    answers = set()
    for server in both:
        for bins in [binaries(), spire]:
            result = server.cli(*verb, bins=bins, check=False)
            text = json.dumps([result.returncode, result.stdout, result.stderr])
            answers.add(re.sub(r'created_at[\\"]+:[\\"]+\d+', "created_at", text))
    assert len(answers) == 1, "\n".join(sorted(answers))
