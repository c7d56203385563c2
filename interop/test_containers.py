"""The attestor `docker` with a real dockerd and a real Podman, beside SPIRE's agent, under attack."""

import os
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from containers import IMAGE, Docker, Missing, Podman, workload
from harness import TRUST_DOMAIN, Agent, Server, wait_until

UNIFIED = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]


@pytest.fixture(scope="module", params=[Docker, Podman], ids=["docker", "podman"])
def runtime(request):
    try:
        runtime = request.param()
    except Missing as missing:
        pytest.skip(f"skipped: {missing}")
    yield runtime
    runtime.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server")).start()
    yield server
    server.stop()


def agent_of(folder, server, runtime, bins=None, extra=""):
    agent = Agent(folder, server, bins=bins)
    plugin = f'WorkloadAttestor "docker" {{ plugin_data {{\n{runtime.setting}\n{extra}\n}} }}\n    '
    text = agent.config.read_text()
    agent.config.write_text(text.replace('WorkloadAttestor "unix"', f'{plugin}WorkloadAttestor "unix"'))
    return agent.start(server.token(Agent.NODE))


@pytest.fixture(scope="module")
def agent(tmp_path_factory, server, runtime):
    agent = agent_of(tmp_path_factory.mktemp("agent"), server, runtime)
    yield agent
    agent.stop()


def identity(server, *selectors):
    """An entry of its own for these selectors; its SPIFFE ID."""
    path = f"/{uuid.uuid4()}"
    server.entry(path, Agent.NODE, *dict.fromkeys(selectors))
    return f"spiffe://{TRUST_DOMAIN}{path}"


def gets(container, expected):
    expected = sorted(expected)
    seen = []

    def same():
        seen[:] = container.ids()
        return seen == expected

    try:
        wait_until(same, "the identities")
    except AssertionError:
        raise AssertionError(f"{seen} instead of {expected}") from None


def selectors_of(container, label):
    config = container.state["Config"]
    image = container.state["Image"]
    digest = image if image.startswith("sha256:") else f"sha256:{image}"
    return [
        f"docker:label:role:{label}",
        f"docker:env:TOKEN={label}",
        f"docker:image_id:{config['Image']}",
        f"docker:image_config_digest:{digest}",
    ]


def start(runtime, agent):
    label = str(uuid.uuid4())
    name = f"c-{label[:8]}"
    options = ["--label", f"role={label}", "-e", f"TOKEN={label}"]
    return runtime.run(name, agent.folder / "public", *options), label


def test_a_program_in_a_container_is_known_by_all_that_the_runtime_says(server, agent, runtime):
    one, first = start(runtime, agent)
    two, second = start(runtime, agent)
    # The images of both are the same.
    mine = [identity(server, it, f"docker:label:role:{first}") for it in selectors_of(one, first)]
    other = identity(server, f"docker:label:role:{second}")
    identity(server, f"docker:label:role:{first}", f"docker:label:role:{second}")
    gets(one, mine)
    gets(two, [other])
    assert IMAGE in one.state["Config"]["Image"]


def test_spires_agent_finds_the_same_selectors(server, runtime, spire, tmp_path):
    theirs = agent_of(tmp_path / "spire", server, runtime, bins=spire)
    ours = agent_of(tmp_path / "ours", server, runtime)
    try:
        for agent in (theirs, ours):
            container, label = start(runtime, agent)
            all_of = selectors_of(container, label)
            gets(container, [identity(server, it, all_of[0]) for it in all_of])
    finally:
        theirs.stop()
        ours.stop()


def test_a_process_outside_asks_no_runtime(server, agent):
    mine = identity(server, f"unix:uid:{os.geteuid()}", f"unix:path:{os.path.realpath(workload())}")
    wait_until(lambda: mine in fetch(agent), "the identity")
    lines = [line for line in agent_log(agent) if "workload attestor" in line and "docker" in line]
    assert not lines, lines


def agent_log(agent):
    return (agent.folder / "agent.log").read_text().splitlines()


def fetch(agent, *prefix):
    environment = {**os.environ, "SPIFFE_ENDPOINT_SOCKET": f"unix://{agent.socket}"}
    result = subprocess.run(
        [*prefix, str(workload()), "fetch"], env=environment, capture_output=True, text=True, timeout=60
    )
    return result.stdout.splitlines()


def refused(agent, before):
    return any("is not in container" in line or "cannot be verified" in line for line in agent_log(agent)[before:])


def test_a_cgroup_named_after_a_container_makes_nobody_its_workload(server, agent, runtime):
    root = next((it for it in UNIFIED if (it / "cgroup.procs").exists()), None)
    if root is None:
        pytest.skip("skipped: no cgroup version 2")
    container, label = start(runtime, agent)
    mine = identity(server, f"docker:label:role:{label}")
    gets(container, [mine])
    prefix = "libpod" if isinstance(runtime, Podman) else "docker"
    # As a user's own systemd allows him.
    places = [f"system.slice/x-{label}.service/{prefix}-{container.id}.scope"]
    if isinstance(runtime, Docker):
        places.append(f"user.slice/user-1000.slice/{label}/{prefix}-{container.id}.scope")
    for place in places:
        group = root / place
        made = [it for it in (group, *group.parents) if not it.exists()]
        group.mkdir(parents=True)
        try:
            before = len(agent_log(agent))
            script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
            assert mine not in fetch(agent, "sh", "-c", script, group)
            wait_until(lambda before=before: refused(agent, before), "the refusal in the log")
        finally:
            for folder in made:
                folder.rmdir()
    gets(container, [mine])


def test_a_mount_named_after_a_container_makes_nobody_its_workload(server, agent, runtime):
    container, label = start(runtime, agent)
    mine = identity(server, f"docker:label:role:{label}")
    gets(container, [mine])
    lines = Path(f"/proc/{container.state['State']['Pid']}/cgroup").read_text().splitlines()
    paths = [line.split(":", 2) for line in lines]
    found = None
    for _, controllers, path in paths:
        for base in [Path("/sys/fs/cgroup") / (controllers.removeprefix("name=") or "unified"), *UNIFIED]:
            if found is None and (base / path.lstrip("/") / "cgroup.procs").exists():
                found = base / path.lstrip("/")
    assert found, paths
    script = 'mkdir -p "$0" && mount --bind "$1" "$0" && shift && exec "$@"'
    place = agent.folder / f"mount-{label[:8]}"
    for unshare in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        tried = subprocess.run([*unshare, "sh", "-c", script, place, found, "true"], capture_output=True, timeout=30)
        if tried.returncode:
            continue
        assert mine not in fetch(agent, *unshare, "sh", "-c", script, place, found)
    gets(container, [mine])


def test_a_runtime_that_dies_or_hangs_leaves_others_alone(server, agent, runtime):
    container, label = start(runtime, agent)
    mine = identity(server, f"docker:label:role:{label}")
    own = identity(server, f"unix:uid:{os.geteuid()}", f"unix:path:{os.path.realpath(workload())}")
    gets(container, [mine])
    os.kill(runtime.daemon.process.pid, signal.SIGSTOP)
    try:
        assert mine not in container.ids()
        assert own in fetch(agent)
    finally:
        os.kill(runtime.daemon.process.pid, signal.SIGCONT)
    gets(container, [mine])
    runtime.daemon.kill()
    assert mine not in container.ids()
    assert own in fetch(agent)
    runtime.socket.unlink(missing_ok=True)
    runtime.start()
    gets(container, [mine])
