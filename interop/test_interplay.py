"""What the agent's parts do to each other: taking over with an offline cache, with push, while the server is away,
with every kind of socket and stream open.
"""

import array
import fcntl
import json
import os
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
from delegated import PID_REFERENCE, PROGRAM, build, calls, spiffe_id
from harness import BUILD, HERE, Agent, free_port, wait_until
from test_outage import log_of, pem, token_of
from test_restart import successor, take_over

UID = f"unix:uid:{os.getuid()}"
SEALED = "agent-offline.sealed"
CACHE = "offline_cache { jwt_svids = true }"


@pytest.fixture
def node(pair):
    """A server, an agent that runs with more in its configuration, and an entry for callers of this user."""
    agents = []

    def make(experimental="", inside="", plugins="", blocks="", sync="1s", ready=True, admin=False):
        server, agent = pair()
        if admin:
            inside += f'\n    admin_socket_path = "{agent.folder}/private/admin.sock"'
        agents.append(agent)
        text = agent.config.read_text()
        text = text.replace('experimental { sync_interval = "1s"', f'{inside}\n    experimental {{ {experimental}\n sync_interval = "{sync}"')
        text = text.replace('WorkloadAttestor "unix"', f'{plugins}\n    WorkloadAttestor "unix"')
        agent.config.write_text(text + blocks)
        # Entries first: where polls are rare, the first sync has them.
        server.entry("/one", Agent.NODE, UID)
        agent.start(server.token(Agent.NODE), wait=ready)
        if ready:
            wait_until(lambda: spiffe_id("/one") in agent.ids(), "an identity")
        return server, agent

    yield make
    for agent in agents:
        agent.daemon.kill()


def logs(agent):
    return "".join(path.read_text() for path in sorted(agent.folder.glob("*.log")))


def kept(agent, size=2500):
    sealed = agent.folder / "data" / SEALED
    wait_until(lambda: sealed.exists() and sealed.stat().st_size > size, "a file with the identity")
    return sealed


def explained(agent):
    command = [agent.bins / "spire-agent", "explain", "-pid", os.getpid(), "-socketPath", agent.folder / "private" / "admin.sock"]
    return subprocess.run([str(it) for it in command], capture_output=True, text=True, timeout=30).stdout


def test_a_new_agent_takes_over_from_the_cache_while_the_server_is_away(node):
    server, agent = node(CACHE, admin=True)
    before, token = pem(agent), token_of(agent)
    sealed = kept(agent)
    assert "last sync (never)" not in explained(agent)
    server.daemon.kill()
    take_over(agent)
    # Who has given way writes nothing any more, nor at its end.
    assert "Wrote the offline cache" not in log_of(agent).split("Handed over to another agent")[1]
    # What the agent before had in the last moment, be it ever so new, and nothing that was signed anew.
    assert (pem(agent), token_of(agent)) == (before, token)
    wait_until(lambda: "Took over" in agent.daemon.log.read_text(), "the log to tell")
    assert "last sync (never)" in explained(agent)
    # It dies at once: neither of the two destroyed what the next start takes.
    agent.daemon.kill()
    agent.daemon = successor(agent, "third.log")
    wait_until(lambda: pem(agent) == before, "the identity after a crash", 20)
    time.sleep(1.2)
    assert "Refusing the offline cache" not in logs(agent)
    take_over(agent, "fourth.log")
    assert pem(agent) == before
    agent.daemon.kill()
    server.start()
    agent.daemon = successor(agent, "fifth.log")
    server.entry("/two", Agent.NODE, UID)
    wait_until(lambda: len(agent.ids()) == 2, "news from the server")
    assert "last sync (never)" not in explained(agent) and sealed.exists()


def test_without_a_cache_the_agent_that_runs_goes_on_while_the_server_is_away(node):
    server, agent = node()
    before = pem(agent)
    server.daemon.kill()
    second = successor(agent)
    wait_until(lambda: "Failed to initialize manager" in second.log.read_text(), "its failure")
    assert agent.daemon.alive() and pem(agent) == before
    second.kill()
    server.start()
    server.entry("/two", Agent.NODE, UID)
    wait_until(lambda: len(agent.ids()) == 2, "the agent to sync again")
    assert "going on" in log_of(agent)


