"""Agents whose servers are away, hang, or are cut off, and whose clock jumps: workloads keep their identities."""

import base64
import json
import os
import re
import signal
import subprocess
import time

import pytest
from harness import Agent, Server, free_port, wait_until
from netns import Network, missing
from test_faults import clock  # noqa: F401

REALM = "spiffe://example.org"
UID = f"unix:uid:{os.getuid()}"
SEALED = "agent-offline.sealed"


@pytest.fixture
def network():
    if why := missing():
        pytest.skip(why)
    made = []

    def make(servers=1):
        made.append(Network(servers))
        return made[-1]

    yield make
    for it in made:
        it.close()


def configured(agent, agent_keys="", experimental="", blocks=""):
    text = agent.config.read_text()
    text = text.replace("experimental {", f"{agent_keys}\n    experimental {{ {experimental}", 1)
    agent.config.write_text(text + blocks)
    return agent


def log_of(agent):
    return (agent.folder / "agent.log").read_text()


def pem(agent):
    """The X.509-SVID that a caller gets, as PEM."""
    folder = agent.folder / "fetched"
    folder.mkdir(exist_ok=True)
    done = agent.cli("api", "fetch", "x509", "-write", folder, check=False)
    return None if done.returncode else (folder / "svid.0.pem").read_text()


def svid_of(agent, path):
    """The X.509-SVID of one of several identities."""
    done = agent.cli("api", "fetch", "x509", "-output", "json", check=False)
    shown = json.loads(done.stdout)["svids"] if done.returncode == 0 else []
    return next((it["x509_svid"] for it in shown if it["spiffe_id"] == f"{REALM}{path}"), None)


def token_of(agent, audience="a"):
    done = agent.cli("api", "fetch", "jwt", "-audience", audience, "-output", "json", check=False)
    return None if done.returncode else json.loads(done.stdout)[0]["svids"][0]["svid"]


def validates(agent, token):
    return "SVID is valid." in agent.cli("api", "validate", "jwt", "-audience", "a", "-svid", token, check=False).stdout


# Several servers


def two_servers(database, tmp_path, keep, network, bins=None):
    where = (database.database_type, database.connection_string(database.new_database()))
    port = free_port()
    return [
        keep(Server(tmp_path / f"server{it}", bins=bins, database=where, address=address, port=port).start())
        for it, address in enumerate(network.addresses)
    ]


def test_one_of_two_servers_that_is_black_holed_or_hangs_costs_no_workload_anything(
    postgres, tmp_path, keep, network
):
    net = network(2)
    first, second = two_servers(postgres, tmp_path, keep, net)
    agent = keep(Agent(tmp_path / "agent", first))
    wait_until(lambda: len(first.json("bundle", "show")["x509_authorities"]) == 2, "both servers' authorities")
    listed = f'server_addresses = ["{second.address}:{second.port}"]'
    configured(agent, listed).prefix = net.prefix
    agent.start(first.token())
    parent = agent.id()
    first.entry("/kept", parent, UID, options=["-x509SVIDTTL", "20"])
    wait_until(lambda: agent.ids() == [f"{REALM}/kept"], "an identity")

    def goes_on(name, through, what):
        through.entry(f"/{name}", parent, UID)
        begun = time.monotonic()
        while f"{REALM}/{name}" not in agent.ids():
            assert f"{REALM}/kept" in agent.ids(), f"{what} cost a workload its identity"
            assert time.monotonic() - begun < 45, f"{what}: the other server was not used"
            time.sleep(0.3)

    net.drop(first.address)
    goes_on("one", second, "the first server's silence")
    net.drop(second.address)
    goes_on("two", first, "the second server's silence")
    net.drop()
    # A process that hangs while its kernel takes connections and acknowledges.
    os.kill(first.daemon.process.pid, signal.SIGSTOP)
    try:
        goes_on("three", second, "the first server's hanging")
    finally:
        os.kill(first.daemon.process.pid, signal.SIGCONT)
    assert "Cache manager crashed" not in log_of(agent)


