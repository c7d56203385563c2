"""Each piece of evidence gets the answer that SPIRE's server gave it, whether or not that server is at hand.

What it answered is in golden/, recorded by

    SPIRE_BIN_DIR=... python3 test_attest_recorded.py
"""

import gzip
import json
import re
import sys
import tempfile
from pathlib import Path

import pytest
from attestation import agents, make_evidence, server_for, show_all
from harness import HERE, binaries, spire_binaries

GOLDEN = HERE / "golden" / "attestation.json.gz"

# Settings of x509pop and of sshpop.
SETTINGS = {
    "plain": ("", ""),
    "few intermediates": ("max_intermediates = 1", 'canonical_domain = "elsewhere.org"'),
    "small keys": ("max_rsa_key_size = 1024", 'agent_path_template = "/h/{{ .KeyId }}/.."'),
    "by names": (
        'agent_path_template = "/cn/{{ .Subject.CommonName }}/{{ .SerialNumberHex }}"',
        'canonical_domain = "example.org"\nagent_path_template = "/h/{{ .Hostname }}/{{ .Serial }}"',
    ),
    "by the caller's address": ("verify_client_ip = true", ""),
}

STRICTER = {
    "rsa 1024": "keys of 1024 bits are too small",
    "ssh: rsa authority by sha1": "SHA-1 is no signature any more",
}


def normal(text):
    """Without what is of one making of the evidence."""
    text = re.sub(r"\b[0-9a-f]{40}\b", "<sha1>", text)
    text = re.sub(r"sshpop/[\w-]{43}", "sshpop/<sha256>", text)
    return re.sub(r"20\d\d-\d\d-\d\dT[\d:]+Z", "<time>", text)


def asked(folder, evidence, bins, settings):
    """What the server answered to each piece of evidence, with the agent that it made."""
    x509pop, sshpop = settings
    x509pop = f'ca_bundle_path = "{evidence}/roots.pem"\n{x509pop}'
    server = server_for(folder, evidence, bins=bins, x509pop=x509pop, sshpop=sshpop).start()
    try:
        answers, made = show_all(server, evidence), agents(server)
    finally:
        server.stop()
    found = {}
    for name, answer in answers.items():
        if "id" in answer:
            answer["agent"] = made[answer["id"]]
        found[name] = normal(json.dumps(answer, sort_keys=True))
    return found


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return make_evidence(tmp_path_factory.mktemp("evidence"))


def recorded(settings):
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))[settings]


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_piece_of_evidence_is_answered_as_by_spires_server(tmp_path, evidence, settings):
    ours, theirs = asked(tmp_path / "server", evidence, binaries(), SETTINGS[settings]), recorded(settings)
    assert set(ours) == set(theirs)
    wrong = [f"{name}\n  SPIRE {theirs[name]}\n  ours  {ours[name]}" for name in theirs if ours[name] != theirs[name]]
    wrong = [it for it in wrong if it.partition("\n")[0] not in STRICTER]
    assert not wrong, "\n".join(wrong)
    assert len(theirs) > 100


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_recorded_answers_are_those_of_spires_server(tmp_path, spire, evidence, settings):
    assert asked(tmp_path / "server", evidence, spire, SETTINGS[settings]) == recorded(settings)


def record():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "evidence").mkdir()
        evidence = make_evidence(folder / "evidence")
        found = {
            settings: asked(folder / str(at), evidence, spire_binaries(), SETTINGS[settings])
            for at, settings in enumerate(SETTINGS)
        }
    text = json.dumps(found, indent=0, sort_keys=True).encode()
    GOLDEN.write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    if spire_binaries() is None:
        sys.exit("SPIRE_BIN_DIR not set")
    record()
