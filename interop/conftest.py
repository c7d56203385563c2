"""Fixtures shared by the interoperability tests."""

import os
import subprocess

import pytest

from databases import Database, Missing
from harness import Agent, Server, build_workloads, spire_binaries, wait_until

LANGUAGES = ["go", "python", "java", "rust"]


@pytest.fixture(scope="session")
def workloads():
    return build_workloads()


@pytest.fixture(scope="session")
def domain(tmp_path_factory, workloads):
    """A server, an agent and one entry per language, for the whole session."""
    folder = tmp_path_factory.mktemp("domain")
    server = Server(folder / "server").start()
    agent = Agent(folder / "agent", server).start(server.token())
    parent = agent.id()
    for workload in workloads.values():
        options = ["-hint", workload.language, "-dns", f"{workload.language}.example.org"]
        server.entry(f"/{workload.language}", parent, f"unix:path:{workload.path}", options=options)
    for workload in workloads.values():
        wait_until(
            lambda workload=workload: workload.run(agent, "fetch-x509", check=False).returncode == 0,
            f"the entry of {workload.language}",
        )
    yield server, agent
    agent.stop()
    server.stop()


@pytest.fixture
def pair(tmp_path):
    """Makes servers and agents that the test starts itself; stops them after it."""
    made = []

    def make(server_bins=None, agent_bins=None, **options):
        server = Server(tmp_path / f"server{len(made)}", bins=server_bins, **options).start()
        agent = Agent(tmp_path / f"agent{len(made)}", server, bins=agent_bins)
        made.extend([agent, server])
        return server, agent

    yield make
    for daemon in made:
        if daemon.daemon:
            daemon.daemon.kill()


@pytest.fixture
def keep():
    """Kills at the end what the test started."""
    made = []
    yield lambda it: made.append(it) or it
    for it in made:
        if it.daemon:
            it.daemon.kill()


@pytest.fixture
def processes():
    """The ids of a process that runs and of one that does not."""
    sleep = os.path.realpath("/bin/sleep")
    dead = subprocess.Popen([sleep, "0"])
    dead.wait()
    with subprocess.Popen([sleep, "600"]) as sleeper:
        yield sleeper.pid, dead.pid
        sleeper.kill()


@pytest.fixture
def spire():
    folder = spire_binaries()
    if folder is None:
        pytest.skip("SPIRE_BIN_DIR not set")
    return folder


def _database(kind):
    try:
        database = Database(kind)
    except Missing as missing:
        pytest.skip(str(missing))
    with database:
        yield database


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL of the session's own."""
    yield from _database("postgres")


@pytest.fixture(scope="session")
def mysql():
    """A MariaDB of the session's own."""
    yield from _database("mariadb")
