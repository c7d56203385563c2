"""A server and an agent of ours take over what SPIRE's left behind: database, keys, agent state.

`testdata/swap` holds what SPIRE wrote on each database: a dump, both programs' keys, the agent's
state, and what its own command line said about all of it.
"""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from harness import Agent, Server, wait_until

DATA = Path(__file__).parent / "testdata" / "swap"


def restore_sqlite(folder, tmp_path, request):
    path = tmp_path / "datastore.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.executescript((folder / "database.sql").read_text())
        connection.execute("pragma journal_mode = wal")
    return "sqlite3", path


def restore_on_a_server(folder, tmp_path, request):
    database = request.getfixturevalue(folder.name)
    name = database.new_database()
    database.restore(name, (folder / "database.sql").read_text())
    return database.database_type, database.connection_string(name)


RESTORE = {"sqlite": restore_sqlite, "postgres": restore_on_a_server, "mysql": restore_on_a_server}


@pytest.fixture(params=list(RESTORE))
def left_behind(request, tmp_path):
    """What SPIRE left on one kind of database, and a server and an agent of ours on copies of it."""
    folder = DATA / request.param
    database = RESTORE[request.param](folder, tmp_path, request)
    server = Server(tmp_path / "server", database=database)
    shutil.copy(folder / "server-keys.json", server.keys)
    server.start()
    agent = Agent(tmp_path / "agent", server)
    for source, target in [("agent-data.json", "agent-data.json"), ("agent-keys.json", "keys.json")]:
        shutil.copy(folder / source, agent.folder / "data" / target)
    yield folder, server, agent
    for one in (agent, server):
        if one.daemon:
            one.daemon.kill()


def said(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_what_spire_left_is_gone_on_with(left_behind):
    folder, server, agent = left_behind
    assert server.json("entry", "show") == said(folder, "entries")
    assert server.json("federation", "list") == said(folder, "federation")
    assert server.cli("bundle", "list", "-format", "spiffe").stdout == (folder / "federated.txt").read_text()
    agents = server.json("agent", "list")
    assert agents == said(folder, "agents")
    for kind in ("x509", "jwt"):
        authority = server.json("localauthority", kind, "show")["active"]
        assert authority == said(folder, kind)["active"], "a new authority was made"

    # The agent goes on with the SVID that SPIRE gave it.
    agent.start()
    wait_until(lambda: "spiffe://example.org/full" in agent.ids(), "the identities")
    if os.getuid() == 0:
        assert agent.ids() == ["spiffe://example.org/full", "spiffe://example.org/plain"]
    after = server.json("agent", "list")["agents"]
    assert [it["x509svid_serial_number"] for it in after] == [
        it["x509svid_serial_number"] for it in agents["agents"]
    ], "the agent attested again"
    assert "Node attestation was successful" not in (agent.folder / "agent.log").read_text()

    # Events go on: what is written now arrives, and so does what is deleted.
    token = (folder / "agent-token").read_text().strip()
    parent = f"spiffe://example.org/spire/agent/join_token/{token}"
    entry = server.entry("/new", parent, f"unix:uid:{os.getuid()}")
    wait_until(lambda: "spiffe://example.org/new" in agent.ids(), "a new entry")
    server.cli("entry", "delete", "-entryID", entry)
    wait_until(lambda: "spiffe://example.org/new" not in agent.ids(), "the deletion")


def test_a_join_token_that_spire_made_is_spent_once(left_behind, tmp_path):
    folder, server, _ = left_behind
    token = (folder / "unused-token").read_text().strip()
    fresh = Agent(tmp_path / "fresh", server).start(token)
    assert any(it["id"]["path"].endswith(token) for it in server.json("agent", "list")["agents"])
    fresh.stop()
    again = Agent(tmp_path / "again", server).start(token, wait=False)
    refused = "join token does not exist or has already been used"
    wait_until(lambda: refused in again.daemon.log.read_text(), "the refusal")
    again.daemon.kill()


def test_spire_takes_back_what_ours_left(left_behind, spire):
    """The other way: SPIRE's server goes on where ours stopped, and its agent too."""
    folder, server, agent = left_behind
    token = (folder / "agent-token").read_text().strip()
    parent = f"spiffe://example.org/spire/agent/join_token/{token}"
    server.entry("/by-ours", parent, f"unix:uid:{os.getuid()}")
    entries = server.json("entry", "show")
    bundle = server.json("bundle", "show")
    assert server.stop() == 0
    server.bins = agent.bins = spire
    server.start()
    assert server.json("entry", "show") == entries
    for kind in ("x509_authorities", "jwt_authorities"):
        assert server.json("bundle", "show")[kind] == bundle[kind], "a new authority was made"
    agent.start()
    wait_until(lambda: "spiffe://example.org/by-ours" in agent.ids(), "our entry on theirs")
