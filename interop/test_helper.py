"""The helper: identities in files, for programs that know nothing of the Workload API."""

import base64
import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from harness import HERE, Agent, Daemon, Server, binaries, free_port, wait_until

NODE = "spiffe://example.org/node"
OTHER = "spiffe://other.org"
SAMPLES = [HERE / "testdata" / "spiffe-helper.conf", HERE.parent / "conf" / "helper" / "helper.conf"]


class Place:
    """A server, an agent and an entry for whoever runs this."""

    def __init__(self, folder):
        self.server = Server(folder / "server", ca_ttl="24h").start()
        self.agent = Agent(folder / "agent", self.server).start(self.server.token(NODE))
        other = Server(folder / "other", trust_domain="other.org").start()
        bundle = other.cli("bundle", "show", "-format", "spiffe").stdout
        other.daemon.kill()
        self.server.cli("bundle", "set", "-id", OTHER, "-format", "spiffe", stdin=bundle)
        # So short that the agent renews it at every sync.
        options = ["-x509SVIDTTL", "8", "-jwtSVIDTTL", "10", "-federatesWith", OTHER, "-hint", "second"]
        self.server.entry("/first", NODE, f"unix:uid:{os.getuid()}", options=["-x509SVIDTTL", "3600", "-hint", "first"])
        wait_until(lambda: len(self.agent.ids()) == 1, "the first entry")
        self.server.entry("/second", NODE, f"unix:uid:{os.getuid()}", options=options)
        wait_until(lambda: len(self.agent.ids()) == 2, "the second entry")

    def stop(self):
        for it in (self.agent, self.server):
            it.daemon.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = Place(tmp_path_factory.mktemp("place"))
    yield made
    made.stop()


X509 = """
    svid_file_name = "svid.pem"
    svid_key_file_name = "svid_key.pem"
    svid_bundle_file_name = "svid_bundle.pem"
"""


