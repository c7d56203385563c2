"""A whole server with its keys in SoftHSM: they never leave the token, and survive what it does not."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import HERE, Agent, Server, wait_until

PIN = "1234"
MODULES = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
]
PREFIX = "steeple/example.org/server-1/"


class Hsm:
    """A SoftHSM token of the test's own."""

    def __init__(self, folder, module):
        self.module = module
        self.tokens = folder / "tokens"
        self.tokens.mkdir()
        conf = folder / "softhsm2.conf"
        conf.write_text(f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nslots.removable = true\n")
        self.environment = {**os.environ, "SOFTHSM2_CONF": str(conf)}
        self.run("softhsm2-util", "--init-token", "--free", "--label", "spire", "--pin", PIN, "--so-pin", PIN)

    def run(self, *command):
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def keys(self):
        """The private keys on the token, as an auditor sees them."""
        return json.loads(self.run(sys.executable, str(HERE / "pkcs11.py"), self.module, PIN))

    def labels(self):
        return [key["label"].removeprefix(PREFIX) for key in self.keys()]


@pytest.fixture
def hsm(tmp_path, monkeypatch):
    module = next((module for module in MODULES if Path(module).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not installed")
    hsm = Hsm(tmp_path, module)
    monkeypatch.setenv("SOFTHSM2_CONF", hsm.environment["SOFTHSM2_CONF"])
    monkeypatch.setenv("SPIRE_HSM_PIN", PIN)
    return hsm


@pytest.fixture
def servers(tmp_path, hsm):
    made = []

    def make(name="server", identifier='key_identifier_value = "server-1"', pin='pin_env = "SPIRE_HSM_PIN"', extra=""):
        server = Server(tmp_path / name, extra=extra)
        disk = f'KeyManager "disk" {{ plugin_data {{ keys_path = "{server.keys}" }} }}'
        text = server.config.read_text()
        assert disk in text
        token = f'module_path = "{hsm.module}"\ntoken_label = "spire"\n{pin}\n{identifier}'
        server.config.write_text(text.replace(disk, f'KeyManager "pkcs11" {{ plugin_data {{ {token} }} }}'))
        made.append(server)
        return server

    yield make
    for server in made:
        if server.daemon:
            server.daemon.kill()


def mint(server, folder, path="/web"):
    folder.mkdir(exist_ok=True)
    server.cli("x509", "mint", "-spiffeID", f"spiffe://example.org{path}", "-write", folder)
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", folder / "bundle.pem", folder / "svid.pem"], capture_output=True, text=True
    )
    assert verified.returncode == 0, verified.stderr + verified.stdout
    token = server.cli("jwt", "mint", "-spiffeID", f"spiffe://example.org{path}", "-audience", "db").stdout
    assert token.count(".") == 2


def test_a_server_signs_on_the_token_and_finds_its_keys_again(servers, hsm, tmp_path):
    server = servers().start()
    mint(server, tmp_path / "first")
    assert hsm.labels() == ["JWT-Signer-A", "x509-CA-A"]
    for key in hsm.keys():
        assert key["sensitive"] and key["always_sensitive"], key
        assert key["never_extractable"] and not key["extractable"] and not key["told"], key
    assert not server.keys.exists()
    before = server.json("bundle", "show")

    assert server.stop() == 0
    server.start()
    mint(server, tmp_path / "second")
    server.daemon.kill()
    server.start()
    mint(server, tmp_path / "third")
    after = server.json("bundle", "show")
    assert after["x509_authorities"] == before["x509_authorities"], "a second CA was made"
    assert after["jwt_authorities"] == before["jwt_authorities"]
    assert hsm.labels() == ["JWT-Signer-A", "x509-CA-A"]


@pytest.mark.parametrize("key_type", ["ec-p384", "rsa-2048"])
def test_every_kind_of_key_signs(servers, hsm, tmp_path, key_type):
    server = servers(extra=f'ca_key_type = "{key_type}"').start()
    mint(server, tmp_path / "minted")
    shown = server.cli("bundle", "show").stdout
    text = subprocess.run(["openssl", "x509", "-noout", "-text"], input=shown, capture_output=True, text=True).stdout
    assert {"ec-p384": "P-384", "rsa-2048": "2048 bit"}[key_type] in text


def test_rotations_leave_one_key_in_each_slot(servers, hsm, tmp_path):
    server = servers().start()
    for kind in ["x509", "jwt"]:
        for _ in range(3):
            prepared = server.json("localauthority", kind, "prepare")
            authority = prepared["prepared_authority"]["authority_id"]
            server.cli("localauthority", kind, "activate", "-authorityID", authority)
            mint(server, tmp_path / "rotated")
    expected = ["JWT-Signer-A", "JWT-Signer-B", "x509-CA-A", "x509-CA-B"]
    assert hsm.labels() == expected
    bundle = server.json("bundle", "show")
    assert server.stop() == 0
    server.start()
    mint(server, tmp_path / "after")
    assert server.json("bundle", "show")["x509_authorities"] == bundle["x509_authorities"]
    assert hsm.labels() == expected


def test_kills_in_the_midst_of_rotations_lose_no_authority(servers, hsm, tmp_path):
    server = servers().start()
    random.seed(5)
    begun, acknowledged = [], []

    def rotate(stop):
        while not stop.is_set():
            try:
                prepared = server.json("localauthority", "x509", "prepare")["prepared_authority"]["authority_id"]
                begun.append(prepared)
                server.cli("localauthority", "x509", "activate", "-authorityID", prepared)
                acknowledged.append(prepared)
            except (AssertionError, OSError, ValueError):
                time.sleep(0.02)  # the server is down: that is the point

    for _ in range(8):
        stop = threading.Event()
        worker = threading.Thread(target=rotate, args=[stop])
        worker.start()
        time.sleep(random.uniform(0.05, 0.7))
        server.daemon.kill()
        stop.set()
        worker.join()
        server.start()
        active = server.json("localauthority", "x509", "show")["active"]["authority_id"]
        if acknowledged:
            # The last one that was acknowledged, or one whose acknowledgement was lost.
            assert active in begun[begun.index(acknowledged[-1]) :]
        mint(server, tmp_path / "minted")
    assert acknowledged, "nothing rotated"


def test_two_servers_share_a_token(servers, hsm, tmp_path):
    identifier = f'key_identifier_file = "{tmp_path}/key-identifier"'
    one, other = servers().start(), servers("other", identifier).start()
    for server in (one, other):
        mint(server, tmp_path / server.folder.name / "minted")
    assert len(hsm.keys()) == 4
    before = other.json("bundle", "show")["x509_authorities"]
    assert before != one.json("bundle", "show")["x509_authorities"]
    assert other.stop() == 0
    other.start()
    assert other.json("bundle", "show")["x509_authorities"] == before, "the identifier file was kept"


def test_an_agent_keeps_its_identity_on_a_token(servers, hsm, tmp_path):
    server = servers().start()
    agent = Agent(tmp_path / "agent", server)
    text, found = re.subn(
        r'KeyManager "\w+" \{ plugin_data \{.*?\} \}',
        f"""KeyManager "pkcs11" {{ plugin_data {{
            module_path = "{hsm.module}"
            token_label = "spire"
            pin_env = "SPIRE_HSM_PIN"
            key_identifier_value = "agent-1"
        }} }}""",
        agent.config.read_text(),
    )
    assert found == 1
    agent.config.write_text(text)
    try:
        agent.start(server.token())
        identity = agent.id()
        agent.stop()
        agent.start()
        assert agent.id() == identity, "no new attestation"
        labels = [key["label"] for key in hsm.keys() if "/agent-1/" in key["label"]]
        assert len(labels) == 1 and labels[0].startswith("steeple/example.org/agent-1/agent-svid-"), labels
    finally:
        if agent.daemon:
            agent.daemon.kill()


def test_what_is_wrong_is_said_at_start_and_no_pin_is_logged(servers, hsm):
    server = servers(pin='pin = "8642"')
    server.start(wait=False)
    assert server.daemon.process.wait(timeout=30) != 0
    log = (server.folder / "server.log").read_text()
    assert 'token \\"spire\\" refuses the PIN (PinIncorrect); it is not tried again' in log
    assert "8642" not in log

    server = servers("missing")
    server.config.write_text(server.config.read_text().replace('"spire"', '"gone"'))
    server.start(wait=False)
    assert server.daemon.process.wait(timeout=30) != 0
    wait_until(
        lambda: 'the module has no token \\"gone\\"' in (server.folder / "server.log").read_text(), "the message"
    )
