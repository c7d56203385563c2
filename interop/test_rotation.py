"""Authorities that are replaced under running workloads: by hand, by time, from above."""

import base64
import itertools
import json
import os
import subprocess

import pytest
from harness import Agent, Server, wait_until

UID = f"unix:uid:{os.getuid()}"
X509, JWT = "x509", "jwt"


def step(server, kind, verb, *flags):
    return server.json("localauthority", kind, verb, *flags)


def force_rotation(server, kind):
    """Prepares and activates; gives the ids of the old and the new authority."""
    old = step(server, kind, "show")["active"]["authority_id"]
    new = step(server, kind, "prepare")["prepared_authority"]["authority_id"]
    step(server, kind, "activate", "-authorityID", new)
    return old, new


def svid(agent):
    answer = agent.cli("api", "fetch", "x509", "-output", "json", check=False)
    return json.loads(answer.stdout)["svids"][0] if answer.returncode == 0 else None


def chain(agent):
    """The DER of an agent's workload's chain, in one piece."""
    found = svid(agent)
    return base64.b64decode(found["x509_svid"]) if found else b""


def trusted(agent):
    """The DER of the authorities that an agent's workload trusts, in one piece."""
    found = svid(agent)
    return base64.b64decode(found["bundle"]) if found else b""


def token(agent, audience="a"):
    answer = agent.cli("api", "fetch", "jwt", "-audience", audience, "-output", "json")
    return json.loads(answer.stdout)[0]["svids"][0]["svid"]


def kid(agent):
    head = token(agent).split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]


def verifies(agent, jwt):
    answer = agent.cli("api", "validate", "jwt", "-audience", "a", "-svid", jwt, check=False)
    return "SVID is valid." in answer.stdout


def has_key(der, authority_id):
    """Whether an authority's key id occurs in certificates: as their own, or as their issuer's."""
    return bytes.fromhex(authority_id) in der


def key_id(pem):
    """The hex subject key id of a certificate."""
    answer = openssl("x509", "-noout", "-ext", "subjectKeyIdentifier", stdin=pem)
    return answer.stdout.split("\n")[1].strip().replace(":", "").lower()


def openssl(*arguments, stdin=None, check=True):
    command = ["openssl", *[str(argument) for argument in arguments]]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True)
    assert result.returncode == 0 or not check, f"{command}: {result.stderr}"
    return result


def agent_serial(server):
    """Changes when the agent's own SVID does."""
    [agent] = server.json("agent", "list")["agents"]
    return agent["x509svid_serial_number"]


def said(server, *lines):
    log = (server.folder / "server.log").read_text()
    for line in lines:
        assert f'msg="{line}"' in log, line


END = "-----END CERTIFICATE-----\n"


def roots(server):
    """A server's roots as PEM, by their key ids."""
    blocks = server.cli("bundle", "show").stdout.split(END)[:-1]
    return {key_id(block + END): block + END for block in blocks}


def root_ids(server):
    return set(roots(server))


def test_authorities_are_replaced_under_a_running_workload(pair):
    server, agent = pair()
    agent.start(server.token())
    server.entry("/kept", agent.id(), UID)
    wait_until(agent.ids, "the identity")
    first = step(server, X509, "show")["active"]["authority_id"]
    assert has_key(chain(agent), first)
    old = {}
    new = {}
    serial = agent_serial(server)
    for kind in [X509, JWT]:
        old[kind], new[kind] = force_rotation(server, kind)
        step(server, kind, "taint", "-authorityID", old[kind])
    wait_until(lambda: has_key(chain(agent), new[X509]), "an SVID of the new CA", seconds=60)
    wait_until(lambda: kid(agent) == new[JWT], "a token of the new key", seconds=60)
    wait_until(lambda: agent_serial(server) != serial, "the agent to renew", seconds=60)
    for kind in [X509, JWT]:
        step(server, kind, "revoke", "-authorityID", old[kind])
    bundle = server.json("bundle", "show")
    assert len(bundle["x509_authorities"]) == 1
    assert [key["key_id"] for key in bundle["jwt_authorities"]] == [new[JWT]]
    assert agent.ids() == ["spiffe://example.org/kept"]
    wait_until(lambda: not has_key(trusted(agent), old[X509]), "the old root to go from the workload")
    log = (agent.folder / "agent.log").read_text()
    assert "New tainted X.509 authorities found" in log
    assert "Agent SVID is tainted by a root authority, forcing rotation" in log


