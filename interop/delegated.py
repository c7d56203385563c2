"""The program in `delegated/`, as a delegate or as a broker, and agents that know it."""

import json
import os
import shutil
import subprocess
import threading

from harness import BUILD, HERE, TRUST_DOMAIN, Agent, wait_until

PROGRAM = BUILD / "delegated"
PID_REFERENCE = "type.googleapis.com/spiffe.broker.WorkloadPIDReference"


def build():
    result = subprocess.run(
        ["go", "build", "-o", str(PROGRAM), "."], cwd=HERE / "delegated", capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def copy_of_program(path):
    """The same program as another workload."""
    shutil.copy(PROGRAM, path)
    return path


def agent_with(folder, server, inside, bins=None, plugins=""):
    """An agent under the alias of all nodes, with more in its configuration."""
    agent = Agent(folder, server, bins=bins)
    text = agent.config.read_text()
    text = text.replace("experimental {", f"{inside}\n    experimental {{", 1)
    text = text.replace('WorkloadAttestor "unix"', f'{plugins}\n    WorkloadAttestor "unix"')
    agent.config.write_text(text)
    agent.admin = agent.folder / "private" / "admin.sock"
    return agent


def start(agent):
    return agent.start(agent.server.token(Agent.NODE))


def calls(arguments, requests, environment=None, program=PROGRAM, check=True):
    """Makes the calls on one connection; gives what came of each."""
    result = subprocess.run(
        [str(program), *[str(it) for it in arguments]],
        input="".join(json.dumps(it) + "\n" for it in requests),
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if check:
        assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


class Holding:
    """The program with streams open, which tells how they are when it is asked."""

    def __init__(self, *arguments, program=PROGRAM):
        self.process = subprocess.Popen(
            [str(program), *[str(it) for it in arguments]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # Nobody waits for ever for a line that does not come.
        self.watchdog = threading.Timer(300, self.process.kill)
        self.watchdog.daemon = True
        self.watchdog.start()
        self.opened = self.read()

    def read(self):
        line = self.process.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)

    def ask(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.read()

    def until(self, condition, what, seconds=30):
        return wait_until(lambda: (lambda now: now if condition(now) else None)(self.ask()), what, seconds)

    def close(self):
        self.watchdog.cancel()
        self.process.kill()
        self.process.wait()


def resident(pid):
    """The memory of a process in KiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def spiffe_id(path):
    return f"spiffe://{TRUST_DOMAIN}{path}"
