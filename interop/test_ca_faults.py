"""What a server does with authorities that it cannot use: says so, loses nothing, and can be mended."""

import os
import sqlite3
import time

from harness import Server, wait_until

UID = f"unix:uid:{os.getuid()}"


def refuses_to_start(server, *words):
    """The server ends by itself, with these words in its log; the files stay as they are."""
    keys = server.keys.read_bytes()
    size = (server.folder / "server.log").stat().st_size
    server.start(wait=False)
    assert server.daemon.process.wait(timeout=30) == 1
    log = (server.folder / "server.log").read_text()[size:]
    for word in words:
        assert word in log, log
    assert server.keys.read_bytes() == keys


def journal(server):
    with sqlite3.connect(server.database) as database:
        [(data,)] = database.execute("SELECT data FROM ca_journals").fetchall()
    database.close()
    return data


def put_journal(server, data):
    with sqlite3.connect(server.database) as database:
        database.execute("UPDATE ca_journals SET data = ?", (data,))
    database.close()


def active(server):
    return server.json("localauthority", "x509", "show")["active"]["authority_id"]


def test_a_damaged_journal_stops_the_start_and_can_be_put_back(pair):
    server, _ = pair()
    before = active(server)
    assert server.stop() == 0
    good = journal(server)
    for bad in [b"\xff" * 40, good[:-7]]:
        put_journal(server, bad)
        refuses_to_start(server, "unable to unmarshal entries from CA journal record")
        assert journal(server) == bad
    put_journal(server, good)
    server.start()
    assert active(server) == before


def test_a_damaged_key_file_stops_the_start_and_can_be_put_back(pair):
    server, _ = pair()
    before = active(server)
    assert server.stop() == 0
    good = server.keys.read_bytes()
    for bad in [b"", b"{", good[: len(good) // 2], b'{"keys": {"x509-CA-A": "what"}}']:
        server.keys.write_bytes(bad)
        refuses_to_start(server, "failed to configure plugin", "keys.json", "Fatal run error")
    server.keys.write_bytes(good)
    server.start()
    assert active(server) == before


def test_an_expired_ca_is_replaced_at_the_start(pair):
    server, agent = pair(ca_ttl="15s", extra='default_x509_svid_ttl = "5s"')
    shown = server.json("localauthority", "x509", "show")
    before = shown["active"]["authority_id"]
    server.daemon.kill()
    end = max(int(state["expires_at"]) for state in shown.values() if state) + 1
    wait_until(lambda: time.time() > end, "the CA to expire", seconds=40)
    # From here on nothing is in a hurry.
    text = server.config.read_text().replace('ca_ttl = "15s"', 'ca_ttl = "24h"')
    server.config.write_text(text.replace('default_x509_svid_ttl = "5s"', ""))
    server.start()
    assert active(server) != before
    assert "X509CA slot unusable" in (server.folder / "server.log").read_text()
    # Who comes new is served.
    server.bundle()
    agent.start(server.token())
    server.entry("/late", agent.id(), UID)
    wait_until(lambda: agent.ids() == ["spiffe://example.org/late"], "an identity")


def test_an_upstream_that_is_not_there_is_named_and_ends_the_start(pair, tmp_path):
    plugin = f"""UpstreamAuthority "disk" {{ plugin_data {{
        cert_file_path = "{tmp_path}/missing.crt"
        key_file_path = "{tmp_path}/missing.key"
    }} }}"""
    server = Server(tmp_path / "under", plugins=plugin)
    server.start(wait=False)
    assert server.daemon.process.wait(timeout=30) == 1
    log = (server.folder / "server.log").read_text()
    assert "unable to load upstream CA key: open" in log
    assert not server.keys.exists()
