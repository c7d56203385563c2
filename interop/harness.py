"""Starts servers and agents as an operator would: processes, files, sockets."""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
TRUST_DOMAIN = "example.org"


def binaries():
    """The folder of the binaries under test."""
    return Path(os.environ.get("STEEPLE_BIN_DIR", HERE.parent / "target" / "debug"))


def spire_binaries():
    """The folder of SPIRE's own binaries, or None."""
    folder = os.environ.get("SPIRE_BIN_DIR")
    return Path(folder) if folder else None


def wait_until(condition, what, seconds=30):
    """Polls until the condition gives something true, and returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}")


_ports = itertools.cycle(random.sample(range(20000, 32000), 12000))


def free_port():
    """A port that nobody listens on, below those that the kernel gives to outgoing connections.

    One of those might be taken between this look and the moment when the program binds it.
    """
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def scrape(port):
    """The metrics that a Prometheus exporter shows; nothing while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=20) as answer:
            return answer.read().decode()
    except OSError:
        return ""


class Daemon:
    """A child process that writes its log to a file."""

    def __init__(self, arguments, log):
        self.log = Path(log)
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                [str(argument) for argument in arguments], stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )

    def alive(self):
        return self.process.poll() is None

    def kill(self):
        if self.alive():
            self.process.kill()
        self.process.wait()

    def stop(self):
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


class Server:
    """A server with its state in a folder, on SQLite and a disk key manager.

    `database` is another database's type and connection string; `extra` goes into the block
    `server`, `plugins` into the block of that name, `blocks` beside them.
    """

    def __init__(
        self,
        folder,
        bins=None,
        ca_ttl="24h",
        extra="",
        database=None,
        plugins="",
        blocks="",
        trust_domain=TRUST_DOMAIN,
        address="127.0.0.1",
        port=None,
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bins = Path(bins or binaries())
        self.socket = self.folder / "server.sock"
        self.database = self.folder / "datastore.sqlite3"
        self.keys = self.folder / "keys.json"
        self.trust_domain = trust_domain
        kind, connection = database or ("sqlite3", self.database)
        self.address = address
        self.port = port or free_port()
        self.config = self.folder / "server.conf"
        self.config.write_text(
            f"""server {{
    bind_address = "{address}"
    bind_port = "{self.port}"
    socket_path = "{self.socket}"
    trust_domain = "{trust_domain}"
    data_dir = "{self.folder}/data"
    log_level = "DEBUG"
    ca_ttl = "{ca_ttl}"
    {extra}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "{kind}"
            connection_string = "{connection}"
        }}
    }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{self.keys}" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    {plugins}
}}
{blocks}
"""
        )
        self.daemon = None

    def start(self, wait=True):
        self.daemon = Daemon(
            [self.bins / "spire-server", "run", "-config", self.config], self.folder / "server.log"
        )
        if wait:
            self.wait()
        return self

    def wait(self):
        wait_until(
            lambda: self.cli("healthcheck", check=False).returncode == 0, f"the server; see {self.folder}/server.log"
        )

    def cli(self, *arguments, bins=None, check=True, stdin=None):
        """Runs a verb of spire-server on this server's socket."""
        *verb, = arguments
        words = [argument for argument in verb if not str(argument).startswith("-")]
        split = next((i for i, a in enumerate(verb) if str(a).startswith("-")), len(words))
        command = [Path(bins or self.bins) / "spire-server", *verb[:split], "-socketPath", self.socket, *verb[split:]]
        result = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=30, input=stdin
        )
        if check and result.returncode:
            raise AssertionError(f"{command}: {result.returncode}: {result.stderr}{result.stdout}")
        return result

    def json(self, *arguments, **options):
        return json.loads(self.cli(*arguments, "-output", "json", **options).stdout)

    def token(self, spiffe_id=None):
        extra = ["-spiffeID", spiffe_id] if spiffe_id else []
        return self.json("token", "generate", "-ttl", "600", *extra)["value"]

    def bundle(self):
        path = self.folder / "bundle.pem"
        path.write_text(self.cli("bundle", "show").stdout)
        return path

    def entry(self, path, parent, *selectors, options=()):
        """Creates an entry and returns its ID."""
        flags = []
        for selector in selectors:
            flags += ["-selector", selector]
        created = self.json(
            "entry", "create", "-parentID", parent, "-spiffeID", f"spiffe://{self.trust_domain}{path}", *flags, *options
        )
        status = created["results"][0]["status"]
        assert status["code"] == 0, status
        return created["results"][0]["entry"]["id"]

    def stop(self):
        return self.daemon.stop() if self.daemon else 0