def test_a_name_of_many_addresses_is_resolved_anew_and_the_dead_ones_are_passed_over(
    postgres, tmp_path, keep, network
):
    net = network(3)
    first, second = two_servers(postgres, tmp_path, keep, Only(net, 0, 2))
    agent = keep(Agent(tmp_path / "agent", first, address="spire.test", hosts=net.addresses[:2]))
    agent.prefix = [*net.prefix, *agent.prefix]
    net.drop(net.addresses[1])
    agent.start(first.token())
    parent = agent.id()
    first.entry("/one", parent, UID)
    wait_until(lambda: agent.ids() == [f"{REALM}/one"], "an identity")
    # The name has other addresses now, and the old ones are gone.
    (agent.folder / "hosts").write_text(f"{second.address} spire.test\n")
    first.daemon.kill()
    second.entry("/two", parent, UID)
    wait_until(lambda: f"{REALM}/two" in agent.ids(), "the server under the name's new address", 60)


class Only:
    """Some of a network's addresses."""

    def __init__(self, net, *numbers):
        self.addresses = [net.addresses[it] for it in numbers]


# A link that lets one down


def test_a_link_that_loses_everything_for_a_while_and_then_some_is_lived_with(tmp_path, keep, network):
    net = network()
    server = keep(Server(tmp_path / "server", address=net.addresses[0]).start())
    agent = keep(Agent(tmp_path / "agent", server))
    agent.prefix = net.prefix
    agent.start(server.token())
    parent = agent.id()
    server.entry("/kept", parent, UID)
    wait_until(lambda: agent.ids() == [f"{REALM}/kept"], "an identity")
    net.drop(net.addresses[0])
    server.entry("/later", parent, UID)
    for _ in range(12):
        assert agent.ids() == [f"{REALM}/kept"]
        time.sleep(0.5)
    net.drop()
    net.lose(0.15)
    net.slow()
    wait_until(lambda: agent.ids() == [f"{REALM}/kept", f"{REALM}/later"], "news over a bad link", 60)


# Starts without a server


@pytest.mark.parametrize("whose", ["ours", "spire's"])
def test_an_agent_that_starts_in_an_outage_serves_what_is_valid_and_nothing_else(
    whose, request, tmp_path, keep, network
):
    bins = None if whose == "ours" else request.getfixturevalue("spire")
    net = network()
    server = keep(Server(tmp_path / "server", bins=bins, address=net.addresses[0]).start())
    agent = keep(Agent(tmp_path / "agent", server))
    port = free_port()
    metrics = f'telemetry {{ Prometheus {{ host = "localhost" port = {port} }} }}'
    configured(agent, experimental="offline_cache { jwt_svids = true }", blocks=metrics)
    agent.start(server.token())
    parent = agent.id()
    server.entry("/kept", parent, UID)
    gone = server.entry("/deleted", parent, UID)
    server.entry("/short", parent, UID, options=["-x509SVIDTTL", "20"])
    wait_until(lambda: len(agent.ids()) == 3, "three identities")
    before, token = svid_of(agent, "/kept"), token_of(agent)
    sealed = agent.folder / "data" / SEALED
    wait_until(lambda: sealed.exists() and len(sealed.read_bytes()) > 4000, "a file with all of it")
    assert sealed.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in sealed.read_bytes() and b"/kept" not in sealed.read_bytes()
    assert agent.stop() == 0

    # No server can be reached by the next one.
    net.drop(net.addresses[0])
    agent.prefix = net.prefix
    agent.start(wait=False)
    wait_until(lambda: svid_of(agent, "/kept") == before, "the identity of before the restart", 20)
    assert "No server has answered since the start: serving identities that were kept on disk" in log_of(agent)
    assert validates(agent, token), "the JWT bundle was not kept"
    assert token_of(agent) == token
    shown = net.inside("curl", "-s", f"localhost:{port}/metrics").stdout
    assert re.search(r"spire_agent_offline_cache_serving\S* 1\n", shown), shown
    if whose == "ours":
        # What ends is served no longer, and does not hold up the rest.
        wait_until(lambda: agent.ids() == [f"{REALM}/deleted", f"{REALM}/kept"], "the short one to end", 40)
    server.cli("entry", "delete", "-entryID", gone)
    net.drop()
    wait_until(lambda: f"{REALM}/deleted" not in agent.ids(), "the deleted entry to vanish", 30)
    wait_until(lambda: agent.ids() == [f"{REALM}/kept", f"{REALM}/short"], "all that is left", 30)
    wait_until(lambda: "A server answers; what was kept is up to date again" in log_of(agent), "the log to tell")
    # Nothing was signed anew that was still good.
    assert svid_of(agent, "/kept") == before


