"""The SPIFFE Broker API, called with go-spiffe's module over a Unix socket and over TCP, beside SPIRE's agent where it
is there.
"""

import os
import re
import subprocess
import time

import pytest

from delegated import PID_REFERENCE, PROGRAM, agent_with, build, calls, copy_of_program, spiffe_id, start
from harness import Agent, Server, free_port, spire_binaries, wait_until

SLEEP = os.path.realpath("/bin/sleep")
OBJECT = "type.googleapis.com/spiffe.broker.KubernetesObjectReference"


@pytest.fixture(scope="module", autouse=True)
def built():
    build()


def configuration(folder, port, extra=""):
    return f"""admin_socket_path = "{folder}/private/admin.sock"
    experimental {{
        {extra}
        broker {{
            socket_path = "{folder}/private/broker.sock"
            bind_address = "127.0.0.1:{port}"
            brokers = [
                {{ id = "{spiffe_id("/broker")}" allowed_reference_types = [
                    {{ type_url = "{PID_REFERENCE}" allow_over_tcp = true }}, {{ type_url = "{OBJECT}" }} ] }},
                {{ id = "spiffe://other.org/broker" allowed_reference_types = [ {{ type_url = "*" }} ] }},
                {{ id = "{spiffe_id("/anything")}" allowed_reference_types = [ {{ type_url = "*" }} ] }},
            ]
        }}"""


def broker_agent(folder, server, bins=None, extra=""):
    agent = agent_with(folder, server, "", bins=bins)
    agent.port = free_port()
    block = configuration(folder, agent.port, extra)
    agent.config.write_text(agent.config.read_text().replace("experimental {", block, 1))
    agent.broker = agent.folder / "private" / "broker.sock"
    return agent


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broker")
    server = Server(folder / "server").start()
    agents = {"steeple": start(broker_agent(folder / "steeple", server))}
    if spire_binaries():
        agents["spire"] = start(broker_agent(folder / "spire", server, bins=spire_binaries()))
    programs = {"broker": PROGRAM}
    for name in ("anything", "unlisted"):
        programs[name] = copy_of_program(folder / name)
    for name, program in programs.items():
        server.entry(f"/{name}", Agent.NODE, f"unix:path:{program}")
    server.entry("/sleeper", Agent.NODE, f"unix:path:{SLEEP}", options=["-hint", "zzz", "-entryID", "one"])
    # Made in the same second perhaps: then the entry's ID decides.
    server.entry("/sleeper-too", Agent.NODE, f"unix:path:{SLEEP}", options=["-hint", "zzz", "-entryID", "two"])
    server.entry("/sleeping-admin", Agent.NODE, f"unix:path:{SLEEP}", options=["-admin"])
    yield server, agents, programs
    for agent in agents.values():
        agent.daemon.kill()
    server.stop()


def environment(agent):
    return {"SPIFFE_ENDPOINT_SOCKET": f"unix://{agent.socket}"}


def ask(agent, requests, program=PROGRAM, tcp=False, check=True):
    target = f"127.0.0.1:{agent.port}" if tcp else f"unix://{agent.broker}"
    return calls(["broker", target], requests, environment(agent), program, check)


def reference(kind, **fields):
    return {"reference": {"reference": {"@type": kind, **fields}}}


def requests(pid, dead):
    by_pid = reference(PID_REFERENCE, pid=pid)
    return [
        {"method": "broker.x509", "request": by_pid},
        {"method": "broker.x509_bundles", "request": by_pid},
        {"method": "broker.jwt_bundles", "request": by_pid},
        {"method": "broker.jwt", "request": {**by_pid, "audience": ["a"]}},
        {"method": "broker.x509", "request": {}},
        {"method": "broker.x509", "request": {"reference": {}}},
        {"method": "broker.jwt", "request": by_pid},
        {"method": "broker.x509", "request": by_pid, "no_header": True},
        {"method": "broker.x509", "request": reference(OBJECT)},
        {"method": "broker.x509", "request": reference("type.googleapis.com/spiffe.broker.WorkloadReference")},
        {"method": "broker.x509", "request": by_pid, "reference_bytes": 3 << 20},
        {"method": "broker.x509", "request": by_pid, "reference_bytes": 5 << 20},
        {"method": "broker.jwt", "request": {**reference(PID_REFERENCE, pid=os.getpid()), "audience": ["a"]}},
        {"method": "reflection"},
        {"method": "reflection", "no_header": True},
        {"method": "unknown"},
    ]


