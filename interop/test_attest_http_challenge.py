"""Agents that prove their host's name by answering HTTP at it, in networks of their own; mixed with SPIRE's programs."""

import http.server
import shutil
import socket
import struct
import threading

import netns
import pytest
from harness import Agent, Daemon, Server, free_port, spire_binaries, wait_until

MISSING = netns.missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"skipped: {MISSING}")

ID = "spiffe://example.org/spire/agent/http_challenge/web1.test"
USED = "attestation data has already been used to attest an agent"
SECRET = "AKIA-what-only-the-server-may-see"
MIXED = [
    pytest.param(theirs, marks=pytest.mark.skipif(spire_binaries() is None, reason="SPIRE_BIN_DIR not set"))
    if any(theirs) else pytest.param(theirs)
    for theirs in ((False, False), (True, False), (False, True))
]
NAMES = [{(False, False): "ours", (True, False): "spires-server", (False, True): "spires-agent"}[it.values[0]] for it in MIXED]


class Judge(Server):
    """A server with its own view of names: `hosts` by its hosts file, or all names by a DNS server."""

    def __init__(self, folder, net, config="", hosts=None, resolver=None, bins=None):
        super().__init__(
            folder, bins=bins, address=net.addresses[0],
            extra="ratelimit { attestation = false }",
            plugins=f'NodeAttestor "http_challenge" {{ plugin_data {{ {config} }} }}',
        )
        table = self.folder / "hosts"
        table.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in (hosts or {}).items()))
        script = f'mount --bind "{table}" /etc/hosts && exec "$@"'
        if resolver:
            conf = self.folder / "resolv.conf"
            conf.write_text(f"nameserver {resolver}\noptions timeout:1 attempts:2\n")
            script = f'mount --bind "{conf}" /etc/resolv.conf && ' + script
        self.prefix = ["unshare", "--mount", "sh", "-c", script, "sh"]

    def start(self):
        command = [*self.prefix, self.bins / "spire-server", "run", "-config", self.config]
        self.daemon = Daemon(command, self.folder / "server.log")
        self.wait()
        return self

    def said(self):
        return (self.folder / "server.log").read_text()


def agent(folder, judge, net, config="", bins=None):
    """An agent on the other side of the cable, whose address is the server's `web1.test`."""
    made = Agent(
        folder, judge, bins=bins,
        attestor=f'NodeAttestor "http_challenge" {{ plugin_data {{ {config} }} }}',
    )
    made.prefix = net.prefix
    return made


def refused(agent, *words):
    """The agent ends by itself, and says these words."""
    agent.start(wait=False)
    try:
        assert agent.daemon.process.wait(timeout=60) == 1
    finally:
        agent.daemon.kill()
    said = (agent.folder / "agent.log").read_text()
    for word in words:
        assert word in said, said
    return said


def attested(judge):
    return {f"spiffe://{it['id']['trust_domain']}{it['id']['path']}": it for it in judge.json("agent", "list")["agents"]}


def forget(agent):
    """As after a reboot of a host whose disk is new."""
    shutil.rmtree(agent.folder / "data")
    (agent.folder / "data").mkdir()


@pytest.fixture
def net():
    made = netns.Network()
    yield made
    made.close()


def far(net):
    return net.addresses[0].rsplit(".", 1)[0] + ".100"


def bins(theirs):
    return spire_binaries() if theirs else None


@pytest.mark.parametrize("theirs", MIXED, ids=NAMES)
def test_a_host_attests_once_by_its_name(tmp_path, net, keep, theirs):
    judge = keep(Judge(tmp_path / "server", net, hosts={"web1.test": far(net)}, bins=bins(theirs[0]))).start()
    port = free_port()
    host = keep(agent(tmp_path / "agent", judge, net, f'hostname = "web1.test"\nport = {port}', bins(theirs[1]))).start()
    found = attested(judge)
    assert list(found) == [ID]
    assert found[ID]["attestation_type"] == "http_challenge" and not found[ID]["can_reattest"]
    shown = judge.json("agent", "show", "-spiffeID", ID)["selectors"]
    assert shown == [{"type": "http_challenge", "value": "hostname:web1.test"}]
    if not theirs[1]:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((far(net), port), timeout=5)

    assert host.stop() == 0
    host.start().stop()
    forget(host)
    refused(host, USED)
    judge.cli("agent", "evict", "-spiffeID", ID)
    host.start()
    assert list(attested(judge)) == [ID]


