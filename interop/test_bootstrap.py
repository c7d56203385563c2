"""Where an agent's first trust bundle and its join token come from, beside SPIRE's agent where it is there."""

import contextlib
import os
import socket
import socketserver
import ssl
import subprocess
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from harness import Agent, Server, binaries, spire_binaries, wait_until

REALM = "spiffe://example.org"
UID = f"unix:uid:{os.getuid()}"


@pytest.fixture(params=["ours", "spire's"])
def bins(request):
    if request.param == "ours":
        return binaries()
    return spire_binaries() or pytest.skip("SPIRE_BIN_DIR not set")


@pytest.fixture
def server(tmp_path, keep):
    return keep(Server(tmp_path / "server").start())


def agent_of(server, folder, trust, keep, bins=None):
    """An agent with another source of trust, or of its token, than the file."""
    agent = keep(Agent(folder, server, bins=bins))
    lines = agent.config.read_text().splitlines()
    agent.config.write_text("\n".join(trust if "trust_bundle_path" in it else it for it in lines))
    return agent


def log_of(agent):
    return (agent.folder / "agent.log").read_text()


class Helper:
    """Answers every request with a document, and keeps what was asked."""

    def __init__(self, listener, document):
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(document)))
                self.end_headers()
                self.wfile.write(document)

            def log_message(self, *_):
                pass

            def address_string(self):
                return "helper"

        self.http = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.http.socket.close()
        self.http.socket = listener
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def test_a_helper_on_a_socket_learns_who_asks_and_how_often(tmp_path, server, keep, bins):
    path = tmp_path / "helper.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    helper = Helper(listener, server.cli("bundle", "show").stdout.encode())
    trust = f'trust_bundle_url = "http://localhost/bundle?kept=1"\n trust_bundle_unix_socket = "{path}"'
    agent = agent_of(server, tmp_path / "agent", trust, keep, bins)
    agent.start(server.token())
    [asked] = helper.asked
    url = urllib.parse.urlsplit(asked)
    query = dict(urllib.parse.parse_qsl(url.query))
    started = query.pop("spire-attest-start-time")
    assert started.endswith("Z") and started[10] == "T"
    assert (url.path, query) == ("/bundle", {
        "kept": "1",
        "spiffe-trust-domain": "example.org",
        "spire-attest-mode": "bootstrap",
        "spire-connection-attempts": "1",
        "spire-server-address": "127.0.0.1",
        "spire-server-port": str(server.port),
    })
    helper.http.shutdown()


def test_a_bundle_comes_over_https_in_either_format(tmp_path, server, keep, bins, monkeypatch):
    certificate, key = tmp_path / "web.pem", tmp_path / "web.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
    helper = Helper(listener, server.cli("bundle", "show", "-format", "spiffe").stdout.encode())
    url = f"https://localhost:{listener.getsockname()[1]}/bundle"
    trust = f'trust_bundle_url = "{url}"\n trust_bundle_format = "spiffe"'
    # Whom this machine does not know it does not believe.
    stranger = agent_of(server, tmp_path / "stranger", trust, keep, bins).start(server.token(), wait=False)
    wait_until(lambda: "unable to fetch trust bundle URL" in log_of(stranger), "the refusal")
    stranger.daemon.kill()
    assert not helper.asked
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    agent_of(server, tmp_path / "agent", trust, keep, bins).start(server.token())
    assert helper.asked == ["/bundle"]
    helper.http.shutdown()


class Relay(socketserver.ThreadingTCPServer):
    """From a TCP port to a Unix socket."""

    daemon_threads = True

    def __init__(self, path):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with socket.socket(socket.AF_UNIX) as other:
                    other.connect(str(path))

                    def back():
                        # Either side may hang up.
                        with contextlib.suppress(OSError):
                            while data := other.recv(65536):
                                self.request.sendall(data)

                    threading.Thread(target=back, daemon=True).start()
                    while data := self.request.recv(65536):
                        other.sendall(data)

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_a_bundle_comes_from_another_workload_api(over, tmp_path, server, keep, bins):
    first = keep(Agent(tmp_path / "first", server).start(server.token()))
    server.entry("/agents", first.id(), UID)
    wait_until(lambda: first.ids() == [f"{REALM}/agents"], "an identity for the second agent")
    address = f"unix://{first.socket}"
    if over == "tcp":
        relay = Relay(first.socket)
        address = f"tcp://127.0.0.1:{relay.server_address[1]}"
    trust = f'trust_bundle_spiffe_workload_api = "{address}"'
    second = agent_of(server, tmp_path / "second", trust, keep, bins).start(server.token())
    assert "Node attestation was successful" in log_of(second)


def test_a_join_token_comes_from_a_file_and_only_from_there(tmp_path, server, keep, bins):
    path = tmp_path / "token"
    path.write_text(server.token() + "\n")
    trust = f'trust_bundle_path = "{server.bundle()}"\n join_token_file = "{path}"'
    agent = agent_of(server, tmp_path / "agent", trust, keep, bins).start()
    assert agent.stop() == 0
    both = agent_of(server, tmp_path / "both", trust + '\n join_token = "x"', keep, bins)
    both.start(wait=False)
    assert both.daemon.process.wait(timeout=20) == 1
    assert "only one of join_token or join_token_file can be specified, not both" in log_of(both)
    path.write_text("")
    empty = agent_of(server, tmp_path / "empty", trust, keep, bins).start(wait=False)
    assert empty.daemon.process.wait(timeout=20) == 1
    assert "join token file is empty" in log_of(empty)
