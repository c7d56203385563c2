"""A network of one's own: a name space joined to this one by a cable that can be cut and spoilt."""

import itertools
import os
import random
import shutil
import subprocess

_numbers = itertools.count(random.randrange(0, 200 * 64))


def missing():
    """Why there can be none here, if so."""
    if os.getuid() != 0:
        return "network name spaces take root"
    for tool in ("ip", "tc", "iptables"):
        if not shutil.which(tool):
            return f"no {tool} here (Debian's packages iproute2 and iptables)"
    tried = f"st{os.getpid()}try"
    made = subprocess.run(["ip", "netns", "add", tried], capture_output=True, text=True)
    if made.returncode:
        return made.stderr.strip()
    listed = run("ip", "netns", "exec", tried, "iptables", "-w", "-A", "OUTPUT", "-m", "statistic",
                 "--mode", "random", "--probability", "0.5", "-j", "DROP", check=False)
    run("ip", "netns", "del", tried, check=False)
    return listed.stderr.strip() or None if listed.returncode else None


def run(*command, check=True):
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{command}: {done.stderr}")
    return done


class Network:
    """`servers` are addresses of this side; programs of the other side run behind `prefix`."""

    def __init__(self, servers=1):
        # Somebody else's network may have the number: it is tried, not looked at.
        for _ in range(50):
            number = next(_numbers) % (200 * 64)
            self.name, net = f"st{os.getpid()}n{number}", f"10.{180 + number // 200 % 64}.{number % 200}"
            self.near, self.far = f"sn{number}", f"sf{number}"
            if run("ip", "link", "add", self.near, "type", "veth", "peer", "name", self.far, check=False).returncode:
                continue
            break
        else:
            raise AssertionError("no cable to be had")
        self.addresses = [f"{net}.{it + 1}" for it in range(servers)]
        run("ip", "netns", "add", self.name)
        for address in self.addresses:
            run("ip", "addr", "add", f"{address}/24", "dev", self.near)
        run("ip", "link", "set", self.near, "up")
        run("ip", "link", "set", self.far, "netns", self.name)
        self.inside("ip", "addr", "add", f"{net}.100/24", "dev", self.far)
        self.inside("ip", "link", "set", self.far, "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.prefix = ["ip", "netns", "exec", self.name]

    def inside(self, *command):
        return run("ip", "netns", "exec", self.name, *command)

    def drop(self, *addresses):
        """From now on what goes to these addresses, or comes from them, gets lost; nothing else does."""
        for chain in ("INPUT", "OUTPUT"):
            self.inside("iptables", "-w", "-F", chain)
        for address in addresses:
            self.inside("iptables", "-w", "-A", "OUTPUT", "-d", address, "-j", "DROP")
            self.inside("iptables", "-w", "-A", "INPUT", "-s", address, "-j", "DROP")

    def lose(self, share):
        """Loses this share of the packets, either way; drop() ends it."""
        for chain in ("INPUT", "OUTPUT"):
            self.inside("iptables", "-w", "-A", chain, "-m", "statistic", "--mode", "random",
                        "--probability", share, "-j", "DROP")

    def slow(self, rate="256kbit"):
        """Makes the cable a thin one, where the kernel can."""
        return run("ip", "netns", "exec", self.name, "tc", "qdisc", "add", "dev", self.far, "root", "tbf",
                   "rate", rate, "burst", "16kbit", "latency", "400ms", check=False).returncode == 0

    def close(self):
        run("ip", "netns", "del", self.name, check=False)
        run("ip", "link", "del", self.near, check=False)