class Agent:
    """An agent that attests with a join token, or by the HCL block `attestor`, with its state in a folder.

    `address` is what it dials instead of the server's own address; `hosts` are the addresses that
    this name has, in the agent's eyes alone (which takes a mount namespace, and so root).
    """

    NODE = f"spiffe://{TRUST_DOMAIN}/node"

    def __init__(
        self, folder, server, bins=None, insecure=False, address=None, hosts=(), attestor=None, key_manager=None
    ):
        self.folder = Path(folder)
        attestor = attestor or 'NodeAttestor "join_token" { plugin_data {} }'
        key_manager = key_manager or f'KeyManager "disk" {{ plugin_data {{ directory = "{self.folder}/data" }} }}'
        (self.folder / "public").mkdir(parents=True, exist_ok=True)
        self.bins = Path(bins or binaries())
        self.server = server
        self.socket = self.folder / "public" / "agent.sock"
        self.config = self.folder / "agent.conf"
        trust = "insecure_bootstrap = true" if insecure else f'trust_bundle_path = "{server.bundle()}"'
        self.config.write_text(
            f"""agent {{
    data_dir = "{self.folder}/data"
    log_level = "DEBUG"
    server_address = "{address or server.address}"
    server_port = "{server.port}"
    socket_path = "{self.socket}"
    trust_domain = "{server.trust_domain}"
    {trust}
    experimental {{ sync_interval = "1s" }}
}}
plugins {{
    {attestor}
    {key_manager}
    WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"""
        )
        (self.folder / "data").mkdir(exist_ok=True)
        self.prefix = []
        if hosts:
            table = self.folder / "hosts"
            table.write_text("".join(f"{it} {address}\n" for it in hosts))
            script = f'mount --bind "{table}" /etc/hosts && exec "$@"'
            self.prefix = ["unshare", "--mount", "sh", "-c", script, "sh"]
        self.daemon = None

    def start(self, token=None, wait=True):
        join = ["-joinToken", token] if token else []
        self.daemon = Daemon(
            [*self.prefix, self.bins / "spire-agent", "run", "-config", self.config, *join], self.folder / "agent.log"
        )
        if wait:
            self.wait()
        return self

    def wait(self):
        wait_until(
            lambda: self.cli("healthcheck", check=False).returncode == 0, f"the agent; see {self.folder}/agent.log"
        )

    def cli(self, *verb, bins=None, check=True):
        split = next((i for i, a in enumerate(verb) if str(a).startswith("-")), len(verb))
        command = [Path(bins or self.bins) / "spire-agent", *verb[:split], "-socketPath", self.socket, *verb[split:]]
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=30)
        if check and result.returncode:
            raise AssertionError(f"{command}: {result.returncode}: {result.stderr}{result.stdout}")
        return result

    def id(self):
        """The SPIFFE ID that the server gave this agent."""
        agents = self.server.json("agent", "list")["agents"]
        assert len(agents) == 1, agents
        return f"spiffe://{agents[0]['id']['trust_domain']}{agents[0]['id']['path']}"

    def ids(self):
        """The SPIFFE IDs that a caller like this process gets; empty when none."""
        # Patient, so that a busy machine is not taken for a workload without an identity.
        result = self.cli("api", "fetch", "x509", "-output", "json", "-timeout", "10s", check=False)
        if result.returncode:
            print(result.stderr, result.stdout)
            return []
        return sorted(svid["spiffe_id"] for svid in json.loads(result.stdout)["svids"])

    def stop(self):
        return self.daemon.stop() if self.daemon else 0


class Workload:
    """One of the four small programs, each on another SPIFFE library."""

    def __init__(self, language, command):
        self.language = language
        self.command = [str(part) for part in command]
        self.path = os.path.realpath(shutil.which(self.command[0]))
        self.spiffe_id = f"spiffe://{TRUST_DOMAIN}/{language}"

    def environment(self, agent):
        return {**os.environ, "SPIFFE_ENDPOINT_SOCKET": f"unix://{agent.socket}", "PYTHONUNBUFFERED": "1"}

    def run(self, agent, *arguments, check=True, seconds=60):
        result = subprocess.run(
            [*self.command, *arguments], env=self.environment(agent), capture_output=True, text=True, timeout=seconds
        )
        if check and result.returncode:
            raise AssertionError(f"{self.language} {arguments}: {result.stderr}{result.stdout}")
        return result

    def json(self, agent, *arguments):
        return json.loads(self.run(agent, *arguments).stdout)

    def serve(self, agent, allowed):
        """Starts the mTLS echo server; gives the process and its port."""
        process = subprocess.Popen(
            [*self.command, "serve", allowed],
            env=self.environment(agent),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return process, json.loads(process.stdout.readline())["port"]


def build_workloads():
    """Builds the four programs from their own package registries."""
    BUILD.mkdir(exist_ok=True)

    def run(*command, cwd):
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        if result.returncode:
            raise AssertionError(f"{command}: {result.stderr[-4000:]}{result.stdout[-4000:]}")

    run("go", "build", "-o", str(BUILD / "go-workload"), ".", cwd=HERE / "go")
    run("go", "build", "-o", str(BUILD / "apisdk"), ".", cwd=HERE / "apisdk")
    run("cargo", "build", "--quiet", "--locked", "--target-dir", str(BUILD / "rust"), cwd=HERE / "rust")
    run("mvn", "-q", "-B", "package", cwd=HERE / "java")
    venv = BUILD / "venv"
    if not (venv / "done").exists():
        run(sys.executable, "-m", "venv", str(venv), cwd=HERE)
        run(str(venv / "bin" / "pip"), "install", "-q", "-r", "python/requirements.txt", cwd=HERE)
        (venv / "done").touch()
    classes = f"{HERE}/java/target/interop-workload-1.jar:{HERE}/java/target/lib/*"
    return {
        "go": Workload("go", [BUILD / "go-workload"]),
        "python": Workload("python", [venv / "bin" / "python", HERE / "python" / "workload.py"]),
        "java": Workload("java", ["java", "-cp", classes, "Workload"]),
        "rust": Workload("rust", [BUILD / "rust" / "debug" / "interop-workload"]),
    }
