"""Far more than a server can carry: it refuses with a hint what it cannot serve, and everybody else is served."""

import json
import os
import subprocess

import pytest
from harness import BUILD, HERE, Agent, Server, binaries, wait_until

FLOOD = BUILD / "flood-overload"
SHED = "ResourceExhausted: the server is overloaded: too many calls of this kind (attest)"
HINTED = " (come again)"
# One attestation at a time, and four that wait.
TINY = """
ratelimit { attestation = false signing = false }
experimental {
    overload {
        at_once = 4
        attest { at_once = 1 waiting = 4 longest_wait = "2s" }
        request_memory_mib = 16
        request_memory_per_address_mib = 16
    }
}
"""


@pytest.fixture(scope="module", autouse=True)
def flood_program():
    BUILD.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-o", str(FLOOD), "."], cwd=HERE / "flood", check=True)


@pytest.fixture
def server(tmp_path, keep):
    plugins = 'NodeAttestor "http_challenge" { plugin_data {} }'
    return keep(Server(tmp_path / "server", extra=TINY, plugins=plugins)).start()


@pytest.fixture
def flood(server):
    """Starts floods, and ends them after the test."""
    begun = []

    def start(*arguments):
        command = [FLOOD, f"{server.address}:{server.port}", *map(str, arguments)]
        begun.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def ends(process):
    out, _ = process.communicate(timeout=150)
    return json.loads(out.splitlines()[-1])


def peak(server):
    """The most memory that the server ever had, in MiB."""
    status = (line.split() for line in open(f"/proc/{server.daemon.process.pid}/status"))
    return next(int(it[1]) for it in status if it[0] == "VmHWM:") // 1024


def sheds(server):
    return "Overloaded: refusing calls that cannot be served in time" in (server.folder / "server.log").read_text()


def test_a_flood_of_attestations_is_refused_with_a_hint_and_all_others_are_served(tmp_path, server, keep, flood):
    agent = keep(Agent(tmp_path / "agent", server)).start(server.token())
    parent = agent.id()
    before = peak(server)
    crowd = flood("attempts", 1_000_000)
    wait_until(lambda: sheds(server), "the server to refuse calls")
    # What is served of others needs places too.
    for number in range(5):
        server.entry(f"/w{number}", parent, f"unix:uid:{os.getuid()}")
    expected = [f"spiffe://example.org/w{number}" for number in range(5)]
    wait_until(lambda: agent.ids() == expected, "entries and signatures in the middle of the flood", 60)
    assert server.cli("healthcheck").returncode == 0
    assert crowd.poll() is None, "the flood was over"
    found = ends(flood("attempts", 500))
    assert sum(found.values()) == 500
    assert found[SHED + HINTED] > 100, found
    assert not any(end.startswith(SHED) and end != SHED + HINTED for end in found), found
    assert peak(server) - before < 200
    # A line every five seconds, not one for each call.
    refused = [line for line in (server.folder / "server.log").read_text().splitlines() if "Overloaded:" in line]
    assert len(refused) < 60, len(refused)


@pytest.mark.parametrize("whose", ["ours", "spires"])
def test_an_agent_that_comes_in_the_middle_of_a_flood_survives_it(tmp_path, server, keep, flood, request, whose):
    bins = binaries() if whose == "ours" else request.getfixturevalue("spire")
    token = server.token()
    agent = keep(Agent(tmp_path / "agent", server, bins=bins))
    crowd = flood("attempts", 1_000_000)
    wait_until(lambda: sheds(server), "the server to refuse calls")
    agent.start(token, wait=False)
    log = agent.folder / "agent.log"
    wait_until(lambda: len(log.read_text().splitlines()) > 3, "the agent to begin")
    # It may have had its turn already; if not, it waits for it.
    assert agent.daemon.alive()
    crowd.kill()
    wait_until(lambda: agent.cli("healthcheck", check=False).returncode == 0, f"the agent; see {log}", 60)
    server.entry("/late", agent.id(), f"unix:uid:{os.getuid()}")
    wait_until(lambda: agent.ids() == ["spiffe://example.org/late"], "the workload's identity")
    assert agent.daemon.alive()


def test_large_requests_take_no_more_memory_than_they_may(server, flood):
    ends(flood("attempts", 50))
    before = peak(server)
    found = ends(flood("attempts", 300, "http_challenge", f"@{3 << 20}"))
    assert sum(found.values()) == 300
    # Less than the 256 weigh that come at once, however often each is copied.
    assert peak(server) - before < 200, found
    assert server.cli("healthcheck").returncode == 0