def test_a_key_type_changes_with_the_next_authority_and_short_lives_rotate(pair, tmp_path):
    server, _ = pair(ca_ttl="30s", extra='default_x509_svid_ttl = "10s"')
    before = active_id(server)
    assert server.stop() == 0
    text = server.config.read_text()
    server.config.write_text(text.replace("server {", 'server {\n    ca_key_type = "ec-p384"', 1))
    server.start()
    assert active_id(server) == before or server_was_slow(server), "the CA in use is kept"
    wait_until(lambda: any("secp384r1" in text for text in ca_keys(server)), "a CA of the new type", seconds=60)
    wait_until(lambda: active_is_p384(server), "it to take over", seconds=60)
    server.cli("x509", "mint", "-spiffeID", "spiffe://example.org/w", "-write", tmp_path)
    pem = (tmp_path / "svid.pem").read_text()
    assert "Signature Algorithm: ecdsa-with-SHA384" in openssl("x509", "-noout", "-text", stdin=pem).stdout


def active_is_p384(server):
    return "secp384r1" in openssl("x509", "-noout", "-text", stdin=roots(server)[active_id(server)]).stdout


def active_id(server):
    return step(server, X509, "show")["active"]["authority_id"]


def server_was_slow(server):
    """A CA of half a minute may have been replaced while the server was down."""
    return "secp384r1" in "".join(ca_keys(server))


def ca_keys(server):
    """What openssl says of the roots."""
    return [openssl("x509", "-noout", "-text", stdin=pem).stdout for pem in roots(server).values()]


def openssl_ca(folder, name):
    """A self-signed CA as an operator makes one; gives its key id."""
    folder.mkdir(exist_ok=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "ca.key"]
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    openssl("req", "-x509", *key, *usage, "-days", "30", "-subj", f"/CN={name}", "-out", folder / "ca.crt")
    return key_id((folder / "ca.crt").read_text())


def test_an_upstream_on_disk_is_replaced_tainted_and_revoked(pair, tmp_path):
    files = tmp_path / "upstream"
    old = openssl_ca(files, "first")
    plugin = f"""UpstreamAuthority "disk" {{ plugin_data {{
        cert_file_path = "{files}/ca.crt"
        key_file_path = "{files}/ca.key"
    }} }}"""
    server, agent = pair(plugins=plugin)
    agent.start(server.token())
    server.entry("/kept", agent.id(), UID)
    wait_until(agent.ids, "the identity")
    assert root_ids(server) == {old}
    assert step(server, X509, "show")["active"]["upstream_authority_subject_key_id"] == old
    assert verifies_under(agent, (files / "ca.crt").read_text(), tmp_path)

    refused = server.cli("localauthority", X509, "taint", "-authorityID", "x", check=False)
    assert "local authority can't be tainted if there is an upstream authority" in refused.stderr
    refused = server.cli("upstreamauthority", "taint", "-subjectKeyID", old, check=False)
    assert "unable to use upstream authority singing current authority" in refused.stderr

    serial = agent_serial(server)
    new = openssl_ca(files, "second")
    force_rotation(server, X509)
    assert root_ids(server) == {old, new}
    assert step(server, X509, "show")["old"]["upstream_authority_subject_key_id"] == old
    shown = server.cli("upstreamauthority", "taint", "-subjectKeyID", old).stdout
    assert shown == f"Tainted X.509 upstream authority:\n  Subject Key ID: {old}\n"
    second = (files / "ca.crt").read_text()
    wait_until(lambda: verifies_under(agent, second, tmp_path), "an SVID under the new root", 60)
    wait_until(lambda: agent_serial(server) != serial, "the agent to renew", 60)
    server.cli("upstreamauthority", "revoke", "-subjectKeyID", old)
    said(
        server,
        "X.509 upstream authority tainted successfully",
        "X.509 upstream authority successfully revoked",
        "X509 CA activated",
        "Successfully rotated X.509 CA",
    )
    assert root_ids(server) == {new}
    wait_until(lambda: not has_key(trusted(agent), old), "the old root to go from the workload")
    assert agent.ids() == ["spiffe://example.org/kept"]


def verifies_under(agent, root, folder):
    """Whether the workload's chain verifies with this root alone, for openssl."""
    if agent.cli("api", "fetch", "x509", "-write", folder, check=False).returncode:
        return False
    (folder / "root.pem").write_text(root)
    chain = folder / "svid.0.pem"
    return openssl("verify", "-CAfile", folder / "root.pem", "-untrusted", chain, chain, check=False).returncode == 0