@pytest.mark.parametrize("theirs", MIXED, ids=NAMES)
def test_a_host_comes_back_where_only_root_may_answer(tmp_path, net, keep, theirs):
    config = 'tofu = false\nrequired_port = 80\nallowed_dns_patterns = ["^web[0-9]\\\\.test$"]'
    names = {"web1.test": far(net), "mail.test": far(net)}
    judge = keep(Judge(tmp_path / "server", net, config, hosts=names, bins=bins(theirs[0]))).start()
    host = keep(agent(tmp_path / "agent", judge, net, 'hostname = "web1.test"\nagentname = "blue"\nport = 80', bins(theirs[1])))
    for _ in range(2):
        host.start()
        assert attested(judge)[ID]["can_reattest"]
        assert host.stop() == 0
        forget(host)
    other = agent(tmp_path / "other", judge, net, 'hostname = "mail.test"\nport = 80', bins(theirs[1]))
    refused(other, "the requested hostname is not allowed to connect")
    other = agent(tmp_path / "port", judge, net, 'hostname = "web1.test"', bins(theirs[1]))
    refused(other, "is not allowed to be used by this server")
    assert list(attested(judge)) == [ID]


class Web:
    """A web server on this side of the cable that answers everything alike and notes what was asked."""

    def __init__(self, address, status, headers, body):
        self.asked = asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def test_the_server_cannot_be_sent_to_fetch_what_is_not_the_agents(tmp_path, net, keep):
    near = net.addresses[0]
    inner = Web(near, 200, {}, SECRET.encode())
    outer = Web(near, 302, {"Location": f"http://{near}:{inner.port}/{SECRET}"}, b"")
    names = {"redirect.test": near, "secret.test": near, "metadata.test": "169.254.169.254"}
    judge = keep(Judge(tmp_path / "server", net, hosts=names)).start()
    try:
        said = ""
        for at, (name, port, words) in enumerate([
            ("redirect.test", outer.port, "http redirects are disabled"),
            ("secret.test", inner.port, "expected nonce was not found in HTTP response"),
            ("metadata.test", 80, "is not one that may be called"),
            ("169.254.169.254", 80, "is not one that may be called"),
            ("localhost", 80, "you can not use localhost as a hostname"),
            ("127.1", 80, "no such host"),
            ("user@secret.test", 80, "hostname is not valid"),
        ]):
            settings = f'hostname = "{name}"\nadvertised_port = {port}'
            said += refused(agent(tmp_path / f"agent{at}", judge, net, settings), words)
        assert len(outer.asked) == 1 and len(inner.asked) == 1, "one call each, and no redirect followed"
        assert SECRET not in said and SECRET not in judge.said()
        assert attested(judge) == {}
    finally:
        inner.close()
        outer.close()


class Names:
    """A DNS server that answers the first question with `first`, and all further ones with `then`."""

    def __init__(self, address, first, then):
        self.questions = 0
        self.answers = (first, then)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(512)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            head, record = query[:2] + b"\x81\x80\0\x01", b""
            if query[end - 4:end - 2] == b"\0\x01":
                address = self.answers[min(self.questions, 1)]
                self.questions += 1
                record = b"\xc0\x0c\0\x01\0\x01" + struct.pack("!IH", 0, 4) + socket.inet_aton(address)
            self.socket.sendto(head + struct.pack("!HHH", len(record) > 0, 0, 0) + query[12:end] + record, client)

    def close(self):
        self.socket.close()


def test_the_address_that_was_checked_is_the_one_that_is_called(tmp_path, net, keep):
    near = net.addresses[0]
    try:
        names = Names(near, far(net), "127.0.0.1")
    except OSError as error:
        pytest.skip(f"skipped: no DNS port to be had: {error}")
    try:
        judge = keep(Judge(tmp_path / "server", net, "deny_local_addresses = true", resolver=near)).start()
        first = keep(agent(tmp_path / "first", judge, net, 'hostname = "web1.test"')).start()
        assert names.questions == 1, "a name is looked up once"
        assert list(attested(judge)) == [ID]
        first.stop()
        refused(agent(tmp_path / "second", judge, net, 'hostname = "web2.test"'), "is not one that may be called")
        assert names.questions == 2
    finally:
        names.close()


def test_of_agents_that_come_at_the_same_moment_one_gets_in(tmp_path, net, keep):
    judge = keep(Judge(tmp_path / "server", net, hosts={"web1.test": far(net)})).start()
    agents = [keep(agent(tmp_path / f"agent{at}", judge, net, 'hostname = "web1.test"')) for at in range(5)]
    for it in agents:
        it.start(wait=False)
    wait_until(lambda: sum(it.daemon.alive() for it in agents) == 1, "all but one to end", 60)
    [winner] = [it for it in agents if it.daemon.alive()]
    winner.wait()
    assert list(attested(judge)) == [ID]
    for it in agents:
        if it is not winner:
            assert USED in (it.folder / "agent.log").read_text()
