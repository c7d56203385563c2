"""Instances of Google Cloud, by the tokens of a metadata server that stands in for Google's.

Keys, tokens and the Compute Engine API are asked for under Google's own host names, over TLS, from
a stand-in on a loopback address: the servers run where these names lead there. What Google itself
answers was not seen.
"""

import base64
import http.server
import json
import os
import random
import shlex
import ssl
import subprocess
import threading
import time

import pytest
from attestation import why_refused
from harness import Agent, Server, binaries

HOSTS = ["www.googleapis.com", "oauth2.googleapis.com", "compute.googleapis.com"]
PROJECT, ZONE, EMAIL = "project-123", "us-west1-b", "1234-compute@developer.gserviceaccount.com"


def encode(data):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, status, body, headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.sent = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.do_GET()


def listen(address, handler, context=None):
    class Listener(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request, client_address):
            request.settimeout(60)
            try:
                super().finish_request(context.wrap_socket(request, server_side=True) if context else request, client_address)
            except (OSError, ssl.SSLError):
                pass

    made = Listener(address, handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return made


class Google:
    def __init__(self, folder):
        folder.mkdir()
        self.folder, self.instance, self.asked = folder, str(random.randrange(10**15, 10**18)), []
        self.described = {
            "id": self.instance, "name": "blog-1", "tags": {"items": ["web", "blog"]},
            "labels": {"team": "a", "secret": "b"},
            "metadata": {"items": [{"key": "role", "value": "blog"}, {"key": "ssh-keys", "value": "x" * 9999}]},
        }  # fmt: skip
        self.compute_status, self.metadata = 200, None
        self.claims, self.signer = {}, "google"
        for name in ("google", "other", "account"):
            self.openssl("genrsa", "-out", f"{name}.key", "2048")
        self.openssl("req", "-x509", "-key", "google.key", "-subj", "/CN=federated-signon", "-days", "2", "-out", "google.crt")
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-subj", "/CN=ca", "-days", "2", "-out", "ca.crt")
        (folder / "names").write_text("subjectAltName=" + ",".join(f"DNS:{host}" for host in HOSTS))
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "tls.key", "-subj", "/CN=tls", "-out", "tls.csr")
        self.openssl(
            "x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", "tls.crt",
            "-days", "2", "-extfile", "names",
        )  # fmt: skip
        google = self

        class Api(Quiet):
            def do_GET(self):
                google.api(self)

        class Metadata(Quiet):
            def do_GET(self):
                google.metadata_server(self)

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        self.listeners = [listen(("127.0.0.1", 0), Metadata)]
        self.metadata_host = "127.0.0.1:%d" % self.listeners[0].server_address[1]
        for _ in range(20):
            self.address = "127." + ".".join(str(random.randrange(2, 250)) for _ in range(3))
            try:
                self.listeners.append(listen((self.address, 443), Api, context))
                break
            except OSError as error:
                failure = error
        else:
            self.close()
            pytest.skip(f"skipped: no port 443 on a loopback address: {failure}")

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def close(self):
        for it in self.listeners:
            it.shutdown()
            it.server_close()

    def token(self):
        now = int(time.time())
        machine = {
            "project_id": PROJECT, "project_number": 739419398126, "zone": ZONE, "instance_id": self.instance,
            "instance_name": "blog-1", "instance_creation_timestamp": 1529546013,
        }  # fmt: skip
        machine.update(self.claims.get("machine", {}))
        claims = {
            "iss": "https://accounts.google.com", "aud": "spire-gcp-node-attestor", "azp": "1234", "sub": "1234",
            "email": EMAIL, "email_verified": True, "iat": now, "exp": now + 3600, "google": {"compute_engine": machine},
        }  # fmt: skip
        claims.update({name: value for name, value in self.claims.items() if name != "machine"})
        signed = f"{encode({'alg': 'RS256', 'kid': 'k1', 'typ': 'JWT'})}.{encode(claims)}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.folder / f"{self.signer}.key"],
            input=signed.encode(), check=True, capture_output=True,
        ).stdout  # fmt: skip
        return f"{signed}.{encode(signature)}"

    def metadata_server(self, request):
        self.asked.append(request.path)
        if self.metadata:
            return self.metadata(request)
        if request.headers.get("Metadata-Flavor") != "Google":
            return request.say(403, {})
        flavor = [("Metadata-Flavor", "Google")]
        account = "/computeMetadata/v1/instance/service-accounts/default"
        if request.path == f"{account}/identity?audience=spire-gcp-node-attestor&format=full":
            return request.say(200, self.token().encode(), flavor)
        if request.path.startswith(f"{account}/token"):
            return request.say(200, {"access_token": "of-the-machine", "expires_in": 3599, "token_type": "Bearer"}, flavor)
        return request.say(404, {}, flavor)

    def api(self, request):
        path = request.path.split("?")[0]
        host = request.headers["Host"]
        self.asked.append(f"{host}{path}")
        if host == HOSTS[0] and path == "/oauth2/v1/certs":
            expires = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))
            body = {"k1": (self.folder / "google.crt").read_text()}
            return request.say(200, body, [("Expires", expires), ("Cache-Control", "public, max-age=3600")])
        if host == HOSTS[1] and path == "/token":
            assert "assertion=" in request.sent
            return request.say(200, {"access_token": "of-the-account", "expires_in": 3599, "token_type": "Bearer"})
        if host == HOSTS[2] and path == f"/compute/v1/projects/{PROJECT}/zones/{ZONE}/instances/blog-1":
            assert request.headers["Authorization"].startswith("Bearer ")
            if self.compute_status == 200:
                return request.say(200, self.described)
            error = {"code": self.compute_status, "message": "not for you", "errors": [{"message": "not for you", "reason": "forbidden"}]}
            return request.say(self.compute_status, {"error": error})
        return request.say(404, {})

    def bins(self, folder, program):
        """`spire-server`, where Google's names lead to this."""
        folder.mkdir()
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{self.address} {host}\n" for host in HOSTS))
        script = folder / "spire-server"
        real = shlex.quote(str(program / "spire-server"))
        script.write_text(
            f"""#!/bin/sh
[ "$1" = run ] || exec {real} "$@"
unset GOOGLE_APPLICATION_CREDENTIALS HTTPS_PROXY https_proxy HTTP_PROXY http_proxy
export SSL_CERT_FILE={self.folder}/ca.crt GCE_METADATA_HOST={self.metadata_host} HOME={folder}
exec unshare --mount sh -c 'mount --bind {hosts} /etc/hosts && exec "$@"' sh {real} "$@"
"""
        )
        script.chmod(0o755)
        return folder

    def account_file(self):
        path = self.folder / "account.json"
        account = {
            "type": "service_account", "project_id": PROJECT, "private_key_id": "a1",
            "private_key": (self.folder / "account.key").read_text(), "client_email": f"spire@{PROJECT}.iam.gserviceaccount.com",
            "client_id": "1", "token_uri": "https://oauth2.googleapis.com/token",
        }  # fmt: skip
        path.write_text(json.dumps(account))
        return path


