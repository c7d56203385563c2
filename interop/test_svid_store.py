"""SVIDs that are stored elsewhere: by a Go plugin built with SPIRE's SDK, with our agent and SPIRE's, and as PEM files by
the store of our own.
"""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from delegated import agent_with, start
from harness import BUILD, HERE, Agent, Server, spire_binaries, wait_until

PLUGIN = BUILD / "testplugin"


@pytest.fixture(scope="module", autouse=True)
def built():
    BUILD.mkdir(exist_ok=True)
    result = subprocess.run(["go", "build", "-o", str(PLUGIN), "."], cwd=HERE / "plugins", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server").start()
    yield server
    server.daemon.kill()


@pytest.fixture
def agents():
    made = []
    yield made.append
    for agent in made:
        agent.daemon.kill()


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def store(server, path, place, *options):
    return server.entry(path, Agent.NODE, *place, options=["-storeSVID", *options])


@pytest.mark.parametrize("kind", ["steeple", "spire"])
def test_a_plugin_is_told_of_entries_that_come_change_and_go(kind, server, agents, tmp_path):
    bins = None if kind == "steeple" else spire_binaries()
    if kind == "spire" and bins is None:
        pytest.skip("SPIRE_BIN_DIR not set")
    told = tmp_path / "told"
    plugin = f'SVIDStore "gostore" {{ plugin_cmd = "{PLUGIN}" plugin_args = ["svidstore"] plugin_data {{ file = "{told}" }} }}'
    admin = f'admin_socket_path = "{tmp_path}/agent/private/admin.sock"'
    agent = start(agent_with(tmp_path / "agent", server, admin, bins=bins, plugins=plugin))
    agents(agent)
    entry = store(server, "/stored", ["gostore:name:a", "gostore:region:b"])
    first = 'put spiffe://example.org/stored ["name:a","region:b"]'
    wait_until(lambda: [re.sub(r", ", ",", it) for it in lines(told)][:1] == [first], f"{first}: {lines(told)}")

    def count():
        shown = subprocess.run(
            [agent.bins / "spire-agent", "debug", "getinfo", "-socketPath", agent.admin, "-output", "json"],
            capture_output=True, text=True, timeout=30,
        )
        return shown.stdout and json.loads(shown.stdout).get("cached_svidstore_x509_svids_count")

    if kind == "steeple":
        wait_until(lambda: count() == 1, "the count")
    assert agent.ids() == [], "what is stored is not served"
    server.cli(
        "entry", "update", "-entryID", entry, "-parentID", Agent.NODE, "-spiffeID", "spiffe://example.org/stored",
        "-selector", "gostore:name:c", "-storeSVID",
    )
    wait_until(lambda: any(it.startswith("delete") and "name:a" in it for it in lines(told)), "the old place's end")
    wait_until(lambda: any(it.startswith("put") and "name:c" in it for it in lines(told)), "the new place")
    server.cli("entry", "delete", "-entryID", entry)
    wait_until(lambda: any(it.startswith("delete") and "name:c" in it for it in lines(told)), "the end")
    log = agent.daemon.log.read_text()
    for line in ("SVID stored successfully", "SVID deleted successfully", "Entry marked to be removed"):
        assert line in log, line


def disk(root, extra=""):
    return f'SVIDStore "disk" {{ plugin_data {{ directory = "{root}"\n {extra} }} }}'


def openssl_key(path, private):
    option = ["pkey", "-in", path, "-pubout"] if private else ["x509", "-in", path, "-noout", "-pubkey"]
    return subprocess.run(["openssl", *option], capture_output=True, text=True, check=True).stdout


def fits(place):
    return openssl_key(place / "svid.pem", False) == openssl_key(place / "svid.key", True)


def test_svids_are_pem_files_that_follow_their_entry(server, agents, tmp_path):
    root = tmp_path / "svids"
    agent = start(agent_with(tmp_path / "agent", server, "", plugins=disk(root, 'max_mode = "0640"')))
    agents(agent)
    entry = store(server, "/web", ["disk:dir:web/front", "disk:mode:0640"], "-dns", "web.example.org")
    place = root / "web" / "front"
    wait_until(lambda: (place / "svid.pem").exists(), "the files")
    assert sorted(os.listdir(place)) == ["bundle.pem", "svid.key", "svid.pem"]
    assert fits(place)
    assert oct((place / "svid.key").stat().st_mode & 0o777) == "0o640"
    verified = subprocess.run(["openssl", "verify", "-CAfile", place / "bundle.pem", place / "svid.pem"], capture_output=True)
    assert verified.returncode == 0
    shown = subprocess.run(["openssl", "x509", "-in", place / "svid.pem", "-noout", "-text"], capture_output=True, text=True)
    assert "URI:spiffe://example.org/web" in shown.stdout and "DNS:web.example.org" in shown.stdout
    before = os.readlink(place)
    server.cli(
        "entry", "update", "-entryID", entry, "-parentID", Agent.NODE, "-spiffeID", "spiffe://example.org/web2",
        "-selector", "disk:dir:moved", "-storeSVID",
    )
    moved = root / "moved"
    wait_until(lambda: (moved / "svid.pem").exists() and not place.exists(), "the new place")
    assert not (root / "web" / before).exists()
    server.cli("entry", "delete", "-entryID", entry)
    wait_until(lambda: not moved.exists(), "the end")
    assert [it for it in root.rglob("*") if not it.is_dir()] == [], "no key stays behind"


def test_short_lived_svids_are_renewed_and_never_mismatched(server, agents, tmp_path):
    root = tmp_path / "svids"
    agent = start(agent_with(tmp_path / "agent", server, "", plugins=disk(root)))
    agents(agent)
    store(server, "/short", ["disk:dir:short"], "-x509SVIDTTL", "4")
    place = root / "short"
    wait_until(lambda: (place / "svid.pem").exists(), "the files")
    seen = set()
    deadline = time.monotonic() + 40
    while len(seen) < 4 and time.monotonic() < deadline:
        opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            at = Path(f"/proc/self/fd/{opened}")
            leaf, key = (at / "svid.pem").read_text(), (at / "svid.key").read_text()
        except FileNotFoundError:
            continue
        finally:
            os.close(opened)
        if leaf in seen:
            time.sleep(0.05)
            continue
        seen.add(leaf)
        pair = tmp_path / "pair"
        pair.mkdir(exist_ok=True)
        (pair / "svid.pem").write_text(leaf)
        (pair / "svid.key").write_text(key)
        assert fits(pair)
    assert len(seen) >= 4, "it was renewed three times"


def test_bad_selectors_harm_nobody_else(server, agents, tmp_path):
    root = tmp_path / "svids"
    agent = start(agent_with(tmp_path / "agent", server, "", plugins=disk(root)))
    agents(agent)
    store(server, "/out", ["disk:dir:../../out"])
    store(server, "/mode", ["disk:dir:mode", "disk:mode:0666"])
    store(server, "/nobody", ["nostore:x:y"])
    store(server, "/good", ["disk:dir:good"])
    wait_until(lambda: (root / "good" / "svid.pem").exists(), "the good one")
    log = agent.daemon.log
    for text in ("has a component that is not allowed", "is more than max_mode", "Error storing SVID: SVIDStore not found"):
        wait_until(lambda text=text: text in log.read_text(), text)
    assert not (tmp_path / "out").exists()


def test_after_a_restart_stored_svids_go_on(server, agents, tmp_path):
    root = tmp_path / "svids"
    agent = start(agent_with(tmp_path / "agent", server, "", plugins=disk(root)))
    agents(agent)
    entry = store(server, "/kept", ["disk:dir:kept"])
    place = root / "kept"
    wait_until(lambda: (place / "svid.pem").exists(), "the files")
    agent.daemon.kill()
    assert fits(place)
    agent.start()
    assert fits(place)
    server.cli("entry", "delete", "-entryID", entry)
    wait_until(lambda: not place.exists(), "the end")
