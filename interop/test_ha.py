"""Several servers on one database: what one writes the others follow, and any of them may go."""

import base64
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from harness import Agent, Server, binaries, free_port, wait_until

REALM = "spiffe://example.org"


@pytest.fixture(params=["postgres", "mysql"])
def database(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def servers(database, tmp_path):
    """Makes servers on one new database; stops everything that a test started after it."""
    where = (database.database_type, database.connection_string(database.new_database()))
    made = []

    def make(count, **options):
        for _ in range(count):
            made.append(Server(tmp_path / f"server{len(made)}", database=where, **options).start())
        return made[-count:]

    yield make
    for server in made:
        server.daemon.kill()


@pytest.fixture
def agents(tmp_path):
    made = []

    def make(server, **options):
        made.append(Agent(tmp_path / f"agent{len(made)}", server, **options))
        return made[-1]

    yield make
    for agent in made:
        if agent.daemon:
            agent.daemon.kill()


def mine():
    return f"unix:uid:{os.getuid()}"


def identity(server, token):
    return f"{REALM}/spire/agent/join_token/{token}"


def attest(agent, server):
    token = server.token()
    agent.start(token)
    return identity(server, token)


def roots_of(agent):
    """How many roots of its own trust domain a workload is given."""
    answer = agent.cli("api", "fetch", "x509", "-output", "json", "-timeout", "10s", check=False)
    if answer.returncode:
        return 0
    bundle = base64.b64decode(json.loads(answer.stdout)["svids"][0]["bundle"])
    certificates = 0
    while bundle:
        # A certificate is a SEQUENCE with a length of two bytes.
        bundle = bundle[4 + int.from_bytes(bundle[2:4], "big"):]
        certificates += 1
    return certificates


def test_each_server_follows_what_the_others_write(servers, agents):
    first, second, third = servers(3)
    # Each has a CA of its own, and everybody's are in the bundle.
    bundle = first.json("bundle", "show")
    for server in (second, third):
        wait_until(
            lambda server=server: server.json("bundle", "show") == first.json("bundle", "show"), "one bundle for all"
        )
    bundle = first.json("bundle", "show")
    assert len(bundle["x509_authorities"]) == 3
    assert len(bundle["jwt_authorities"]) == 3
    active = {it.json("localauthority", "x509", "show")["active"]["authority_id"] for it in (first, second, third)}
    assert len(active) == 3

    # Attested by one, served by another with what a third wrote.
    agent = agents(second)
    parent = attest(agent, second)
    entry = third.entry("/shared", parent, mine())
    wait_until(lambda: agent.ids() == [f"{REALM}/shared"], "the third server's entry")
    first.cli("entry", "update", "-entryID", entry, "-parentID", parent, "-spiffeID", f"{REALM}/renamed",
              "-selector", mine())
    wait_until(lambda: agent.ids() == [f"{REALM}/renamed"], "the first server's change")
    token = json.loads(agent.cli("api", "fetch", "jwt", "-audience", "a", "-output", "json").stdout)
    svid = token[0]["svids"][0]["svid"]

    # An agent of another server knows the keys of all.
    other = agents(first)
    attest(other, first)
    assert "SVID is valid." in other.cli("api", "validate", "jwt", "-audience", "a", "-svid", svid).stdout

    # A ban through one is obeyed by all.
    first.cli("agent", "ban", "-spiffeID", parent)
    wait_until(lambda: agent.daemon.process.poll() is not None, "the banned agent to stop")


def test_a_killed_server_is_replaced_by_the_others_under_load(servers, agents):
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a name with several addresses takes root and unshare")
    port = free_port()
    first = servers(1, address="127.0.0.2", port=port)[0]
    second = servers(1, address="127.0.0.3", port=port)[0]
    agent = agents(first, address="spire.test", hosts=["127.0.0.2", "127.0.0.3"])
    parent = attest(agent, first)
    first.entry("/before", parent, mine(), options=["-x509SVIDTTL", "60"])
    wait_until(lambda: agent.ids() == [f"{REALM}/before"], "an identity")
    # Only who knows the second server's root can go to it.
    wait_until(lambda: roots_of(agent) == 2, "the roots of both servers, at the agent")

    acknowledged, refused, stop = [], [], threading.Event()

    def load():
        """Entries made through the first server until it dies, and then through the second."""
        number = 0
        server = first
        while not stop.is_set():
            number += 1
            made = server.cli(
                "entry", "create", "-entryID", f"load-{number}", "-parentID", parent,
                "-spiffeID", f"{REALM}/load/{number}", "-selector", mine(), check=False,
            )
            if made.returncode == 0:
                acknowledged.append(f"load-{number}")
            else:
                refused.append(number)
                server = second

    worker = threading.Thread(target=load)
    worker.start()
    try:
        wait_until(lambda: len(acknowledged) > 10, "some entries")
        first.daemon.kill()
        for _ in range(20):
            assert f"{REALM}/before" in agent.ids(), "a workload lost its identity"
            time.sleep(0.1)
        count = len(acknowledged)
        wait_until(lambda: len(acknowledged) > count + 10, "more entries by the second server")
    finally:
        stop.set()
        worker.join()
    assert refused, "nobody noticed that the first server was killed"
    shown = {it["id"] for it in second.json("entry", "show")["entries"]}
    assert set(acknowledged) <= shown, "an acknowledged entry was lost"
    last = int(acknowledged[-1].split("-")[1])
    wait_until(lambda: f"{REALM}/load/{last}" in agent.ids(), "what the second server wrote, at the agent", 60)
    first.start()
    assert len(first.json("bundle", "show")["x509_authorities"]) == 2, "a restart made another CA"


def test_the_database_may_go_away_and_come_back(database, servers, agents):
    server = servers(1, blocks="""health_checks {
    listener_enabled = true
    bind_address = "127.0.0.1"
    bind_port = "%d"
}""" % (health := free_port()))[0]
    agent = agents(server)
    parent = attest(agent, server)
    server.entry("/kept", parent, mine(), options=["-x509SVIDTTL", "20"])
    wait_until(lambda: agent.ids() == [f"{REALM}/kept"], "an identity")
    serial = serial_number(agent)

    database.stop()
    try:
        # The agent goes on syncing and renewing by what the server has in memory.
        wait_until(lambda: serial_number(agent) not in (None, serial), "a renewal without a database", 40)
        began = time.monotonic()
        failed = server.cli("entry", "create", "-parentID", parent, "-spiffeID", f"{REALM}/x", "-selector", mine(),
                            check=False)
        assert failed.returncode == 1
        assert time.monotonic() - began < 15, "a call hung"
        assert failed.stderr.strip() or failed.stdout.strip()
        wait_until(lambda: status(health) == 500, "health to tell", 90)
        assert server.daemon.alive()
    finally:
        database.start()
    wait_until(lambda: status(health) == 200, "health to recover", 90)
    server.entry("/after", parent, mine())
    wait_until(lambda: f"{REALM}/after" in agent.ids(), "a new entry after the outage")
    assert len(server.json("bundle", "show")["x509_authorities"]) == 1


def serial_number(agent):
    folder = agent.folder / "fetched"
    folder.mkdir(exist_ok=True)
    if agent.cli("api", "fetch", "x509", "-write", folder, check=False).returncode:
        return None
    shown = subprocess.run(
        ["openssl", "x509", "-in", folder / "svid.0.pem", "-noout", "-serial"], capture_output=True, text=True
    )
    return shown.stdout


def status(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_servers_are_replaced_one_by_one(database, servers, agents, spire, tmp_path):
    """SPIRE's and ours side by side on one database, each following the other."""
    first = servers(1, bins=spire)[0]
    agent = agents(first)
    parent = attest(agent, first)
    first.entry("/one", parent, mine())
    wait_until(lambda: agent.ids() == [f"{REALM}/one"], "an identity")
    second = servers(1)[0]
    second.entry("/two", parent, mine())
    wait_until(lambda: f"{REALM}/two" in agent.ids(), "our entry through their server")
    # An agent of ours follows what theirs writes.
    other = agents(second)
    mate = attest(other, second)
    entry = first.entry("/mate", mate, mine())
    wait_until(lambda: other.ids() == [f"{REALM}/mate"], "their entry through our server")
    first.cli("entry", "delete", "-entryID", entry)
    wait_until(lambda: other.ids() == [], "their deletion through our server")
    # The first is replaced as well.
    assert first.stop() == 0
    first.bins = binaries()
    first.start()
    assert len(first.json("bundle", "show")["x509_authorities"]) == 2
    second.entry("/three", parent, mine())
    wait_until(lambda: f"{REALM}/three" in agent.ids(), "an identity after the replacement")