def test_a_file_that_is_not_the_latest_of_this_agent_is_refused_and_a_ban_destroys_it(tmp_path, keep, network):
    net = network()
    server = keep(Server(tmp_path / "server", address=net.addresses[0]).start())
    agent = keep(Agent(tmp_path / "agent", server))
    configured(agent, experimental="offline_cache {}").prefix = net.prefix
    agent.start(server.token())
    parent = agent.id()
    server.entry("/one", parent, UID)
    sealed = agent.folder / "data" / SEALED

    def grown(size):
        return sealed.exists() and len(sealed.read_bytes()) > size and sealed.read_bytes()

    earlier = wait_until(lambda: grown(1500), "a file with an identity")
    server.entry("/two", parent, UID)
    latest = wait_until(lambda: grown(len(earlier) + 500), "a file with both")
    # The earlier one can be opened until this is said.
    wait_until(lambda: f'Wrote the offline cache" bytes={len(latest)} ' in log_of(agent), "the end of the writing")
    agent.daemon.kill()
    latest = sealed.read_bytes()
    net.drop(net.addresses[0])
    generation = "it was sealed earlier than the latest one, or by another agent"
    altered = "it was altered, or sealed with another key or for another purpose"
    edited = bytearray(latest)
    edited[len(edited) // 2] ^= 1
    for contents, why in [(earlier, generation), (latest[:-40], altered), (bytes(edited), altered)]:
        sealed.write_bytes(contents)
        size = len(log_of(agent))
        agent.start(wait=False)
        wait_until(lambda size=size, why=why: why in log_of(agent)[size:], why)
        assert "Refusing the offline cache" in log_of(agent)[size:]
        time.sleep(0.5)
        assert not agent.socket.exists() or agent.ids() == [], "served what was refused"
        assert agent.daemon.alive(), "gave up"
        agent.daemon.kill()
    sealed.write_bytes(latest)
    agent.start(wait=False)
    wait_until(lambda: agent.ids() == [f"{REALM}/one", f"{REALM}/two"], "the good file to do", 20)
    net.drop()
    wait_until(lambda: "A server answers" in log_of(agent), "the server", 40)
    server.cli("agent", "ban", "-spiffeID", parent)
    wait_until(lambda: not agent.daemon.alive(), "the banned agent to stop")
    assert not sealed.exists()
    # Not even with a copy does it serve anybody.
    sealed.write_bytes(latest)
    net.drop(net.addresses[0])
    agent.start(wait=False)
    time.sleep(2)
    assert not agent.socket.exists() or agent.ids() == []


def test_an_agent_whose_own_svid_ended_serves_what_is_left_until_a_server_says_no(tmp_path, keep, network):
    net = network()
    server = keep(Server(tmp_path / "server", address=net.addresses[0], extra='agent_ttl = "8s"').start())
    agent = keep(Agent(tmp_path / "agent", server))
    configured(agent, experimental="offline_cache {}").prefix = net.prefix
    agent.start(server.token())
    server.entry("/w", agent.id(), UID)
    wait_until(lambda: agent.ids() == [f"{REALM}/w"], "an identity")
    before = pem(agent)
    assert agent.stop() == 0
    net.drop(net.addresses[0])
    time.sleep(9)
    agent.start(wait=False)
    wait_until(lambda: pem(agent) == before, "the identity of before", 60)
    assert agent.daemon.alive()
    net.drop()
    wait_until(lambda: not agent.daemon.alive(), "the agent to stop for good", 90)
    assert "it takes a new join token to come back" in log_of(agent)


# Clocks


def not_before(certificate):
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-startdate", "-dateopt", "iso_8601"],
        input=certificate, capture_output=True, text=True, check=True,
    ).stdout
    begin = shown.strip().split("=")[1].rstrip("Z")
    return time.mktime(time.strptime(begin, "%Y-%m-%d %H:%M:%S")) - time.timezone