class Level:
    """A server, its agent, and one workload's entry."""

    def __init__(self, folder, name, bins, upper, workload):
        plugins = ""
        if upper:
            plugins = f"""UpstreamAuthority "spire" {{ plugin_data {{
        server_address = "127.0.0.1"
        server_port = "{upper.server.port}"
        workload_api_socket = "{upper.agent.socket}"
    }} }}"""
        self.workload = workload
        self.id = f"spiffe://example.org/{name}"
        self.server = Server(folder / f"{name}-server", bins=bins, plugins=plugins)
        if upper:
            path = os.path.realpath(self.server.bins / "spire-server")
            upper.server.entry(f"/server-of-{name}", upper.parent, f"unix:path:{path}", options=["-downstream"])
            synced(upper, f"/server-of-{name}")
        self.server.start()
        self.agent = Agent(folder / f"{name}-agent", self.server, bins=bins)
        self.agent.start(self.server.token())
        self.parent = self.agent.id()
        # One identity for a workload on go-spiffe and for the command line.
        cli = os.path.realpath(self.agent.bins / "spire-agent")
        for path in [workload.path, cli]:
            self.server.entry(f"/{name}", self.parent, f"unix:path:{path}")
        wait_until(lambda: self.agent.ids() == [self.id] and self.has_workload(), f"the identity of {name}")

    def has_workload(self):
        return self.workload.run(self.agent, "fetch-x509", check=False).returncode == 0

    def authority(self):
        return step(self.server, X509, "show")["active"]

    def is_under(self, root):
        return verifies_under(self.agent, root, self.agent.folder)

    def stop(self):
        for daemon in [self.agent.daemon, self.server.daemon]:
            if daemon:
                daemon.kill()


def synced(level, path):
    log = level.agent.folder / "agent.log"
    wait_until(lambda: path in log.read_text(), f"the agent to know {path}")


@pytest.fixture
def nested(tmp_path, workloads):
    """Makes three levels, each server's CA signed by the one above."""
    made = []

    def make(*bins):
        upper = None
        for name, folder in zip(["root", "middle", "leaf"], bins):
            made.append(Level(tmp_path, name, folder, upper, workloads["go"]))
            upper = made[-1]
        return made

    yield make
    for level in reversed(made):
        level.stop()


def dial(client, server):
    process, port = server.workload.serve(server.agent, client.id)
    try:
        answer = client.workload.json(client.agent, "dial", f"127.0.0.1:{port}", server.id)
        assert answer["reply"] == "echo hello\n"
    finally:
        process.stdin.close()
        process.kill()
        process.wait()


def nested_flow(levels):
    root, middle, leaf = levels
    for server, client in itertools.permutations(levels, 2):
        dial(client, server)
    # A JWT key of the lowest server reaches the root's bundle, and that of the root the leaf's.
    for issuer, holder in itertools.product(levels, levels):
        jwt = token(issuer.agent)
        wait_until(lambda: verifies(holder.agent, jwt), f"{holder.id} to trust {issuer.id}", 60)

    old, new = force_rotation(root.server, X509)
    for level in levels:
        wait_until(lambda: {old, new} <= root_ids(level.server), f"the new root at {level.id}", 60)
    before = {level.id: level.authority()["authority_id"] for level in [middle, leaf]}
    serials = {level.id: agent_serial(level.server) for level in levels}
    assert middle.authority()["upstream_authority_subject_key_id"] == old
    step(root.server, X509, "taint", "-authorityID", old)
    for level in [middle, leaf]:
        wait_until(lambda: level.authority()["authority_id"] != before[level.id], f"a new CA of {level.id}", 90)
    assert middle.authority()["upstream_authority_subject_key_id"] == new
    newest = roots(root.server)[new]
    for level in levels:
        wait_until(lambda: level.is_under(newest), f"an SVID of {level.id} under the new root", 90)
        wait_until(lambda: agent_serial(level.server) != serials[level.id], f"the agent of {level.id} to renew", 60)
    step(root.server, X509, "revoke", "-authorityID", old)
    for level in levels:
        wait_until(lambda: root_ids(level.server) == {new}, f"the old root to go from {level.id}", 60)
    for server, client in [(root, leaf), (leaf, middle), (middle, root)]:
        dial(client, server)


def test_three_levels_rotate_from_the_root_down(nested):
    root, middle, leaf = levels = nested(None, None, None)
    nested_flow(levels)
    for level in [middle, leaf]:
        said(
            level.server,
            "X.509 authority tainted",
            "Current root CA is signed by a tainted upstream authority, preparing rotation",
            "Server SVID signed using a tainted authority, forcing rotation of the Server SVID",
            "X.509 authority revoked",
        )

    # A server that starts again goes on with its CA, although nobody above is there.
    for level, above in [(leaf, middle), (middle, root)]:
        kept = level.authority()["authority_id"]
        level.server.daemon.kill()
        above.server.daemon.kill()
        level.server.start()
        assert level.authority()["authority_id"] == kept
        above.server.start()
    # Nobody was left behind: what is new still reaches every workload.
    for level in levels:
        cli = os.path.realpath(level.agent.bins / "spire-agent")
        level.server.entry("/new", level.parent, f"unix:path:{cli}")
        wait_until(lambda: len(level.agent.ids()) == 2, f"a new identity at {level.id}", 60)
    dial(leaf, root)


def test_three_levels_with_spire_above_and_below(nested, spire):
    nested_flow(nested(spire, None, spire))


def test_three_levels_with_spire_between(nested, spire):
    nested_flow(nested(None, spire, None))
