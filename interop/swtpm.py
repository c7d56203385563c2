"""A software TPM as a machine has one: with its maker's endorsement certificate, and device identities."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import HERE, Daemon, wait_until

TOOLS = ["swtpm", "swtpm_setup", "swtpm_localca", "tpm2_create", "openssl"]
PARENT = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
DEVID = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
KINDS = {
    "rsa": ("rsa2048:aes128cfb", "rsa2048:rsassa-sha256:null"),
    "ecc": ("ecc256:aes128cfb", "ecc256:ecdsa-sha256:null"),
}


class Missing(Exception):
    """What a software TPM takes is not installed."""


def run(*command, env=None):
    done = subprocess.run(
        [str(it) for it in command], capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Maker:
    """Who makes TPMs: swtpm's own local CA, with keys of its own in a folder."""

    def __init__(self, folder):
        missing = [it for it in TOOLS if not shutil.which(it)]
        if missing:
            raise Missing(f"{', '.join(missing)} not installed")
        self.folder = Path(folder)
        (self.folder / "ca").mkdir(parents=True)
        names = {"signingkey": "signkey.pem", "issuercert": "issuercert.pem", "certserial": "certserial"}
        ca = "".join(f"{key} = {self.folder}/ca/{name}\n" for key, name in names.items())
        (self.folder / "localca.conf").write_text(f"statedir = {self.folder}/ca\n{ca}")
        (self.folder / "localca.options").write_text("")
        self.config = self.folder / "setup.conf"
        self.config.write_text(
            "create_certs_tool = swtpm_localca\n"
            f"create_certs_tool_config = {self.folder}/localca.conf\n"
            f"create_certs_tool_options = {self.folder}/localca.options\n"
            "active_pcr_banks = sha256\n"
        )
        # What issues the endorsement certificates; the root above it is of no use to anybody.
        self.certificate = self.folder / "ca" / "issuercert.pem"


class Tpm:
    """A TPM of a maker, served on a Unix socket."""

    def __init__(self, folder, maker):
        self.folder = Path(folder)
        self.state = self.folder / "state"
        self.state.mkdir(parents=True)
        self.socket = self.folder / "tpm.sock"
        self.daemon = None
        run("swtpm_setup", "--tpm2", "--tpmstate", self.state, "--create-ek-cert", "--config", maker.config)

    def start(self):
        self.socket.unlink(missing_ok=True)
        flags = ["--tpm2", "--flags", "not-need-init,startup-clear"]
        server = ["--tpmstate", f"dir={self.state}", "--server", f"type=unixio,path={self.socket}"]
        self.daemon = Daemon(["swtpm", "socket", *flags, *server], self.folder / "swtpm.log")
        wait_until(self.socket.exists, "the TPM's socket")
        return self

    def stop(self):
        if self.daemon:
            self.daemon.kill()

    def tool(self, *command):
        """One of tpm2-tools on this TPM; nothing stays loaded, for there is no resource manager."""
        relay = HERE / "tpm_relay.py"
        env = {"TPM2TOOLS_TCTI": f"cmd:{sys.executable} {relay} {self.socket}"}
        printed = run(*command, env=env)
        run("tpm2_flushcontext", "-t", env=env)
        return printed

    def lock(self, owner, endorsement):
        """Gives the hierarchies passwords."""
        self.tool("tpm2_changeauth", "-c", "o", owner)
        self.tool("tpm2_changeauth", "-c", "e", endorsement)

    def devid(self, name, kind, authority, owner=None, password=None):
        """A key that this TPM made, certified as a device identity."""
        parent, key = KINDS[kind]
        hierarchy = ["-P", owner] if owner else []
        secret = ["-p", password] if password else []
        at = self.folder / name
        at.mkdir()
        context = ["-c", at / "parent", *hierarchy]
        self.tool("tpm2_createprimary", "-Q", "-C", "o", "-G", parent, "-g", "sha256", "-a", PARENT, *context)
        files = ["-u", at / "devid.pub", "-r", at / "devid.priv", *secret]
        self.tool("tpm2_create", "-Q", "-C", at / "parent", "-G", key, "-g", "sha256", "-a", DEVID, *files)
        public = at / "devid.key.pem"
        public.write_text(run("tpm2_print", "-t", "TPM2B_PUBLIC", "-f", "pem", at / "devid.pub"))
        authority.issue(f"devid-{name}", public, at / "devid.pem")
        return DevId(at)

    def loaded(self):
        """What is loaded in the TPM."""
        return self.tool("tpm2_getcap", "handles-transient") + self.tool("tpm2_getcap", "handles-loaded-session")


class DevId:
    """The three files of a device identity."""

    def __init__(self, folder):
        self.certificate = folder / "devid.pem"
        self.public = folder / "devid.pub"
        self.private = folder / "devid.priv"

    def bare(self):
        """The same without the lengths that tpm2-tools puts in front of the structures, as SPIRE wants them."""
        for path in [self.public, self.private]:
            path.with_suffix(path.suffix + ".bare").write_bytes(path.read_bytes()[2:])
        bare = DevId(self.public.parent)
        bare.public, bare.private = self.public.with_suffix(".pub.bare"), self.private.with_suffix(".priv.bare")
        return bare

    def fingerprint(self):
        der = subprocess.run(
            ["openssl", "x509", "-in", self.certificate, "-outform", "DER"], capture_output=True, check=True
        ).stdout
        return hashlib.sha1(der).hexdigest()


class Authority:
    """A CA that certifies device identities."""

    def __init__(self, folder, name):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self.certificate, self.key = self.folder / "ca.pem", self.folder / "ca.key"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        run("openssl", "req", "-x509", *curve, "-keyout", self.key, "-subj", f"/CN={name}", "-out", self.certificate)

    def issue(self, name, public, out):
        ca = ["-CA", self.certificate, "-CAkey", self.key]
        run("openssl", "x509", "-new", "-force_pubkey", public, "-subj", f"/CN={name}", "-days", "30", *ca, "-out", out)
