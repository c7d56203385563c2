"""The attestor `systemd` on a real dbus-daemon, beside SPIRE's agent."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from containers import workload
from harness import HERE, TRUST_DOMAIN, Agent, Daemon, Server, spire_binaries, wait_until

UNIT, FILE = "shop@7.service", "/lib/systemd/system/shop@.service"


class Bus:
    """A system bus of a test's own, with a stand-in for systemd that knows one program."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="bus-"))
        self.socket = self.folder / "bus"
        self.address = f"unix:path={self.socket}"
        self.start()

    def start(self):
        self.socket.unlink(missing_ok=True)
        config = self.folder / "bus.conf"
        config.write_text(
            f"<busconfig><listen>{self.address}</listen><auth>EXTERNAL</auth><policy context='default'>"
            "<allow send_destination='*'/><allow receive_sender='*'/><allow own='*'/><allow user='*'/>"
            "</policy></busconfig>"
        )
        arguments = ["--nofork", "--nopidfile", "--nosyslog", f"--config-file={config}"]
        self.daemon = Daemon(["dbus-daemon", *arguments], self.folder / "log")
        wait_until(self.listens, f"dbus-daemon; see {self.folder}/log")
        stand = [sys.executable, HERE / "systemd_stand.py", self.address, os.path.realpath(workload()), UNIT, FILE]
        self.systemd = subprocess.Popen([str(it) for it in stand], stdout=subprocess.PIPE, text=True)
        assert self.systemd.stdout.readline() == "ready\n"

    def listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def kill(self):
        self.systemd.kill()
        self.systemd.wait()
        self.daemon.kill()

    def stop(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def bus():
    if not shutil.which("dbus-daemon"):
        pytest.skip("skipped: no dbus-daemon")
    bus = Bus()
    yield bus
    bus.stop()


def agent_of(folder, server, bus, bins=None):
    agent = Agent(folder, server, bins=bins)
    text = agent.config.read_text()
    plugin = 'WorkloadAttestor "systemd" {}\n    '
    agent.config.write_text(text.replace('WorkloadAttestor "unix"', f'{plugin}WorkloadAttestor "unix"'))
    agent.prefix = ["env", f"DBUS_SYSTEM_BUS_ADDRESS={bus.address}"]
    return agent


def fetch(agent, program=None):
    environment = {**os.environ, "SPIFFE_ENDPOINT_SOCKET": f"unix://{agent.socket}"}
    command = [str(program or workload()), "fetch"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return sorted(result.stdout.splitlines())


def log_of(agent):
    return (agent.folder / "agent.log").read_text()


def entries(server):
    """What the program has by its unit, and what anybody of this user has."""
    by_unit = []
    for number, selector in enumerate([f"systemd:id:{UNIT}", f"systemd:fragment_path:{FILE}"]):
        server.entry(f"/unit-{number}", Agent.NODE, selector)
        by_unit.append(f"spiffe://{TRUST_DOMAIN}/unit-{number}")
    server.entry("/anybody", Agent.NODE, f"unix:uid:{os.geteuid()}")
    server.entry("/other", Agent.NODE, "systemd:id:other.service")
    return by_unit, f"spiffe://{TRUST_DOMAIN}/anybody"


def test_a_program_is_known_by_its_unit_also_by_spires_agent(bus, tmp_path):
    server = Server(tmp_path / "server").start()
    by_unit, anybody = entries(server)
    folders = [None, spire_binaries()] if spire_binaries() else [None]
    other = tmp_path / "elsewhere"
    shutil.copy(workload(), other)
    try:
        for number, bins in enumerate(folders):
            agent = agent_of(tmp_path / f"agent{number}", server, bus, bins).start(server.token(Agent.NODE))
            try:
                wait_until(lambda agent=agent: fetch(agent) == sorted([*by_unit, anybody]), "the identities")
                # A process of no unit costs it the attestor's selectors, and no others.
                assert fetch(agent, other) == [anybody]
                assert "does not belong to any loaded unit." in log_of(agent)
            finally:
                agent.stop()
    finally:
        server.stop()


def test_the_bus_may_go_and_come_again(bus, tmp_path):
    server = Server(tmp_path / "server").start()
    by_unit, anybody = entries(server)
    agent = agent_of(tmp_path / "agent", server, bus).start(server.token(Agent.NODE))
    try:
        wait_until(lambda: fetch(agent) == sorted([*by_unit, anybody]), "the identities")
        bus.kill()
        assert fetch(agent) == [anybody]
        assert "failed to open dbus connection: " in log_of(agent)
        bus.start()
        assert fetch(agent) == sorted([*by_unit, anybody])
    finally:
        agent.stop()
        server.stop()