def known(agent, pid):
    """Waits until the agent knows the entries."""

    def answers():
        answer = ask(agent, [{"method": "broker.x509", "request": reference(PID_REFERENCE, pid=pid)}], check=False)
        return answer and answer[0].get("messages") and answer[0]["messages"][0]["svids"]

    return wait_until(answers, "the sleeper's identity")


def test_a_broker_gets_the_identities_of_those_it_refers_to(domain, processes):
    _, agents, _ = domain
    agent = agents["steeple"]
    known(agent, processes[0])
    answers = ask(agent, requests(*processes))
    svids = answers[0]["messages"][0]["svids"]
    assert [it["id"] for it in svids] == [spiffe_id("/sleeper")], "of one hint the oldest, and no admin"
    assert svids[0]["key_fits"] and svids[0]["bundle"] == answers[1]["messages"][0]["spiffe://example.org"]
    assert list(answers[2]["messages"][0]) == ["spiffe://example.org"]
    assert spiffe_id("/sleeper") in [it["id"] for it in answers[3]["messages"][0]]
    missing = {"code": "InvalidArgument", "message": "workload reference must be provided"}
    assert answers[4] == answers[5] == missing
    assert answers[6] == {"code": "InvalidArgument", "message": "audience must be specified"}
    assert answers[7] == {"code": "InvalidArgument", "message": "security header missing from request"}
    assert answers[8] == {"code": "Unimplemented", "message": "no workload attestor handled reference"}
    assert answers[9] == {
        "code": "PermissionDenied",
        "message": f'broker "{spiffe_id("/broker")}" is not allowed to use reference type '
        '"type.googleapis.com/spiffe.broker.WorkloadReference"',
    }
    assert answers[10]["code"] == "Unimplemented"
    assert answers[11]["code"] == "ResourceExhausted"
    assert answers[12] == {"code": "PermissionDenied", "message": "no identity issued"}
    assert "spiffe.broker.API" in answers[13]["messages"][0]
    assert answers[14] == answers[7]
    assert answers[15]["code"] == "Unimplemented"
    assert oct(os.stat(agent.broker).st_mode & 0o777) == "0o770"


def test_over_tcp_only_what_is_allowed_there(domain, processes):
    _, agents, programs = domain
    agent = agents["steeple"]
    known(agent, processes[0])
    answers = ask(agent, requests(*processes), tcp=True)
    assert [it["id"] for it in answers[0]["messages"][0]["svids"]] == [spiffe_id("/sleeper")]
    assert answers[8] == {
        "code": "PermissionDenied",
        "message": f'reference type "{OBJECT}" is not allowed over TCP for broker "{spiffe_id("/broker")}"',
    }
    only_local = {"code": "PermissionDenied", "message": "server reflection is only available over Unix sockets"}
    assert answers[13] == answers[14] == only_local
    anything = requests(*processes)[:1]
    assert "not allowed over TCP" in ask(agent, anything, programs["anything"], tcp=True)[0]["message"]
    assert ask(agent, anything, programs["anything"])[0]["messages"]


def test_a_dead_process_has_no_identity(domain, processes):
    _, agents, _ = domain
    known(agents["steeple"], processes[0])
    for pid in (processes[1], 0, -1):
        answer = ask(agents["steeple"], [{"method": "broker.x509", "request": reference(PID_REFERENCE, pid=pid)}])[0]
        assert "messages" not in answer and 'workload attestor "unix" failed' in answer["message"], answer


def test_spires_agent_answers_the_same(domain, processes):
    _, agents, _ = domain
    if "spire" not in agents:
        pytest.skip("SPIRE_BIN_DIR not set")
    for agent in agents.values():
        known(agent, processes[0])
    for tcp in (False, True):
        ours, theirs = [ask(agent, requests(*processes), tcp=tcp) for agent in agents.values()]
        for request, our, their in zip(requests(*processes), ours, theirs, strict=True):
            if request["method"] == "broker.jwt" and "messages" in their:
                # Theirs has tokens of admins too, whose certificates it keeps back.
                their["messages"][0] = [it for it in their["messages"][0] if not it["id"].endswith("admin")]
            assert our == their, (tcp, request)