def own_svid(agent):
    data = json.loads((agent.folder / "data" / "agent-data.json").read_text())
    return base64.b64decode(data["svid"][0]).decode() if data["svid"] else None


def test_a_machine_that_slept_renews_at_once_and_one_set_back_replaces_its_own_svid(tmp_path, clock, keep):
    # Only clocks of certificates are moved: as after sleep, the pauses have hardly begun.
    server = keep(Server(tmp_path / "server", ca_ttl="168h", extra='agent_ttl = "24h"').start())
    agent = keep(Agent(tmp_path / "agent", server))
    # Nothing but the jump itself makes this one look before a minute is over.
    text = agent.config.read_text().replace('sync_interval = "1s"', 'sync_interval = "60s"')
    agent.config.write_text(text)
    parent_token = server.token()
    server.entry("/w", f"{REALM}/spire/agent/join_token/{parent_token}", UID)
    agent.start(parent_token)
    wait_until(lambda: agent.ids() == [f"{REALM}/w"], "an identity")
    first, own = pem(agent), own_svid(agent)
    # Past half of its 24 hours and the tenth that renewals are spread by.
    clock.set(16)
    wait_until(lambda: pem(agent) not in (None, first), "a renewal at once", 20)
    wait_until(lambda: own_svid(agent) != own, "a renewal of the agent's own", 20)
    assert "The clock went forward" in log_of(agent)
    second = own_svid(agent)
    assert not_before(second) > time.time() + 3600
    clock.set(0)
    wait_until(lambda: not_before(own_svid(agent)) <= clock.now(), "an own SVID that is valid now", 40)
    wait_until(lambda: (it := pem(agent)) and not_before(it) <= clock.now(), "an SVID that is valid now", 40)
    assert "The agent's own SVID is not valid yet; replacing it" in log_of(agent)
    assert agent.daemon.alive()


def test_an_agent_whose_svid_ended_while_it_slept_says_that_it_cannot_come_back(tmp_path, clock, keep):
    server = keep(Server(tmp_path / "server", ca_ttl="168h", extra='agent_ttl = "1h"').start())
    agent = keep(Agent(tmp_path / "agent", server).start(server.token()))
    clock.set(5)
    wait_until(lambda: not agent.daemon.alive(), "the agent to stop", 60)
    assert "it takes a new join token to come back" in log_of(agent)


# JWT-SVIDs


def test_a_token_asked_for_again_is_renewed_before_anybody_waits(tmp_path, keep, network):
    net = network()
    server = keep(Server(tmp_path / "server", address=net.addresses[0]).start())
    agent = keep(Agent(tmp_path / "agent", server))
    agent.prefix = net.prefix
    agent.start(server.token())
    server.entry("/w", agent.id(), UID, options=["-jwtSVIDTTL", "20"])
    wait_until(lambda: agent.ids() == [f"{REALM}/w"], "an identity")
    first = token_of(agent)
    assert token_of(agent) == first
    # Renewed after 7 to 9 of its 20 seconds, while nobody asks.
    log, signed = server.daemon.log, "Server CA successfully signed JWT SVID"
    before = log.read_text().count(signed)
    wait_until(lambda: log.read_text().count(signed) > before, "a renewal")
    time.sleep(0.5)
    # Cut off: what is served now is there already.
    net.drop(net.addresses[0])
    asked = time.monotonic()
    second = token_of(agent)
    assert second and second != first, "nothing was renewed ahead"
    assert time.monotonic() - asked < 3, "the caller waited"
