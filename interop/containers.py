"""Real container runtimes of a test's own: a dockerd and a Podman with folders and sockets apart."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from pathlib import Path

from harness import BUILD, HERE, Daemon, wait_until

IMAGE = "localhost/steeple/workload:1"
#: Where a container sees the sockets of agents, and leaves its own.
INSIDE = "/spire"


class Missing(Exception):
    """What a runtime needs is not there."""


def need(*programs):
    if os.geteuid() != 0:
        raise Missing("container runtimes take root")
    for program in programs:
        if not shutil.which(program):
            raise Missing(f"no {program}")


def workload():
    """A static program that fetches its identity; an image needs nothing else."""
    program = BUILD / "container-workload"
    BUILD.mkdir(exist_ok=True)
    subprocess.run(
        ["go", "build", "-o", str(program), "."],
        cwd=HERE / "container",
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
        timeout=600,
    )
    return program


class Runtime:
    """What Docker and Podman have in common: their command line."""

    def __init__(self):
        # Short: the paths of sockets have their limit.
        self.folder = Path(tempfile.mkdtemp(prefix="rt-"))
        self.environment = dict(os.environ)
        self.daemon = None

    def command_of(self, *arguments):
        return subprocess.run(
            [*self.command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment,
        )

    def cli(self, *arguments, check=True):
        result = self.command_of(*arguments)
        if check and result.returncode:
            raise AssertionError(f"{arguments}: {result.stderr}{result.stdout}")
        return result.stdout.strip()

    def begin(self):
        """Starts, or leaves nothing behind."""
        try:
            self.start()
            self.load()
        except BaseException:
            self.stop()
            raise

    def load(self):
        """Imports the one image, of a tar file that is made here, and sees whether it can be run."""
        archive = self.folder / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(workload(), "workload")
        self.cli("import", archive, IMAGE)
        # With these codes it was the runtime that failed, not the program.
        tried = self.command_of("run", "--rm", "--network", "none", IMAGE, "/workload", "none")
        if tried.returncode in (125, 126, 127):
            raise Missing(f"no container can be run here: {tried.stderr.strip()}")

    def run(self, name, folder, *options):
        """Starts a container whose program answers on a socket in `folder`."""
        self.cli(
            "run", "-d", "--name", name, "--network", "none",
            "-v", f"{folder}:{INSIDE}",
            "-e", f"SPIFFE_ENDPOINT_SOCKET=unix://{INSIDE}/agent.sock",
            *options, IMAGE, "/workload", "serve", f"{INSIDE}/{name}.sock",
        )
        path = Path(folder) / f"{name}.sock"
        wait_until(path.exists, f"the program in {name}: {self.cli('logs', name, check=False)}")
        return Container(self, name, path)

    def stop(self):
        if self.daemon:
            for container in self.cli("ps", "-aq", check=False).split():
                self.cli("rm", "-f", container, check=False)
            try:
                self.daemon.stop()
            except subprocess.TimeoutExpired:
                self.daemon.kill()
        self.end_helpers()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            at = line.split()[1]
            if at.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", at], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


    def end_helpers(self):
        """Kills what a runtime that died left: its programs have our folder among their arguments."""
        for place in Path("/proc").glob("[0-9]*"):
            try:
                mine = str(self.folder).encode() in (place / "cmdline").read_bytes()
                if mine and int(place.name) != os.getpid():
                    os.kill(int(place.name), signal.SIGKILL)
            except OSError:
                continue


class Container:
    def __init__(self, runtime, name, socket_path):
        self.runtime, self.name, self.socket = runtime, name, socket_path
        self.state = json.loads(runtime.cli("inspect", name))[0]
        self.id = self.state["Id"]

    def ids(self):
        """The SPIFFE IDs that the program in the container gets from the agent; why none, else."""
        with socket.socket(socket.AF_UNIX) as conn:
            conn.settimeout(60)
            conn.connect(str(self.socket))
            text = b""
            while part := conn.recv(4096):
                text += part
        return sorted(text.decode().splitlines())


class Docker(Runtime):
    def __init__(self):
        need("dockerd", "docker", "containerd", "runc")
        super().__init__()
        self.socket = self.folder / "docker.sock"
        self.address = f"unix://{self.socket}"
        self.command = ["docker", "--host", self.address]
        self.environment["DOCKER_CONFIG"] = str(self.folder / "config")
        self.setting = f'docker_socket_path = "{self.address}"'
        self.begin()

    def start(self):
        for _ in range(3):
            # It gives its containerd a few seconds, which a busy machine may not have.
            last = self.try_start()
            if last is None:
                return
        raise Missing(f"dockerd does not start here: {last}")

    def try_start(self):
        """Gives the end of its log if it ended instead."""
        root = self.folder
        self.socket.unlink(missing_ok=True)
        (root / "pid").unlink(missing_ok=True)
        self.daemon = Daemon(
            [
                "dockerd", "--data-root", root / "data", "--exec-root", root / "exec", "--pidfile", root / "pid",
                "--host", self.address, "--storage-driver", "vfs", "--bridge", "none", "--iptables=false",
                "--ip6tables=false", "--ip-forward=false", "--live-restore",
            ],
            root / "log",
        )
        up = lambda: not self.daemon.alive() or self.cli("version", "--format", "{{.Server.Version}}", check=False)
        wait_until(up, f"dockerd; see {root}/log", 60)
        if self.daemon.alive():
            return None
        self.daemon = None
        return (root / "log").read_text(errors="replace").splitlines()[-1:]


class Podman(Runtime):
    def __init__(self):
        need("podman", "conmon")
        runtime = shutil.which("crun") or shutil.which("runc")
        if not runtime:
            raise Missing("no crun or runc")
        super().__init__()
        self.command = ["podman"]
        (self.folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.folder}/graph"\nrunroot = "{self.folder}/run"\n'
        )
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\nlog_driver = "k8s-file"\n'
            f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "{Path(runtime).name}"\n'
            f'tmp_dir = "{self.folder}/tmp"\n'
        )
        self.environment["CONTAINERS_STORAGE_CONF"] = str(self.folder / "storage.conf")
        self.environment["CONTAINERS_CONF"] = str(self.folder / "containers.conf")
        self.socket = self.folder / "podman.sock"
        self.setting = f'podman_socket_path = "unix://{self.socket}"'
        self.begin()

    def start(self):
        service = ["podman", "system", "service", "--time", "0", f"unix://{self.socket}"]
        settings = [f"{key}={self.environment[key]}" for key in ("CONTAINERS_STORAGE_CONF", "CONTAINERS_CONF")]
        self.daemon = Daemon(["env", *settings, *service], self.folder / "log")
        wait_until(self.socket.exists, f"Podman's service; see {self.folder}/log")
