"""Nodes known by an ordinary TPM, with the agent's own key in it: a software TPM with its maker's certificate."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time

import pytest
from harness import Agent, Server, binaries, wait_until
from swtpm import Maker, Missing, Tpm


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A maker of TPMs, and one machine; tests that change a TPM make one of their own."""
    folder = tmp_path_factory.mktemp("tpm")
    try:
        maker = Maker(folder / "maker")
    except Missing as missing:
        pytest.skip(f"skipped: {missing}")

    class World:
        def machine(self, name):
            tpm = Tpm(folder / name, maker).start()
            self.machines.append(tpm)
            return tpm

    world = World()
    world.folder, world.maker, world.machines = folder, maker, []
    world.tpm = world.machine("machine")
    yield world
    for tpm in world.machines:
        tpm.stop()


def show(tpm):
    """What `spire-agent tpm show` says."""
    command = [binaries() / "spire-agent", "tpm", "show", "-tpmDevicePath", tpm.socket, "-output", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def name(tpm):
    """The hash of the endorsement key that an agent shows."""
    return show(tpm)["endorsement_keys"][0]["hash"]


def serve(keep, folder, settings, extra=""):
    plugins = f'NodeAttestor "tpm" {{ plugin_data {{ {settings} }} }}'
    return keep(Server(folder / "server", plugins=plugins, extra=extra)).start()


def machine(keep, folder, server, tpm, in_tpm=True, settings="", keys="", socket=None, beside=""):
    """An agent on a machine with that TPM; `settings` are the attestor's, `keys` the key manager's."""
    path = socket or tpm.socket
    attestor = f'NodeAttestor "tpm" {{ plugin_data {{ tpm_device_path = "{path}"\n {settings} }} }}\n {beside}'
    manager = None
    if in_tpm:
        keys = f'directory = "{folder}/agent/keys"\n tpm_device_path = "{path}"\n {keys}'
        manager = f'KeyManager "tpm" {{ plugin_data {{ {keys} }} }}'
    return keep(Agent(folder / "agent", server, attestor=attestor, key_manager=manager))


def listed(server):
    """The one agent: its path, whether it attests again, its selectors."""
    (agent,) = server.json("agent", "list")["agents"]
    return agent["id"]["path"], agent["can_reattest"], [f"{it['type']}:{it['value']}" for it in agent["selectors"]]


def refusal(agent, seconds=60):
    """Why the agent does not come up, by its own log."""
    agent.start(wait=False)
    wait_until(lambda: not agent.daemon.alive(), "the agent's end", seconds)
    return agent.daemon.log.read_text()


def serial(server):
    return server.json("agent", "list")["agents"][0]["x509svid_serial_number"]


def test_an_ordinary_tpm_is_an_agent_whose_key_never_leaves_it(world, keep, tmp_path):
    hashes = tmp_path / "hashes"
    hashes.write_text(f"{name(world.tpm)} # the machine\n")
    settings = f'ca_path = "{world.maker.certificate}"\n hash_path = "{hashes}"\n require_both = true'
    settings += '\n require_key_in_tpm = true\n pcrs = "sha256:0,7"'
    server = serve(keep, tmp_path, settings, extra='agent_ttl = "16s"')
    agent = machine(keep, tmp_path, server, world.tpm).start()
    path, reattests, selectors = listed(server)
    assert path == f"/spire/agent/tpm/{name(world.tpm)}" and reattests
    model = [it.split(":", 2)[1] for it in selectors if it.split(":")[1] in ("manufacturer", "model", "version")]
    assert sorted(model) == ["manufacturer", "model", "version"], selectors
    assert {
        f"tpm:pub_hash:{name(world.tpm)}",
        "tpm:trusted_by:certificate",
        "tpm:trusted_by:list",
        "tpm:key_in_tpm:true",
        f"tpm:pcr:sha256:0:{'00' * 32}",
        f"tpm:pcr:sha256:7:{'00' * 32}",
    } <= set(selectors)

    # It works as any other: TLS with the key in the TPM, and a workload's identity.
    server.entry("/workload", agent.id(), "unix:uid:0")
    wait_until(lambda: agent.ids() == ["spiffe://example.org/workload"], "the workload's identity")

    # It renews by attesting anew, with the next key in the TPM.
    first = serial(server)
    wait_until(lambda: serial(server) != first, "a renewal", 60)
    wait_until(lambda: len(list((agent.folder / "keys").glob("agent-svid-*.tpm.json"))) == 2, "both keys")
    assert not list(agent.folder.rglob("keys.json"))
    assert all(it.stat().st_mode & 0o777 == 0o600 for it in (agent.folder / "keys").iterdir())

    # A restart takes up what there is; without its data, the machine attests again as the same agent.
    agent.stop()
    agent.start()
    wait_until(lambda: agent.ids() == ["spiffe://example.org/workload"], "the workload's identity")
    assert listed(server)[0] == path
    agent.stop()
    shutil.rmtree(agent.folder / "data")
    (agent.folder / "data").mkdir()
    agent.start()
    assert listed(server)[0] == path


def test_a_tpm_and_another_proof_are_one_agent(world, keep, tmp_path):
    both = 'NodeAttestor "composite" { plugin_data { attestors = ["tpm", "http_challenge"] } }'
    hashes = tmp_path / "hashes"
    hashes.write_text(f"{name(world.tpm)}\n")
    known = f'NodeAttestor "tpm" {{ plugin_data {{ hash_path = "{hashes}"\n require_key_in_tpm = true }} }}'
    plugins = f'{known}\n NodeAttestor "http_challenge" {{ plugin_data {{}} }}\n {both}'
    server = keep(Server(tmp_path / "server", plugins=plugins)).start()
    beside = f'NodeAttestor "http_challenge" {{ plugin_data {{ hostname = "127.0.0.1" }} }}\n {both}'
    machine(keep, tmp_path, server, world.tpm, beside=beside).start()
    path, reattests, selectors = listed(server)
    assert path == f"/spire/agent/tpm/{name(world.tpm)}" and not reattests
    assert {"tpm:key_in_tpm:true", "http_challenge:hostname:127.0.0.1", "composite:attestor:tpm"} <= set(selectors)


def test_changed_measurements_are_other_selectors(world, keep, tmp_path):
    tpm = world.machine("measured")
    server = serve(keep, tmp_path, f'ca_path = "{world.maker.certificate}"\n pcrs = "sha256:16"')
    # The key manager is another one: the key outside of the TPM is told from one inside.
    agent = machine(keep, tmp_path, server, tpm, in_tpm=False).start()
    before = listed(server)[2]
    assert f"tpm:pcr:sha256:16:{'00' * 32}" in before and "tpm:key_in_tpm:false" in before
    tpm.tool("tpm2_pcrextend", f"16:sha256={'ab' * 32}")
    agent.stop()
    (agent.folder / "data" / "agent-data.json").unlink()
    agent.start()
    value = show(tpm)["pcrs"]["sha256"]["16"]
    assert value != "00" * 32
    assert f"tpm:pcr:sha256:16:{value}" in listed(server)[2]


def test_a_machine_that_nobody_trusts_is_refused(world, keep, tmp_path):
    other = Maker(tmp_path / "maker")
    # It makes one TPM, so that it has a certificate.
    Tpm(tmp_path / "unused", other)
    hashes = tmp_path / "hashes"
    hashes.write_text("00" * 32 + "\n")
    server = serve(keep, tmp_path, f'ca_path = "{other.certificate}"\n hash_path = "{hashes}"')
    log = refusal(machine(keep, tmp_path, server, world.tpm))
    assert f"endorsement key {name(world.tpm)} is not trusted" in log
    assert "its certificate is not trusted: x509: certificate signed by unknown authority" in log
    assert "it is not on the list" in log and "PermissionDenied" in log
    assert server.json("agent", "list")["agents"] == []
    # The list is read again, and the server goes on.
    hashes.write_text(name(world.tpm).upper() + "\n")
    agent = machine(keep, tmp_path / "again", server, world.tpm).start()
    assert listed(server)[0] == f"/spire/agent/tpm/{name(world.tpm)}"
    agent.stop()


def test_a_key_outside_of_the_tpm_is_refused_where_one_inside_is_asked_for(world, keep, tmp_path):
    server = serve(keep, tmp_path, f'ca_path = "{world.maker.certificate}"\n require_key_in_tpm = true')
    log = refusal(machine(keep, tmp_path, server, world.tpm, in_tpm=False))
    assert "the key of the CSR is not in the TPM, which require_key_in_tpm asks for" in log
    assert server.json("agent", "list")["agents"] == []


def test_a_disk_in_another_machine_is_no_agent(world, keep, tmp_path):
    mine, other = world.machine("mine"), world.machine("other")
    hashes = tmp_path / "hashes"
    hashes.write_text(name(mine) + "\n")
    server = serve(keep, tmp_path, f'hash_path = "{hashes}"')
    agent = machine(keep, tmp_path, server, mine).start()
    agent.stop()
    # The same disk, and another TPM at the same place: by its state, as a thief would have it.
    mine.stop()
    other.stop()
    shutil.rmtree(mine.state)
    shutil.copytree(other.state, mine.state)
    mine.start()
    log = refusal(agent)
    assert "were made by another TPM, or this TPM was cleared since" in log
    # All that it says to remove.
    shutil.rmtree(agent.folder / "keys")
    shutil.rmtree(agent.folder / "data")
    (agent.folder / "data").mkdir()
    log = refusal(agent)
    assert f"endorsement key {name(mine)} is not trusted: it is not on the list" in log


def test_a_tpm_with_passwords_and_a_key_that_is_kept_in_it(world, keep, tmp_path):
    tpm = world.machine("guarded")
    template = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
    tpm.tool("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc256:aes128cfb", "-a", template, "-c", tmp_path / "parent")
    tpm.tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", tmp_path / "parent", "0x81000001")
    tpm.tool("tpm2_changeauth", "-c", "owner", "of the owner")
    tpm.tool("tpm2_changeauth", "-c", "endorsement", "of the endorsement")
    server = serve(keep, tmp_path, f'ca_path = "{world.maker.certificate}"\n require_key_in_tpm = true')
    log = refusal(machine(keep, tmp_path / "none", server, tpm))
    assert "TPM2_CreatePrimary: " in log and "password" in log
    passwords = 'owner_hierarchy_password = "of the owner"\n endorsement_hierarchy_password = "of the endorsement"'
    # The key manager needs no password where its keys' parent is kept in the TPM.
    agent = machine(keep, tmp_path, server, tpm, settings=passwords, keys='parent_handle = "0x81000001"').start()
    assert "tpm:key_in_tpm:true" in listed(server)[2]
    # Once it has synchronised, it has nothing to ask its TPM for a long time.
    server.entry("/workload", agent.id(), "unix:uid:0")
    wait_until(lambda: agent.ids() == ["spiffe://example.org/workload"], "the workload's identity")
    agent.stop()
    assert tpm.loaded().strip() == ""


def test_an_agent_outlives_its_tpms_absence(world, keep, tmp_path):
    tpm = world.machine("fleeting")
    server = serve(keep, tmp_path, f'ca_path = "{world.maker.certificate}"', extra='agent_ttl = "16s"')
    agent = machine(keep, tmp_path, server, tpm).start()
    server.entry("/workload", agent.id(), "unix:uid:0")
    wait_until(lambda: agent.ids() == ["spiffe://example.org/workload"], "the workload's identity")
    tpm.stop()
    wait_until(lambda: "the TPM at" in agent.daemon.log.read_text(), "a word about the TPM", 60)
    assert agent.daemon.alive()
    assert agent.ids() == ["spiffe://example.org/workload"]
    tpm.start()
    before = serial(server)
    wait_until(lambda: serial(server) != before, "a renewal", 90)
    # An agent that was killed in the midst of a conversation left something in a TPM that nobody manages.
    agent.daemon.kill()
    for _ in range(3):
        tpm_leak(tpm)
    agent.start()


def tpm_leak(tpm):
    """A primary key that nobody flushes: TPM2_CreatePrimary under the null hierarchy, an HMAC key."""
    public = bytes.fromhex("0008" + "000b" + "00040060" + "0000" + "0005" + "000b" + "0000")
    body = bytes.fromhex("40000007" + "00000009" + "40000009" + "0000" + "01" + "0000")
    body += bytes.fromhex("0004" + "00000000") + len(public).to_bytes(2, "big") + public
    body += bytes.fromhex("0000" + "00000000")
    command = bytes.fromhex("8002") + (len(body) + 10).to_bytes(4, "big") + bytes.fromhex("00000131") + body
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tpm.socket))
        connection.sendall(command)
        answer = connection.recv(4096)
    assert answer[6:10] == bytes(4), answer.hex()


