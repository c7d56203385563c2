"""Attestation as an enemy has it: ten thousand attempts, streams that say nothing or read nothing, evidence without end."""

import json
import subprocess
import time

import netns
import pytest
from harness import BUILD, HERE, Agent, Server, wait_until

MISSING = netns.missing()
FLOOD = BUILD / "flood"
UNKNOWN = "InvalidArgument: failed to attest: join token does not exist or has already been used"
LIMITED = ("ResourceExhausted: rejecting request due to attest agent rate limiting: "
           "rate: Wait(n=1) would exceed context deadline")
WAITED = "DeadlineExceeded: context deadline exceeded"
NOBODY = json.dumps({"hostname": "127.0.0.1", "agentname": "a", "port": 1})


@pytest.fixture(scope="module", autouse=True)
def flood_program():
    BUILD.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-o", str(FLOOD), "."], cwd=HERE / "flood", check=True)


@pytest.fixture
def net():
    if MISSING:
        pytest.skip(f"skipped: {MISSING}")
    made = netns.Network()
    yield made
    made.close()


@pytest.fixture
def serve(tmp_path, keep):
    def start(address="127.0.0.1", limited=True):
        extra = "" if limited else "ratelimit { attestation = false }"
        plugins = 'NodeAttestor "http_challenge" { plugin_data {} }'
        return keep(Server(tmp_path / "server", address=address, extra=extra, plugins=plugins)).start()
    return start


def flood(server, *arguments):
    command = [FLOOD, f"{server.address}:{server.port}", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ends(process, seconds=150):
    out, _ = process.communicate(timeout=seconds)
    return json.loads(out.splitlines()[-1])


def megabytes(server):
    status = (line.split() for line in open(f"/proc/{server.daemon.process.pid}/status"))
    return next(int(it[1]) for it in status if it[0] == "VmRSS:") // 1024


def joins_from_elsewhere(server, net, folder, keep):
    """How long an agent at another address takes to attest."""
    token = server.token()
    agent = keep(Agent(folder, server))
    agent.prefix = net.prefix
    started = time.monotonic()
    agent.start(token)
    return time.monotonic() - started


@pytest.mark.parametrize("limited", [True, False], ids=["as-it-comes", "without-limits"])
def test_ten_thousand_attempts_from_one_address_keep_no_other_out(tmp_path, net, keep, serve, limited):
    server = serve(net.addresses[0], limited)
    ends(flood(server, "attempts", 100))
    before = megabytes(server)
    attempts = flood(server, "attempts", 10_000)
    time.sleep(0.5)
    assert joins_from_elsewhere(server, net, tmp_path / "agent", keep) < 30
    found = ends(attempts)
    assert sum(found.values()) == 10_000
    if limited:
        # Those whose turn would come wait for it, at most as long as they like.
        assert set(found) <= {UNKNOWN, LIMITED, WAITED} and found[LIMITED] > 9000, found
    else:
        assert found == {UNKNOWN: 10_000}
    assert megabytes(server) - before < 100
    assert len(server.json("agent", "list")["agents"]) == 1


@pytest.mark.parametrize("mode", ["silent", "deaf"])
def test_streams_that_lead_nowhere_keep_no_other_out(tmp_path, net, keep, serve, mode):
    server = serve(net.addresses[0], limited=False)
    before = megabytes(server)
    streams = flood(server, mode, 3000)
    assert streams.stdout.readline() == "{}\n"
    try:
        assert joins_from_elsewhere(server, net, tmp_path / "agent", keep) < 30
        assert megabytes(server) - before < 150
    finally:
        found = ends(streams)
    # As many wait as may, and the others are told so.
    told = sum(count for end, count in found.items() if "too many calls at once" in end)
    assert told > 1000 if mode == "silent" else told >= 0, found
    wait_until(lambda: server.cli("agent", "count", check=False).returncode == 0, "the server to answer")


def test_evidence_and_responses_have_a_size(serve):
    server = serve(limited=False)
    large = "InvalidArgument: malformed param: attestation data payload is too large"
    assert ends(flood(server, "attempts", 1, "http_challenge", f"@{2 << 20}")) == {large: 1}
    [end] = ends(flood(server, "attempts", 1, "http_challenge", f"@{8 << 20}"))
    assert end.startswith("ResourceExhausted: grpc: received message larger than max"), end
    [end] = ends(flood(server, "attempts", 1, "http_challenge", f"@{1 << 20}"))
    assert end == ("InvalidArgument: nodeattestor(http_challenge): failed to unmarshal data: "
                   "it is larger than 4096 bytes")
    [end] = ends(flood(server, "answers", 300 << 10, "http_challenge", NOBODY))
    assert end == "InvalidArgument: challenge response is too large", end
    [end] = ends(flood(server, "answers", 8 << 20, "http_challenge", NOBODY))
    assert end.startswith("ResourceExhausted: grpc: received message larger than max"), end
    [end] = ends(flood(server, "answers", 1, "http_challenge", NOBODY))
    assert end.startswith("PermissionDenied: nodeattestor(http_challenge): challenge verification failed: Get "), end
    assert end.endswith("dial tcp 127.0.0.1:1: connect: connection refused"), end
    assert server.json("agent", "list")["agents"] == []


def test_evidence_without_end_is_not_listened_to(serve):
    server = serve(limited=False)
    before = megabytes(server)
    [end] = ends(flood(server, "endless", 100_000, "http_challenge", NOBODY))
    assert end.startswith("PermissionDenied: nodeattestor(http_challenge): challenge verification failed: "), end
    assert megabytes(server) - before < 50
    [end] = ends(flood(server, "attempts", 1, "no_such_" + "x" * 5000, "x"))
    assert end.startswith("FailedPrecondition: error getting node attestor: could not find node attestor type"), end
    assert len(end) < 300