@pytest.fixture
def google(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("skipped: needs root, for mount namespaces")
    made = Google(tmp_path / "google")
    yield made
    made.close()


def server_of(google, tmp_path, keep, program=None, settings="", name="server"):
    plugins = f'NodeAttestor "gcp_iit" {{ plugin_data {{ projectid_allow_list = ["{PROJECT}"] {settings} }} }}'
    bins = google.bins(tmp_path / f"bin-{name}", program or binaries())
    return keep(Server(tmp_path / name, bins=bins, plugins=plugins)).start()


def agent_of(google, folder, server, program=None):
    attestor = f'NodeAttestor "gcp_iit" {{ plugin_data {{ identity_token_host = "{google.metadata_host}" }} }}'
    return Agent(folder, server, bins=program or binaries(), attestor=attestor)


def selectors(server):
    (listed,) = server.json("agent", "list")["agents"]
    assert {it["type"] for it in listed["selectors"]} == {"gcp_iit"}
    return {it["value"] for it in listed["selectors"]}


METADATA = 'use_instance_metadata = true allowed_label_keys = ["team"] allowed_metadata_keys = ["role"]'


@pytest.mark.parametrize("ours", ["both", "server", "agent"])
@pytest.mark.parametrize("account", ["file", "machine"])
def test_an_instance_attests_and_its_metadata_become_selectors(account, ours, google, tmp_path, keep, request):
    spire = None if ours == "both" else request.getfixturevalue("spire")
    more = f' service_account_file = "{google.account_file()}"' if account == "file" else ""
    server = server_of(google, tmp_path, keep, spire if ours == "agent" else None, METADATA + more)
    agent = keep(agent_of(google, tmp_path / "agent", server, spire if ours == "server" else None)).start()
    assert agent.id() == f"spiffe://example.org/spire/agent/gcp_iit/{PROJECT}/{google.instance}"
    assert selectors(server) == {
        f"project-id:{PROJECT}", f"zone:{ZONE}", "instance-name:blog-1", f"sa:{EMAIL}",
        "tag:web", "tag:blog", "label:team:a", "metadata:role:blog",
    }  # fmt: skip
    if ours != "agent":
        # SPIRE's client signs the call itself; ours has a token of the one or the other kind.
        place = "oauth2.googleapis.com/token" if account == "file" else "/computeMetadata/v1/instance/service-accounts/default/token"
        assert any(it.startswith(place) for it in google.asked), google.asked


def test_an_instance_attests_once_until_it_is_evicted(google, tmp_path, keep):
    server = server_of(google, tmp_path, keep, settings='agent_path_template = "/gcp/{{ .Zone }}/{{ .InstanceID }}"')
    agent = keep(agent_of(google, tmp_path / "agent", server)).start()
    spiffe_id = f"spiffe://example.org/spire/agent/gcp/{ZONE}/{google.instance}"
    assert agent.id() == spiffe_id
    # Restarted, it is who it was, and needs no new proof.
    agent.stop()
    agent.start()
    thief = keep(agent_of(google, tmp_path / "thief", server))
    line = why_refused(thief)
    assert "code = PermissionDenied" in line, line
    assert "nodeattestor(gcp_iit): attestation data has already been used to attest an agent" in line, line
    log = server.daemon.log.read_text()
    assert "Attestation data has already been used to attest an agent" in log and spiffe_id in log
    agent.stop()
    server.cli("agent", "evict", "-spiffeID", spiffe_id)
    keep(agent_of(google, tmp_path / "anew", server)).start()
    assert agent.id() == spiffe_id


def test_refusals_are_spires(google, tmp_path, keep, spire):
    """Every case against both servers, by an agent of the same house."""
    past = int(time.time()) - 7200
    cases = [
        ({"machine": {"project_id": "other"}}, "PermissionDenied", 'identity token project ID "other" is not in the allow list'),
        ({"aud": "somebody"}, "PermissionDenied", "failed to validate the identity token claims: go-jose/go-jose/jwt: validation failed, invalid audience claim (aud)"),
        ({"exp": past}, "PermissionDenied", "failed to validate the identity token claims: go-jose/go-jose/jwt: validation failed, token is expired (exp)"),
        ({"google": {}}, "PermissionDenied", 'identity token project ID "" is not in the allow list'),
        ({"machine": {"instance_id": "a/../b"}}, "Internal", "failed to create agent ID: "),
    ]  # fmt: skip
    for program in (None, spire):
        name = "spire" if program else "ours"
        server = server_of(google, tmp_path, keep, program, METADATA, name)

        def refused(tag):
            line = why_refused(keep(agent_of(google, tmp_path / f"agent-{name}-{tag}", server, program)))
            assert server.json("agent", "list")["agents"] == []
            return line

        for index, (claims, code, text) in enumerate(cases):
            google.claims = claims
            line = refused(index)
            assert f"code = {code} desc = nodeattestor(gcp_iit): {text}" in line, line
        google.claims, google.signer = {}, "other"
        line = refused("forged")
        text = "failed to validate the identity token signature: go-jose/go-jose: error in cryptographic primitive"
        assert f"code = InvalidArgument desc = nodeattestor(gcp_iit): {text}" in line, line
        google.signer, google.compute_status = "google", 403
        line = refused("forbidden")
        text = "failed to fetch instance metadata: failed to fetch instance metadata: googleapi: Error 403: not for you, forbidden"
        assert f"code = Internal desc = nodeattestor(gcp_iit): {text}" in line, line
        google.compute_status = 200
        google.described["metadata"]["items"][0]["value"] = "x" * 129
        line = refused("long")
        assert 'code = Internal desc = nodeattestor(gcp_iit): metadata "role" exceeded value limit (129 > 128)' in line, line
        google.described["metadata"]["items"][0]["value"] = "blog"


def redirect(request):
    request.say(302, b"", [("Location", "http://127.0.0.1:1/")])


def endless(request):
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(b"x" * 65536)
    except OSError:
        pass


def huge(request):
    request.say(200, b"x" * 20_000)


@pytest.mark.parametrize(
    "metadata, reason",
    [
        (redirect, "unexpected status code: 302"),
        (endless, "the answer is larger than 16384 bytes"),
        (huge, "the answer is larger than 16384 bytes"),
        (lambda request: time.sleep(60), "no complete answer within 10s"),
    ],
)
def test_a_hostile_metadata_server_costs_the_agent_little(metadata, reason, google, tmp_path, keep):
    google.metadata = metadata
    server = server_of(google, tmp_path, keep)
    line = why_refused(keep(agent_of(google, tmp_path / "agent", server)))
    assert f"nodeattestor(gcp_iit): unable to retrieve valid identity token: {reason}" in line, line
