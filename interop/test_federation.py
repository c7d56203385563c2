"""Trust domains that follow each other's bundles, and peers that would rather they did not."""

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from acme import Pebble, build_pebble
from federation import Domain, Peer, anybody, ask, drip, flood, peer, rpc, saying, silence, web_certificate
from harness import Agent, free_port, wait_until

TRUST_DOMAIN_API = "/spire.api.server.trustdomain.v1.TrustDomain/"


@pytest.fixture
def daemons():
    """Stops what is put into it."""
    with contextlib.ExitStack() as stack:

        def keep(it):
            stack.callback(lambda: it.close() if isinstance(it, Peer) else it.daemon and it.daemon.kill())
            return it

        yield keep


@pytest.fixture
def domain_of(daemons, tmp_path):
    """Starts a server of the trust domain."""

    def start(name, **options):
        return daemons(Domain(tmp_path / name, name, **options)).start()

    return start


def workload_of(server, daemons, go, path, federates_with):
    """An agent of the server, and an entry for the Go workload there."""
    agent = daemons(Agent(server.folder / "agent", server)).start(server.token())
    agent.NODE = agent.id()
    server.entry(path, agent.NODE, f"unix:path:{go.path}", options=["-federatesWith", federates_with])
    return agent


def sees(go, agent, name):
    """Whether the workload has the bundle of the other trust domain."""
    result = go.run(agent, "fetch-x509", check=False)
    return result.returncode == 0 and name in json.loads(result.stdout)["bundles"]


def test_workloads_of_two_trust_domains_trust_each_other_and_a_rotation_is_followed(domain_of, daemons, workloads):
    """One side by the command line, the other by its file; X.509 and JWT; the peer's CA rotates."""
    go = workloads["go"]
    a = domain_of("a.test")
    b = domain_of("b.test", peers=peer("a.test", a.url(), a.id))
    b.trusts(a)
    shown = a.follows(b).stdout
    assert shown == (
        f"\nTrust domain              : b.test\nBundle endpoint URL       : {b.url()}\n"
        "Bundle endpoint profile   : https_spiffe\nEndpoint SPIFFE ID        : spiffe://b.test/spire/server\n"
    )
    assert a.refresh("b.test")[:2] == (0, "Bundle refreshed")
    assert b.refresh("a.test")[:2] == (0, "Bundle refreshed")

    at_a = workload_of(a, daemons, go, "/w", "b.test")
    at_b = workload_of(b, daemons, go, "/w", "a.test")
    wait_until(lambda: sees(go, at_a, "b.test") and sees(go, at_b, "a.test"), "the federated bundles")

    process, port = go.serve(at_b, "spiffe://a.test/w")
    try:
        address = f"127.0.0.1:{port}"
        assert go.json(at_a, "dial", address, "spiffe://b.test/w") == {"reply": "echo hello\n"}
        refused = go.run(at_a, "dial", address, "spiffe://b.test/other", check=False)
        assert refused.returncode == 1 and "unexpected ID" in refused.stderr, refused.stderr
    finally:
        process.kill()
    token = go.json(at_b, "fetch-jwt", "audience")["token"]
    assert go.json(at_a, "validate-jwt", "audience", token) == {"id": "spiffe://b.test/w"}

    # The peer's CA rotates, by force: what is new is here before it signs, what is gone goes.
    old = b.json("localauthority", "x509", "show")["active"]["authority_id"]
    b.cli("localauthority", "x509", "prepare")
    wait_until(lambda: len(a.known("b.test")["x509_authorities"]) == 2, "the prepared authority, by polling", 40)
    b.cli("localauthority", "x509", "activate", "-authorityID",
          b.json("localauthority", "x509", "show")["prepared"]["authority_id"])
    b.cli("localauthority", "x509", "taint", "-authorityID", old)
    b.cli("localauthority", "x509", "revoke", "-authorityID", old)
    assert a.refresh("b.test")[0] == 0, "the endpoint's new SVID is verified by the bundle of before"
    assert len(a.known("b.test")["x509_authorities"]) == 1
    new = b.json("bundle", "show")["x509_authorities"]
    assert a.known("b.test")["x509_authorities"] == new

    def verified():
        serving, port = go.serve(at_b, "spiffe://a.test/w")
        try:
            dialled = go.run(at_a, "dial", f"127.0.0.1:{port}", "spiffe://b.test/w", check=False)
            return dialled.returncode == 0
        finally:
            serving.kill()

    wait_until(verified, "an exchange under the new CA", 60)