class Helper:
    def __init__(self, place, folder, text):
        self.folder = Path(folder)
        self.certs = self.folder / "certs"
        self.certs.mkdir(parents=True, exist_ok=True)
        self.config = self.folder / "helper.conf"
        self.config.write_text(
            f'agent_address = "{place.agent.socket}"\ncert_dir = "{self.certs}"\n{text}\n'
        )
        self.logfile = self.folder / "helper.log"
        self.daemon = None

    def command(self, *options):
        return [binaries() / "spire-agent", "helper", "-config", self.config, *options]

    def start(self):
        self.daemon = Daemon(self.command(), self.logfile)
        return self

    def once(self):
        command = [str(it) for it in self.command("-daemon-mode=false")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def read(self, name):
        return (self.certs / name).read_text()

    def log(self):
        return self.logfile.read_text() if self.logfile.exists() else ""

    def written(self):
        wait_until(lambda: "X.509 certificates updated" in self.log(), f"the first files; see {self.logfile}")
        return self

    def modes(self):
        return {it.name: it.stat().st_mode & 0o777 for it in self.certs.iterdir()}


@pytest.fixture
def helper(place, tmp_path):
    made = []

    def make(text, name="helper"):
        it = Helper(place, tmp_path / name, text)
        made.append(it)
        return it

    yield make
    for it in made:
        if it.daemon:
            it.daemon.kill()


def openssl(*arguments):
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def serial(certificate):
    return openssl("x509", "-in", str(certificate), "-noout", "-serial")[1]


def matches(certificate, key):
    """Whether TLS takes the two together."""
    with contextlib.suppress(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        return True
    return False


@pytest.mark.parametrize("sample", SAMPLES, ids=["spiffe-helper", "ours"])
def test_samples_work(place, helper, sample):
    it = helper("")
    sample = sample.read_text()
    for key, value in {"agent_address": place.agent.socket, "cert_dir": it.certs}.items():
        sample, count = re.subn(rf'^{key} = .*$', f'{key} = "{value}"', sample, flags=re.M)
        assert count == 1, key
    it.config.write_text(sample)
    it.start().written()
    assert sorted(it.modes()) == ["svid.pem", "svid_bundle.pem", "svid_key.pem"]


def test_everything_is_written_once_and_correctly(helper):
    it = helper(X509 + """
        jwt_svids = [
            { jwt_audience = "aud", jwt_extra_audiences = ["more"], jwt_svid_file_name = "svid.token" },
            { jwt_audience = "other", jwt_svid_file_name = "other.token" },
        ]
        jwt_bundle_file_name = "jwt_bundle.json"
        cert_file_mode = 0444
        jwt_svid_file_mode = 0640
    """)
    done = it.once()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "standard output is the program's"
    for line in ("Successfully fetched x509 certificates", "Successfully fetched JWT bundle", "Daemon mode disabled"):
        assert line in done.stderr
    assert it.modes() == {
        "svid.pem": 0o444, "svid_bundle.pem": 0o444, "svid_key.pem": 0o600, "svid.token": 0o640, "other.token": 0o640,
        "jwt_bundle.json": 0o600,
    }
    assert matches(it.certs / "svid.pem", it.certs / "svid_key.pem")
    code, told = openssl("verify", "-CAfile", str(it.certs / "svid_bundle.pem"), str(it.certs / "svid.pem"))
    assert code == 0, told
    assert it.read("svid_key.pem").startswith("-----BEGIN PRIVATE KEY-----\n")
    claims = json.loads(base64.urlsafe_b64decode(it.read("svid.token").split(".")[1] + "=="))
    assert sorted(claims["aud"]) == ["aud", "more"]
    bundles = json.loads(it.read("jwt_bundle.json"))
    assert sorted(bundles) == ["example.org", "other.org"]
    assert json.loads(base64.b64decode(bundles["example.org"]))["keys"][0]["kty"]


def test_the_hint_chooses_and_federated_roots_are_added_when_asked_for(helper):
    found = {}
    for hint in ("first", "second", ""):
        it = helper(X509 + f'hint = "{hint}"\ninclude_federated_domains = {str(hint == "second").lower()}', f"h{hint}")
        assert it.once().returncode == 0
        text = openssl("x509", "-in", str(it.certs / "svid.pem"), "-noout", "-ext", "subjectAltName")[1]
        found[hint] = (re.search(r"URI:(\S+)", text).group(1), it.read("svid_bundle.pem").count("BEGIN"))
    assert found["first"] == ("spiffe://example.org/first", 1)
    assert found["second"] == ("spiffe://example.org/second", 2)
    assert found[""][0] in (found["first"][0], found["second"][0])
    lost = helper(X509 + 'hint = "nobody"', "lost")
    done = lost.once()
    assert done.returncode == 1 and "failed to find the hinted x509 SVID" in done.stderr
    assert list(lost.certs.iterdir()) == []


RECORDER = """#!/bin/sh
echo "started $1 $2" >> "{out}"
trap 'echo renewed >> "{out}"' USR1
trap 'echo ended >> "{out}"; exit 0' TERM
echo $$ > "{pid}"
while :; do sleep 0.1; done
"""


def recorder(folder, name="recorder"):
    """A program that writes down what happens to it."""
    program, out, pid = (folder / f"{name}{suffix}" for suffix in (".sh", ".out", ".pid"))
    folder.mkdir(parents=True, exist_ok=True)
    program.write_text(RECORDER.format(out=out, pid=pid))
    program.chmod(0o755)
    return program, lambda: out.read_text().splitlines() if out.exists() else [], pid


def end(pid):
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_program_is_started_signalled_at_renewal_and_started_again_when_it_ended(helper, tmp_path):
    program, told, pid = recorder(tmp_path)
    it = helper(X509 + f"""
        cmd = "{program}"
        cmd_args = "\\"one argument\\" two"
        renew_signal = "SIGUSR1"
        hint = "second"
    """)
    try:
        it.start().written()
        first = serial(it.certs / "svid.pem")
        wait_until(lambda: told()[:1] == ["started one argument two"], "the program")
        wait_until(lambda: "renewed" in told(), "a signal")
        assert serial(it.certs / "svid.pem") != first
        os.kill(int(pid.read_text()), signal.SIGTERM)
        wait_until(lambda: told().count("started one argument two") == 2, "the program again")
        assert it.daemon.alive()
        assert it.daemon.stop() == 0
        assert "Exiting" in it.log()
        # As with spiffe-helper, the program outlives the helper.
        os.kill(int(pid.read_text()), 0)
    finally:
        end(pid)


def test_a_process_of_somebody_elses_is_told_by_its_pid_file(helper, tmp_path):
    program, told, pid = recorder(tmp_path)
    pid_file = tmp_path / "given.pid"
    it = helper(X509 + f'pid_file_name = "{pid_file}"\nrenew_signal = "SIGUSR1"\nhint = "second"').start().written()
    process = subprocess.Popen([program, "", ""])
    try:
        wait_until(pid.exists, "the process")
        # Only once it can take the signal.
        pid_file.write_text(f"{process.pid}\n")
        wait_until(lambda: told().count("renewed") >= 2, "two signals")
        assert it.daemon.alive()
    finally:
        process.kill()
        process.wait()


def test_one_file_for_both_never_has_a_key_of_another_certificate(helper):
    it = helper("""
        svid_file_name = "both.pem"
        svid_key_file_name = "both.pem"
        svid_bundle_file_name = "bundle.pem"
        hint = "second"
    """).start().written()
    both, seen, reads = it.certs / "both.pem", set(), 0
    assert it.modes()["both.pem"] == 0o600
    deadline = time.monotonic() + 20
    while len(seen) < 4 and time.monotonic() < deadline:
        text = both.read_text()
        copy = it.folder / "copy.pem"
        copy.write_text(text)
        assert matches(copy, copy)
        seen.add(text)
        reads += 1
    assert len(seen) >= 4 and reads > 4


def test_files_are_never_half_written_nor_readable_by_others(helper):
    it = helper(X509 + 'hint = "second"\ncert_file_mode = 0644')
    bad, done, seen = [], threading.Event(), set()

    def look():
        while not done.is_set():
            for path in it.certs.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    mode = path.stat().st_mode & 0o077
                    # Also the file of a key that has not got its name yet.
                    if "key" in path.name and mode:
                        bad.append((path.name, oct(mode)))
                    if not path.name.startswith("."):
                        text = path.read_text()
                        seen.add(path.name)
                        if not text.startswith("-----BEGIN ") or not re.search(r"-----END [A-Z ]+-----\n\Z", text):
                            bad.append((path.name, text[-80:]))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        it.start().written()
        wait_until(lambda: it.log().count("X.509 certificates updated") >= 4, "renewals")
    finally:
        done.set()
        looking.join()
    assert not bad, bad[:3]
    assert seen == {"svid.pem", "svid_key.pem", "svid_bundle.pem"}
    # Whoever reads after an update has a pair.
    wait_until(lambda: matches(it.certs / "svid.pem", it.certs / "svid_key.pem"), "a pair")
    assert sorted(it.modes()) == ["svid.pem", "svid_bundle.pem", "svid_key.pem"], "nothing is left behind"


def mounted(folder, kind, options):
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", kind, "-o", options, "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


def test_a_full_disk_leaves_the_old_files_until_there_is_room(helper):
    it = helper(X509 + 'hint = "second"')
    mounted(it.certs, "tmpfs", "size=64k")
    try:
        it.start().written()
        with contextlib.suppress(OSError), open(it.certs / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 512)
        wait_until(lambda: "Unable to dump bundle" in it.log(), "a failure")
        assert "no space left on device" in it.log()
        assert matches(it.certs / "svid.pem", it.certs / "svid_key.pem"), "the old pair"
        assert sorted(it.modes()) == ["ballast", "svid.pem", "svid_bundle.pem", "svid_key.pem"]
        (it.certs / "ballast").unlink()
        count = it.log().count("X.509 certificates updated")
        wait_until(lambda: it.log().count("X.509 certificates updated") > count, "an update")
    finally:
        it.daemon.kill()
        subprocess.run(["umount", it.certs], check=False)


def test_a_directory_that_cannot_be_written_is_told_and_no_end(helper):
    it = helper(X509 + 'hint = "second"')
    mounted(it.certs, "tmpfs", "ro,size=64k")
    try:
        it.start()
        wait_until(lambda: "Unable to dump bundle" in it.log(), "a failure")
        assert "read-only file system" in it.log()
        assert it.daemon.alive()
        subprocess.run(["mount", "-o", "remount,rw", it.certs], check=True)
        it.written()
    finally:
        it.daemon.kill()
        subprocess.run(["umount", it.certs], check=False)
    gone = helper(X509, "gone")
    gone.certs.rmdir()
    done = gone.once()
    assert done.returncode == 1 and "no such file or directory" in done.stderr


def test_tokens_are_renewed_before_they_end(helper):
    it = helper("""
        jwt_svids = [{ jwt_audience = "aud", jwt_svid_file_name = "svid.token" }]
        hint = "second"
    """).start()
    token = it.certs / "svid.token"
    wait_until(token.exists, "a token")
    seen, deadline = set(), time.monotonic() + 60
    while len(seen) < 3 and time.monotonic() < deadline:
        text = token.read_text()
        claims = json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "=="))
        assert claims["exp"] > time.time(), "it is always a valid one"
        seen.add(text)
        time.sleep(0.2)
    assert len(seen) >= 3


