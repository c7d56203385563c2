"""An agent is replaced while workloads use it: nobody is refused, nobody's fetch fails (ADR 13)."""

import json
import os
import socket
import stat
import subprocess
import threading
import time

import pytest

from harness import BUILD, HERE, Daemon, wait_until

STREAMS = 1000
FETCHERS = 8


@pytest.fixture(scope="module")
def client():
    BUILD.mkdir(exist_ok=True)
    built = subprocess.run(
        ["go", "build", "-o", str(BUILD / "restart"), "."], cwd=HERE / "restart", capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return BUILD / "restart"


class Crowd:
    """Open streams and fetches, by the Go program."""

    def __init__(self, client, agent, streams, fetchers=FETCHERS):
        self.streams = streams
        self.process = subprocess.Popen(
            [str(client), str(agent.socket), str(streams), str(fetchers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: self.report()["open"] == streams, "the streams", 120)

    def report(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def all_open_again(self):
        """Waits until every stream was opened anew; what happened meanwhile, all together."""
        total = self.report()

        def again():
            told = self.report()
            for key in ("ended", "failed", "failed_open"):
                for text, count in told[key].items():
                    total[key][text] = total[key].get(text, 0) + count
            for key in ("reopened", "fetched"):
                total[key] += told[key]
            for key in ("gap_p50_ms", "gap_p99_ms", "gap_max_ms", "slowest_fetch_ms"):
                total[key] = max(total[key], told[key])
            total["open"] = told["open"]
            return total["open"] == self.streams and total["reopened"] >= self.streams

        wait_until(again, "every stream to be open again", 120)
        return total

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def node(pair):
    """A server, an agent that runs, and an entry for every caller of this user."""
    daemons = []

    def make(extra="", admin=False):
        server, agent = pair()
        text = agent.config.read_text()
        if admin:
            extra += f'\nadmin_socket_path = "{agent.folder}/admin/admin.sock"'
        agent.config.write_text(text.replace("trust_domain =", f"{extra}\n    trust_domain =", 1))
        agent.start(server.token(agent.NODE))
        server.entry("/restart", agent.NODE, f"unix:uid:{os.getuid()}")
        wait_until(agent.ids, "an identity")
        daemons.append(agent)
        return server, agent

    yield make
    for agent in daemons:
        agent.daemon.kill()


_successors = []


@pytest.fixture(autouse=True)
def nobody_stays():
    """Ends the agents that a test started beside the first, whatever came of it."""
    yield
    while _successors:
        _successors.pop().kill()


def kept(daemon):
    _successors.append(daemon)
    return daemon


def successor(agent, log="second.log", environment=None):
    """Another agent with the same configuration."""
    command = [str(agent.bins / "spire-agent"), "run", "-config", str(agent.config)]
    if environment:
        command = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
    return kept(Daemon(command, agent.folder / log))


def take_over(agent, log="second.log"):
    """Starts a second agent and waits until the first is gone; gives the second."""
    first = agent.daemon
    second = successor(agent, log)
    try:
        wait_until(lambda: not first.alive(), f"the first agent's end; see {agent.folder}", 60)
    except AssertionError:
        second.kill()
        raise
    assert first.process.returncode == 0
    assert second.alive(), (agent.folder / log).read_text()
    agent.daemon = second
    return second


def inode(path):
    return os.stat(path).st_ino


def test_a_thousand_streams_and_no_failed_fetch(client, node):
    server, agent = node(admin=True)
    before = inode(agent.socket)
    crowd = Crowd(client, agent, STREAMS)
    try:
        crowd.report()
        take_over(agent)
        wait_until(lambda: agent.daemon.alive() and b"Took over" in agent.daemon.log.read_bytes(), "the take-over")
        told = crowd.all_open_again()
        assert told["failed"] == {} and told["failed_open"] == {}, told
        assert list(told["ended"]) == ["Unavailable: the agent is stopping"], told
        assert told["fetched"] > 50, told
        print(f"restart: {told}")
        assert inode(agent.socket) == before, "the same socket"
        # Again, from the second to a third, with an entry that is new to it.
        server.entry("/later", agent.NODE, f"unix:uid:{os.getuid()}")
        take_over(agent, "third.log")
        wait_until(lambda: len(agent.ids()) == 2, "the later entry")
        told = crowd.report()
        assert told["failed"] == {} and told["failed_open"] == {}, told
    finally:
        crowd.close()
    admin = agent.folder / "admin" / "admin.sock"
    assert stat.S_IMODE(os.stat(admin).st_mode) == 0o770
    assert stat.S_IMODE(os.stat(agent.socket).st_mode) == 0o777
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(admin))
    agent.daemon.stop()
    assert not agent.socket.exists(), "the last one removes it"


def test_the_path_is_there_all_the_time(node):
    _, agent = node()
    missing, refused, stop = [], [], threading.Event()

    def look():
        while not stop.is_set():
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(agent.socket))
            except FileNotFoundError as error:
                missing.append(error)
            except ConnectionRefusedError as error:
                refused.append(error)
            time.sleep(0.0005)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for log in ("second.log", "third.log", "fourth.log"):
            take_over(agent, log)
    finally:
        stop.set()
        looking.join()
    assert not missing and not refused, (len(missing), len(refused))


@pytest.mark.parametrize("line", ["Asking the agent", "will give way", "Starting agent APIs"])
def test_the_new_agent_is_killed_on_its_way(node, line):
    """Wherever the new one dies before it serves, the old one goes on."""
    server, agent = node()
    for attempt in range(2):
        second = successor(agent, f"killed{attempt}.log")
        deadline = time.monotonic() + 20
        while line.encode() not in second.log.read_bytes() and second.alive() and time.monotonic() < deadline:
            if not agent.daemon.alive():
                break
        second.kill()
        wait_until(
            lambda: not agent.daemon.alive() or agent.ids() == ["spiffe://example.org/restart"],
            "the old one to go on, or to be gone",
        )
        if not agent.daemon.alive():
            break
    if not agent.daemon.alive():
        # It was too late: the old one had gone. A restart finds everything.
        agent.start()
    wait_until(lambda: agent.ids() == ["spiffe://example.org/restart"], "the identity")
    # And it still learns of changes.
    server.entry("/later", agent.NODE, f"unix:uid:{os.getuid()}")
    wait_until(lambda: len(agent.ids()) == 2, "the later entry")
    take_over(agent, "last.log")
    assert len(agent.ids()) == 2


def test_the_old_agent_is_killed_at_any_point(node):
    """Wherever the old one dies, the new one serves in the end."""
    _, agent = node()
    for attempt, pause in enumerate([0, 0.05, 0.1, 0.2, 0.4]):
        first = agent.daemon
        second = successor(agent, f"survivor{attempt}.log")
        time.sleep(pause)
        first.kill()
        agent.daemon = second
        wait_until(lambda: agent.ids() == ["spiffe://example.org/restart"], f"the identity after {pause} s")
        assert second.alive()


def test_the_agents_identity_survives_hand_overs(node):
    """One owner of the data directory at a time: the same agent, without another attestation."""
    server, agent = node()
    before = server.json("agent", "list")["agents"][0]
    for log in ("second.log", "third.log", "fourth.log"):
        take_over(agent, log)
    after = server.json("agent", "list")["agents"]
    assert len(after) == 1 and after[0]["id"] == before["id"]
    assert json.loads((agent.folder / "data" / "agent-data.json").read_text())["svid"]
    assert stat.S_IMODE(os.stat(agent.folder / "data" / "handover.sock").st_mode) == 0o600


def test_keys_in_memory_cannot_be_handed_over(node):
    """With a join token there is no second attestation: the new agent fails, the old one goes on."""
    server, agent = node()
    text = agent.config.read_text()
    start = text.index("KeyManager")
    memory = text[:start] + 'KeyManager "memory" { plugin_data {} }\n' + text[text.index("\n", start) :]
    # The old one runs with keys on disk; the new one has none and no token.
    other = agent.folder / "memory.conf"
    other.write_text(memory)
    second = kept(Daemon([agent.bins / "spire-agent", "run", "-config", other], agent.folder / "memory.log"))
    wait_until(lambda: "Failed to retrieve attestation result" in second.log.read_text(), "its failure")
    # Workloads notice nothing of its attempts.
    assert agent.ids() == ["spiffe://example.org/restart"]
    assert second.stop() == 0
    wait_until(lambda: "going on" in agent.daemon.log.read_text(), "the old one to go on")
    server.entry("/later", agent.NODE, f"unix:uid:{os.getuid()}")
    wait_until(lambda: len(agent.ids()) == 2, "the later entry")


def test_an_agent_that_may_not_take_over_says_so(node):
    _, agent = node()
    other = agent.folder / "other.conf"
    other.write_text(agent.config.read_text().replace('trust_domain = "example.org"', 'trust_domain = "other.org"'))
    second = kept(Daemon([agent.bins / "spire-agent", "run", "-config", other], agent.folder / "other.log"))
    assert second.process.wait(timeout=60) != 0
    assert "another agent runs on the same data directory" in second.log.read_text()
    assert agent.daemon.alive() and agent.ids()


def test_nonsense_at_the_door_changes_nothing(node):
    _, agent = node()
    door = agent.folder / "data" / "handover.sock"
    hello = json.dumps({"hello": {"version": "0", "trust_domain": "example.org"}}).encode()
    framed = len(hello).to_bytes(4, "big") + hello
    for nonsense in [b"", b"\xff" * 64, b"\0\0\0\x02{}", framed, framed + b"\0\0\0\x07nonsense"]:
        with socket.socket(socket.AF_UNIX) as guest:
            guest.settimeout(10)
            guest.connect(str(door))
            guest.sendall(nonsense)
            time.sleep(0.1)
        assert agent.ids() == ["spiffe://example.org/restart"]
    take_over(agent)
    assert agent.ids() == ["spiffe://example.org/restart"]


def test_another_user_cannot_knock(node):
    if os.getuid() != 0:
        pytest.skip("skipped: takes root to be another user")
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("skipped: no Python that another user may run")
    _, agent = node()
    door = agent.folder / "data" / "handover.sock"
    # Even where the mode let it.
    os.chmod(door, 0o777)
    script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1]); print(s.recv(1))"
    for folder in [door.parent, *door.parents]:
        if folder.stat().st_mode & 0o001 == 0:
            os.chmod(folder, folder.stat().st_mode | 0o001)
    knock = subprocess.run(
        ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "/usr/bin/python3", "-c", script, str(door)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert knock.stdout.strip() == "b''", knock
    assert agent.ids()


ACTIVATE = """
import os, socket, sys
path, name, notify = sys.argv[1:4]
s = socket.socket(socket.AF_UNIX)
s.bind(path)
os.chmod(path, 0o777)
s.listen(64)
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=name, NOTIFY_SOCKET=notify)
os.execv(sys.argv[4], sys.argv[4:])
"""


@pytest.mark.parametrize("name", ["workload", "unknown"])
def test_a_socket_from_systemd(pair, name):
    """By its path or its name; systemd is told when it is served, and keeps the file."""
    server, agent = pair()
    token = server.token(agent.NODE)
    path = agent.socket if name == "unknown" else agent.folder / "public" / "of-systemd.sock"
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(agent.folder / "notify"))
    notify.settimeout(60)
    command = [agent.bins / "spire-agent", "run", "-config", agent.config, "-joinToken", token]
    agent.daemon = Daemon(
        ["python3", "-c", ACTIVATE, path, name, agent.folder / "notify", *command], agent.folder / "agent.log"
    )
    wait_until(path.exists, "the socket")
    # Nobody serves it yet, and nobody is refused.
    early = socket.socket(socket.AF_UNIX)
    wait_until(lambda: early.connect_ex(str(path)) == 0, "a place in the queue")
    told = notify.recv(1024).decode().split("\n")
    assert told == ["READY=1", f"MAINPID={agent.daemon.process.pid}"]
    agent.socket = path
    server.entry("/systemd", agent.NODE, f"unix:uid:{os.getuid()}")
    wait_until(agent.ids, "an identity")
    # The next one, without systemd's help, takes over the same socket.
    first = agent.daemon
    agent.daemon = successor(agent, environment={"NOTIFY_SOCKET": agent.folder / "notify"})
    told = notify.recv(1024).decode().split("\n")
    assert told == ["READY=1", f"MAINPID={agent.daemon.process.pid}"]
    wait_until(lambda: not first.alive(), "the first one's end")
    if name == "unknown":
        wait_until(agent.ids, "an identity")
    agent.daemon.stop()
    assert notify.recv(1024) == b"STOPPING=1"
    assert path.exists(), "systemd's file"


def test_spires_agent_is_replaced_without_a_hand_over(pair, spire):
    """SPIRE's agent knows of no hand-over; the path is replaced at once."""
    server, agent = pair()
    agent.bins, ours = spire, agent.bins
    agent.start(server.token(agent.NODE))
    server.entry("/restart", agent.NODE, f"unix:uid:{os.getuid()}")
    wait_until(agent.ids, "an identity")
    theirs, agent.bins = agent.daemon, ours
    before = inode(agent.socket)
    agent.daemon = successor(agent)
    wait_until(lambda: inode(agent.socket) != before, "the replacement")
    wait_until(agent.ids, "an identity")
    assert "Replacing a socket that is in use" in agent.daemon.log.read_text()
    theirs.kill()
    wait_until(agent.ids, "an identity")
