"""The OIDC discovery provider: its key sources, what it serves, and a relying party, OpenBao."""

import base64
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from acme import certificate
from harness import Daemon, Server, binaries, free_port, wait_until
from oidc import DOMAIN, Named, Provider, UnixConnection

WELL_KNOWN = "/.well-known/openid-configuration"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server")).start()
    yield server
    server.stop()


@pytest.fixture
def provider(tmp_path):
    """Starts providers, and stops them after the test."""
    made = []

    def make(settings, **options):
        made.append(Provider(tmp_path / f"oidc{len(made)}", settings, **options).start())
        return made[-1]

    yield make
    for it in made:
        it.stop()


def server_kids(server):
    """The JWT authorities of the server's bundle."""
    bundle = json.loads(server.cli("bundle", "show", "-format", "spiffe").stdout)
    return sorted(key["kid"] for key in bundle["keys"] if key["use"] == "jwt-svid")


def rotate(server):
    """Has a new JWT authority sign from now on."""
    prepared = server.json("localauthority", "jwt", "prepare")["prepared_authority"]["authority_id"]
    server.cli("localauthority", "jwt", "activate", "-authorityID", prepared)
    return prepared


HTTP = 'insecure_addr = "127.0.0.1:PORT"\nallow_insecure_scheme = true\n'


def source(server):
    return f'server_api {{ address = "unix://{server.socket}" poll_interval = "1s" }}\n'


def test_keys_come_from_the_servers_api_and_follow_its_rotation(server, provider):
    oidc = provider(HTTP + source(server))
    wait_until(lambda: sorted(oidc.kids()) == server_kids(server), "the keys")
    status, headers, body = oidc.ask("/keys")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert {key["alg"] for key in json.loads(body)["keys"]} == {"ES256"}
    assert "use" not in json.loads(body)["keys"][0]
    new = rotate(server)
    wait_until(lambda: new in oidc.kids(), "the new authority")
    assert sorted(oidc.kids()) == server_kids(server)
    status, headers, body = oidc.ask(WELL_KNOWN)
    assert status == 200
    assert json.loads(body)["issuer"] == f"http://{DOMAIN}"
    assert json.loads(body)["jwks_uri"] == f"http://{DOMAIN}/keys"
    assert oidc.stop() == 0


def test_a_server_that_goes_away_leaves_the_keys_that_are_known(tmp_path, provider):
    server = Server(tmp_path / "server").start()
    health = free_port()
    oidc = provider(HTTP + source(server) + f"health_checks {{ bind_port = {health} }}\n")
    known = wait_until(oidc.kids, "the keys")

    def probe(path, method="GET"):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", health, timeout=10)
            connection.request(method, path)
            return connection.getresponse().status
        except OSError:
            return None

    wait_until(lambda: probe("/ready") == 200, "readiness")
    assert (probe("/live"), probe("/other"), probe("/live", "POST")) == (200, 404, 405)
    server.stop()
    wait_until(lambda: "Failed to fetch bundle" in oidc.text(), "the failure")
    assert oidc.kids() == known
    assert probe("/ready") == 200, "for minutes"
    server.start()
    new = rotate(server)
    wait_until(lambda: new in oidc.kids(), "the new authority")
    server.stop()


def test_a_provider_without_keys_yet_says_so(tmp_path, provider):
    health = free_port()
    oidc = provider(
        HTTP + f'file {{ path = "{tmp_path}/none.json" poll_interval = "1s" }}\nhealth_checks {{ bind_port = {health} }}\n'
    )
    wait_until(lambda: "Failed to load SPIFFE trust bundle" in oidc.text(), "the failure")
    assert oidc.ask("/keys")[::2] == (500, b"document not available\n")

    def ready():
        try:
            connection = http.client.HTTPConnection("127.0.0.1", health, timeout=10)
            connection.request("GET", "/ready")
            return connection.getresponse().status
        except OSError:
            return None

    wait_until(lambda: ready() == 500, "the health checks")
    (tmp_path / "none.json").write_text('{"keys": []}')
    wait_until(lambda: oidc.ask("/keys")[0] == 501, "the empty bundle")
    assert ready() == 200


