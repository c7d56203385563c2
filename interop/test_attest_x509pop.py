"""Nodes by certificates of the site's PKI: real ones of openssl's, forged ones of our own making."""

import re
import subprocess

import pytest
from attestation import agents, make_evidence, server_for, show_all
from harness import Agent, Server, binaries, wait_until

OURS_IS_STRICTER = {
    # What SPIRE takes, and we do not.
    "rsa 1024": "unsupported RSA key size",
}


def openssl(*arguments, stdin=None):
    subprocess.run(["openssl", *[str(it) for it in arguments]], check=True, capture_output=True, input=stdin)


class Pki:
    """A PKI as an operator without better tools would make it."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-days", 30,
                "-keyout", folder / "root.key", "-out", folder / "root.pem", "-subj", "/O=Site/CN=Root CA",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self.sign("issuing", "root", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "/CN=Issuing CA",
                  "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n")

    def sign(self, name, by, key, subject, extensions, days=10):
        folder = self.folder
        openssl("req", "-new", "-newkey", *key, "-nodes", "-keyout", folder / f"{name}.key",
                "-out", folder / f"{name}.csr", "-subj", subject)
        (folder / f"{name}.ext").write_text(extensions)
        openssl("x509", "-req", "-in", folder / f"{name}.csr", "-CA", folder / f"{by}.pem", "-CAkey",
                folder / f"{by}.key", "-CAcreateserial", "-days", days, "-extfile", folder / f"{name}.ext",
                "-out", folder / f"{name}.pem")

    def machine(self, name, key):
        self.sign(name, "issuing", key, f"/O=Site/CN={name}",
                  "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
                  f"subjectAltName=DNS:{name}.example.org,IP:127.0.0.1,URI:x509pop://example.org/rack/r7\n")

    def attestor(self, name):
        folder = self.folder
        return f"""NodeAttestor "x509pop" {{ plugin_data {{
            private_key_path = "{folder}/{name}.key"
            certificate_path = "{folder}/{name}.pem"
            intermediates_path = "{folder}/issuing.pem"
        }} }}"""

    def trust(self, more=""):
        return f'NodeAttestor "x509pop" {{ plugin_data {{ ca_bundle_path = "{self.folder}/root.pem"\n{more} }} }}'

    def fingerprint(self, name):
        shown = subprocess.run(["openssl", "x509", "-in", self.folder / f"{name}.pem", "-noout", "-fingerprint", "-sha1"],
                               check=True, capture_output=True, text=True).stdout
        return shown.partition("=")[2].strip().replace(":", "").lower()

    def serial(self, name):
        shown = subprocess.run(["openssl", "x509", "-in", self.folder / f"{name}.pem", "-noout", "-serial"],
                               check=True, capture_output=True, text=True).stdout
        return shown.partition("=")[2].strip().lower()

    def path(self, name):
        return f"/spire/agent/x509pop/{self.fingerprint(name)}"

    def selectors(self, name):
        return sorted([
            f"x509pop:subject:cn:{name}", f"x509pop:serialnumber:{self.serial(name)}", "x509pop:san:rack:r7",
            f"x509pop:ca:fingerprint:{self.fingerprint('issuing')}", f"x509pop:ca:fingerprint:{self.fingerprint('root')}",
        ])


KEYS = {
    "rsa": ["rsa:2048"],
    "p256": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "p384": ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "p521": ["ec", "-pkeyopt", "ec_paramgen_curve:P-521"],
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    pki = Pki(tmp_path_factory.mktemp("pki") / "pki")
    for name, key in KEYS.items():
        pki.machine(name, key)
    return pki


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return make_evidence(tmp_path_factory.mktemp("evidence"))


@pytest.mark.parametrize("name", KEYS)
def test_a_machine_with_a_certificate_of_openssls_becomes_an_agent(tmp_path, keep, pki, name):
    server = keep(Server(tmp_path / "server", plugins=pki.trust("verify_client_ip = true"))).start()
    agent = keep(Agent(tmp_path / "agent", server, attestor=pki.attestor(name)))
    agent.start()
    assert agents(server) == {pki.path(name): (pki.selectors(name), True)}


def test_an_agent_attests_again_after_a_restart_without_its_state_and_after_an_eviction(tmp_path, keep, pki):
    server = keep(Server(tmp_path / "server", plugins=pki.trust())).start()
    agent = keep(Agent(tmp_path / "agent", server, attestor=pki.attestor("p256"), key_manager='KeyManager "memory" { plugin_data {} }'))
    agent.start()
    agent.stop()
    agent.start()
    log = (agent.folder / "agent.log").read_text()
    assert log.count("Node attestation was successful") == 2
    server.cli("agent", "evict", "-spiffeID", f"spiffe://example.org{pki.path('p256')}")
    wait_until(lambda: agents(server) == {pki.path("p256"): (pki.selectors("p256"), True)}, "the agent to come back")
    server.cli("agent", "ban", "-spiffeID", f"spiffe://example.org{pki.path('p256')}")
    wait_until(lambda: not agent.daemon.alive(), "the banned agent to give up")
    agent.start(wait=False)
    wait_until(lambda: not agent.daemon.alive(), "the banned agent to be refused")
    assert "failed to attest: agent is banned" in (agent.folder / "agent.log").read_text()


def test_a_certificate_that_was_renewed_counts_without_a_restart(tmp_path, keep, pki):
    pki.machine("renewed", KEYS["p256"])
    first = pki.path("renewed")
    server = keep(Server(tmp_path / "server", plugins=pki.trust())).start()
    agent = keep(Agent(tmp_path / "agent", server, attestor=pki.attestor("renewed"))).start()
    pki.machine("renewed", KEYS["p384"])
    assert pki.path("renewed") != first
    server.cli("agent", "evict", "-spiffeID", f"spiffe://example.org{first}")
    wait_until(lambda: list(agents(server)) == [pki.path("renewed")], "the agent to come back with the new one")


def test_an_svid_of_a_workload_api_is_exchanged_for_an_agents(tmp_path, keep, pki):
    """A first agent vouches for a second, whose identity is the SVID that the first gives it."""
    plugins = 'NodeAttestor "x509pop" { plugin_data { mode = "spiffe" } }'
    server = keep(Server(tmp_path / "server", plugins=plugins)).start()
    first = keep(Agent(tmp_path / "first", server)).start(server.token())
    source = f'NodeAttestor "x509pop" {{ plugin_data {{ spiffe_endpoint_socket = "unix://{first.socket}" }} }}'
    second = keep(Agent(tmp_path / "second", server, attestor=source))
    server.entry("/spire-exchange/host/7", first.id(), "unix:uid:0")
    wait_until(lambda: first.ids() == ["spiffe://example.org/spire-exchange/host/7"], "the SVID")
    second.start()
    found = agents(server)
    assert "/spire/agent/x509pop/host/7" in found
    assert found["/spire/agent/x509pop/host/7"][1] is True


def test_a_workloads_svid_outside_the_prefix_makes_no_agent(tmp_path, keep):
    plugins = 'NodeAttestor "x509pop" { plugin_data { mode = "spiffe" } }'
    server = keep(Server(tmp_path / "server", plugins=plugins)).start()
    first = keep(Agent(tmp_path / "first", server)).start(server.token())
    source = f'NodeAttestor "x509pop" {{ plugin_data {{ spiffe_endpoint_socket = "unix://{first.socket}" }} }}'
    second = keep(Agent(tmp_path / "second", server, attestor=source))
    server.entry("/web", first.id(), "unix:uid:0")
    wait_until(lambda: first.ids() == ["spiffe://example.org/web"], "the SVID")
    second.start(wait=False)
    log = second.folder / "agent.log"
    wait_until(lambda: "x509 cert doesnt match SVID prefix" in log.read_text(), "the refusal")
    assert len(agents(server)) == 1


GOOD = {
    "ec", "ec over an intermediate", "ec over an intermediate, twice", "ec with too much", "rsa", "rsa, salt 32",
    "rsa, salt 20", "rsa by PSS", "p384", "p521", "the root itself", "no common name", "selectors", "two paths",
    "names in capitals", "permitted name", "with its address",
}
ANSWERED_BADLY = {
    "no response", "empty response", "response of another kind", "short nonce", "zero signature", "wrong key", "replayed",
    "params again", "short rsa signature", "replayed rsa",
}


def of_x509pop(answers):
    return {name: it for name, it in answers.items() if not name.startswith("ssh: ")}


def test_evidence_that_does_not_hold_gets_a_precise_refusal_and_no_identity(tmp_path, keep, evidence):
    server = keep(server_for(tmp_path / "server", evidence)).start()
    answers = of_x509pop(show_all(server, evidence))
    good = {name for name, it in answers.items() if it["code"] == "OK"}
    assert good == GOOD
    asked = {name for name, it in answers.items() if it["asked"]}
    assert asked == GOOD | ANSWERED_BADLY, "nobody is challenged whose certificate is not trusted"
    for name in answers.keys() - GOOD:
        assert answers[name]["code"] in ("InvalidArgument", "PermissionDenied", "Internal"), answers[name]
        assert answers[name]["message"].startswith("nodeattestor(x509pop): "), answers[name]
    for bits in (8200, 9216, 16384, 65536):
        assert answers[f"rsa {bits}"]["message"].endswith("leaf certificate key size too large")
        assert answers[f"intermediate of rsa {bits}"]["message"].endswith("intermediate certificate 0 key size too large")
    paths = {it["id"] for it in answers.values() if "id" in it}
    assert {path for path in agents(server) if "x509pop" in path} == paths


def without_times(answers):
    for answer in answers.values():
        answer["message"] = re.sub(r"current time \S+", "current time", answer["message"])
    return answers


@pytest.mark.parametrize("more", ["", "max_intermediates = 1", "max_rsa_key_size = 1024", "verify_client_ip = true",
                                  'agent_path_template = "/cn/{{ .Subject.CommonName }}/{{ .SerialNumberHex }}"',
                                  'agent_path_template = "/x/{{ .URISanSelectors.datacenter }}"'])
def test_answers_are_those_of_spires_server(tmp_path, keep, spire, evidence, more):
    found = []
    for name, bins in (("ours", binaries()), ("spire", spire)):
        settings = f'ca_bundle_path = "{evidence}/roots.pem"\n{more}'
        server = keep(server_for(tmp_path / name, evidence, bins=bins, x509pop=settings)).start()
        found.append((of_x509pop(without_times(show_all(server, evidence))), agents(server)))
        server.stop()
    (ours, our_agents), (theirs, their_agents) = found
    for name, text in OURS_IS_STRICTER.items():
        assert text in ours.pop(name)["message"]
        their_agents.pop(theirs.pop(name).get("id"), None)
    differ = {name: (ours[name], theirs[name]) for name in theirs if ours[name] != theirs[name]}
    assert not differ
    of_attestor = lambda all_of_them: {path: it for path, it in all_of_them.items() if "sshpop" not in path}
    assert of_attestor(our_agents) == of_attestor(their_agents)


@pytest.mark.parametrize("name", KEYS)
def test_our_agent_attests_to_spires_server_and_the_reverse(tmp_path, keep, spire, pki, name):
    for at, (server_bins, agent_bins) in enumerate([(spire, binaries()), (binaries(), spire)]):
        server = keep(Server(tmp_path / f"server{at}", bins=server_bins, plugins=pki.trust())).start()
        agent = keep(Agent(tmp_path / f"agent{at}", server, bins=agent_bins, attestor=pki.attestor(name)))
        agent.start()
        assert agents(server) == {pki.path(name): (pki.selectors(name), True)}
        server.cli("agent", "evict", "-spiffeID", f"spiffe://example.org{pki.path(name)}")
        wait_until(lambda: len(agents(server)) == 1, "the agent to come back", seconds=60)
        agent.stop()
        server.stop()
