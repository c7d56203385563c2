"""Nodes attested by device identities in a software TPM that swtpm's own tools provisioned, by both halves of
both implementations."""

import hashlib
import subprocess

import pytest
from harness import Agent, Server, binaries, spire_binaries, wait_until
from swtpm import Authority, Maker, Missing, Tpm

OURS, SPIRES = "ours", "spire's"


def bins(whose):
    return binaries() if whose == OURS else spire_binaries()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A maker of TPMs, a machine with one, an authority, and device identities of both kinds."""
    folder = tmp_path_factory.mktemp("tpm")
    try:
        maker = Maker(folder / "maker")
    except Missing as missing:
        pytest.skip(f"skipped: {missing}")
    authority = Authority(folder / "authority", "devid-root")
    tpm = Tpm(folder / "machine", maker).start()

    class World:
        pass

    world = World()
    world.folder, world.maker, world.authority, world.tpm = folder, maker, authority, tpm
    world.devids = {kind: tpm.devid(kind, kind, authority) for kind in ["rsa", "ecc"]}
    yield world
    tpm.stop()


def attestor_of_server(authority, maker):
    return f"""NodeAttestor "tpm_devid" {{ plugin_data {{
        devid_ca_path = "{authority.certificate}"
        endorsement_ca_path = "{maker.certificate}"
    }} }}"""


def attestor_of_agent(devid, tpm, more=""):
    return f"""NodeAttestor "tpm_devid" {{ plugin_data {{
        devid_cert_path = "{devid.certificate}"
        devid_priv_path = "{devid.private}"
        devid_pub_path = "{devid.public}"
        tpm_device_path = "{tpm.socket}"
        {more}
    }} }}"""


def fingerprint(path):
    der = subprocess.run(["openssl", "x509", "-in", path, "-outform", "DER"], capture_output=True, check=True)
    return hashlib.sha1(der.stdout).hexdigest()


def is_refused(agent, *texts):
    """The agent does not come up, and its log says why. (It tries again for a while; nobody waits for that.)"""
    agent.start(wait=False)

    def told():
        log = agent.daemon.log.read_text()
        return all(text in log for text in texts)

    wait_until(told, f"{texts} in {agent.daemon.log}", 60)
    assert agent.server.json("agent", "list")["agents"] == []


@pytest.mark.parametrize("kind", ["rsa", "ecc"])
@pytest.mark.parametrize("server_is,agent_is", [(OURS, OURS), (OURS, SPIRES), (SPIRES, OURS), (SPIRES, SPIRES)])
def test_a_device_identity_is_attested(world, keep, tmp_path, server_is, agent_is, kind):
    if SPIRES in (server_is, agent_is) and not spire_binaries():
        pytest.skip("skipped: SPIRE_BIN_DIR not set")
    plugins = attestor_of_server(world.authority, world.maker)
    server = keep(Server(tmp_path / "server", bins=bins(server_is), plugins=plugins)).start()
    devid = world.devids[kind]
    files = devid.bare() if agent_is == SPIRES else devid
    attestor = attestor_of_agent(files, world.tpm)
    agent = keep(Agent(tmp_path / "agent", server, bins=bins(agent_is), attestor=attestor)).start()
    assert agent.id() == f"spiffe://example.org/spire/agent/tpm_devid/{devid.fingerprint()}"
    (listed,) = server.json("agent", "list")["agents"]
    assert listed["can_reattest"] is True
    assert {f"{it['type']}:{it['value']}" for it in listed["selectors"]} == {
        f"tpm_devid:subject:cn:devid-{kind}",
        "tpm_devid:issuer:cn:devid-root",
        f"tpm_devid:ca:fingerprint:{fingerprint(world.authority.certificate)}",
    }
    # The same machine comes again, and nothing of ours fills its TPM meanwhile.
    agent.stop()
    (agent.folder / "data" / "agent-data.json").unlink()
    agent.start()
    if agent_is == OURS:
        assert world.tpm.loaded().strip() == ""


PASSWORDS = """
    devid_password = "devid-pass"
    owner_hierarchy_password = "owner-pass"
    endorsement_hierarchy_password = "endorsement-pass"
