"""Servers of several trust domains, and peers that do not behave."""

import contextlib
import functools
import json
import re
import socket
import ssl
import subprocess
import threading
import time

from harness import BUILD, HERE, Server, free_port, spire_binaries, wait_until

SPIFFE_PROFILE = 'profile "https_spiffe" {}'


@functools.cache
def rpc_program():
    BUILD.mkdir(exist_ok=True)
    program = BUILD / "rpc"
    built = subprocess.run(["go", "build", "-o", program, "."], cwd=HERE / "rpc", capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return program


def rpc(server, *calls):
    """Calls methods of the server's API, (method, request) each, and gives the answers."""
    program = rpc_program()
    lines = "\n".join(json.dumps({"method": method, "request": request}) for method, request in calls)
    result = subprocess.run([program, server.socket], input=lines, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


class Domain(Server):
    """A server of a trust domain of its own that offers its bundle, and follows others' by its file.

    Ours listens on a port that the system chooses; SPIRE's does not say which it got.
    """

    def __init__(
        self, folder, trust_domain, bins=None, profile=SPIFFE_PROFILE, peers="", hint="1m", endpoint_port=0, **options
    ):
        port = free_port() if bins is not None and bins == spire_binaries() else endpoint_port
        block = f"""federation {{
        bundle_endpoint {{ address = "127.0.0.1" port = {port} refresh_hint = "{hint}" {profile} }}
        {peers}
    }}"""
        super().__init__(folder, bins=bins, extra=block, trust_domain=trust_domain, **options)

    @property
    def log(self):
        return (self.folder / "server.log").read_text()

    @property
    def endpoint(self):
        """Host and port of the bundle endpoint, by the log."""
        line = wait_until(lambda: re.search(r'msg="Serving bundle endpoint" addr="127.0.0.1:(\d+)"', self.log), "the endpoint")
        return "127.0.0.1", int(line.group(1))

    @property
    def id(self):
        return f"spiffe://{self.trust_domain}/spire/server"

    def url(self, host=None):
        address, port = self.endpoint
        return f"https://{host or address}:{port}"

    def document(self):
        return self.cli("bundle", "show", "-format", "spiffe").stdout

    def trusts(self, other):
        """Keeps the other's bundle, as an operator carries it over."""
        self.cli("bundle", "set", "-id", f"spiffe://{other.trust_domain}", "-format", "spiffe", stdin=other.document())

    def follows(self, other, *options):
        """Makes a relationship that authenticates the other's endpoint by its SVID."""
        path = self.folder / f"{other.trust_domain}.bundle"
        path.write_text(other.document())
        return self.cli(
            "federation", "create", "-trustDomain", other.trust_domain, "-bundleEndpointURL", other.url(),
            "-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", other.id,
            "-trustDomainBundlePath", path, "-trustDomainBundleFormat", "spiffe", *options,
        )

    def refresh(self, name):
        """Refreshes a bundle now: exit code, words and seconds."""
        begun = time.monotonic()
        result = self.cli("federation", "refresh", "-id", name, check=False)
        return result.returncode, (result.stdout + result.stderr).strip(), time.monotonic() - begun

    def known(self, name):
        """The bundle that is stored of another trust domain."""
        for bundle in self.json("bundle", "list")["bundles"]:
            if bundle["trust_domain"] == name:
                return bundle
        return None

    def polls(self, name):
        """How often the bundle of another trust domain was refreshed."""
        return len(re.findall(rf'msg="Bundle refreshed" subsystem_name=bundle_client trust_domain={name}\n', self.log))


def peer(name, url, server_id=None):
    """A relationship as the configuration has it."""
    profile = f'"https_spiffe" {{ endpoint_spiffe_id = "{server_id}" }}' if server_id else '"https_web" {}'
    return f"""federates_with "{name}" {{
        bundle_endpoint_url = "{url}"
        bundle_endpoint_profile {profile}
    }}
    """


def web_certificate(folder, name, host="localhost"):
    """A certificate of a web server that signed itself: certificate and key."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{host}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    return certificate, key


class Peer:
    """A web server that does as it is told with each connection, after the handshake if it has a certificate."""

    def __init__(self, act, certificate=None):
        self.act = act
        self.context = None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*certificate)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self.listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        # Whoever is on the other end goes when it has had enough.
        with contextlib.suppress(OSError), connection:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
                connection.recv(65536)
            self.act(connection)

    def close(self):
        self.listener.close()


def silence(connection):
    time.sleep(600)


def drip(connection):
    """A head without an end, a byte at a time."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.5)


def flood(connection):
    """A gigabyte."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
    chunk = b" " * (1 << 20)
    for _ in range(1024):
        connection.sendall(chunk)


def saying(status, body=b"", head=b""):
    def act(connection):
        length = f"Content-Length: {len(body)}\r\n".encode()
        connection.sendall(b"HTTP/1.1 " + status + b"\r\n" + head + length + b"\r\n" + body)

    return act


def anybody():
    """A TLS client that verifies nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def ask(address, request, alpn="http/1.1", seconds=10):
    """Sends bytes to an HTTPS server that nobody verifies, and gives everything it answers."""
    context = anybody()
    context.set_alpn_protocols([alpn])
    with socket.create_connection(address, timeout=seconds) as plain:
        with context.wrap_socket(plain) as stream:
            stream.sendall(request)
            answer = b""
            while chunk := stream.recv(65536):
                answer += chunk
            return answer