@pytest.mark.parametrize("in_tpm", [True, False])
@pytest.mark.parametrize(
    "says,reason",
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TPM 2.0"),
        (bytes.fromhex("80017fffffff00000000"), "does not speak TPM 2.0"),
        (bytes.fromhex("80010000000a00000101"), "the TPM is in failure mode"),
        (bytes.fromhex("80010000000a00000000"), "the TPM's answer is malformed"),
        (b"", "the TPM at"),
    ],
    ids=["http", "endless", "failed", "empty", "hangs-up"],
)
def test_what_is_no_tpm_ends_a_start_with_a_word(world, keep, tmp_path, in_tpm, says, reason):
    with Impostor(tmp_path / "sock", says) as impostor:
        server = serve(keep, tmp_path, f'ca_path = "{world.maker.certificate}"')
        agent = machine(keep, tmp_path, server, None, in_tpm, socket=impostor.path).start(wait=False)
        # With the key in a TPM the agent ends; with another one it tries to attest a few times more.
        wait_until(lambda: reason in agent.daemon.log.read_text(), f"{reason!r} in the log", 30)
        if in_tpm:
            wait_until(lambda: not agent.daemon.alive(), "the agent's end")
        log = agent.daemon.log.read_text()
    assert re.search(r"(keymanager|nodeattestor)\(tpm\)|failed to load keys: ", log), log


def test_a_tpm_that_hangs_is_not_waited_for_for_ever(world, keep, tmp_path):
    server = serve(keep, tmp_path, f'ca_path = "{world.maker.certificate}"')
    with Impostor(tmp_path / "sock", None) as impostor:
        start = time.monotonic()
        log = refusal(machine(keep, tmp_path, server, None, socket=impostor.path), seconds=90)
        assert time.monotonic() - start < 60
    assert "does not answer" in log


class Impostor:
    """Something on a socket that answers every command the same; nothing at all when that is None."""

    def __init__(self, path, says):
        self.path, self.says, self.open = path, says, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()

    def __enter__(self):
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            if self.says is None:
                self.open.append(connection)
                continue
            with connection:
                connection.settimeout(20)
                if connection.recv(4096):
                    connection.sendall(self.says)