def test_an_agent_that_is_given_up_touches_nothing(node):
    """The one that ran waits no longer: what is in the data directory is its own again."""
    server, agent = node()
    assert agent.stop() == 0
    server.daemon.kill()
    data = agent.folder / "data"
    files = {it: (data / it).read_bytes() for it in ("agent-data.json", "keys.json")}
    with open(data / "agent.lock", "w") as lock, socket.socket(socket.AF_UNIX) as door:
        fcntl.flock(lock, fcntl.LOCK_EX)
        door.bind(str(data / "handover.sock"))
        door.listen()
        second = successor(agent)
        try:
            wire, _ = door.accept()

            def say(message, *fds):
                text = json.dumps(message).encode()
                beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                wire.sendmsg([len(text).to_bytes(4, "big") + text], beside)

            assert b"hello" in wire.recv(4096)
            say({"welcome": {"version": "0"}}, lock.fileno())
            wait_until(lambda: "Failed to initialize manager" in second.log.read_text(), "its attempts")
            say({"refused": {"reason": "the agent that runs does not give way any more"}})
            assert second.process.wait(timeout=10) == 1
        finally:
            second.kill()
    assert "does not give way any more" in second.log.read_text()
    assert {it: (data / it).read_bytes() for it in files} == files


def test_changes_are_pushed_to_whoever_serves(node):
    server, agent = node(sync="45s")
    for turn in range(3):
        take_over(agent, f"turn{turn}.log")
        wait_until(lambda: "Took over" in agent.daemon.log.read_text(), "the log to tell")
        time.sleep(0.5)
        entry = server.entry(f"/turn{turn}", Agent.NODE, UID)
        wait_until(lambda turn=turn: spiffe_id(f"/turn{turn}") in agent.ids(), "a pushed entry", 20)
        server.cli("entry", "delete", "-entryID", entry)
        wait_until(lambda turn=turn: spiffe_id(f"/turn{turn}") not in agent.ids(), "its end", 20)
    assert "Another process uses this agent's identity" not in logs(agent)


def test_every_socket_and_port_moves(node, tmp_path):
    build()
    broker, metrics, health = free_port(), free_port(), free_port()
    private = tmp_path / "private"
    inside = f'''admin_socket_path = "{private}/admin.sock"
    authorized_delegates = [ "{spiffe_id("/one")}" ]'''
    experimental = f"""broker {{
        socket_path = "{private}/broker.sock"
        bind_address = "127.0.0.1:{broker}"
        brokers = [ {{ id = "{spiffe_id("/one")}" allowed_reference_types = [ {{ type_url = "{PID_REFERENCE}" allow_over_tcp = true }} ] }} ]
    }}"""
    blocks = f"""
telemetry {{ Prometheus {{ host = "localhost" port = {metrics} }} }}
health_checks {{ listener_enabled = true bind_port = "{health}" }}
"""
    server, agent = node(experimental, inside=inside, blocks=blocks)
    environment = {"SPIFFE_ENDPOINT_SOCKET": f"unix://{agent.socket}"}
    reference = {"@type": PID_REFERENCE, "pid": os.getpid()}
    order = [{"method": "broker.x509", "request": {"reference": {"reference": reference}}}]
    asked = [{"method": "delegated.x509", "request": {"pid": os.getpid()}}]
    missed, stop = [], threading.Event()

    def gets_one(answer):
        return [it["id"] for it in answer["messages"][0]["svids"]] == [spiffe_id("/one")] if "messages" in answer else answer

    def look():
        while not stop.is_set():
            try:
                socket.create_connection(("127.0.0.1", broker), 5).close()
            except OSError as error:
                missed.append(error)
            time.sleep(0.002)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        take_over(agent)
        take_over(agent, "third.log")
    finally:
        stop.set()
        looking.join()
    assert not missed, (len(missed), missed[:3])
    assert gets_one(calls(["delegate", private / "admin.sock"], asked)[0]) is True
    for target in (f"unix://{private}/broker.sock", f"127.0.0.1:{broker}"):
        assert gets_one(calls(["broker", target], order, environment)[0]) is True

    def answers(url):
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status == 200
        except OSError:
            return False

    for url in (f"http://localhost:{metrics}/metrics", f"http://localhost:{health}/live"):
        wait_until(lambda url=url: answers(url), f"the new agent at {url}")
    agent.daemon.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", broker), 5)