def test_an_update_of_a_federated_bundle_reaches_an_open_stream(domain_of, daemons, workloads, tmp_path):
    a = domain_of("a.test")
    b = domain_of("b.test")
    a.trusts(b)
    agent = workload_of(a, daemons, workloads["go"], "/w", "b.test")
    wait_until(lambda: sees(workloads["go"], agent, "b.test"), "the federated bundle")
    a.entry("/cli", agent.NODE, f"unix:uid:{os.getuid()}", options=["-federatesWith", "b.test"])
    wait_until(lambda: "spiffe://a.test/cli" in agent.ids(), "the identity of the watcher")
    seen = tmp_path / "seen"
    with open(seen, "wb") as out:
        watching = subprocess.Popen(
            [agent.bins / "spire-agent", "api", "watch", "-socketPath", agent.socket], stdout=out, stderr=out
        )
    try:
        updates = lambda: seen.read_text().count("Received")  # noqa: E731
        wait_until(lambda: updates() >= 1, "the first update")
        before = updates()
        b.cli("localauthority", "x509", "prepare")
        a.trusts(b)
        wait_until(lambda: updates() > before, "an update of the open stream", 30)
    finally:
        watching.kill()


def test_a_web_endpoint_is_verified_by_the_systems_roots_and_its_files_are_read_again(domain_of, tmp_path, monkeypatch):
    certificate, key = web_certificate(tmp_path, "endpoint")
    files = f"""profile "https_web" {{ serving_cert_file {{
        cert_file_path = "{certificate}" key_file_path = "{key}" file_sync_interval = "200ms" }} }}"""
    b = domain_of("b.test", profile=files)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(certificate.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    a = domain_of("a.test", peers=peer("b.test", b.url("localhost")))
    wait_until(lambda: a.known("b.test"), "the bundle, without anything carried over")
    assert a.known("b.test")["refresh_hint"] == "60"
    assert a.refresh("b.test")[:2] == (0, "Bundle refreshed")

    # Another certificate, of a root that is not trusted, and then one that is.
    other_certificate, other_key = web_certificate(tmp_path / "other", "endpoint")
    key.write_bytes(other_key.read_bytes())
    certificate.write_bytes(other_certificate.read_bytes())
    wait_until(lambda: a.refresh("b.test")[0] == 1, "the other certificate")
    code, words, _ = a.refresh("b.test")
    assert code == 1 and "UnknownIssuer" in words or "CaUsedAsEndEntity" in words, words
    roots.write_bytes(certificate.read_bytes())
    assert a.refresh("b.test")[:2] == (0, "Bundle refreshed"), "roots are read at each fetch"

    # The name counts.
    a.cli("federation", "create", "-trustDomain", "c.test", "-bundleEndpointURL", b.url("127.0.0.1"),
          "-bundleEndpointProfile", "https_web")
    code, words, _ = a.refresh("c.test")
    assert code == 1 and "invalid peer certificate" in words, words


def test_a_web_endpoint_whose_certificate_is_from_an_acme_authority_is_followed(domain_of, tmp_path, monkeypatch):
    port = free_port()
    authority = tmp_path / "authority"
    authority.mkdir()
    pebble = Pebble(authority, build_pebble(), port)
    try:
        monkeypatch.setenv("SSL_CERT_FILE", str(pebble.trust))
        profile = f"""profile "https_web" {{ acme {{ directory_url = "{pebble.directory}" domain_name = "localhost"
            email = "admin@localhost.test" tos_accepted = true }} }}"""
        b = domain_of("b.test", profile=profile, endpoint_port=port)
        monkeypatch.setenv("SSL_CERT_FILE", str(pebble.root()))
        a = domain_of("a.test", peers=peer("b.test", b.url("localhost")))
        wait_until(lambda: a.refresh("b.test")[0] == 0, "the certificate and the bundle", 60)
        assert a.known("b.test")["x509_authorities"] == b.json("bundle", "show")["x509_authorities"]
    finally:
        pebble.stop()


def test_dead_slow_and_greedy_peers_delay_no_other(domain_of, daemons, tmp_path, monkeypatch):
    certificate = web_certificate(tmp_path, "peer")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    live = domain_of("live.test")
    dead = daemons(Peer(silence))
    mute = daemons(Peer(silence, certificate))
    slow = daemons(Peer(drip, certificate))
    greedy = daemons(Peer(flood, certificate))
    peers = {"dead.test": dead, "mute.test": mute, "slow.test": slow, "greedy.test": greedy}
    text = "".join(peer(name, it.url) for name, it in peers.items()) + peer("live.test", live.url(), live.id)
    a = domain_of("a.test", peers=text)
    a.trusts(live)
    code, words, seconds = a.refresh("live.test")
    assert (code, words) == (0, "Bundle refreshed") and seconds < 15, (words, seconds)
    wait_until(lambda: all(it.connections for it in peers.values()), "everybody to be asked")
    # The hint is a minute, so the live one is asked again after 15 seconds, whatever the others do.
    wait_until(lambda: a.polls("live.test") >= 2, "a refresh on time", 28)
    assert slow.connections == 1, "while the slow one is still being heard"
    code, words, seconds = a.refresh("greedy.test")
    assert code == 1 and "the answer is larger than 4194304 bytes" in words, words
    assert seconds < 25
    errors = lambda name: re.search(rf'Error updating bundle" error=.*trust_domain={name}\n', a.log)  # noqa: E731
    wait_until(lambda: errors("slow.test") and errors("dead.test"), "the end of patience", 40)
    assert "no complete answer within 30s" in errors("slow.test").group(0)


BAD = {
    "nothing": (saying(b"404 Not Found", b"404 page not found\n"), "unexpected status 404 fetching bundle: 404 page not found"),
    "elsewhere": (saying(b"302 Found", head=b"Location: https://localhost/\r\n"), "unexpected status 302 fetching bundle:"),
    "html": (saying(b"200 OK", b"<html>"), "failed to decode bundle: "),
    "empty": (saying(b"200 OK"), "failed to decode bundle: "),
    "useless": (
        saying(b"200 OK", b'{"keys":[{"kty":"EC","crv":"P-256","x":"fK-wKTnKL7KFLM27lqq5DC-bxrVaH6rDV-IcCSEOeL4",'
               b'"y":"wq-g3TQWxYlV51TCPH030yXsRxvujD4hUUaIQrXk4KI"}]}'),
        "missing use for key entry 0",
    ),
    "broken": (lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"), "unable to read the answer"),
    "strange": (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9\r\n"), "unable to read the answer"),
}


def test_bad_documents_and_bad_servers_are_refused_and_nothing_is_kept(domain_of, daemons, tmp_path, monkeypatch):
    certificate = web_certificate(tmp_path, "peer")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    a, b, c = domain_of("a.test"), domain_of("b.test"), domain_of("c.test")
    for name, (act, expected) in BAD.items():
        url = daemons(Peer(act, certificate)).url
        a.cli("federation", "create", "-trustDomain", f"{name}.test", "-bundleEndpointURL", url,
              "-bundleEndpointProfile", "https_web")
        code, words, _ = a.refresh(f"{name}.test")
        assert code == 1 and expected in words, (name, words)
        assert words.startswith(
            "Error: failed to refresh bundle: rpc error: code = Internal desc = failed to refresh bundle: "
            "failed to fetch federated bundle from endpoint: "
        ), words
        assert a.known(f"{name}.test") is None

    def spiffe(name, server_id, url):
        a.cli("federation", "create", "-trustDomain", name, "-bundleEndpointURL", url,
              "-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", server_id)
        code, words, _ = a.refresh(name)
        assert code == 1, words
        a.cli("federation", "delete", "-id", name)
        return words

    assert "can't perform SPIFFE Authentication: local copy of bundle not found" in spiffe("b.test", b.id, b.url())
    a.trusts(b)
    assert 'unexpected ID "spiffe://b.test/spire/server"' in spiffe("b.test", "spiffe://b.test/other", b.url())
    before = a.known("b.test")
    words = spiffe("b.test", b.id, c.url())
    assert "unexpected ID" in words or "no X.509 bundle" in words or "trust domain" in words, words
    assert a.known("b.test") == before
    a.cli("federation", "create", "-trustDomain", "b.test", "-bundleEndpointURL", b.url("localhost"),
          "-bundleEndpointProfile", "https_web")
    assert 'contains SPIFFE ID "spiffe://b.test/spire/server": maybe use https_spiffe instead of https_web' in a.refresh("b.test")[1]
    code, words, _ = a.refresh("nobody.test")
    assert (code, words) == (1, 'Error: there is no federation relationship with trust domain "nobody.test"')


def test_deleting_a_bundle_that_entries_name_goes_by_the_mode(domain_of):
    a, b = domain_of("a.test"), domain_of("b.test")
    parent = "spiffe://a.test/node"

    def entry(path):
        a.trusts(b)
        return a.entry(path, parent, "unix:uid:1", options=["-federatesWith", "b.test"])

    def delete(mode):
        return a.cli("bundle", "delete", "-id", "b.test", "-mode", mode, check=False)

    kept = entry("/kept")
    refused = delete("restrict")
    assert refused.returncode == 1
    assert refused.stderr == (
        'Error: failed to delete federated bundle "b.test": failed to delete federated bundle: '
        "datastore-sql: cannot delete bundle; federated with 1 registration entries\n"
    ), refused.stderr
    assert delete("dissociate").stdout == "bundle deleted.\n"
    assert a.json("entry", "show", "-entryID", kept)["entries"][0]["federates_with"] == []
    gone = entry("/gone")
    assert delete("delete").stdout == "bundle deleted.\n"
    assert a.cli("entry", "show", "-entryID", gone, check=False).returncode == 1
    assert a.json("entry", "show", "-entryID", kept)["entries"][0]["id"] == kept
    assert a.known("b.test") is None


REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /bundle HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET // HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
    b"POST /bundle HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    b"DELETE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"BREW / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
]


def answered(address, request):
    """An answer's status line, its headers in any order and without the time, and its body."""
    # Their names are compared by the letter.
    head, _, body = ask(address, request).partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    headers = sorted(line for line in headers if not line.startswith("Date:"))
    return status, headers, body.decode()


def test_the_endpoint_answers_in_the_words_of_go(domain_of):
    a = domain_of("a.test", hint="5m")
    answers = [answered(a.endpoint, request) for request in REQUESTS]
    status, headers, body = answers[0]
    document = json.loads(body)
    assert status == "HTTP/1.1 200 OK"
    assert headers == ["Connection: close", f"Content-Length: {len(body)}", "Content-Type: application/json"]
    assert body == json.dumps(document, indent=4), "four spaces, and no line feed at the end"
    assert list(document) == ["keys", "spiffe_sequence", "spiffe_refresh_hint"]
    assert document["spiffe_refresh_hint"] == 300
    x509, jwt = document["keys"]
    assert list(x509) == ["use", "kty", "crv", "x", "y", "x5c"] and len(x509["x5c"]) == 1
    assert list(jwt) == ["use", "kty", "kid", "crv", "x", "y"]
    assert (x509["use"], jwt["use"]) == ("x509-svid", "jwt-svid")
    assert answers[1][2] == body
    not_found = ["Connection: close", "Content-Length: 19", "Content-Type: text/plain; charset=utf-8",
                 "X-Content-Type-Options: nosniff"]
    for answer in answers[2:4]:
        assert answer == ("HTTP/1.1 404 Not Found", not_found, "404 page not found\n")
    assert answers[4][0] == "HTTP/1.0 200 OK" and answers[4][2] == body
    not_allowed = [line.replace("19", "23") for line in not_found]
    assert answers[5] == ("HTTP/1.1 405 Method Not Allowed", not_allowed, "")
    for answer in answers[6:10]:
        assert answer == ("HTTP/1.1 405 Method Not Allowed", not_allowed, "405 method not allowed\n")
    assert answers[10] == ("HTTP/1.1 200 OK", ["Connection: close", "Content-Length: 0"], "")


def test_the_endpoint_answers_as_spires_does(domain_of, spire):
    ours, theirs = domain_of("a.test"), domain_of("a2.test", bins=spire)
    for request in REQUESTS:
        mine, yours = answered(ours.endpoint, request), answered(theirs.endpoint, request)
        if mine[2].startswith("{"):
            keys = [[list(key) for key in json.loads(answer[2])["keys"]] for answer in [mine, yours]]
            assert keys[0] == keys[1]
            # Certificates differ in their lengths.
            mine, yours = [(it[0], [re.sub(r"\d+", "n", line) for line in it[1]], "") for it in [mine, yours]]
        assert mine == yours, request


def test_the_endpoint_shows_the_svid_of_the_moment_and_speaks_no_old_tls(domain_of, tmp_path):
    a = domain_of("a.test")

    def serial():
        with socket.create_connection(a.endpoint, timeout=10) as plain:
            with anybody().wrap_socket(plain) as stream:
                return stream.version(), stream.getpeercert(binary_form=True)

    version, before = serial()
    assert version == "TLSv1.3"
    old = a.json("localauthority", "x509", "show")["active"]["authority_id"]
    a.cli("localauthority", "x509", "prepare")
    a.cli("localauthority", "x509", "activate", "-authorityID",
          a.json("localauthority", "x509", "show")["prepared"]["authority_id"])
    a.cli("localauthority", "x509", "taint", "-authorityID", old)
    wait_until(lambda: serial()[1] != before, "the SVID under the new CA")
    context = anybody()
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError), socket.create_connection(a.endpoint, timeout=10) as plain:
        context.wrap_socket(plain)


def test_slow_clients_of_the_endpoint_keep_nobody_out(domain_of):
    a = domain_of("a.test")
    idle = [socket.create_connection(a.endpoint, timeout=10) for _ in range(200)]
    context = anybody()
    slow = [context.wrap_socket(socket.create_connection(a.endpoint, timeout=10)) for _ in range(20)]
    for stream in slow:
        stream.sendall(b"GET / HT")
    assert answered(a.endpoint, REQUESTS[0])[0] == "HTTP/1.1 200 OK"
    # A head has ten seconds, then the connection is closed; this one waits for it.
    slow[0].settimeout(60)
    with contextlib.suppress(ssl.SSLError, ConnectionResetError):
        while slow[0].recv(4096):
            pass
    large = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 4_000_000 + b"\r\n\r\n"
    with contextlib.suppress(OSError):
        assert b" 200 " not in ask(a.endpoint, large)[:20]
    assert answered(a.endpoint, REQUESTS[0])[0] == "HTTP/1.1 200 OK"
    for stream in idle + slow:
        stream.close()


def test_what_one_server_is_told_another_on_the_same_database_follows(domain_of, daemons, tmp_path):
    b = domain_of("b.test")
    one = domain_of("a.test")
    two = daemons(Domain(tmp_path / "two", "a.test"))
    two.config.write_text(two.config.read_text().replace(str(two.database), str(one.database)))
    two.start()
    one.follows(b)
    wait_until(lambda: two.polls("b.test") >= 1, "the other server to follow", 25)
    one.cli("federation", "delete", "-id", "b.test")
    managed = lambda it: 'msg="Trust domain no longer managed" entry=b.test' in it.log  # noqa: E731
    wait_until(lambda: managed(one), "the end of following, at once", 8)
    wait_until(lambda: managed(two), "the end of following", 25)
    assert one.known("b.test"), "the bundle stays"


def test_the_files_relationship_goes_before_the_one_of_the_datastore(domain_of):
    b, c = domain_of("b.test"), domain_of("c.test")
    a = domain_of("a.test", peers=peer("b.test", b.url(), b.id))
    a.trusts(b)
    a.trusts(c)
    assert a.refresh("b.test")[0] == 0
    a.cli("federation", "create", "-trustDomain", "b.test", "-bundleEndpointURL", c.url(),
          "-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", c.id)
    code, words, _ = a.refresh("b.test")
    assert code == 0, words
    assert a.known("b.test")["x509_authorities"] == b.json("bundle", "show")["x509_authorities"]


def test_our_server_and_spires_follow_each_other(domain_of, spire, daemons, workloads):
    go = workloads["go"]
    ours, theirs = domain_of("a.test"), domain_of("b.test", bins=spire)
    ours.follows(theirs)
    theirs.follows(ours)
    assert ours.refresh("b.test")[:2] == (0, "Bundle refreshed")
    assert theirs.refresh("a.test")[:2] == (0, "Bundle refreshed")
    for one, other in [(ours, theirs), (theirs, ours)]:
        other.cli("localauthority", "x509", "prepare")
        assert one.refresh(other.trust_domain)[0] == 0
        known, own = one.known(other.trust_domain), other.json("bundle", "show")
        assert known["x509_authorities"] == own["x509_authorities"] and len(own["x509_authorities"]) == 2
        assert [key["key_id"] for key in known["jwt_authorities"]] == [key["key_id"] for key in own["jwt_authorities"]]
        assert known["refresh_hint"] == "60"
    at_a = workload_of(ours, daemons, go, "/w", "b.test")
    at_b = workload_of(theirs, daemons, go, "/w", "a.test")
    wait_until(lambda: sees(go, at_a, "b.test") and sees(go, at_b, "a.test"), "the federated bundles")
    process, port = go.serve(at_b, "spiffe://a.test/w")
    try:
        assert go.json(at_a, "dial", f"127.0.0.1:{port}", "spiffe://b.test/w") == {"reply": "echo hello\n"}
    finally:
        process.kill()


def test_forty_refreshes_at_once_cost_the_peer_a_few_connections(domain_of, daemons, tmp_path, monkeypatch):
    certificate = web_certificate(tmp_path, "peer")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))

    def act(connection):
        time.sleep(2)
        saying(b"200 OK", b'{"keys":[]}')(connection)

    slow = daemons(Peer(act, certificate))
    a = domain_of("a.test", peers=peer("b.test", slow.url))
    call = (TRUST_DOMAIN_API + "RefreshBundle", {"trust_domain": "b.test"})
    assert rpc(a, call)[0]["code"] == "OK"
    before = slow.connections
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: rpc(a, call)[0]["code"], range(40)))
    assert answers == ["OK"] * 40
    assert slow.connections - before <= 30, "shared"
