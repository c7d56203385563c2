"""Evidence good and bad, shown to servers by a program of its own (`attest/`)."""

import json
import os
import subprocess

from harness import BUILD, HERE, Server, wait_until

PROGRAM = BUILD / "attest"


def make_evidence(folder):
    """Builds the program and lets it make its keys, certificates and evidence in a folder."""
    BUILD.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-o", str(PROGRAM), "."], cwd=HERE / "attest", check=True)
    # Keys of RSA under 1024 bits are made by no program of ours, and that size only for this.
    subprocess.run([PROGRAM, "make", folder], check=True, timeout=120, env={**os.environ, "GODEBUG": "rsa1024min=0"})
    return folder


def why_refused(agent):
    """Starts an agent that is not attested; why, by its own log."""
    agent.start(wait=False)
    said = ("Agent crashed", "Failed to retrieve attestation result")

    def line():
        lines = agent.daemon.log.read_text().splitlines()
        return next((line for line in lines if any(it in line for it in said)), None)

    found = wait_until(line, f"a refusal; see {agent.daemon.log}")
    agent.daemon.kill()
    return found.replace('\\"', '"').replace('\\\\', '\\')


def server_for(folder, evidence, bins=None, x509pop="", sshpop="", extra=""):
    """A server that takes certificates of the evidence's authorities, as fast as they come."""
    return Server(
        folder,
        bins=bins,
        extra=f"ratelimit {{ attestation = false }}\n{extra}",
        plugins=f"""
    NodeAttestor "x509pop" {{ plugin_data {{
        {x509pop or f'ca_bundle_path = "{evidence}/roots.pem"'}
    }} }}
    NodeAttestor "sshpop" {{ plugin_data {{
        cert_authorities_path = "{evidence}/ssh_ca.pub"
        {sshpop}
    }} }}""",
    )


def show_all(server, evidence):
    """What the server says to each piece of evidence, by name."""
    run = subprocess.run(
        [PROGRAM, "run", evidence, f"{server.address}:{server.port}"],
        check=True, capture_output=True, text=True, timeout=120,
    )
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    return {answer.pop("name"): answer for answer in answers}


def agents(server):
    """Selectors and whether it may come again, of each agent by path."""
    listed = server.json("agent", "list").get("agents", [])
    return {
        it["id"]["path"]: (sorted(f"{s['type']}:{s['value']}" for s in it["selectors"]), it["can_reattest"])
        for it in listed
    }