def refused(target, *files):
    """What the client is told when the handshake fails."""
    answer = calls(["files", target, *files], [{"method": "broker.x509", "request": reference(PID_REFERENCE, pid=1)}])[0]
    assert answer["code"] == "Unavailable", answer
    return answer["message"]


def test_whoever_is_no_broker_is_not_let_in(domain, processes, tmp_path):
    server, agents, programs = domain
    agent = agents["steeple"]
    known(agent, processes[0])
    request = requests(*processes)[:1]
    unlisted = ask(agent, request, programs["unlisted"])[0]
    assert unlisted["code"] == "Unavailable", unlisted
    wait_until(lambda: "unexpected ID" in agent.daemon.log.read_text(), "the line of log")
    for target in (f"unix://{agent.broker}", f"127.0.0.1:{agent.port}"):
        refused(target)
    server.cli("x509", "mint", "-spiffeID", spiffe_id("/broker"), "-ttl", "1s", "-write", tmp_path)
    minted = [tmp_path / "svid.pem", tmp_path / "key.pem"]
    time.sleep(2)
    refused(f"unix://{agent.broker}", *minted)
    foreign = [tmp_path / "foreign.pem", tmp_path / "foreign.key"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/C=US",
         "-days", "1", "-keyout", foreign[1], "-out", foreign[0], "-addext", f"subjectAltName=URI:{spiffe_id('/broker')}",
         "-addext", "keyUsage=critical,digitalSignature", "-addext", "basicConstraints=critical,CA:FALSE"],
        check=True, capture_output=True,
    )
    refused(f"127.0.0.1:{agent.port}", *foreign)
    server.cli("x509", "mint", "-spiffeID", spiffe_id("/broker"), "-ttl", "10m", "-write", tmp_path)
    answer = calls(["files", f"unix://{agent.broker}", *minted], request)[0]
    assert answer["messages"], "the same, but valid"


def test_a_broker_of_another_trust_domain_is_known_once_an_entry_federates_with_it(domain, processes, tmp_path):
    server, agents, _ = domain
    known(agents["steeple"], processes[0])
    other = Server(tmp_path / "other", trust_domain="other.org").start()
    try:
        other.cli("x509", "mint", "-spiffeID", "spiffe://other.org/broker", "-ttl", "10m", "-write", tmp_path)
        bundle = other.cli("bundle", "show", "-format", "spiffe").stdout
    finally:
        other.daemon.kill()
    minted = [tmp_path / "svid.pem", tmp_path / "key.pem"]
    for agent in agents.values():
        refused(f"unix://{agent.broker}", *minted)
    server.cli("bundle", "set", "-id", "spiffe://other.org", "-format", "spiffe", stdin=bundle)
    server.entry("/federated", Agent.NODE, "many:federated", options=["-federatesWith", "spiffe://other.org"])
    request = requests(*processes)[:1]
    for agent in agents.values():
        wait_until(
            lambda agent=agent: calls(["files", f"unix://{agent.broker}", *minted], request)[0].get("messages"),
            "the foreign broker's admission",
        )


def test_a_broker_api_without_brokers_stops_the_agent(domain, tmp_path):
    server, _, _ = domain
    agent = broker_agent(tmp_path / "agent", server)
    text = re.sub(r"brokers = \[.*?\n            \]\n", "brokers = []\n", agent.config.read_text(), flags=re.S)
    agent.config.write_text(text)
    agent.start(server.token(Agent.NODE), wait=False)
    wait_until(lambda: not agent.daemon.alive(), "its end")
    assert "at least one broker is required" in agent.daemon.log.read_text()


def test_post_quantum_key_exchange_can_be_required(domain, processes, tmp_path):
    server, _, _ = domain
    agent = start(broker_agent(tmp_path / "agent", server, extra="require_pq_kem = true"))
    try:
        known(agent, processes[0])
        handshake = ["openssl", "s_client", "-connect", f"127.0.0.1:{agent.port}", "-groups", "X25519", "-brief"]
        classic = subprocess.run(handshake, input="", capture_output=True, text=True, timeout=30)
        assert classic.returncode != 0, classic.stderr
    finally:
        agent.daemon.kill()
