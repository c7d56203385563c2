"""Settings of node attestors are judged by `validate` as SPIRE judges them: missing, mistyped, broken, contradictory.

What SPIRE said is in golden/, recorded by

    SPIRE_BIN_DIR=... python3 test_attest_settings.py
"""

import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import HERE, binaries, spire_binaries

GOLDEN = HERE / "golden" / "attestor-settings.json.gz"

# Names of cases, and why they are judged otherwise.
DIFFERENCES = {
    r"agent sshpop host_key_path=\"ca\".*": "a certificate of another key is no evidence of anything",
    r"agent http_challenge (agentname=\"(a/b|a b|\.\./x|é)\"|port=(-1|70000)|advertised_port=(-1|70000))":
        "what no server accepts is refused where it is written",
    r"server sshpop cert_authorities(_path=\"ca\"|=\[\"\"?\]).*": "not why each line before the last one is no key",
    r"server (gcp_iit|k8s_psat) .*": "the reason is said as well",
    r"server aws_iid verify_organization=\{account_list_file=\"(garbage|empty)\"\}": "our own words for broken JSON",
    r"agent x509pop private_key_path=\"\.\".*": "our own words for a folder",
    r"server azure_msi tenants=\{\"[^\"]*\"=\{(resource_id=(\"x\"|1)|foo=1)?\}\}": "SPIRE's plugin panics where there is no Azure",
    r"server azure_msi tenants=\{\"\"=.*": "a tenant is looked at when it is asked",
}


def explained(name):
    return any(re.fullmatch(pattern, name, re.S) for pattern in DIFFERENCES)


def make_files(folder):
    """What the settings name: a CA and a machine's key and certificate, the same of SSH, and broken files."""
    folder.mkdir()

    def run(*words):
        subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=60)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("openssl", "req", "-x509", *key, "-days", "30", "-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=root")
    run("openssl", "req", "-new", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=leaf")
    run("openssl", "x509", "-req", "-in", "leaf.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial",
        "-days", "20", "-out", "leaf.pem")
    for name, words in {"ca": "", "ssh": "", "locked": "secret1"}.items():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", words, "-f", name)
    run("ssh-keygen", "-q", "-s", "ca", "-h", "-I", "id", "-n", "node.example.org", "ssh.pub")
    for name, text in {"empty": "", "garbage": "garbage\n", "comments": "# none\n"}.items():
        (folder / name).write_text(text)
    return folder


def configuration(case):
    attestor = f'NodeAttestor "{case["attestor"]}" {{ plugin_data {{\n{case["settings"]}\n}} }}'
    memory = 'KeyManager "memory" { plugin_data {} }'
    if case["side"] == "server":
        return f"""server {{ bind_address = "127.0.0.1" bind_port = "8081" socket_path = "s.sock" trust_domain = "example.org"
    data_dir = "data" }}
plugins {{ {memory} DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "ds" }} }}
{attestor}
}}"""
    return f"""agent {{ data_dir = "data" server_address = "127.0.0.1" server_port = "1" socket_path = "p/a.sock"
    trust_domain = "example.org" insecure_bootstrap = true }}
plugins {{ {memory} WorkloadAttestor "unix" {{ plugin_data {{}} }}
{attestor}
}}"""


def judged(bins, files, folder, case):
    """The exit code, and what is said of the plugin; places in a file are ours alone."""
    shutil.copytree(files, folder)
    (folder / "c.conf").write_text(configuration(case))
    result = subprocess.run(
        [bins / f"spire-{case['side']}", "validate", "-config", "c.conf"],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )
    shutil.rmtree(folder)
    notes = re.sub(r"At \d+:\d+:", "At <place>:", result.stderr)
    return result.returncode, [line.strip() for line in notes.split("\n") if line.startswith("\t\t")]


def judge_all(bins, folder, cases):
    files = make_files(folder / "files")
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda it: judged(bins, files, folder / f"case{it[0]}", it[1]), enumerate(cases))
        return list(found)


def recorded():
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))


def name_of(case):
    return f"{case['side']} {case['attestor']} {case['settings']}"


def test_settings_are_judged_as_by_spire(tmp_path):
    cases = recorded()
    assert {case["attestor"] for case in cases} >= {"x509pop", "sshpop", "tpm_devid", "k8s_psat", "aws_iid", "join_token"}
    wrong = []
    for case, (code, notes) in zip(cases, judge_all(binaries(), tmp_path, cases)):
        # SPIRE goes on after the first that is wrong, and says what follows from it too.
        if code != case["code"] or case["notes"][:1] != notes[:1]:
            wrong.append(f"{name_of(case)}\n  SPIRE {case['code']} {case['notes']}\n  ours  {code} {notes}")
    wrong = [it for it in wrong if not explained(it.partition("\n  SPIRE ")[0])]
    assert not wrong, f"{len(wrong)} of {len(cases)} differ:\n" + "\n".join(wrong[:20])


def test_the_recorded_judgements_are_spires(spire, tmp_path):
    cases = recorded()
    for case, (code, notes) in zip(cases, judge_all(spire, tmp_path, cases)):
        assert (code, notes[:1]) == (case["code"], case["notes"][:1]), name_of(case)


def record(cases):
    with tempfile.TemporaryDirectory() as folder:
        for case, (code, notes) in zip(cases, judge_all(spire_binaries(), Path(folder), cases)):
            case["code"], case["notes"] = code, notes
    text = json.dumps(cases, indent=0, sort_keys=True).encode()
    GOLDEN.write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    if spire_binaries() is None:
        sys.exit("SPIRE_BIN_DIR not set")
    record(recorded())
