"""Nodes by the certificates of their SSH host keys: real ones of ssh-keygen's, forged ones of our own making."""

import base64
import hashlib
import shutil
import subprocess

import pytest
from attestation import agents, make_evidence, server_for, show_all
from harness import Agent, Server, binaries, wait_until

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="skipped: no ssh-keygen")

KINDS = {
    "ed25519": ["-t", "ed25519"],
    "ecdsa256": ["-t", "ecdsa", "-b", "256"],
    "ecdsa384": ["-t", "ecdsa", "-b", "384"],
    "ecdsa521": ["-t", "ecdsa", "-b", "521"],
    "rsa": ["-t", "rsa", "-b", "3072"],
    "rsa-pem": ["-t", "rsa", "-b", "2048", "-m", "PEM"],
    "ecdsa-pkcs8": ["-t", "ecdsa", "-b", "256", "-m", "PKCS8"],
}
OURS_IS_STRICTER = {"ssh: rsa authority by sha1": "certificate signature does not verify"}


def keygen(*arguments):
    subprocess.run(["ssh-keygen", "-q", *[str(it) for it in arguments]], check=True, capture_output=True)


class Authority:
    def __init__(self, folder, *kind):
        folder.mkdir()
        self.folder = folder
        keygen(*(kind or ["-t", "ed25519"]), "-N", "", "-f", folder / "ca")
        for name, arguments in KINDS.items():
            keygen(*arguments, "-N", "", "-f", folder / name)
            self.certify(name)

    def certify(self, name, host="node.example.org", *options):
        keygen("-s", self.folder / "ca", "-h", "-I", f"id-{name}", "-n", host, *options, self.folder / f"{name}.pub")

    def trust(self, more=""):
        return f'NodeAttestor "sshpop" {{ plugin_data {{ cert_authorities_path = "{self.folder}/ca.pub"\n{more} }} }}'

    def attestor(self, name):
        return f"""NodeAttestor "sshpop" {{ plugin_data {{
            host_key_path = "{self.folder}/{name}"
            host_cert_path = "{self.folder}/{name}-cert.pub"
        }} }}"""

    def path(self, name):
        blob = base64.b64decode((self.folder / f"{name}-cert.pub").read_text().split()[1])
        digest = base64.urlsafe_b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
        return f"/spire/agent/sshpop/{digest}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority") / "ssh")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return make_evidence(tmp_path_factory.mktemp("evidence"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_with_a_certificate_of_ssh_keygens_becomes_an_agent(tmp_path, keep, authority, kind):
    server = keep(Server(tmp_path / "server", plugins=authority.trust())).start()
    keep(Agent(tmp_path / "agent", server, attestor=authority.attestor(kind))).start()
    assert agents(server) == {authority.path(kind): ([], True)}


def test_hosts_may_be_named_by_their_principal_and_attest_again(tmp_path, keep, authority):
    settings = 'canonical_domain = "example.org"\nagent_path_template = "/ssh/{{ .Hostname }}"'
    server = keep(Server(tmp_path / "server", plugins=authority.trust(settings))).start()
    agent = keep(Agent(tmp_path / "agent", server, attestor=authority.attestor("ed25519"),
                       key_manager='KeyManager "memory" { plugin_data {} }')).start()
    path = "/spire/agent/ssh/node"
    assert agents(server) == {path: ([], True)}
    agent.stop()
    agent.start()
    assert agents(server) == {path: ([], True)}
    server.cli("agent", "evict", "-spiffeID", f"spiffe://example.org{path}")
    wait_until(lambda: agents(server) == {path: ([], True)}, "the agent to come back")


def test_a_certificate_of_an_rsa_authority_is_taken_and_an_expired_one_is_not(tmp_path, keep):
    authority = Authority(tmp_path / "ssh", "-t", "rsa", "-b", "2048")
    server = keep(Server(tmp_path / "server", plugins=authority.trust())).start()
    agent = keep(Agent(tmp_path / "agent", server, attestor=authority.attestor("rsa"))).start()
    assert agents(server) == {authority.path("rsa"): ([], True)}
    agent.stop()
    authority.certify("ed25519", "node.example.org", "-V", "20200101:20210101")
    old = keep(Agent(tmp_path / "old", server, attestor=authority.attestor("ed25519"))).start(wait=False)
    log = old.folder / "agent.log"
    wait_until(lambda: "failed to check host key: ssh: cert has expired" in log.read_text(), "the refusal")
    assert len(agents(server)) == 1


def of_sshpop(answers):
    return {name: it for name, it in answers.items() if name.startswith("ssh: ")}


GOOD = {f"ssh: {name}" for name in (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa", "rsa-sha2-256",
    "rsa-sha2-512", "rsa authority", "source address",
)}
ANSWERED_BADLY = {f"ssh: {name}" for name in (
    "no response", "empty response", "no such signature", "empty signature", "wrong key", "replayed", "params again",
)}


def test_evidence_that_does_not_hold_gets_a_precise_refusal_and_no_identity(tmp_path, keep, evidence):
    server = keep(server_for(tmp_path / "server", evidence)).start()
    answers = of_sshpop(show_all(server, evidence))
    assert {name for name, it in answers.items() if it["code"] == "OK"} == GOOD
    asked = {name for name, it in answers.items() if it["asked"]}
    assert asked == GOOD | ANSWERED_BADLY, "nobody is challenged whose certificate is not trusted"
    for name in answers.keys() - GOOD:
        assert answers[name]["code"] == "Internal", answers[name]
        assert answers[name]["message"].startswith("nodeattestor(sshpop): failed to ") or "ce" in answers[name]["message"]
    paths = {it["id"] for it in answers.values() if "id" in it}
    assert {path for path in agents(server) if "sshpop" in path} == paths


@pytest.mark.parametrize("more", ["", 'canonical_domain = "example.org"\nagent_path_template = "/h/{{ .Hostname }}/{{ .Serial }}"',
                                  'canonical_domain = "elsewhere.org"', 'agent_path_template = "/h/{{ .KeyId }}/.."'])
def test_answers_are_those_of_spires_server(tmp_path, keep, spire, evidence, more):
    found = []
    for name, bins in (("ours", binaries()), ("spire", spire)):
        server = keep(server_for(tmp_path / name, evidence, bins=bins, sshpop=more)).start()
        found.append((of_sshpop(show_all(server, evidence)), agents(server)))
        server.stop()
    (ours, our_agents), (theirs, their_agents) = found
    for name, text in OURS_IS_STRICTER.items():
        assert text in ours.pop(name)["message"]
        their_agents.pop(theirs.pop(name).get("id"), None)
    assert not {name: (ours[name], theirs[name]) for name in theirs if ours[name] != theirs[name]}
    of_attestor = lambda all_of_them: {path: it for path, it in all_of_them.items() if "x509pop" not in path}
    assert of_attestor(our_agents) == of_attestor(their_agents)


@pytest.mark.parametrize("kind", KINDS)
def test_our_agent_attests_to_spires_server_and_the_reverse(tmp_path, keep, spire, authority, kind):
    for at, (server_bins, agent_bins) in enumerate([(spire, binaries()), (binaries(), spire)]):
        server = keep(Server(tmp_path / f"server{at}", bins=server_bins, plugins=authority.trust())).start()
        agent = keep(Agent(tmp_path / f"agent{at}", server, bins=agent_bins, attestor=authority.attestor(kind))).start()
        assert agents(server) == {authority.path(kind): ([], True)}
        agent.stop()
        server.stop()