def test_keys_come_from_a_bundle_file_over_a_unix_socket(server, provider, tmp_path):
    bundle = tmp_path / "bundle.json"
    bundle.write_text(server.cli("bundle", "show", "-format", "spiffe").stdout)
    path = tmp_path / "oidc.sock"
    oidc = provider(f'listen_socket_path = "{path}"\nset_key_use = true\nfile {{ path = "{bundle}" poll_interval = "1s" }}\n')

    def keys():
        status, _, body = oidc.ask("/keys", connection=UnixConnection(path))
        return json.loads(body)["keys"] if status == 200 else None

    found = wait_until(keys, "the keys")
    assert sorted(key["kid"] for key in found) == server_kids(server)
    assert {key["use"] for key in found} == {"sig"}
    status, _, body = oidc.ask(WELL_KNOWN, connection=UnixConnection(path))
    assert json.loads(body)["issuer"] == f"https://{DOMAIN}", "a proxy is in front"
    new = rotate(server)
    bundle.write_text("half a bund")
    bundle.write_text(server.cli("bundle", "show", "-format", "spiffe").stdout)
    wait_until(lambda: new in [key["kid"] for key in keys()], "the new authority")
    oidc.stop()
    assert not path.exists()


def test_keys_come_from_the_workload_api(pair, provider):
    server, agent = pair()
    agent.start(server.token())
    socket_path = f'socket_path = "{agent.socket}" trust_domain = "example.org" poll_interval = "1s"'
    oidc = provider(HTTP + f"workload_api {{ {socket_path} }}\n")
    wait_until(lambda: "Failed to fetch JWKS from the Workload API" in oidc.text(), "the refusal")
    assert oidc.ask("/keys")[0] == 500
    server.entry("/oidc", agent.id(), f"unix:path:{os.path.realpath(oidc.binary)}")
    wait_until(lambda: sorted(oidc.kids()) == server_kids(server), "the keys")
    new = rotate(server)
    wait_until(lambda: new in oidc.kids(), "the new authority")


def test_tls_by_files_is_reloaded_and_a_broken_file_changes_nothing(server, provider, tmp_path):
    root, cert, key = certificate(tmp_path, "first", f"DNS:{DOMAIN}")
    files = f'cert_file_path = "{cert}" key_file_path = "{key}" addr = "127.0.0.1:PORT" file_sync_interval = "1s"'
    oidc = provider(f"serving_cert_file {{ {files} }}\n" + source(server))
    wait_until(lambda: oidc.kids(Named(oidc.port, root)), "the keys")
    status, _, body = oidc.ask(WELL_KNOWN, connection=Named(oidc.port, root))
    assert json.loads(body)["issuer"] == f"https://{DOMAIN}"
    wait_until(lambda: "Loaded provided certificate with success" in oidc.text(), "the first look")
    key.write_text("broken")
    wait_until(lambda: "Failed to load certificate: tls: failed to find any PEM data" in oidc.text(), "the failure")
    assert oidc.kids(Named(oidc.port, root))
    root, other, other_key = certificate(tmp_path, "second", f"DNS:{DOMAIN}")
    cert.write_text(other.read_text())
    key.write_text(other_key.read_text())

    def renewed():
        try:
            return oidc.kids(Named(oidc.port, root))
        except OSError:
            return None

    wait_until(renewed, "the new certificate")