"""


@pytest.mark.parametrize("agent_is", [OURS, SPIRES])
def test_hierarchies_and_keys_may_have_passwords(world, keep, tmp_path, agent_is):
    if agent_is == SPIRES and not spire_binaries():
        pytest.skip("skipped: SPIRE_BIN_DIR not set")
    tpm = keep(Tpm(tmp_path / "machine", world.maker)).start()
    tpm.lock("owner-pass", "endorsement-pass")
    devid = tpm.devid("locked", "rsa", world.authority, "owner-pass", "devid-pass")
    files = devid.bare() if agent_is == SPIRES else devid
    server = keep(Server(tmp_path / "server", plugins=attestor_of_server(world.authority, world.maker))).start()
    attestor = attestor_of_agent(files, tpm, PASSWORDS)
    agent = keep(Agent(tmp_path / "agent", server, bins=bins(agent_is), attestor=attestor)).start()
    assert agent.id().endswith(devid.fingerprint())
    agent.stop()
    log = agent.daemon.log.read_text()
    assert "-pass" not in log
    if agent_is == OURS:
        wrong = attestor_of_agent(files, tpm, PASSWORDS.replace("owner-pass", "wrong-pass"))
        server.cli("agent", "evict", "-spiffeID", agent.id())
        is_refused(keep(Agent(tmp_path / "wrong", server, attestor=wrong)), "tpm2.CreatePrimaryEx failed", "wrong password")


def test_a_machine_of_an_unknown_maker_is_refused(world, keep, tmp_path):
    other = Maker(tmp_path / "maker")
    # It makes one TPM, so that it has a certificate.
    Tpm(tmp_path / "unused", other)
    plugins = attestor_of_server(world.authority, other)
    server = keep(Server(tmp_path / "server", plugins=plugins)).start()
    attestor = attestor_of_agent(world.devids["rsa"], world.tpm)
    agent = keep(Agent(tmp_path / "agent", server, attestor=attestor))
    text = "cannot verify EK signature: endorsement certificate verification failed"
    is_refused(agent, text, "InvalidArgument")


def test_a_device_identity_of_another_authority_is_refused(world, keep, tmp_path):
    other = Authority(tmp_path / "authority", "devid-root")
    server = keep(Server(tmp_path / "server", plugins=attestor_of_server(other, world.maker))).start()
    attestor = attestor_of_agent(world.devids["ecc"], world.tpm)
    agent = keep(Agent(tmp_path / "agent", server, attestor=attestor))
    text = "unable to verify DevID signature: verification failed: x509: certificate signed by unknown authority"
    is_refused(agent, text)


@pytest.mark.parametrize("server_is", [OURS, SPIRES])
def test_files_that_were_copied_to_another_machine_are_of_no_use(world, keep, tmp_path, server_is):
    if server_is == SPIRES and not spire_binaries():
        pytest.skip("skipped: SPIRE_BIN_DIR not set")
    thief = keep(Tpm(tmp_path / "thief", world.maker)).start()
    plugins = attestor_of_server(world.authority, world.maker)
    server = keep(Server(tmp_path / "server", bins=bins(server_is), plugins=plugins)).start()
    attestor = attestor_of_agent(world.devids["rsa"], thief)
    agent = keep(Agent(tmp_path / "agent", server, attestor=attestor))
    is_refused(agent, "unable to start a new TPM session: cannot load DevID key on TPM: tpm2.Load failed")


def test_an_agent_without_its_tpm_says_so(world, keep, tmp_path):
    plugins = attestor_of_server(world.authority, world.maker)
    server = keep(Server(tmp_path / "server", plugins=plugins)).start()

    class Gone:
        socket = tmp_path / "nowhere.sock"

    attestor = attestor_of_agent(world.devids["rsa"], Gone)
    agent = keep(Agent(tmp_path / "agent", server, attestor=attestor))
    is_refused(agent, "unable to start a new TPM session: cannot open TPM at", f"stat {Gone.socket}: no such file")


def test_settings_are_judged_as_spires_are(world, tmp_path):
    """`validate` of both programs, for configurations with something wrong."""
    if not spire_binaries():
        pytest.skip("skipped: SPIRE_BIN_DIR not set")
    good = world.authority.certificate
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for settings in [
        f'devid_ca_path = "{good}" endorsement_ca_path = "{world.maker.certificate}"',
        f'devid_ca_path = "{good}" endorsement_ca_path = "{good}" unknown = 1',
        f'endorsement_ca_path = "{good}"',
        f'devid_ca_path = "{good}"',
        f'devid_ca_path = "/nowhere" endorsement_ca_path = "{good}"',
        f'devid_ca_path = "{good}" endorsement_ca_path = "{empty}"',
    ]:
        config = Server(
            tmp_path / "server", plugins=f'NodeAttestor "tpm_devid" {{ plugin_data {{ {settings} }} }}'
        ).config
        judged = []
        for whose in [OURS, SPIRES]:
            done = subprocess.run(
                [bins(whose) / "spire-server", "validate", "-config", config], capture_output=True, text=True, timeout=60
            )
            judged.append((done.returncode == 0, done.stdout + done.stderr))
        (ours, our_text), (spires, their_text) = judged
        assert ours == spires, f"{settings}: {our_text} {their_text}"
        reason = [line.strip() for line in their_text.splitlines() if line.startswith("\t\t")]
        assert not reason or reason[0] in our_text, f"{settings}: {our_text} {their_text}"