def test_it_outlives_its_agent(place, helper):
    it = helper(X509 + 'hint = "second"').start().written()
    place.agent.daemon.kill()
    wait_until(lambda: "Error while watching x509 context" in it.log(), "the loss to be told")
    before = it.read("svid.pem")
    place.agent.start()
    wait_until(lambda: it.read("svid.pem") != before, "a certificate from the agent's second life", 60)
    assert it.daemon.alive()


def status(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None, None


def test_its_health_tells_what_was_written(helper):
    port = free_port()
    it = helper(X509 + f"""
        jwt_bundle_file_name = "bundle.json"
        health_checks {{ listener_enabled = true bind_port = {port} readiness_path = "/started" }}
    """)
    it.start().written()
    wait_until(lambda: status(port, "/started")[0] == 200, "readiness")
    code, body = status(port, "/live")
    files = {"x509_write_status": "written", "jwt_write_status": {f"{it.certs}/bundle.json": "written"}}
    assert (code, body) == (200, {"status": "OK", "health": {"file_write_statuses": files}})
    assert status(port, "/ready")[0] == 404


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at least one of the sets"),
        (X509 + "nonsense = 1", "unknown top level key(s): nonsense"),
        (X509 + 'pid_file_name = "x"', "must specify renew_signal when using pid_file_name"),
        ("svid_file_name = [", "failed to parse"),
    ],
)
def test_what_makes_no_sense_is_refused(helper, text, told):
    it = helper(text)
    done = subprocess.run([str(part) for part in it.command()], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert told in done.stderr