def test_curl_speaks_http2_with_it(server, provider, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    root, cert, key = certificate(tmp_path, "web", f"DNS:{DOMAIN}")
    files = f'cert_file_path = "{cert}" key_file_path = "{key}" addr = "127.0.0.1:PORT"'
    oidc = provider(f"serving_cert_file {{ {files} }}\n" + source(server))
    wait_until(lambda: oidc.kids(Named(oidc.port, root)), "the keys")
    curl = ["curl", "-sS", "--http2", "--cacert", str(root), "--resolve", f"{DOMAIN}:{oidc.port}:127.0.0.1"]
    url = f"https://{DOMAIN}:{oidc.port}/keys"
    answer = subprocess.run([*curl, "-w", " %{http_version}", url], capture_output=True, text=True)
    assert answer.returncode == 0 and answer.stdout.endswith(" 2"), answer


def test_files_that_cannot_be_used_at_the_start_end_it(server, tmp_path):
    oidc = Provider(tmp_path / "oidc", 'serving_cert_file { cert_file_path = "c" key_file_path = "k" addr = ":PORT" }\n' + source(server))
    with pytest.raises(AssertionError):
        oidc.start()
    assert "failed to load certificate: open c: no such file or directory" in oidc.text()
    assert oidc.process.returncode == 1


@pytest.mark.parametrize(
    "text, status",
    [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        (f"GET {WELL_KNOWN} HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400),
        (f"GET {WELL_KNOWN} HTTP/1.1\r\nHost: {DOMAIN}\r\nX-Forwarded-Host: {DOMAIN}:80/@evil.test\r\n\r\n", 400),
        (f"GET {WELL_KNOWN} HTTP/1.1\r\nHost: {DOMAIN}\r\nHost: evil.test\r\n\r\n", 400),
        (f"GET /../../etc/passwd HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n", 307),
        (f"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n", 404),
        (f"GET /keys%2f..%2fx HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n", 404),
        (f"DELETE /keys HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n", 405),
        (f"GET /keys HTTP/1.1\r\nHost: {DOMAIN}\r\nX: {'y' * 300000}\r\n\r\n", 431),
        ("\x16\x03\x01 no HTTP at all\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_hostile_requests_get_a_plain_refusal(hostile, text, status):
    with socket.create_connection(("127.0.0.1", hostile.port), timeout=20) as stream:
        try:
            stream.sendall(text.encode())
            answer = stream.recv(4096)
        except ConnectionError:
            # A head that is too large is not read to its end.
            answer = b""
    assert re.match(rb"HTTP/1.1 %d " % status, answer) or (status in (400, 431) and not answer), answer
    assert b"evil" not in answer or b"is not allowed" in answer
    assert hostile.ask(WELL_KNOWN)[0] == 200


@pytest.fixture(scope="module")
def hostile(server, tmp_path_factory):
    oidc = Provider(tmp_path_factory.mktemp("hostile"), HTTP + source(server)).start()
    yield oidc
    oidc.stop()


def test_the_same_requests_get_the_same_answers_as_from_spires_provider(server, provider, spire):
    if not (spire / "oidc-discovery-provider").exists():
        pytest.skip("SPIRE_BIN_DIR has no oidc-discovery-provider")
    settings = [
        HTTP + source(server),
        HTTP + source(server) + 'jwt_issuer = "https://i.test/x/"\nserver_path_prefix = "/p"\nset_key_use = true\n',
    ]
    forwarded = [{}, {"X-Forwarded-Host": "b.test"}, {"X-Forwarded-Host": "c.test"}, {"X-Forwarded-Proto": "https"}]
    conditions = [{"Range": "bytes=2-9"}, {"Range": "x"}, {"If-Modified-Since": "Sun, 22 Nov 2099 09:00:00 GMT"}, {"If-None-Match": "*"}]
    asked = [(WELL_KNOWN, "GET", it) for it in forwarded] + [("/keys", "GET", it) for it in conditions]
    asked += [(path, method, {}) for path in ("/", "/keys", "/keys/", "//keys?a=b", "/p/keys", "/p" + WELL_KNOWN, "/%6beys") for method in ("GET", "HEAD", "POST")]
    asked += [(WELL_KNOWN, "GET", {"Host": host}) for host in ("b.test:8443", "c.test", "B.test", "a_b.test", "[::1]:1", "c.test:80")]
    for text in settings:
        ours, theirs = provider(text), provider(text, bins=spire)
        for it in (ours, theirs):
            prefix = "/p" if "server_path_prefix" in text else ""
            wait_until(lambda it=it: it.ask(prefix + "/keys")[0] == 200, "the keys")
        for path, method, headers in asked:
            answers = [it.ask(path, method, headers) for it in (ours, theirs)]
            for _, found, _ in answers:
                # Of an answer to HEAD, the length of what is not sent need not be said.
                for name in ("date", "last-modified", *(["content-length"] if method == "HEAD" else [])):
                    found.pop(name, None)
            assert answers[0] == answers[1], (path, method, headers)


@pytest.mark.parametrize(
    "settings, error",
    [
        ("", "either acme, serving_cert_file, insecure_addr or listen_socket_path must be configured"),
        ('acme { email = "e" }', "tos_accepted must be set to true in the acme configuration section"),
        ('insecure_addr = ":1"', "exactly one of the server_api, workload_api, or file sections must be configured"),
        ('insecure_addr = ":1"\nlisten_socket_path = "/s"\nfile {}', "insecure_addr and listen_socket_path are mutually exclusive"),
        ('insecure_addr = ":1"\nserver_api { address = "tcp:x" }', "address must use the unix name system in the server_api configuration section"),
        ('insecure_addr = ":1"\nfile { poll_interval = "x" }', 'invalid poll_interval in the file configuration section: time: invalid duration "x"'),
        ('insecure_addr = ":1"\nfile {}\njwt_issuer = "x"', "the jwt_issuer url must contain a scheme"),
        ('insecure_addr = ":1"\nfile {}\nlog_level = "x"', 'not a valid logrus Level: "x"'),
        ('insecure_addr = "127.0.0.1:1"\nfile {}\ndomains = ["a_b.test"]', 'domain "a_b.test" is not a valid domain name: idna: disallowed rune U+005F'),
    ],
)
def test_mistakes_in_the_configuration_are_told_as_spire_tells_them(tmp_path, settings, error):
    config = tmp_path / "oidc.conf"
    domains = "" if "domains" in settings else 'domains = ["a.test"]\n'
    config.write_text(domains + settings)
    folders = [binaries()]
    if "SPIRE_BIN_DIR" in os.environ and (Path(os.environ["SPIRE_BIN_DIR"]) / "oidc-discovery-provider").exists():
        folders.append(Path(os.environ["SPIRE_BIN_DIR"]))
    for folder in folders:
        command = [str(folder / "oidc-discovery-provider"), "-config", str(config)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert result.returncode == 1
        assert result.stderr.strip().splitlines()[-1] == error, folder


class OpenBao:
    """A relying party in its development mode."""

    def __init__(self, folder):
        binary = Path(sys.executable).parent / "bao"
        for _ in range(10):
            self.port = free_port()
            command = [binary, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root", f"-dev-listen-address=127.0.0.1:{self.port}"]
            self.daemon = Daemon(command, folder / "bao.log")
            wait_until(lambda: not self.daemon.alive() or self._answers(), "OpenBao", seconds=60)
            if self.daemon.alive():
                return
        raise AssertionError((folder / "bao.log").read_text())

    def _answers(self):
        try:
            return self.call("GET", "sys/health")
        except OSError:
            return None

    def call(self, method, path, body=None, token="root"):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/{path}",
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"X-Vault-Token": token} if token else {},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")

    def login(self, jwt):
        """What OpenBao says to a token: the identity that it gives, or its refusal."""
        try:
            answer = self.call("POST", "auth/jwt/login", {"role": "workload", "jwt": jwt}, token=None)
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()
        return 200, answer["auth"]["metadata"]["role"]


def forged(token, key):
    """The token, signed with another key."""
    signed = token.rsplit(".", 1)[0]
    command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    der = subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout
    raw, at = b"", 2
    for _ in range(2):
        length = der[at + 1]
        raw += der[at + 2 : at + 2 + length].lstrip(b"\0").rjust(32, b"\0")
        at += 2 + length
    return f"{signed}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"


def test_openbao_accepts_a_jwt_svid_and_refuses_other_tokens(tmp_path, provider):
    port = free_port()
    issuer = f"https://localhost:{port}"
    server = Server(tmp_path / "server", extra=f'jwt_issuer = "{issuer}"').start()
    bao = None
    try:
        root, cert, key = certificate(tmp_path, "web", "DNS:localhost")
        files = f'cert_file_path = "{cert}" key_file_path = "{key}" addr = "127.0.0.1:PORT"'
        settings = f'serving_cert_file {{ {files} }}\n{source(server)}'
        oidc = provider(settings.replace("PORT", str(port)) + 'jwks_uri = "%s/keys"\njwt_issuer = "%s"\n' % (issuer, issuer), port=port, domains=["localhost"])
        wait_until(lambda: oidc.ask("/keys", connection=Named(port, root, "localhost"))[0] == 200, "the keys")
        bao = OpenBao(tmp_path)
        bao.call("POST", "sys/auth/jwt", {"type": "jwt"})
        bao.call("POST", "auth/jwt/config", {"oidc_discovery_url": issuer, "oidc_discovery_ca_pem": root.read_text()})
        role = {"role_type": "jwt", "bound_audiences": ["bao"], "user_claim": "sub", "bound_subject": "spiffe://example.org/app"}
        bao.call("POST", "auth/jwt/role/workload", role)

        def mint(audience="bao", path="/app"):
            minted = server.cli("jwt", "mint", "-spiffeID", f"spiffe://example.org{path}", "-audience", audience)
            return minted.stdout.strip().splitlines()[-1]

        good = mint()
        assert bao.login(good) == (200, "workload")
        for what, token in {
            "another audience": mint(audience="somebody-else"),
            "another subject": mint(path="/other"),
            "another key": forged(good, key),
            "another payload": ".".join([good.split(".")[0], mint(path="/other").split(".")[1], good.split(".")[2]]),
            "no signature": good.rsplit(".", 1)[0] + ".",
        }.items():
            code, text = bao.login(token)
            assert code in (400, 403), (what, code, text)

        # A token of the next authority is accepted as soon as its key is served.
        new = rotate(server)
        token = mint()
        header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
        assert header["kid"] == new
        wait_until(lambda: new in oidc.kids(Named(port, root, "localhost")), "the new key")
        assert bao.login(token) == (200, "workload")
        assert bao.login(good) == (200, "workload"), "the old one is still good"
    finally:
        if bao:
            bao.daemon.kill()
        server.stop()