def test_streams_that_come_in_the_last_moment_have_an_answer(node, tmp_path):
    build()
    built = subprocess.run(["go", "build", "-o", str(BUILD / "sds"), "."], cwd=HERE / "sds", capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    private = tmp_path / "private"
    inside = f'''admin_socket_path = "{private}/admin.sock"
    authorized_delegates = [ "{spiffe_id("/one")}" ]'''
    server, agent = node(inside=inside)
    secrets = [json.dumps({"call": it, "steps": [{"names": ["default"], "subscribe": ["default"]}]}) for it in ("stream", "delta")]
    asked = [{"method": "delegated.x509", "request": {"selectors": [{"type": "unix", "value": f"uid:{os.getuid()}"}]}}]
    failed, done, stop = [], {"sds": 0, "delegated": 0}, threading.Event()

    def ask_sds():
        while not stop.is_set():
            said = subprocess.run([BUILD / "sds", agent.socket], input="\n".join(secrets) + "\n", capture_output=True, text=True)
            done["sds"] += 1
            if said.returncode or "stopping" in said.stdout or "default" not in said.stdout:
                failed.append(said.stdout + said.stderr)

    def ask_delegate():
        while not stop.is_set():
            answer = calls(["delegate", private / "admin.sock"], asked)[0]
            done["delegated"] += 1
            if "messages" not in answer:
                failed.append(answer)

    askers = [threading.Thread(target=it) for it in (ask_sds, ask_sds, ask_delegate, ask_delegate)]
    for it in askers:
        it.start()
    try:
        for turn in range(4):
            take_over(agent, f"turn{turn}.log")
            time.sleep(0.3)
    finally:
        stop.set()
        for it in askers:
            it.join()
    assert not failed, failed[:3]
    assert min(done.values()) > 4, done


def test_a_ban_during_an_outage_ends_what_is_served_when_the_server_comes_back(node):
    server, agent = node(CACHE)
    before, sealed = pem(agent), kept(agent)
    assert agent.stop() == 0
    server.cli("agent", "ban", "-spiffeID", agent.id())
    server.daemon.kill()
    agent.start(wait=False)
    wait_until(lambda: pem(agent) == before, "what was kept", 20)
    server.start()
    wait_until(lambda: not agent.daemon.alive(), "the banned agent to stop", 60)
    assert not sealed.exists()
    assert "Agent is banned: removing SVID and shutting down" in log_of(agent)


def test_an_agent_without_public_apis_is_replaced_too(node):
    server, agent = node(inside="disable_workload_api = true\n    disable_sds_api = true", ready=False)
    wait_until(lambda: (agent.folder / "data" / "handover.sock").exists(), "the agent")
    take_over(agent)
    take_over(agent, "third.log")
    assert agent.daemon.alive()


def test_stored_svids_stay_where_they_are(node, tmp_path):
    plugins = f'SVIDStore "disk" {{ plugin_data {{ directory = "{tmp_path}/stored" }} }}'
    server, agent = node(plugins=plugins)
    server.entry("/stored", Agent.NODE, "disk:dir:web", options=["-storeSVID"])
    key = tmp_path / "stored" / "web" / "svid.key"
    wait_until(key.exists, "the stored key")
    missing, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            if not key.exists():
                missing.append(time.time())
            time.sleep(0.002)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for turn in range(3):
            take_over(agent, f"turn{turn}.log")
            log = agent.daemon.log
            wait_until(lambda log=log: "SVID stored successfully" in log.read_text(), "the new one to store")
    finally:
        stop.set()
        looking.join()
    assert not missing
    assert "SVID deleted successfully" not in logs(agent)
    # Each stores once: nothing is written by who has given way.
    assert logs(agent).count("SVID stored successfully") == 4
